"""The FastAPI application, which `luthier api` serves."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from dataclasses import replace
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute

from api import idempotency, openai, problems, searching, streams, sweeping, uploads
from api.channels import Channels
from api.guard import Guard, Hosts
from api.inspections import Inspections
from api.keyring import Keyring
from api.openapi import describe
from api.reading import Readers
from api.routes import (
    artifacts,
    audit,
    checkpoints,
    datasets,
    docs,
    events,
    health,
    jobs,
    keys,
    logs,
    metrics,
    models,
    predictions,
    projects,
    pushes,
    records,
    resumable,
    secrets,
    sweeps,
    tasks,
    validation,
    webhooks,
    workers,
)
from jobs.backends import connect
from jobs.delivery.sender import Sender
from jobs.predictions import Asker
from jobs.settings import Settings, load_settings
from jobs.telling import Teller
from trainer_core.rows import apart

_ROUTES = (  # as the documentation shows them
    jobs,
    validation,
    records,
    events,
    metrics,
    logs,
    checkpoints,
    artifacts,
    predictions,
    pushes,
    datasets,
    resumable,
    models,
    tasks,
    workers,
    sweeps,
    webhooks,
    projects,
    keys,
    secrets,
    audit,
    docs,
)
_DESCRIPTION = """Fine-tuning jobs on Hugging Face Transformers models.

Upload rows with `POST /datasets`, start a job with `POST /jobs`, follow it at
`GET /jobs/{id}/events`, and fetch the model from `GET /jobs/{id}/model`. `GET /tasks` says what can
be trained. Every error is a problem (RFC 9457) with a stable `code` and a `hint`.
"""


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return the application, on the given settings or on those of the environment."""
    app = FastAPI(
        title="Luthier",
        version=version("luthier"),
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan,
        generate_unique_id_function=_operation_id,
        responses=problems.default_response(),
    )
    settings = settings or load_settings()
    backends = connect(settings, num_sharing=settings.api_processes)
    teller = app.state.teller = Teller(backends.database.publish, backends.database.ring)
    telling = replace(backends.database, publish=teller.publish, ring=teller.ring)
    backends = app.state.backends = replace(backends, database=telling)
    is_open = not backends.settings.asks_for_keys
    app.state.keyring = Keyring(
        backends.database, is_open=is_open, rate=backends.settings.rate_limit
    )
    app.state.sender = Sender(backends)
    app.state.stopping = asyncio.Event()
    app.include_router(health.router)
    for routes in _ROUTES:
        app.include_router(routes.router, responses=problems.responses(401, 403, 429))
    app.include_router(openai.router)
    problems.install(app)
    idempotency.install(app)
    hosts = Hosts(is_open=is_open, names=frozenset(backends.settings.allowed_hosts))
    app.add_middleware(Guard, hosts=hosts, keyring=app.state.keyring)
    describe(app)
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    backends = app.state.backends
    settings = backends.settings
    uploads.clear_stale(settings.home / uploads.FOLDER)
    app.state.readers = Readers()
    app.state.inspections = Inspections(settings)
    warming = asyncio.create_task(run_in_threadpool(apart.warm))
    client = streams.redis_client(backends.redis_url)
    app.state.hub = streams.Hub(
        database=backends.database,
        keyring=app.state.keyring,
        channels=Channels(client, stopping=app.state.stopping),
        heartbeat_seconds=settings.heartbeat_seconds,
        stopping=app.state.stopping,
    )
    app.state.asker = Asker(backends.redis_url)
    sweeper = asyncio.create_task(sweeping.sweep_until(app.state.stopping, backends))
    searcher = asyncio.create_task(searching.search_until(app.state.stopping, backends))
    sender = asyncio.create_task(app.state.sender.run_until(app.state.stopping))
    gc.collect()
    gc.freeze()  # else a full collection looks at all that was imported, for 250 ms
    yield
    gc.unfreeze()
    app.state.stopping.set()
    await asyncio.gather(sweeper, searcher, sender, warming)
    await client.aclose()
    await app.state.asker.close()
    app.state.inspections.processes.close()
    await run_in_threadpool(app.state.teller.close)
    backends.engine.dispose()


def _operation_id(route: APIRoute) -> str:
    return route.name
