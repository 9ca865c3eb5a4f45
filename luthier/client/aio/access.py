"""`client.keys`, `client.projects`, `client.secrets` and `client.audit`: who may do what."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime

from luthier.client.aio.paging import pages
from luthier.client.aio.transport import AsyncTransport
from luthier.client.calls import Call, given, path_of
from luthier.client.operations import AuditEntry, Key, Project, Secret
from luthier.client.values import from_json


class AsyncKeys:
    """The API keys of a project."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(
        self,
        name: str,
        *,
        scopes: Sequence[str],
        expires_at: datetime | None = None,
        requests_per_second: float | None = None,
        project: str | None = None,
    ) -> Key:
        """Make a key. The answer alone has its `secret`; keep it.

        Args:
            name: who or what uses it.
            scopes: `read`, `submit` (which includes it) or `admin` (which includes both).
            expires_at: when it ends; None for never.
            requests_per_second: its own limit; for operators to set.
            project: whose key it is; for operators, None for your own project's.
        """
        body = given(
            name=name,
            scopes=[*scopes],
            expires_at=expires_at,
            requests_per_second=requests_per_second,
            project=project,
        )
        return from_json(Key, await self._transport.json(Call("POST", "/keys", json=body)))

    def list(self, *, project: str | None = None, limit: int | None = None) -> AsyncIterator[Key]:
        """Yield keys, newest first; those that work no more are among them."""
        return pages(self._transport, "/keys", Key, limit=limit, project=project)

    async def get(self, key_id: str) -> Key:
        """Return a key, without its secret."""
        return from_json(Key, await self._transport.get(path_of("keys", key_id)))

    async def rotate(self, key_id: str, *, overlap_seconds: int = 86_400) -> Key:
        """Make a key like this one, which works on for a while, and return it with its `secret`."""
        path = path_of("keys", key_id, "rotate")
        call = Call("POST", path, json={"overlap_seconds": overlap_seconds})
        return from_json(Key, await self._transport.json(call))

    async def revoke(self, key_id: str) -> None:
        """Revoke a key: it works for two seconds more at most."""
        await self._transport.request(Call("DELETE", path_of("keys", key_id)))


class AsyncProjects:
    """The tenants of a service, for its operators; anyone may look at their own."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(self, name: str, **quotas: float | None) -> Project:
        """Make a project; quotas are `max_queued_jobs` and the like, None for no limit."""
        call = Call("POST", "/projects", json={"name": name, **quotas})
        return from_json(Project, await self._transport.json(call))

    def list(self, *, limit: int | None = None) -> AsyncIterator[Project]:
        """Yield projects by name; at most `limit`."""
        return pages(self._transport, "/projects", Project, cursor="name", limit=limit)

    async def get(self, name: str) -> Project:
        """Return a project with its quotas and what it uses."""
        return from_json(Project, await self._transport.get(path_of("projects", name)))

    async def edit(self, name: str, **quotas: float | None) -> Project:
        """Set the quotas that are given; None takes one away."""
        path = path_of("projects", name)
        call = Call("PATCH", path, json=quotas, is_repeatable=True)
        return from_json(Project, await self._transport.json(call))


class AsyncSecrets:
    """Named secrets, which specs refer to. No call returns a value."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def set(self, name: str, value: str) -> Secret:
        """Store a secret under a name, in place of one that has it."""
        call = Call("PUT", path_of("secrets", name), json={"value": value})
        return from_json(Secret, await self._transport.json(call))

    def list(self, *, limit: int | None = None) -> AsyncIterator[Secret]:
        """Yield secrets by name, without their values; at most `limit`."""
        return pages(self._transport, "/secrets", Secret, cursor="name", limit=limit)

    async def delete(self, name: str) -> None:
        """Forget a secret. Jobs that refer to it and have not begun will fail."""
        await self._transport.request(Call("DELETE", path_of("secrets", name)))


class AsyncAudit:
    """Who changed what."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    def list(
        self, *, project: str | None = None, limit: int | None = None
    ) -> AsyncIterator[AuditEntry]:
        """Yield what was done, newest first; at most `limit`."""
        return pages(self._transport, "/audit", AuditEntry, limit=limit, project=project)
