"""Pushing to the Hub: the library's real client against a Hub on loopback; nothing is trained."""

import json
import os
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from sqlalchemy import text

from jobs.sealing import cipher_of
from jobs.storage import Storage
from jobs.store import events, jobs, pushes, secrets
from tests.api.conftest import claim, save, succeed
from tests.pushable_hub import HANG, PushableHub, Repository
from tests.s3_server import s3_environment, s3_server
from trainer_core.errors import InvalidSpec, ModelNotReady, PushPending
from trainer_core.events import EventType
from trainer_core.spec import parse_spec
from trainer_core.spec.publishing import PushSpec
from worker.pusher import Pusher

pytestmark = pytest.mark.slow

REPO = "me/my-model"
CARD = b"---\nlibrary_name: transformers\ntags:\n- luthier\n---\n\n# Mine\n"
MODEL = {
    "model.safetensors": os.urandom(3000),
    "config.json": b'{"model_type": "bert"}',
    "README.md": CARD,
    "evaluation.json": b"{}",
}
NOT_PUSHED = {
    "manifest.json": b"{}",
    "predictions.jsonl": b"{}\n",
    "tracking/tensorboard/events.out": b"log",
}


@pytest.fixture
def settings(settings):
    return settings.model_copy(update={"retry_seconds": 0.1, "push_seconds": 30})


@pytest.fixture
def hub(monkeypatch):
    hub = PushableHub()
    with hub.serve() as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        yield hub


@pytest.fixture
def job(backends, submit, hub):
    """A job that has succeeded, of a project that has the token."""
    submit()
    return succeeded(backends, token=hub.token)


@pytest.fixture
def push(backends, job):
    """Ask for a push, have it tried until it is over, and return it."""

    def push(max_tries=2, **asked):
        ask(backends, job, max_tries=max_tries, **asked)
        return tried(backends, job)

    return push


def succeeded(backends, *, token):
    with backends.database.transaction() as tx:
        cipher = cipher_of(backends.settings)
        secrets.put(tx, "hf", token, project="default", cipher=cipher)
    job = claim(backends)
    succeed(backends, job, MODEL | NOT_PUSHED)
    return job


def ask(backends, job, *, max_tries=2, step=None, **asked):
    spec = PushSpec.model_validate({"repo": REPO, "secret": "hf", **asked})
    with backends.database.transaction() as tx:
        return pushes.ask(tx, job.id, spec, max_tries=max_tries, step=step)


def tried(backends, job):
    pusher = Pusher(backends)
    while (push := latest(backends, job)).state == "pending":
        pusher.push_next()
    return push


@contextmanager
def bucket(folder, monkeypatch):
    (folder / "buckets" / "models").mkdir(parents=True)
    with s3_server(folder / "buckets") as url:
        for name, value in s3_environment(url).items():
            monkeypatch.setenv(name, value)
        yield Storage("s3://models/here")


def hurried(backends):
    return replace(backends, settings=backends.settings.model_copy(update={"push_seconds": 4}))


def latest(backends, job):
    with backends.database.transaction() as tx:
        return pushes.of_job(tx, job.id)[-1]


def said(backends, job, kind):
    with backends.database.transaction() as tx:
        found = events.read(tx, job.id, after=0, limit=1000)
    return [event.data for event in found if event.type == kind]


def test_what_is_pushed_is_the_stored_model_to_the_byte_and_in_a_private_repository(
    backends, hub, job, push
):
    done = push()
    assert hub.files(REPO) == MODEL  # and so no list of absent files, no rows, no logs
    assert hub.repositories[REPO].private
    (commit,) = hub.repositories[REPO].commits
    assert (done.state, done.commit, done.url) == ("pushed", commit, f"{hub.url}/{REPO}")
    assert (done.num_tries, done.error) == (1, None)
    (told,) = said(backends, job, EventType.ARTIFACT)
    assert (told["kind"], told["repo"], told["commit"]) == ("push", REPO, commit)


def test_model_in_a_bucket_is_pushed_and_nothing_of_it_stays_here(
    backends, submit, hub, tmp_path, monkeypatch
):
    with bucket(tmp_path, monkeypatch) as storage:
        backends = replace(backends, storage=storage)
        submit()
        job = succeeded(backends, token=hub.token)
        ask(backends, job)
        done = tried(backends, job)
    assert (done.state, done.error) == ("pushed", None)
    assert hub.files(REPO) == MODEL
    assert not list((backends.settings.home / "push").iterdir())


def test_bucket_that_does_not_answer_is_asked_again(backends, submit, hub, tmp_path, monkeypatch):
    with bucket(tmp_path, monkeypatch) as storage:
        backends = replace(backends, storage=storage)
        submit()
        job = succeeded(backends, token=hub.token)
    ask(backends, job, max_tries=1)
    given_up = tried(backends, job)
    assert (given_up.state, given_up.error["whose"]) == ("failed", "system")
    assert not hub.requests


def test_model_of_a_checkpoint_is_pushed_without_what_training_goes_on_from(backends, submit, hub):
    submit()
    with backends.database.transaction() as tx:
        cipher = cipher_of(backends.settings)
        secrets.put(tx, "hf", hub.token, project="default", cipher=cipher)
    job = claim(backends)
    model = {"model.safetensors": os.urandom(3000), "config.json": b"{}"}
    save(backends, job, 40, model | {"optimizer.pt": b"state", "manifest.json": b"{}"})

    ask(backends, job, step=40, branch="step-40")
    done = tried(backends, job)
    ask(backends, job, step=50)
    gone = tried(backends, job)

    assert (done.state, done.error) == ("pushed", None)
    assert hub.files(REPO, "step-40") == model
    assert gone.state == "failed"
    assert "no stored checkpoint of step 50" in gone.error["message"]


def test_public_only_if_asked_for(hub, push):
    push(private=False)
    assert not hub.repositories[REPO].private


def test_public_repository_gets_nothing_where_a_private_one_was_asked_for(hub, push):
    hub.repositories[REPO] = Repository(private=False)
    refused = push()
    assert refused.state == "failed"
    assert "is public" in refused.error["message"]
    assert hub.files(REPO) == {}


def test_branch_is_made_and_the_main_one_left_alone(hub, push):
    done = push(branch="release/v2", tag="v2.0")
    assert hub.files(REPO, "release/v2") == MODEL
    assert hub.files(REPO) == {}
    assert hub.repositories[REPO].tags == {"v2.0": done.commit}
    assert done.url.endswith(f"/{REPO}/tree/release/v2")


def test_pushed_again_it_sends_nothing_and_makes_no_commit(hub, push):
    first = push(tag="v1")
    sent = hub.requests["put"]
    again = push(tag="v1")
    assert (again.state, again.number, again.commit) == ("pushed", 2, first.commit)
    assert hub.repositories[REPO].commits == [first.commit]
    assert hub.requests["put"] == sent


def test_tag_that_is_elsewhere_is_not_moved(hub, push):
    hub.repositories[REPO] = Repository(private=True, tags={"v1": "f" * 40})
    refused = push(tag="v1")
    assert refused.state == "failed"
    assert "at another commit" in refused.error["message"]
    assert hub.repositories[REPO].tags["v1"] == "f" * 40


def test_token_that_may_write_and_make_no_repository_is_enough(hub, push):
    hub.repositories[REPO] = Repository(private=True)
    hub.fail("create", 403)
    assert push().state == "pushed"


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (("create", 401), "does not know the token"),
        (("preupload", 403), "the token may not write there"),
        (("commit", 404), "shows no such place"),
        (("commit", 422), "refuses it (422"),
    ],
)
def test_refusal_is_told_at_once_and_costs_the_job_nothing(backends, hub, push, refusal, words):
    hub.fail(*refusal)
    refused = push()
    assert (refused.state, refused.num_tries, refused.commit) == ("failed", 1, None)
    assert words in refused.error["message"]
    assert refused.error["code"] == "push_failed"
    assert (refused.error["whose"], refused.error["detail"]) == ("user", {"status": refusal[1]})
    with backends.database.transaction() as tx:
        job = jobs.get_any(tx, refused.job_id)
    assert job.state == "succeeded"
    (warning,) = said(backends, job, EventType.WARNING)
    assert (warning["code"], warning["message"]) == ("push_failed", refused.error["message"])


@pytest.mark.parametrize(("step", "status"), [("yaml", 500), ("commit", 409)])
def test_outage_is_tried_again_until_it_is_over(hub, push, step, status):
    hub.fail(step, status, times=1)
    done = push()
    assert (done.state, done.num_tries) == ("pushed", 2)
    assert hub.files(REPO) == MODEL


def test_outage_that_lasts_is_told_after_the_last_try(backends, hub, job, push):
    hub.fail("commit", 503)
    given_up = push()
    assert (given_up.state, given_up.num_tries) == ("failed", 2)
    assert "in 2 tries: the Hub fails (503" in given_up.error["message"]
    assert (given_up.error["whose"], given_up.error["retryable"]) == ("system", True)
    assert f"/jobs/{job.id}/push" in given_up.error["hint"]


def test_the_hub_says_when_to_come_again(backends, hub, job):
    hub.fail("create", 429, headers={"Retry-After": "120"})
    ask(backends, job)
    assert Pusher(backends).push_next()
    with backends.database.transaction() as tx:
        query = text("SELECT extract(epoch FROM next_try_at - now()) FROM pushes")
        assert 60 < tx.connection.execute(query).scalar_one() < 130
    assert not Pusher(backends).push_next(), "it was tried before its time"
    assert "429" in latest(backends, job).error["message"]


@pytest.mark.parametrize(
    ("status", "words"), [(HANG, "last heard: nothing"), (500, "HTTP Error 500")]
)
def test_hub_that_does_not_answer_in_time_is_told(backends, hub, job, status, words):
    hub.fail("preupload", status)  # of which the library tries 500 again, for 23 s
    ask(backends, job, max_tries=1)
    late = tried(hurried(backends), job)
    assert late.state == "failed"
    assert "not over within 4 s" in late.error["message"]
    assert words in late.error["message"]


def test_answer_that_gets_lost_makes_no_second_commit(hub, push):
    hub.fail("commit", 502, times=1, is_done=True)
    done = push()
    assert (done.state, done.num_tries) == ("pushed", 2)
    assert hub.repositories[REPO].commits == [done.commit]


def test_token_is_in_no_error_event_log_or_command_line(backends, hub, job, push, caplog):
    seen = []

    def look(_step):
        for entry in os.scandir("/proc"):
            if entry.name.isdecimal():
                with suppress(OSError):
                    seen.append(Path(entry.path, "cmdline").read_bytes())

    hub.on_step = look
    hub.fail("put", 403, message="your request, with its token")
    refused = push()
    assert refused.state == "failed"
    told = json.dumps([refused.error, said(backends, job, EventType.WARNING)]) + caplog.text
    assert "[redacted]" not in told  # of the PUT nobody was told the token
    hub.fail("create", 403, message="you sent")
    hub.fail("info", 403)
    told += json.dumps(push().error)
    assert "you sent, Bearer [redacted]" in told
    assert hub.token not in told
    assert "signed-by-nobody" not in told
    assert seen
    assert not any(hub.token.encode() in line for line in seen)


def test_one_push_of_a_job_at_a_time(backends, job):
    ask(backends, job)
    with pytest.raises(PushPending, match="push 1"):
        ask(backends, job)
    assert latest(backends, job).number == 1


def test_two_workers_do_not_push_the_same(backends, hub, job):
    ask(backends, job)
    hub.fail("commit", HANG)
    first = Pusher(backends)
    first.open()
    hub.wait_for("commit")
    assert not Pusher(backends).push_next()
    first.close()


def test_push_of_a_worker_that_died_is_another_ones_and_the_dead_one_says_no_more(
    backends, hub, job
):
    ask(backends, job)
    with backends.database.transaction() as tx:
        dead = pushes.claim(tx, lease_seconds=0)
    done = tried(backends, job)
    assert (done.state, done.num_tries) == ("pushed", 2)
    with pytest.raises(Exception, match="lost"), backends.database.transaction() as tx:
        pushes.fail(tx, dead, error={"message": "m", "hint": ""})
    assert latest(backends, job).state == "pushed"


def test_push_by_which_every_worker_dies_is_given_up(backends, job):
    ask(backends, job, max_tries=1)
    with backends.database.transaction() as tx:
        pushes.claim(tx, lease_seconds=0)
    given_up = tried(backends, job)
    assert given_up.state == "failed"
    assert "lost on the way" in given_up.error["message"]


def test_worker_that_leaves_hands_its_push_back_uncounted(backends, hub, job):
    ask(backends, job, max_tries=1)
    hub.fail("commit", HANG, times=1)
    pusher = Pusher(backends)
    pusher.open()
    hub.wait_for("commit")
    pusher.close()
    done = tried(backends, job)
    assert (done.state, done.num_tries, done.max_tries) == ("pushed", 2, 2)


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("DELETE FROM artifacts", "was deleted"),
        ("DELETE FROM secrets", "there is no secret 'hf'"),
    ],
)
def test_what_is_gone_by_then_is_told(backends, job, hub, statement, words):
    ask(backends, job)
    with backends.database.transaction() as tx:
        tx.connection.execute(text(statement))
    refused = tried(backends, job)
    assert (refused.state, refused.num_tries) == ("failed", 1)
    assert words in refused.error["message"]
    assert not hub.requests


def test_job_without_a_model_has_nothing_to_push(backends, submit):
    with pytest.raises(ModelNotReady):
        ask(backends, submit())


def test_push_of_a_deleted_job_ends(backends, job, hub):
    ask(backends, job)
    with backends.database.transaction() as tx:
        tx.connection.execute(text("DELETE FROM jobs"))
    assert not Pusher(backends).push_next()


NAMES = [
    "me/model", "me/Foo-BAR_foo.bar123", "a/b", "_me/model_", f"{'o' * 40}/{'m' * 55}",
    "me/.model", "me/model.", "-me/model", "me/model-", "me/a--b", "me/a..b", "me/model.git",
    "me/ein modell", "me/café", "me/a/b", "/model", "me/", "me/model\n", "me/../etc", "",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_repositories_are_named_as_the_hub_has_it(name):
    try:
        validate_repo_id(name)
        is_right = "/" in name
    except HFValidationError:
        is_right = False
    spec = {
        "task": "text-classification", "model": "me/base", "data": {"train": "dataset:ds_00000000"},
        "output": {"push": {"repo": name}},
    }  # fmt: skip
    if is_right:
        assert parse_spec(spec).output.push.repo == name
        return
    with pytest.raises(InvalidSpec) as found:
        parse_spec(spec)
    assert [one.pointer for one in found.value.problems] == ["/output/push/repo"]


@pytest.mark.parametrize(
    "branch",
    ["refs/heads/main", "a..b", "a b", "-x", "x.lock", "a//b", "x/", "~1", "a" * 101, "f" * 40],
)
def test_branches_and_tags_are_short_names_of_git(branch):
    for field in ("branch", "tag"):
        with pytest.raises(ValueError, match=field):
            PushSpec.model_validate({"repo": REPO, field: branch})
