"""Starting uvicorn as this service needs it: no version told, streams ended on a stop."""

import socket

import uvicorn
from fastapi import FastAPI

from jobs.settings import Settings

_STOP_SECONDS = 5  # how long requests may take to end when the service stops


class Server(uvicorn.Server):
    """Ends the open event streams when it is told to stop; uvicorn would wait for them."""

    def __init__(self, app: FastAPI, settings: Settings, *, access_log: bool = False) -> None:
        """Serve an application on the settings' host, and port."""
        self._app = app
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                server_header=False,
                proxy_headers=False,
                access_log=access_log,
                log_config=None,
                timeout_graceful_shutdown=_STOP_SECONDS,
            )
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.stopping.set()
        await super().shutdown(sockets)
