"""Fine-tuning jobs, their events, checkpoints and models, through the unmodified client."""

import csv
import io
from typing import Any

import openai
import pytest

from jobs.identifiers import sibling
from jobs.states import State
from jobs.store import attempts, jobs
from tests.openai.conftest import CHATS, MODEL, PAIRS, Facade, jsonl, start, upload
from trainer_core.events import EventType

pytestmark = pytest.mark.slow


def spec_of(facade: Facade, job_id: str) -> dict[str, Any]:
    with facade.backends.database.transaction() as tx:
        return jobs.get_any(tx, sibling(job_id, prefix="job_")).spec


def test_a_job_goes_from_its_file_to_its_model(facade, client):
    file = client.files.create(file=("chats.jsonl", jsonl(CHATS)), purpose="fine-tune")
    ready = client.files.wait_for_processing(file.id, poll_interval=0.01)

    made = client.fine_tuning.jobs.create(model=MODEL, training_file=ready.id, suffix="greeter")

    assert (made.status, made.model, made.training_file) == ("queued", MODEL, file.id)
    assert (made.fine_tuned_model, made.finished_at, made.trained_tokens) == (None, None, None)
    assert (made.organization_id, made.result_files, made.error) == ("org-default", [], None)
    assert made.id.startswith("ftjob-")
    facade.train(made.id)
    done = client.fine_tuning.jobs.retrieve(made.id)
    own = made.id.removeprefix("ftjob-")
    assert done.status == "succeeded"
    assert done.fine_tuned_model == f"ft:{MODEL}:default:greeter:{own}"
    assert done.trained_tokens == 1234
    assert done.finished_at >= done.created_at
    figures = client.files.content(done.result_files[0]).text
    text = figures if isinstance(figures, str) else figures()
    assert list(csv.DictReader(io.StringIO(text))) == [
        {"step": "5", "train_loss": "0.5", "train_accuracy": "", "valid_loss": "",
         "valid_mean_token_accuracy": ""},
        {"step": "10", "train_loss": "", "train_accuracy": "", "valid_loss": "0.25",
         "valid_mean_token_accuracy": "0.75"},
    ]  # fmt: skip
    assert client.files.retrieve(done.result_files[0]).purpose == "fine-tune-results"


def test_events_are_newest_first_and_page_without_doubles(facade, client):
    made = start(client)
    facade.train(made.id)

    found = list(client.fine_tuning.jobs.list_events(made.id, limit=2))

    numbers = [int(event.id.rpartition("-")[2]) for event in found]
    assert numbers == sorted(set(numbers), reverse=True)
    assert len(found) == 7  # submitted, claimed, two of figures, two checkpoints, succeeded
    metrics = [event for event in found if event.type == "metrics"]
    assert metrics[0].data == {"step": 10, "valid_loss": 0.25, "valid_mean_token_accuracy": 0.75}
    assert found[0].message == "The job is succeeded: finished."


def test_checkpoints_are_listed_with_their_figures(facade, client):
    made = start(client, suffix="greeter")
    facade.train(made.id)

    found = list(client.fine_tuning.jobs.checkpoints.list(made.id, limit=1))

    assert [one.step_number for one in found] == [10, 5]
    name = client.fine_tuning.jobs.retrieve(made.id).fine_tuned_model
    assert found[0].fine_tuned_model_checkpoint == f"{name}:ckpt-step-10"
    assert found[0].metrics.full_valid_loss == 0.25
    assert found[0].fine_tuning_job_id == made.id


def test_hyperparameters_become_fields_of_the_spec(facade, client):
    made = start(
        client,
        method={
            "type": "supervised",
            "supervised": {
                "hyperparameters": {
                    "n_epochs": 2,
                    "batch_size": 4,
                    "learning_rate_multiplier": 2,
                }
            },
        },
        seed=5,
        validation_file=upload(client, name="eval.jsonl"),
    )

    spec = spec_of(facade, made.id)

    training = spec["training"]
    assert (spec["task"], spec["model"], spec["name"]) == ("causal-lm", f"model:{MODEL}", None)
    assert (training["epochs"], training["batch_size"], training["seed"]) == (2, 4, 5)
    assert training["learning_rate"] == pytest.approx(1e-4)
    assert spec["data"]["eval"] == made.validation_file.replace("file-", "dataset:ds_")
    assert (made.hyperparameters.n_epochs, made.hyperparameters.batch_size) == (2, 4)
    assert made.hyperparameters.learning_rate_multiplier == 2
    assert made.method.supervised.hyperparameters.n_epochs == 2


def test_what_is_auto_or_null_is_left_to_the_service(facade, client):
    made = start(
        client,
        hyperparameters={"n_epochs": "auto", "batch_size": "auto"},
        suffix=None,
        seed=None,
        validation_file=None,
        integrations=None,
        metadata=None,
    )

    spec = spec_of(facade, made.id)

    assert (spec["training"]["epochs"], spec["training"]["learning_rate"]) == (3, "auto")
    assert spec["data"]["eval"] is None  # OpenAI's service holds no rows back
    assert made.hyperparameters.n_epochs == 3
    assert (made.metadata, made.integrations, made.validation_file) == (None, None, None)


def test_the_old_form_of_hyperparameters_is_taken(facade, client):
    made = start(client, hyperparameters={"n_epochs": 4})

    assert spec_of(facade, made.id)["training"]["epochs"] == 4
    assert made.hyperparameters.n_epochs == 4


def test_preferences_in_openais_rows_are_learnt(facade, client):
    made = client.fine_tuning.jobs.create(
        model=MODEL,
        training_file=upload(client, PAIRS),
        method={"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2, "n_epochs": 1}}},
    )

    spec = spec_of(facade, made.id)

    assert (spec["task"], spec["beta"], spec["training"]["epochs"]) == ("dpo", 0.2, 1)
    assert (made.method.type, made.method.dpo.hyperparameters.beta) == ("dpo", 0.2)
    assert made.hyperparameters.model_dump(exclude_none=True) == {}


def test_prompts_with_completions_are_learnt(facade, client):
    rows = [{"prompt": f"{n} + {n} =", "completion": f" {2 * n}"} for n in range(12)]

    made = client.fine_tuning.jobs.create(model=MODEL, training_file=upload(client, rows))

    assert spec_of(facade, made.id)["task"] == "causal-lm"


def test_any_task_and_any_field_of_a_spec_go_through_the_same_client(facade, client):
    rows = [{"words": f"message {n}", "topic": "ab"[n % 2]} for n in range(20)]

    made = client.fine_tuning.jobs.create(
        model=MODEL,
        training_file=upload(client, rows),
        extra_body={
            "task": "text-classification",
            "data": {"columns": {"text": "words", "label": "topic"}, "eval": 0.2},
            "adapter": {"type": "lora", "r": 8},
            "training": {"weight_decay": 0.1},
        },
        hyperparameters={"learning_rate_multiplier": 0.5, "n_epochs": 1},
    )

    spec = spec_of(facade, made.id)

    assert (spec["task"], spec["adapter"]["r"], spec["data"]["eval"]) == (
        "text-classification", 8, 0.2,
    )  # fmt: skip
    assert spec["training"]["learning_rate"] == pytest.approx(1e-4)  # half of an adapter's usual
    assert (spec["training"]["epochs"], spec["training"]["weight_decay"]) == (1, 0.1)
    assert made.model_extra["task"] == "text-classification"


def test_jobs_are_listed_by_their_metadata(client):
    first = start(client, metadata={"team": "red", "run": ""})
    second = start(client, metadata={"team": "blue"})
    bare = start(client)

    red = [job.id for job in client.fine_tuning.jobs.list(metadata={"team": "red", "run": ""})]
    none = [job.id for job in client.fine_tuning.jobs.list(extra_query={"metadata": "null"}).data]
    latest = [job.id for job in client.fine_tuning.jobs.list(limit=2).data]

    assert (red[0], second.id in red) == (first.id, False)
    assert none[0] == bare.id
    assert first.id not in none
    assert latest == [bare.id, second.id]
    page = client.fine_tuning.jobs.list(after=bare.id, limit=1)
    assert ([job.id for job in page.data], page.has_more) == ([second.id], True)
    assert client.fine_tuning.jobs.retrieve(first.id).metadata == {"team": "red", "run": ""}


def test_a_waiting_job_is_paused_resumed_and_cancelled(client):
    made = start(client)
    strict = client._strict_response_validation

    if not strict:  # the client has no word for it, and its service has
        assert client.fine_tuning.jobs.pause(made.id).status == "paused"
        assert client.fine_tuning.jobs.resume(made.id).status == "queued"
    assert client.fine_tuning.jobs.cancel(made.id).status == "cancelled"
    with pytest.raises(openai.ConflictError) as told:
        client.fine_tuning.jobs.resume(made.id)
    assert told.value.code == "illegal_transition"


def test_a_running_job_is_paused_and_goes_on(facade, client):
    made = start(client)
    job = facade.claim(made.id)
    if client._strict_response_validation:  # the client has no word for it, and its service has
        with pytest.raises(openai.APIResponseValidationError):
            client.fine_tuning.jobs.pause(made.id)
    else:
        assert client.fine_tuning.jobs.pause(made.id).status == "pausing"
        with pytest.raises(openai.ConflictError):
            client.fine_tuning.jobs.resume(made.id)  # before its worker has let it go
    with facade.backends.database.transaction() as tx:
        attempts.end(tx, job.id, State.PAUSED, attempt=job.attempt, reason="paused by request")

    assert client.fine_tuning.jobs.resume(made.id).status == "queued"
    facade.train(made.id)
    assert client.fine_tuning.jobs.retrieve(made.id).status == "succeeded"


def test_a_running_job_tells_when_it_may_end_and_a_cancelled_one_still_runs(facade, client):
    made = start(client)
    job = facade.claim(made.id)
    facade.say(job, EventType.WARNING, code="odd", message="an odd row", hint="Look.")

    running = client.fine_tuning.jobs.retrieve(made.id)
    asked = client.fine_tuning.jobs.cancel(made.id)
    newest = next(
        event for event in client.fine_tuning.jobs.list_events(made.id) if event.level == "warn"
    )

    assert (running.status, asked.status) == ("running", "running")
    assert newest.message == "an odd row Look."


def test_a_native_job_is_seen_by_the_client(facade, one_client):
    import httpx

    file_id = upload(one_client)
    spec = {
        "task": "causal-lm",
        "model": f"model:{MODEL}",
        "data": {"train": file_id.replace("file-", "dataset:ds_")},
        "training": {"epochs": 0.5},
    }
    with httpx.Client(base_url=facade.url) as native:
        job_id = native.post("/jobs", json=spec).json()["id"]

    found = one_client.fine_tuning.jobs.retrieve(job_id.replace("job_", "ftjob-"))

    assert (found.training_file, found.metadata) == (file_id, None)
    assert found.hyperparameters.n_epochs is None  # it has no word for half of one


def test_a_model_is_named_listed_begun_with_and_deleted(facade, client):
    made = start(client, suffix="greeter")
    facade.train(made.id)
    name = client.fine_tuning.jobs.retrieve(made.id).fine_tuned_model

    listed = [model.id for model in client.models.list()]
    next_job = start(client, model=name)
    with pytest.raises(openai.ConflictError) as told:
        client.models.delete(name)
    client.fine_tuning.jobs.cancel(next_job.id)

    assert {name, MODEL} <= set(listed)
    assert client.models.retrieve(name).owned_by == "org-default"
    assert next_job.model == name
    assert told.value.code == "model_in_use"
    assert client.models.delete(name).deleted
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(name)
    with pytest.raises(openai.BadRequestError) as gone:
        start(client, model=name)
    assert (gone.value.param, "was deleted" in gone.value.message) == ("model", True)


def test_names_with_a_slash_are_found(facade, client):
    made = start(client, model="hub:org/small@main")
    facade.train(made.id)
    name = client.fine_tuning.jobs.retrieve(made.id).fine_tuned_model

    assert name.startswith("ft:org/small:default::")
    assert client.models.retrieve(name).id == name
    assert made.model == "org/small@main"


def test_a_model_of_a_model_keeps_the_first_ones_name(facade, one_client):
    first = start(one_client)
    facade.train(first.id)
    name = one_client.fine_tuning.jobs.retrieve(first.id).fine_tuned_model
    second = start(one_client, model=name, suffix="again")
    facade.train(second.id)

    found = one_client.fine_tuning.jobs.retrieve(second.id)

    own = second.id.removeprefix("ftjob-")
    assert found.fine_tuned_model == f"ft:{MODEL}:default:again:{own}"


def test_a_native_spec_takes_the_name_of_a_model(facade, one_client):
    import httpx

    made = start(one_client, suffix="greeter")
    facade.train(made.id)
    name = one_client.fine_tuning.jobs.retrieve(made.id).fine_tuned_model
    train = made.training_file.replace("file-", "dataset:ds_")
    with httpx.Client(base_url=facade.url) as native:
        answer = native.post(
            "/jobs", json={"task": "causal-lm", "model": name, "data": {"train": train}}
        )

    assert answer.status_code == 201, answer.text
    assert answer.json()["spec"]["model"] == made.id.replace("ftjob-", "job:job_")


def test_permissions_are_given_listed_and_taken_back(facade, client):
    made = start(client)
    facade.train(made.id)
    name = client.fine_tuning.jobs.retrieve(made.id).fine_tuned_model
    checkpoint = f"{name}:ckpt-step-10"
    permissions = client.fine_tuning.checkpoints.permissions

    given = list(permissions.create(checkpoint, project_ids=["proj_a", "proj_b"]))
    again = list(permissions.create(checkpoint, project_ids=["proj_a"]))
    listed = list(permissions.list(checkpoint, limit=1))
    oldest = permissions.list(checkpoint, limit=1, order="ascending")
    one = permissions.list(checkpoint, project_id="proj_b")

    assert sorted(each.project_id for each in given) == ["proj_a", "proj_b"]
    assert [each.id for each in again] == [e.id for e in given if e.project_id == "proj_a"]
    assert [each.id for each in listed] == sorted((e.id for e in given), reverse=True)
    assert oldest.data[0].id == min(each.id for each in given)
    assert [each.project_id for each in one.data] == ["proj_b"]
    with pytest.warns(DeprecationWarning, match="deprecated"):
        assert len(permissions.retrieve(checkpoint).data) == 2
    assert list(permissions.list(name)) == []
    gone = permissions.delete(given[0].id, fine_tuned_model_checkpoint=checkpoint)
    assert gone.deleted
    with pytest.raises(openai.NotFoundError):
        permissions.delete(given[0].id, fine_tuned_model_checkpoint=checkpoint)


def test_a_project_begins_with_the_model_that_it_was_let_use(facade, one_client):
    from jobs.store import permissions
    from trainer_core.errors import JobNotFound

    made = start(one_client)
    job = facade.train(made.id)
    name = one_client.fine_tuning.jobs.retrieve(made.id).fine_tuned_model
    with facade.backends.database.transaction() as tx, pytest.raises(JobNotFound):
        permissions.source_job(tx, job.id, step=None, project="proj_a")

    one_client.fine_tuning.checkpoints.permissions.create(name, project_ids=["proj_a"])

    with facade.backends.database.transaction() as tx:
        assert permissions.source_job(tx, job.id, step=None, project="proj_a").id == job.id
        with pytest.raises(JobNotFound):
            permissions.source_job(tx, job.id, step=10, project="proj_a")


def test_a_failed_job_tells_why(facade, one_client):
    from trainer_core.errors import Diverged

    made = start(one_client)
    job = facade.claim(made.id)
    error = Diverged("the loss became nan.", hint="Lower it.", param="/training/learning_rate")
    with facade.backends.database.transaction() as tx:
        attempts.end(
            tx,
            job.id,
            State.FAILED,
            attempt=job.attempt,
            reason="failed",
            values={"error": error.to_typed().to_dict()},
        )

    found = one_client.fine_tuning.jobs.retrieve(made.id)

    assert (found.status, found.fine_tuned_model) == ("failed", None)
    assert found.error.code == "diverged"
    assert (found.error.param, found.error.message) == (
        "training.learning_rate",
        "the loss became nan. Lower it.",
    )
    assert one_client.fine_tuning.jobs.list_events(made.id).data[0].level == "error"


def test_a_job_sent_twice_with_one_key_is_made_once(one_client):
    given = {"model": MODEL, "training_file": upload(one_client)}
    headers = {"Idempotency-Key": given["training_file"]}

    first = one_client.fine_tuning.jobs.create(**given, extra_headers=headers)
    again = one_client.fine_tuning.jobs.create(**given, extra_headers=headers)

    assert first.id == again.id


def test_a_job_begins_with_a_checkpoint_by_its_name(facade, client):
    made = start(client)
    facade.train(made.id)
    (latest, _) = client.fine_tuning.jobs.checkpoints.list(made.id)

    begun = start(client, model=latest.fine_tuned_model_checkpoint)

    spec = spec_of(facade, begun.id)
    assert spec["model"] == f"{made.id.replace('ftjob-', 'job:job_')}/checkpoint-10"
    assert begun.model == latest.fine_tuned_model_checkpoint
    with pytest.raises(openai.BadRequestError) as told:
        start(client, model=latest.fine_tuned_model_checkpoint.replace("step-10", "step-11"))
    assert (told.value.param, "of step 11" in told.value.message) == ("model", True)


def test_where_weights_and_biases_keep_the_figures_reaches_the_worker(facade, one_client):
    from worker.inputs import read_needs

    wandb = {"project": "greetings", "entity": "us", "name": "first", "tags": ["a", "b"]}
    made = start(one_client, integrations=[{"type": "wandb", "wandb": wandb}])
    job = facade.claim(made.id)

    needs = read_needs(facade.backends, job)

    assert made.integrations[0].wandb.project == "greetings"
    assert job.spec["tracking"] == ["wandb"]
    assert needs.environment == {
        "WANDB_PROJECT": "greetings",
        "WANDB_ENTITY": "us",
        "WANDB_NAME": "first",
        "WANDB_TAGS": "a,b",
    }
