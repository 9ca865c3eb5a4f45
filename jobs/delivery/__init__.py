"""Sending to webhooks: where to, signed how, when, and what came of it.

sender      claims what is due and sends it, in the API's process
posting     one POST to a checked address, within a fixed time
addresses   where the service sends nothing
signing     Standard Webhooks 1.0
"""
