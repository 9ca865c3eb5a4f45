"""The client of one service."""

import os
from types import TracebackType
from typing import Self

from luthier.client.aio.access import AsyncAudit, AsyncKeys, AsyncProjects, AsyncSecrets
from luthier.client.aio.datasets import AsyncDatasets
from luthier.client.aio.jobs import AsyncJobs
from luthier.client.aio.models import AsyncModels
from luthier.client.aio.sweeps import AsyncSweeps
from luthier.client.aio.tasks import AsyncTasks
from luthier.client.aio.transport import AsyncTransport
from luthier.client.aio.webhooks import AsyncWebhooks
from luthier.client.aio.workers import AsyncWorkers
from luthier.client.calls import MAX_RETRIES, key_of

DEFAULT_URL = "http://127.0.0.1:8750"
URL_VARIABLE = "LUTHIER_URL"


class AsyncClient:
    """Talks to a Luthier service. Close it, or use it in an `async with` statement.

    Calls that are safe to repeat are repeated, with back-off. All errors are `LuthierAPIError`s.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = 30.0,
        max_retries: int = MAX_RETRIES,
    ) -> None:
        """Connect on first use.

        Args:
            base_url: where the service is; default LUTHIER_URL, else http://127.0.0.1:8750.
            api_key: sent as bearer token; default LUTHIER_API_KEY, else what is in the file
                LUTHIER_API_KEY_FILE, else none.
            timeout: longest silence in a request, seconds.
            max_retries: how often a call that is safe to repeat is sent again.
        """
        self._transport = AsyncTransport(
            base_url or os.environ.get(URL_VARIABLE) or DEFAULT_URL,
            api_key=api_key or key_of(os.environ),
            timeout=timeout,
            max_retries=max_retries,
        )
        self.jobs = AsyncJobs(self._transport)
        self.datasets = AsyncDatasets(self._transport)
        self.models = AsyncModels(self._transport)
        self.tasks = AsyncTasks(self._transport)
        self.sweeps = AsyncSweeps(self._transport)
        self.webhooks = AsyncWebhooks(self._transport)
        self.workers = AsyncWorkers(self._transport)
        self.keys = AsyncKeys(self._transport)
        self.projects = AsyncProjects(self._transport)
        self.secrets = AsyncSecrets(self._transport)
        self.audit = AsyncAudit(self._transport)

    @property
    def base_url(self) -> str:
        """Where the service is."""
        return self._transport.base_url

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
