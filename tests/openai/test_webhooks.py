"""Webhooks made, changed and verified through the unmodified client."""

import time

import openai
import pytest

from tests.openai.conftest import start
from tests.receiver import Receiver

pytestmark = pytest.mark.slow

ENDS = ["fine_tuning.job.succeeded", "fine_tuning.job.cancelled"]


def test_a_webhook_is_made_changed_tested_and_forgotten(client):
    with Receiver() as receiver:
        made = client.webhooks.create(event_types=ENDS, name="mine", url=receiver.url)
        changed = client.webhooks.update(made.id, name="ours")
        rotated = client.webhooks.rotate_secret(made.id, keep_old_secret_active_for_24_hours=False)
        tested = client.webhooks.test(made.id, event_type="fine_tuning.job.failed")
        (received,) = receiver.received

    assert made.signing_secret.startswith("whsec_")
    assert (changed.name, changed.event_types) == ("ours", ENDS)
    assert rotated.signing_secret != made.signing_secret
    assert rotated.signing_secret.endswith(rotated.signing_secret_hint[-4:])
    assert (tested.status_code, tested.success) == (200, True)
    event = client.webhooks.unwrap(received.body, received.headers, secret=rotated.signing_secret)
    assert event.type == "fine_tuning.job.failed"
    assert made.id in [one.id for one in client.webhooks.list(limit=1)]
    assert client.webhooks.retrieve(made.id).url == receiver.url
    assert client.webhooks.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError) as told:
        client.webhooks.retrieve(made.id)
    assert told.value.code == "webhook_not_found"


def test_the_end_of_a_job_is_told_and_verified(facade, one_client):
    with Receiver() as receiver:
        made = one_client.webhooks.create(event_types=ENDS, name="mine", url=receiver.url)
        job = start(one_client)
        one_client.fine_tuning.jobs.cancel(job.id)
        deadline = time.monotonic() + 30
        while not receiver.received:
            assert time.monotonic() < deadline, "nothing was sent"
            time.sleep(0.02)
        one_client.webhooks.delete(made.id)
    (received,) = receiver.received

    event = one_client.webhooks.unwrap(received.body, received.headers, secret=made.signing_secret)

    assert (event.type, event.data.id) == ("fine_tuning.job.cancelled", job.id)


def test_event_types_are_listed(client):
    assert set(client.webhooks.event_types.list().data) > set(ENDS)


def test_what_a_webhook_may_not_be_is_told(one_client):
    for given, param in (
        ({"event_types": ["batch.completed"], "url": "https://example.org"}, "event_types.0"),
        ({"event_types": ENDS, "url": "http://169.254.169.254/latest"}, "url"),
    ):
        with pytest.raises(openai.BadRequestError) as told:
            one_client.webhooks.create(name="mine", **given)
        assert told.value.param == param


def test_a_test_that_is_not_taken_is_told(one_client):
    with Receiver(lambda _: 503) as receiver:
        made = one_client.webhooks.create(event_types=ENDS, name="mine", url=receiver.url)
        with pytest.raises(openai.BadRequestError) as told:
            one_client.webhooks.test(made.id, event_type="fine_tuning.job.failed")
        one_client.webhooks.delete(made.id)

    assert told.value.code == "webhook_test_failed"
    assert "503" in told.value.message
