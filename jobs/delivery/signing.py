"""Signatures as Standard Webhooks 1.0 has them: HMAC-SHA256 over `id.timestamp.body`."""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence

_PREFIX = "whsec_"
_NUM_BYTES = 32


def new_secret() -> str:
    """Return a new signing secret, `whsec_…`."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(_NUM_BYTES)).decode()


def hint_of(secret: str) -> str:
    """Return by what its owner can tell a secret from others."""
    return f"{_PREFIX}…{secret[-4:]}"


def signed_headers(
    event_id: str, body: str, *, signing_secrets: Sequence[str], timestamp: int
) -> dict[str, str]:
    """Return the headers by which a receiver verifies a body.

    Args:
        event_id: the same in every try.
        body: what is sent, exactly.
        signing_secrets: `whsec_…`; a signature each, as long as a rotation lasts.
        timestamp: of this try, Unix seconds.
    """
    content = f"{event_id}.{timestamp}.{body}".encode()
    signatures = [f"v1,{_signature(secret, content)}" for secret in signing_secrets]
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signatures),
    }


def _signature(secret: str, content: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(_PREFIX))
    return base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
