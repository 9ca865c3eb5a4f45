"""`luthier.verify_webhook`, against the library of Standard Webhooks and the service's own hand."""

import json
import time
from datetime import UTC, datetime, timedelta

import pytest
import standardwebhooks

import luthier
from jobs.delivery import signing
from trainer_core.errors import InvalidSetting

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # of the specification's own example
BODY = json.dumps({"type": "job.succeeded", "data": {"id": "job_1", "name": "é"}})


def signed(body: str = BODY, *, secret: str = SECRET, ago: float = 0) -> dict[str, str]:
    """Return a request's headers as the library makes them."""
    at = datetime.now(UTC) - timedelta(seconds=ago)
    return {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": standardwebhooks.Webhook(secret).sign("evt_1", at, body),
    }


def test_event_that_the_library_signed_is_returned() -> None:
    headers = {name.title(): value for name, value in signed().items()}

    for body in (BODY, BODY.encode()):
        event = luthier.verify_webhook(body, headers, SECRET)

        assert (event.id, event.type) == ("evt_1", "job.succeeded")
        assert event.data == {"id": "job_1", "name": "é"}
        assert event.body["type"] == "job.succeeded"


def test_signature_of_the_service_is_one_to_both() -> None:
    secret = signing.new_secret()
    headers = signing.signed_headers(
        "evt_2", BODY, signing_secrets=[signing.new_secret(), secret], timestamp=int(time.time())
    )

    assert luthier.verify_webhook(BODY, headers, secret).id == "evt_2"
    assert standardwebhooks.Webhook(secret).verify(BODY, headers) == json.loads(BODY)


@pytest.mark.parametrize(
    ("body", "changes"),
    [
        (BODY + " ", {}),
        (BODY, {"webhook-id": "evt_2"}),
        (BODY, {"webhook-timestamp": str(int(time.time()) - 1)}),
        (BODY, {"webhook-timestamp": "soon"}),
        (BODY, {"webhook-signature": "v1,bm90IGl0"}),
        (BODY, {"webhook-signature": "v1,n.o.t base64"}),
        (BODY, {"webhook-signature": ""}),
        (BODY, signed(secret="whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")),
        (BODY, signed(ago=4000)),
        (BODY, signed(ago=-4000)),
        ("[]", signed("[]")),
        ("{", signed("{")),
    ],
)
def test_request_that_is_not_the_webhooks_is_refused(body: str, changes: dict[str, str]) -> None:
    with pytest.raises(luthier.InvalidSignature, match="not to be trusted") as caught:
        luthier.verify_webhook(body, {**signed(), **changes}, SECRET)

    assert SECRET not in str(caught.value)


def test_signature_of_another_version_is_passed_over() -> None:
    headers = signed()
    headers["webhook-signature"] = f"v1a,AAAA {headers['webhook-signature']}"

    assert luthier.verify_webhook(BODY, headers, SECRET).id == "evt_1"


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_not base64"])
def test_secret_that_is_none_is_an_invalid_setting(secret: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        luthier.verify_webhook(BODY, signed(), secret)

    assert "not base64" not in str(caught.value)
