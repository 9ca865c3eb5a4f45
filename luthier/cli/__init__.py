"""The command `luthier`: a thin layer over `luthier.Client`, and the door to the service itself.

Data goes to stdout, talk to stderr. Modules here import click and the standard library only; the
client, rich and the service are imported by the commands that use them, so that help is quick.
"""
