"""Services that ask for keys, and the keys to them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from jobs.backends import Backends
from jobs.store import keys, projects


@dataclass(frozen=True)
class Door:
    """A service that asks for keys."""

    url: str
    backends: Backends

    def secret(
        self, project: str = "default", *, scopes: Sequence[str] = ("admin",), **values: float
    ) -> str:
        """Make a key of a project, and the project if it is new; return its secret."""
        with self.backends.database.transaction() as tx:
            if project not in {one.name for one in projects.page(tx, after=None, limit=100)}:
                projects.create(tx, project, quotas={})
            name = f"{project}-{'-'.join(scopes)}"
            return keys.issue(tx, project=project, name=name, scopes=scopes, **values).secret

    @contextmanager
    def client(
        self, project: str = "default", *, scopes: Sequence[str] = ("admin",), **values: float
    ) -> Iterator[httpx.Client]:
        """Give a client with a new key."""
        with self.client_of(self.secret(project, scopes=scopes, **values)) as client:
            yield client

    @contextmanager
    def client_of(self, secret: str) -> Iterator[httpx.Client]:
        """Give a client with a key."""
        headers = {"Authorization": f"Bearer {secret}"}
        with httpx.Client(base_url=self.url, timeout=30, headers=headers) as client:
            yield client
