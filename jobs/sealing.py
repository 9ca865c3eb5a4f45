"""Secrets that the service has to read again, encrypted before they are stored.

The key is `LUTHIER_SECRET_KEY`, or else a file of the home folder, made where it is first needed.
Where several machines serve one database, only the setting gives them the same key.
"""

import base64
import contextlib
import hashlib
import os
import secrets
from functools import lru_cache
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from jobs.settings import Settings
from trainer_core.errors import SecretUnreadable

_FILE = "secret.key"


class Cipher:
    """Seals and opens (Fernet: AES-128-CBC and HMAC-SHA256).

    Of several keys, separated by `,`, the first seals and all of them open.
    """

    def __init__(self, keys: str) -> None:
        digests = [hashlib.sha256(key.strip().encode()).digest() for key in keys.split(",")]
        self._fernet = MultiFernet([Fernet(base64.urlsafe_b64encode(one)) for one in digests])

    def seal(self, secret: str) -> str:
        """Return a secret as it may be stored."""
        return self._fernet.encrypt(secret.encode()).decode()

    def open(self, sealed: str) -> str:
        """Return the secret that `seal` was given, or raise SecretUnreadable."""
        try:
            return self._fernet.decrypt(sealed.encode()).decode()
        except InvalidToken as error:
            raise SecretUnreadable(
                "a stored secret can't be opened: it was sealed with another key.",
                hint="Set LUTHIER_SECRET_KEY to what it was, or rotate the secret.",
                param="LUTHIER_SECRET_KEY",
            ) from error


def cipher_of(settings: Settings) -> Cipher:
    """Return the cipher of a service, with its key made if there is none yet."""
    if settings.secret_key is not None:
        return _cipher(settings.secret_key.get_secret_value())
    return _cipher(_key_in(settings.home))


@lru_cache(maxsize=8)
def _cipher(key: str) -> Cipher:
    return Cipher(key)


def _key_in(home: Path) -> str:
    path = home / _FILE
    if not path.exists():
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = path.with_name(f".{_FILE}.{secrets.token_hex(4)}")
        with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # another process was first: theirs counts
            os.link(made, path)
        made.unlink()
    return path.read_text()
