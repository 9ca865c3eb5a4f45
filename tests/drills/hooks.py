"""Group D, webhooks: targets that fail in every way, and a sender that dies after it has sent."""

import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
from sqlalchemy import text

from tests.drills.plan import Counted, Drill
from tests.drills.site import Site, until
from tests.drills.work import Work, spec_of
from tests.receiver import Received, Receiver

_NUM_JOBS = 25  # of D10, a trial; each has two events
_TYPES = ["job.queued", "job.cancelled"]
_FAULTS = (500, 503, 302, 404)
_MAX_FAULTS = 3  # of one event
_SOON = text(
    "UPDATE deliveries SET next_try_at = now() "
    "WHERE state = 'pending' AND next_try_at > now() + interval '2 minutes'"
)
"""Lets hours go by. What is being sent now is held for 40 s, and a sender keeps what it holds."""


def drills(work: Work) -> list[Drill]:
    """Return the group's drills for a site that is set up."""
    trials = _Trials(work)
    return [
        Drill(
            "D10", "webhook target fails, redirects, is gone", "none lost, 410 disables",
            trials.d10, 1000, unit="events", per_trial=2 * _NUM_JOBS,
        ),
        Drill("D11", "sender of webhooks dies after POST", "again, same id", trials.d11, 100),
    ]  # fmt: skip


class _Trials:
    def __init__(self, work: Work) -> None:
        self._work = work

    def d10(self, site: Site, chance: random.Random) -> Counted:
        site.kill_workers()
        faults = random.Random(chance.random())
        tries: Counter[str] = Counter()
        wanted: dict[str, int] = {}  # after how many tries an event is taken

        def answer(received: Received) -> int:
            number = wanted.setdefault(received.event_id, faults.randint(0, _MAX_FAULTS))
            tries[received.event_id] += 1
            return faults.choice(_FAULTS) if tries[received.event_id] <= number else 204

        elsewhere = {"Location": "/elsewhere"}
        with (
            Receiver(answer, headers=elsewhere) as target,
            Receiver(lambda _: 410) as gone,
            _webhook(site, target.url) as kept,
            _webhook(site, gone.url) as disabled,
        ):
            found = self._submit_and_cancel(site)
            until(lambda: not _is_pending(site, kept), seconds=120, what="all is delivered")
            until(lambda: not _is_enabled(site, disabled), seconds=30, what="it is disabled")
            recorded = _recorded(site, kept)
        told = {(body["data"]["id"], body["type"]) for body in map(_body, target.received)}
        assert told == {(job, kind) for job in found for kind in _TYPES}, "events are missing"
        assert {event: len(said) for event, said in recorded.items()} == tries, "sent unrecorded"
        for event, said in recorded.items():
            *failed, last = said
            assert last is None, f"{event} was not taken"
            assert all(failed), f"{event} was sent again after it was taken"
            assert len(failed) >= wanted[event], f"{event} was taken by a target that refused it"
        assert {received.path for received in target.received} == {"/hooks"}, "it was led away"
        for event in wanted:
            bodies = {one.body for one in target.received if one.event_id == event}
            assert len(bodies) == 1, f"{event} was not told in the same words"
        return Counted(2 * _NUM_JOBS)

    def d11(self, site: Site, _: random.Random) -> None:
        import standardwebhooks

        site.kill_workers()
        with Receiver() as target, _webhook(site, target.url) as (id_, secret):
            site.only_api(failpoints="webhook.posted:kill")
            with suppress(httpx.TransportError):  # it may die before it has answered
                site.submit(spec_of(self._work.dataset))
            until(lambda: not site.apis[0].is_alive(), seconds=20, what="the API dies")
            site.apis.clear()
            time.sleep(1)  # by which the clock of signatures has gone on
            site.start_api()
            # The dead sender holds it for 40 s, as any sender would.
            until(lambda: not _is_pending(site, (id_, secret)), seconds=90, what="it is delivered")
            first, *_, second = target.received
            job_id = _body(first)["data"]["id"]
            site.client.post(f"/jobs/{job_id}/cancel")
        assert first.event_id == second.event_id, "it has another id"
        assert first.body == second.body, "it has another body"
        assert first.headers["webhook-signature"] != second.headers["webhook-signature"]
        verifier = standardwebhooks.Webhook(secret)
        for received in (first, second):
            verifier.verify(received.body, received.headers)

    def _submit_and_cancel(self, site: Site) -> list[str]:
        found = [site.submit(spec_of(self._work.dataset)) for _ in range(_NUM_JOBS)]
        for job_id in found:
            site.client.post(f"/jobs/{job_id}/cancel")
        return found


@contextmanager
def _webhook(site: Site, url: str) -> Iterator[tuple[str, str]]:
    """Give the id and the secret of a webhook."""
    answer = site.client.post("/webhooks", json={"url": url, "event_types": _TYPES})
    assert answer.status_code == 201, answer.text
    values = answer.json()
    yield values["id"], values["secret"]
    site.client.delete(f"/webhooks/{values['id']}")


def _is_pending(site: Site, webhook: tuple[str, str]) -> bool:
    """Return whether something is still to be sent, and let its time come."""
    query = text("SELECT count(*) FROM deliveries WHERE webhook_id = :id AND state = 'pending'")
    with site.backends.engine.begin() as connection:
        connection.execute(_SOON)
        return bool(connection.execute(query, {"id": webhook[0]}).scalar_one())


def _recorded(site: Site, webhook: tuple[str, str]) -> dict[str, list[str | None]]:
    """Return the errors of each event's tries, in order; None is of one that was taken."""
    answer = site.client.get(f"/webhooks/{webhook[0]}/deliveries", params={"limit": 100})
    page = answer.json()
    assert not page["has_more"]
    return {one["event_id"]: [each["error"] for each in one["tries"]] for one in page["data"]}


def _is_enabled(site: Site, webhook: tuple[str, str]) -> bool:
    return bool(site.client.get(f"/webhooks/{webhook[0]}").json()["enabled"])


def _body(received: Received) -> dict[str, dict[str, str]]:
    body: dict[str, dict[str, str]] = json.loads(received.body)
    return body
