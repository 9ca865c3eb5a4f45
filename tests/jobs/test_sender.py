"""What becomes of an event on its way to a webhook, with days gone by in a moment."""

import asyncio
import dataclasses
import ipaddress
import json
import threading
import time
from collections import Counter, defaultdict
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
import standardwebhooks
from openai import OpenAI
from sqlalchemy import text

from jobs.backends import Backends, connect
from jobs.delivery import signing
from jobs.delivery.sender import DELAYS_SECONDS, Sender
from jobs.records import Delivery, Webhook
from jobs.sealing import cipher_of
from jobs.settings import Settings
from jobs.store import deliveries, jobs, webhooks
from jobs.store.notices import NoticeType
from tests.receiver import Received, Receiver
from tests.stored import new_job
from trainer_core.failpoints import VARIABLE

pytestmark = pytest.mark.slow

SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)
OVERLAP = timedelta(hours=24)
DELAYS = tuple(delay / 1_000_000 for delay in DELAYS_SECONDS)  # a day is 0.09 s


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"webhook_networks": LOOPBACK, "webhook_seconds": 0.05})


def add_webhook(backends: Backends, url: str, *types: NoticeType) -> Webhook:
    values = {
        "url": url,
        "event_types": list(types or (NoticeType.QUEUED,)),
        "secret": cipher_of(backends.settings).seal(SECRET),
        "secret_hint": signing.hint_of(SECRET),
    }
    with backends.database.transaction() as tx:
        return webhooks.create(tx, project="default", values=values)


def submit(backends: Backends, *, num: int = 1) -> None:
    for _ in range(num):
        with backends.database.transaction() as tx:
            new_job(tx)


def sent_to(backends: Backends, webhook: Webhook) -> list[Delivery]:
    with backends.database.transaction() as tx:
        return deliveries.page(tx, webhook.id, state=None, after=None, limit=10_000)


def send_all(backends: Backends, **options: Any) -> None:
    """Send until nothing is pending for a webhook that is enabled."""
    options = {"delays_seconds": DELAYS, "timeout_seconds": 5, **options}

    async def run() -> None:
        sender = Sender(backends, **options)
        while is_pending(backends):
            await sender.send_due()
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(run(), 60))


def is_pending(backends: Backends) -> bool:
    query = (
        "SELECT EXISTS (SELECT FROM deliveries JOIN webhooks ON webhooks.id = webhook_id "
        "WHERE state = 'pending' AND is_enabled)"
    )
    with backends.database.transaction() as tx:
        return bool(tx.connection.execute(text(query)).scalar_one())


def test_every_state_of_a_job_is_told_to_those_who_want_it(backends: Backends) -> None:
    with Receiver() as receiver:
        add_webhook(backends, receiver.url, NoticeType.QUEUED, NoticeType.CANCELLED)
        with backends.database.transaction() as tx:
            job = new_job(tx)
        with backends.database.transaction() as tx:
            jobs.cancel(tx, job.id, project="default")
        send_all(backends)

    bodies = sorted((json.loads(one.body) for one in receiver.received), key=lambda b: b["id"])
    assert [body["type"] for body in bodies] == ["job.queued", "job.cancelled"]
    assert [body["data"]["state"] for body in bodies] == ["queued", "cancelled"]
    assert {body["data"]["id"] for body in bodies} == {job.id}
    assert {one.event_id for one in receiver.received} == {body["id"] for body in bodies}


def test_nothing_is_told_of_what_was_rolled_back(backends: Backends) -> None:
    webhook = add_webhook(backends, "http://127.0.0.1:9/")
    with pytest.raises(ZeroDivisionError), backends.database.transaction() as tx:
        new_job(tx)
        _ = 1 / 0

    assert sent_to(backends, webhook) == []


def test_other_projects_are_told_nothing(backends: Backends) -> None:
    webhook = add_webhook(backends, "http://127.0.0.1:9/")
    with backends.database.transaction() as tx:
        new_job(tx, project="other")

    assert sent_to(backends, webhook) == []


def test_reference_library_verifies_what_is_sent(backends: Backends) -> None:
    with Receiver() as receiver:
        add_webhook(backends, receiver.url)
        submit(backends)
        send_all(backends)

    (request,) = receiver.received
    verified = standardwebhooks.Webhook(SECRET).verify(request.body, request.headers)
    assert verified["type"] == "job.queued"
    with pytest.raises(standardwebhooks.WebhookVerificationError, match="No matching"):
        standardwebhooks.Webhook(SECRET).verify(request.body + " ", request.headers)


def test_openai_client_unwraps_its_events(backends: Backends) -> None:
    with Receiver() as receiver:
        add_webhook(backends, receiver.url, NoticeType.OPENAI_CANCELLED)
        with backends.database.transaction() as tx:
            job = new_job(tx)
            jobs.cancel(tx, job.id, project="default")
        send_all(backends)

    (request,) = receiver.received
    with OpenAI(api_key="none", webhook_secret=SECRET) as client:
        event = client.webhooks.unwrap(request.body, request.headers)
    assert event.type == "fine_tuning.job.cancelled"
    assert event.id == request.event_id
    assert event.data.id == f"ftjob-{job.id.removeprefix('job_')}"
    assert abs(event.created_at - time.time()) < 60


def test_both_secrets_sign_while_one_is_rotated(backends: Backends) -> None:
    new = signing.new_secret()
    with Receiver() as receiver:
        webhook = add_webhook(backends, receiver.url)
        for overlap in (OVERLAP, timedelta()):
            with backends.database.transaction() as tx:
                webhooks.rotate(
                    tx,
                    webhook.id,
                    project="default",
                    secret=cipher_of(backends.settings).seal(new),
                    secret_hint=signing.hint_of(new),
                    overlap=overlap,
                )
            submit(backends)
            send_all(backends)

    during, after = receiver.received
    standardwebhooks.Webhook(SECRET).verify(during.body, during.headers)
    standardwebhooks.Webhook(new).verify(during.body, during.headers)
    standardwebhooks.Webhook(new).verify(after.body, after.headers)
    with pytest.raises(standardwebhooks.WebhookVerificationError, match="No matching"):
        standardwebhooks.Webhook(SECRET).verify(after.body, after.headers)


def test_old_secret_signs_no_more_after_its_time(backends: Backends) -> None:
    new = signing.new_secret()
    with Receiver() as receiver:
        webhook = add_webhook(backends, receiver.url)
        with backends.database.transaction() as tx:
            webhooks.rotate(
                tx,
                webhook.id,
                project="default",
                secret=cipher_of(backends.settings).seal(new),
                secret_hint=signing.hint_of(new),
                overlap=timedelta(milliseconds=1),
            )
        submit(backends)
        time.sleep(0.01)
        send_all(backends)

    (request,) = receiver.received
    assert len(request.headers["webhook-signature"].split()) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 400, 404, 429, 500, 503])
def test_other_answers_than_2xx_are_tried_again_by_schedule(
    backends: Backends, status: int
) -> None:
    answers = iter([status] * 3 + [204])
    with Receiver(lambda _: next(answers)) as receiver:
        webhook = add_webhook(backends, receiver.url)
        submit(backends)
        send_all(backends)

    (delivery,) = sent_to(backends, webhook)
    assert delivery.state == "delivered"
    assert [one.status_code for one in delivery.tries] == [status] * 3 + [204]
    assert len({(one.event_id, one.body) for one in receiver.received}) == 1


def test_schedule_is_kept_and_ends_in_failure(backends: Backends) -> None:
    delays = (0, 0.1, 0.3, 0.05)
    webhook = add_webhook(backends, "http://127.0.0.1:9/")  # nobody listens there
    submit(backends)
    send_all(backends, delays_seconds=delays)

    (delivery,) = sent_to(backends, webhook)
    assert (delivery.state, delivery.num_tries, delivery.next_try_at) == ("failed", 4, None)
    assert all("ConnectError" in str(one.error) for one in delivery.tries)
    times = [one.at for one in delivery.tries]
    waits = [(b - a).total_seconds() for a, b in pairwise(times)]
    assert all(wait >= delay for wait, delay in zip(waits, delays[1:], strict=True))


def test_schedule_is_that_of_the_standard() -> None:
    assert DELAYS_SECONDS == (0, 5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)


def test_gone_turns_the_webhook_off_and_what_waits_is_kept(backends: Backends) -> None:
    answers = [410]
    with Receiver(lambda _: answers[-1]) as receiver:
        webhook = add_webhook(backends, receiver.url)
        submit(backends)
        send_all(backends)
        submit(backends)  # nothing is kept of this one
        with backends.database.transaction() as tx:
            found = webhooks.get(tx, webhook.id, project="default")
        assert (found.is_enabled, found.disabled_reason) == (False, "the target answered 410 Gone")

        answers.append(200)
        with backends.database.transaction() as tx:
            webhooks.change(tx, webhook.id, project="default", values={"is_enabled": True})
        send_all(backends)

    (delivery,) = sent_to(backends, webhook)
    assert delivery.state == "delivered"
    assert [one.status_code for one in delivery.tries] == [410, 200]


def test_target_that_hangs_holds_up_no_other(backends: Backends) -> None:
    released = threading.Event()
    with Receiver(lambda _: released.wait(20) and 200) as slow, Receiver() as fast:
        add_webhook(backends, slow.url)
        quick = add_webhook(backends, fast.url)
        submit(backends, num=12)

        async def run() -> None:
            stopping = asyncio.Event()
            sender = Sender(backends, delays_seconds=DELAYS, timeout_seconds=10)
            running = asyncio.create_task(sender.run_until(stopping))
            while len(fast.received) < 12:  # noqa: ASYNC110 - another thread receives
                await asyncio.sleep(0.01)
            assert len(slow.received) <= 4
            released.set()
            stopping.set()
            await running

        asyncio.run(asyncio.wait_for(run(), 30))

    assert {one.state for one in sent_to(backends, quick)} == {"delivered"}


def test_several_senders_share_the_work(backends: Backends) -> None:
    with Receiver() as receiver:
        webhook = add_webhook(backends, receiver.url)
        submit(backends, num=40)

        async def run() -> None:
            senders = [Sender(backends, delays_seconds=DELAYS) for _ in range(3)]
            await asyncio.gather(*(sender.send_due() for sender in senders))

        asyncio.run(run())

    assert max(Counter(one.event_id for one in receiver.received).values()) == 1
    assert len(receiver.received) == 40
    assert {one.state for one in sent_to(backends, webhook)} == {"delivered"}


def test_sender_that_dies_after_its_post_is_followed_by_one_with_the_same_id(
    backends: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Receiver() as receiver:
        webhook = add_webhook(backends, receiver.url)
        submit(backends)
        monkeypatch.setenv(VARIABLE, "webhook.posted:raise")
        asyncio.run(Sender(backends, delays_seconds=DELAYS).send_due())
        monkeypatch.delenv(VARIABLE)
        (lost,) = sent_to(backends, webhook)
        time.sleep(1.1)  # until the next second, by which signatures differ
        with backends.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE deliveries SET next_try_at = now()")  # lease over
        send_all(backends)

    first, second = receiver.received
    assert (lost.state, lost.num_tries) == ("pending", 0)
    assert (first.event_id, first.body) == (second.event_id, second.body)
    assert first.headers["webhook-timestamp"] != second.headers["webhook-timestamp"]
    for request in receiver.received:
        standardwebhooks.Webhook(SECRET).verify(request.body, request.headers)


def test_nothing_is_lost_whatever_targets_do(backends: Backends) -> None:
    tries: dict[str, int] = defaultdict(int)

    def moody(request: Received) -> int:
        tries[request.event_id] += 1
        number = tries[request.event_id]
        if number > 4:
            return 200
        if (int(request.event_id[-1], 36) + number) % 10 == 0:
            time.sleep(1.3)  # longer than the sender waits
        return (500, 302, 503, 404)[number - 1]

    with Receiver(moody) as receiver:
        webhook = add_webhook(backends, receiver.url)
        submit(backends, num=20)
        send_all(backends, timeout_seconds=1)

    taken = sent_to(backends, webhook)
    assert len(taken) == 20
    assert {one.state for one in taken} == {"delivered"}
    assert {one.event_id for one in receiver.received} == {one.event_id for one in taken}


def test_body_stays_below_20_kb(backends: Backends) -> None:
    webhook = add_webhook(backends, "http://127.0.0.1:9/")
    with backends.database.transaction() as tx:
        job = new_job(tx)
    huge = dataclasses.replace(job, labels={f"k{n}": "v" * 200 for n in range(200)})
    with backends.database.transaction() as tx:
        deliveries.announce(tx, huge)

    newest, _ = sent_to(backends, webhook)
    data = json.loads(newest.body)["data"]
    assert len(newest.body.encode()) < 20_000
    assert (data["id"], data["labels"], data["is_cut"]) == (job.id, {}, True)


def test_secret_sealed_with_another_key_is_told_and_nothing_is_sent(
    backends: Backends, settings: Settings
) -> None:
    with Receiver() as receiver:
        webhook = add_webhook(backends, receiver.url)
        submit(backends)
        other = connect(settings.model_copy(update={"home": settings.home / "other"}))
        send_all(other, delays_seconds=(0,))
        other.engine.dispose()

    (delivery,) = sent_to(backends, webhook)
    assert delivery.state == "failed"
    assert "sealed with another key" in str(delivery.tries[0].error)
    assert receiver.received == []


def test_old_deliveries_are_forgotten(backends: Backends) -> None:
    webhook = add_webhook(backends, "http://127.0.0.1:9/")
    submit(backends, num=2)
    with backends.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE deliveries SET created_at = now() - interval '31 days' "
            "WHERE event_id = (SELECT min(event_id) FROM deliveries)"
        )
    with backends.database.transaction() as tx:
        assert deliveries.forget(tx, older_than_days=30) == 1

    assert len(sent_to(backends, webhook)) == 1
