"""The routes, a module a resource. Those that touch the database are plain functions.

FastAPI runs a plain function in a thread, so that one synchronous store serves the API and the
worker alike.
"""
