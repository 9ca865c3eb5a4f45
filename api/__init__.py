"""The FastAPI service: routes, errors, event streams, uploads, downloads, the sweeper."""
