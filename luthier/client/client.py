"""The client of one service."""

import os
from types import TracebackType
from typing import Self

from luthier.client.datasets import Datasets
from luthier.client.jobs import Jobs
from luthier.client.models import Models
from luthier.client.secrets import Secrets
from luthier.client.tasks import Tasks
from luthier.client.transport import Transport

DEFAULT_URL = "http://127.0.0.1:8750"
URL_VARIABLE = "LUTHIER_URL"
KEY_VARIABLE = "LUTHIER_API_KEY"


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
    ) -> None:
        """Connect on first use.

        Args:
            base_url: where the service is; default LUTHIER_URL, else http://127.0.0.1:8750.
            api_key: sent as bearer token; default LUTHIER_API_KEY, else none.
            timeout: longest silence in a request, seconds.
        """
        self._transport = Transport(
            base_url or os.environ.get(URL_VARIABLE) or DEFAULT_URL,
            api_key=api_key or os.environ.get(KEY_VARIABLE) or None,
            timeout=timeout,
        )
        self.jobs = Jobs(self._transport)
        self.datasets = Datasets(self._transport)
        self.models = Models(self._transport)
        self.tasks = Tasks(self._transport)
        self.secrets = Secrets(self._transport)

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
