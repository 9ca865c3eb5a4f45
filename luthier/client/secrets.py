"""Named secrets: stored by the service, sealed, and never told again."""

from typing import Any

from luthier.client.transport import Call, Transport, path_of


class Secrets:
    """The project's secrets, by their names."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def set(self, name: str, value: str) -> None:
        """Store a secret, in place of one that has the name."""
        call = Call("PUT", path_of("secrets", name), json={"value": value}, is_repeatable=True)
        self._transport.request(call)

    def names(self) -> list[str]:
        """Return the names of all secrets."""
        found: list[str] = []
        while True:
            page: Any = self._transport.get("/secrets", after=found[-1] if found else None)
            found += [one["name"] for one in page["data"]]
            if not page["has_more"]:
                return found

    def delete(self, name: str) -> None:
        """Forget a secret."""
        self._transport.request(Call("DELETE", path_of("secrets", name)))
