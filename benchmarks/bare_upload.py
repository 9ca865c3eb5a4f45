"""Both sides of `upload`: what the service receives with, and a bare Starlette streaming write."""

import os
import tempfile
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from api import uploads

_FOLDER = Path(os.environ["BENCH_FOLDER"])


async def _ours(request: Request) -> JSONResponse:
    async with uploads.received(request, folder=_FOLDER, max_bytes=1 << 40) as upload:
        return JSONResponse({"size_bytes": upload.path.stat().st_size})


async def _peer(request: Request) -> JSONResponse:
    size = 0
    with tempfile.TemporaryFile(dir=_FOLDER) as file:
        async for chunk in request.stream():
            size += file.write(chunk)
    return JSONResponse({"size_bytes": size})


async def _livez(request: Request) -> PlainTextResponse:  # noqa: ARG001
    return PlainTextResponse("ok")


app = Starlette(
    routes=[
        Route("/ours", _ours, methods=["POST"]),
        Route("/peer", _peer, methods=["POST"]),
        Route("/livez", _livez),
    ]
)
