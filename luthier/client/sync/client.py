# Made of luthier/client/aio/client.py by `python -m tests.client.twins`: change that one.
"""The client of one service."""

import os
from types import TracebackType
from typing import Self

from luthier.client.calls import MAX_RETRIES, key_of
from luthier.client.sync.access import Audit, Keys, Projects, Secrets
from luthier.client.sync.datasets import Datasets
from luthier.client.sync.jobs import Jobs
from luthier.client.sync.models import Models
from luthier.client.sync.sweeps import Sweeps
from luthier.client.sync.tasks import Tasks
from luthier.client.sync.transport import Transport
from luthier.client.sync.webhooks import Webhooks
from luthier.client.sync.workers import Workers

DEFAULT_URL = "http://127.0.0.1:8750"
URL_VARIABLE = "LUTHIER_URL"


class Client:
    """Talks to a Luthier service. Close it, or use it in a `with` statement.

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
        self._transport = Transport(
            base_url or os.environ.get(URL_VARIABLE) or DEFAULT_URL,
            api_key=api_key or key_of(os.environ),
            timeout=timeout,
            max_retries=max_retries,
        )
        self.jobs = Jobs(self._transport)
        self.datasets = Datasets(self._transport)
        self.models = Models(self._transport)
        self.tasks = Tasks(self._transport)
        self.sweeps = Sweeps(self._transport)
        self.webhooks = Webhooks(self._transport)
        self.workers = Workers(self._transport)
        self.keys = Keys(self._transport)
        self.projects = Projects(self._transport)
        self.secrets = Secrets(self._transport)
        self.audit = Audit(self._transport)

    @property
    def base_url(self) -> str:
        """Where the service is."""
        return self._transport.base_url

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
