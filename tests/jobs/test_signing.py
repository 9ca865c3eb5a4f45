"""Signatures, against the reference library of Standard Webhooks and OpenAI's client."""

import base64
import time
from datetime import UTC, datetime

import pytest
import standardwebhooks
from hypothesis import given
from hypothesis import strategies as st
from openai import InvalidWebhookSignatureError, OpenAI

from jobs.delivery.signing import new_secret, signed_headers

SECRET = new_secret()
OTHER = new_secret()
BODY = '{"id":"evt_1","type":"job.succeeded","data":{}}'


def headers(
    body: str = BODY, *, secrets: tuple[str, ...] = (SECRET,), age_seconds: int = 0
) -> dict[str, str]:
    timestamp = int(time.time()) - age_seconds
    return signed_headers("evt_1", body, signing_secrets=secrets, timestamp=timestamp)


def verify(body: str, given_headers: dict[str, str], *, secret: str = SECRET) -> None:
    standardwebhooks.Webhook(secret).verify(body, given_headers, json_parse=False)
    with OpenAI(api_key="none", webhook_secret=secret) as client:
        client.webhooks.verify_signature(body, given_headers)


def refused(body: str, given_headers: dict[str, str], *, secret: str = SECRET) -> None:
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(secret).verify(body, given_headers, json_parse=False)
    with (
        OpenAI(api_key="none", webhook_secret=secret) as client,
        pytest.raises((InvalidWebhookSignatureError, ValueError)),
    ):
        client.webhooks.verify_signature(body, given_headers)


@given(
    event_id=st.text("abcdefghij_0123456789", min_size=1),
    body=st.text(st.characters(codec="utf-8")),
    key=st.binary(min_size=24, max_size=64),
    at=st.integers(1_500_000_000, 4_000_000_000),
)
def test_signature_is_that_of_the_reference_library(
    event_id: str, body: str, key: bytes, at: int
) -> None:
    secret = "whsec_" + base64.b64encode(key).decode()

    ours = signed_headers(event_id, body, signing_secrets=[secret], timestamp=at)

    theirs = standardwebhooks.Webhook(secret).sign(event_id, datetime.fromtimestamp(at, UTC), body)
    assert ours["webhook-signature"] == theirs
    assert (ours["webhook-id"], ours["webhook-timestamp"]) == (event_id, str(at))


def test_what_is_signed_is_verified() -> None:
    verify(BODY, headers())
    verify('{"name":"Zoë ✓"}', headers('{"name":"Zoë ✓"}'))


@pytest.mark.parametrize("age_seconds", [301, 86_400, -330])
def test_old_or_future_timestamp_is_refused(age_seconds: int) -> None:
    refused(BODY, headers(age_seconds=age_seconds))


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_missing_or_changed_header_is_refused(name: str) -> None:
    good = headers()
    refused(BODY, {key: value for key, value in good.items() if key != name})
    changed = {"webhook-timestamp": str(int(good["webhook-timestamp"]) - 1)}
    refused(BODY, good | {name: changed.get(name, "v1,AAAA")})


def test_changed_body_or_another_secret_is_refused() -> None:
    refused(BODY.replace("succeeded", "failed"), headers())
    refused(BODY, headers(), secret=OTHER)


def test_two_secrets_give_two_signatures_and_each_verifies() -> None:
    both = headers(secrets=(SECRET, OTHER))

    assert [part.split(",")[0] for part in both["webhook-signature"].split(" ")] == ["v1", "v1"]
    verify(BODY, both)
    verify(BODY, both, secret=OTHER)


def test_secrets_are_random_and_of_the_length_that_the_standard_wants() -> None:
    assert len({new_secret() for _ in range(100)}) == 100
    assert len(base64.b64decode(new_secret().removeprefix("whsec_"))) == 32
