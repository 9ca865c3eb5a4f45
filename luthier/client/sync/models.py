# Made of luthier/client/aio/models.py by `python -m tests.client.twins`: change that one.
"""`client.models`: register base models and look at them."""

from collections.abc import Iterator
from pathlib import Path

from luthier.client.calls import Call, once, path_of
from luthier.client.inputs import Model
from luthier.client.sync.paging import pages
from luthier.client.sync.transport import Transport
from luthier.client.values import from_json


class Models:
    """The registered base models of a service."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def add(
        self,
        name: str,
        *,
        path: str | Path | None = None,
        hub: str | None = None,
        revision: str | None = None,
    ) -> Model:
        """Register a base model under a name, from one of two sources.

        Args:
            name: what specs call it: `model:NAME`.
            path: folder on the server, below one of its LUTHIER_MODEL_ROOTS.
            hub: repository on the Hub, `owner/name`.
            revision: branch, tag or commit of the repository.
        """
        if path is not None:
            values: dict[str, str | None] = {"name": name, "path": str(path)}
        else:
            values = {"name": name, "hub": hub}
        if revision is not None:
            values["revision"] = revision
        call = Call("POST", "/models", json=values, headers=once())
        return from_json(Model, self._transport.json(call))

    def list(self, *, limit: int | None = None) -> Iterator[Model]:
        """Yield models by name; at most `limit`."""
        return pages(self._transport, "/models", Model, cursor="name", limit=limit)

    def get(self, name: str) -> Model:
        """Return a model."""
        return from_json(Model, self._transport.get(path_of("models", name)))
