"""Whether a request is a webhook's: signatures as Standard Webhooks 1.0 has them.

`webhook-signature` holds one or more `v1,<base64>`, each an HMAC-SHA256 over `id.timestamp.body`.
While a secret is being rotated there are two of them.
"""

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from luthier.client.errors import InvalidSignature
from trainer_core.errors import InvalidSetting

TOLERANCE_SECONDS = 300.0
_PREFIX = "whsec_"


@dataclass(frozen=True, slots=True)
class WebhookEvent:
    """An event as a webhook tells it."""

    id: str  # the same each time it is sent: do what it asks for once
    type: str  # such as `job.succeeded`
    data: Mapping[str, Any]  # the job, in its state by then
    body: Mapping[str, Any]  # the whole of it


def verify_webhook(
    body: bytes | str,
    headers: Mapping[str, str],
    secret: str,
    *,
    tolerance_seconds: float = TOLERANCE_SECONDS,
) -> WebhookEvent:
    """Return the event in a webhook's request, or raise if it is not signed by `secret`.

    Args:
        body: as it was received, before anything has read it.
        headers: of the request, in any case.
        secret: `whsec_…`, as it was shown when the webhook was made.
        tolerance_seconds: how far the sender's clock may be off, and how old a request may be.

    Raises:
        InvalidSignature: it is not the webhook's, was changed, or is too old.
        InvalidSetting: `secret` is no secret of a webhook.
    """
    raw = body.encode() if isinstance(body, str) else body
    told = {name.lower(): value for name, value in headers.items()}
    event_id, timestamp, signatures = (
        told.get(name, "") for name in ("webhook-id", "webhook-timestamp", "webhook-signature")
    )
    if not (event_id and signatures and timestamp.isascii() and timestamp.isdecimal()):
        _refuse("it lacks webhook-id, webhook-timestamp or webhook-signature.")
    content = f"{event_id}.{timestamp}.".encode() + raw
    wanted = hmac.new(_key_of(secret), content, hashlib.sha256).digest()
    if not any(hmac.compare_digest(wanted, given) for given in _digests(signatures)):
        _refuse("no signature of it is one that this secret makes.")
    if abs(time.time() - int(timestamp)) > tolerance_seconds:
        _refuse(f"it was signed more than {tolerance_seconds:g} s ago, or by a clock ahead.")
    return _event(event_id, raw)


def _key_of(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.strip().removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise InvalidSetting(
            "the webhook's secret is not one.", hint="Give it as it was shown: whsec_…."
        )
    return key


def _digests(signatures: str) -> list[bytes]:
    """Return the digests of version 1; other versions are for other keys."""
    found = []
    for signature in signatures.split():
        version, _, text = signature.partition(",")
        if version == "v1":
            try:
                found.append(base64.b64decode(text, validate=True))
            except ValueError:
                continue
    return found


def _event(event_id: str, raw: bytes) -> WebhookEvent:
    try:
        body = json.loads(raw)
    except ValueError:
        _refuse("its body is not JSON.")
    if not isinstance(body, dict):
        _refuse("its body is no JSON object.")
    data = body.get("data")
    return WebhookEvent(
        event_id, str(body.get("type", "")), data if isinstance(data, dict) else {}, body
    )


def _refuse(reason: str) -> NoReturn:
    raise InvalidSignature(
        f"the request is not to be trusted: {reason}",
        hint="Answer it with 400. Verify the body's bytes as they came, with the webhook's secret.",
    )
