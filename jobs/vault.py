"""Sealing secrets: Fernet (AES-128-CBC with HMAC-SHA256), under keys that can be replaced.

The first key seals, all of them open. What is sealed names its project, so that a row that somebody
moves in the database to another project does not open there.
"""

import json

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from trainer_core.errors import ServerFailed, ServiceUnavailable


class Vault:
    """Seals and opens."""

    def __init__(self, keys: str | None) -> None:
        """Take one key or several, separated by `,`; None for a service that keeps no secrets."""
        self._fernet = None if keys is None else MultiFernet(map(Fernet, split_keys(keys)))

    def seal(self, value: str, *, project: str, name: str) -> str:
        """Return a secret in the form in which it is stored."""
        content = json.dumps([project, name, value])
        return self._opened().encrypt(content.encode()).decode()

    def open(self, sealed: str, *, project: str, name: str) -> str:
        """Return the secret that `seal` sealed.

        Raises:
            ServerFailed: it was sealed by a key that is not here, or for another name.
        """
        try:
            content = json.loads(self._opened().decrypt(sealed.encode()))
        except InvalidToken:
            content = [None, None, None]
        if content[:2] != [project, name]:
            raise ServerFailed(
                f"the secret '{name}' of project '{project}' can't be opened with this service's "
                "key.",
                hint="Add the key that sealed it to LUTHIER_SECRET_KEY, or store it again.",
            )
        return str(content[2])

    def _opened(self) -> MultiFernet:
        if self._fernet is None:
            raise ServiceUnavailable(
                "this service has no key to keep secrets with.",
                hint="Its operator sets LUTHIER_SECRET_KEY; `luthier secrets new-key` makes one.",
            )
        return self._fernet


def new_key() -> str:
    """Return a new key."""
    return Fernet.generate_key().decode()


def split_keys(keys: str) -> list[str]:
    """Return keys that are separated by `,`, or raise ValueError if one is none."""
    found = [key.strip() for key in keys.split(",") if key.strip()]
    if not found:
        raise ValueError("is empty")
    for key in found:
        Fernet(key)
    return found
