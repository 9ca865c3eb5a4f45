"""What goes wrong below `/v1`, as the unmodified client tells it."""

import httpx
import openai
import pytest

from tests.api.conftest import serve
from tests.openai.conftest import CHATS, MODEL, PAIRS, start, upload

pytestmark = pytest.mark.slow

TOKEN = "hf_" + "a1B2" * 8


def test_unknown_ids_are_not_found(client):
    for call, code in (
        (lambda: client.fine_tuning.jobs.retrieve("ftjob-0123456789ab"), "job_not_found"),
        (lambda: client.fine_tuning.jobs.cancel("ftjob-0123456789ab"), "job_not_found"),
        (lambda: client.files.retrieve("file-0123456789ab"), "file_not_found"),
        (lambda: client.files.content("file-0123456789ab"), "file_not_found"),
        (lambda: client.uploads.cancel("upload_0123456789ab"), "upload_not_found"),
        (lambda: client.models.retrieve("no-such-model"), "model_not_found"),
        (lambda: client.models.retrieve("ft:a:b:c:0123456789ab"), "model_not_found"),
        (lambda: client.fine_tuning.jobs.create(model="x", training_file="file-1"),
         "model_not_found"),
    ):  # fmt: skip
        with pytest.raises(openai.NotFoundError) as told:
            call()
        assert told.value.code == code
        assert told.value.type == "invalid_request_error"
        assert told.value.param
        assert told.value.request_id.startswith("req_")


@pytest.mark.parametrize(
    ("given", "param", "words"),
    [
        (
            {"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 3}}}},
            "method.dpo.hyperparameters.beta",
            "less than or equal to 2",
        ),
        (
            {"method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 0}}}},
            "method.supervised.hyperparameters.n_epochs",
            "greater than or equal to 1",
        ),
        ({"hyperparameters": {"batch_size": 1000}}, "hyperparameters.batch_size", "256"),
        ({"method": {"type": "reinforcement"}}, "method.type", "graders are not run"),
        ({"suffix": "a b"}, "suffix", "pattern"),
        ({"seed": -1}, "seed", "greater than or equal to 0"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k", "512"),
        ({"extra_body": {"training": {"epoch": 3}}}, "training.epoch", "Did you mean 'epochs'?"),
        (
            {"extra_body": {"training": {"epochs": 3}}, "hyperparameters": {"n_epochs": 2}},
            "hyperparameters.n_epochs",
            "training.epochs is given as well",
        ),
        ({"extra_body": {"taks": "causal-lm"}}, "taks", "there is no field 'taks'"),
        ({"extra_body": {"task": "seq2sec"}}, "task", "there is no task"),
        (
            {"extra_body": {"task": "causal-lm"}, "method": {"type": "dpo"}},
            "task",
            "method.type is 'dpo'",
        ),
        ({"model": "model:no/way"}, "model", "is not a reference"),
        ({"suffix": TOKEN}, "suffix", "looks like a secret"),
        ({"metadata": {"key": TOKEN}}, "metadata.key", "looks like a secret"),
        (
            {"integrations": [{"type": "wandb", "wandb": {"project": "p", "tags": [TOKEN]}}]},
            "integrations.0.wandb.tags.0",
            "looks like a secret",
        ),
    ],
)
def test_a_wrong_field_is_told_by_its_place_in_the_request(one_client, given, param, words):
    with pytest.raises(openai.BadRequestError) as told:
        start(one_client, **given)

    assert told.value.param == param
    assert words in told.value.message
    assert told.value.code in ("invalid_value", "unknown_parameter")


def test_a_secret_as_the_name_of_a_file_is_refused_and_nothing_is_kept(facade, one_client):
    kept = [file.id for file in one_client.files.list()]
    name = f"{TOKEN}.jsonl"
    upload_of = {"bytes": 8, "filename": name, "mime_type": "text/plain", "purpose": "batch"}
    for call, param in (
        (lambda: upload(one_client, name=name), "file"),
        (lambda: one_client.files.create(file=(name, b"8 bytes."), purpose="batch"), "file"),
        (lambda: one_client.uploads.create(**upload_of), "filename"),
    ):
        with pytest.raises(openai.BadRequestError) as told:
            call()
        assert told.value.param == param
        assert "looks like a secret" in told.value.message
        assert TOKEN not in told.value.message

    announced = {"name": name, "size_bytes": 8, "sha256": "0" * 64}
    native = httpx.post(f"{facade.url}/uploads", json=announced)
    assert (native.status_code, native.json()["errors"][0]["pointer"]) == (422, "/name")
    assert [file.id for file in one_client.files.list()] == kept


def test_a_key_that_is_none_is_told(facade):
    settings = facade.backends.settings.model_copy(update={"auth": "keys"})
    key = "luthier_" + "x" * 43
    with (
        serve(settings) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key=key) as stranger,
        pytest.raises(openai.AuthenticationError) as told,
    ):
        stranger.models.list()

    assert (told.value.status_code, told.value.code) == (401, "invalid_api_key")
    assert told.value.type == "authentication_error"
    assert key not in told.value.message


def test_graders_are_not_available(client):
    grader = {
        "type": "string_check", "name": "g", "operation": "eq", "input": "a", "reference": "a",
    }  # fmt: skip
    graders = client.fine_tuning.alpha.graders
    for call in (
        lambda: graders.run(grader=grader, model_sample="a"),
        lambda: graders.validate(grader=grader),
    ):
        with pytest.raises(openai.BadRequestError) as told:
            call()
        assert (told.value.param, told.value.code) == ("grader", "invalid_value")
        assert "graders are not run here" in told.value.message


def test_a_missing_field_is_told(facade):
    answer = httpx.post(f"{facade.url}/v1/fine_tuning/jobs", json={"model": MODEL})

    assert answer.status_code == 400
    assert answer.json()["error"] == {
        "message": "training_file: is required. Set training_file.",
        "type": "invalid_request_error",
        "param": "training_file",
        "code": "missing_required_parameter",
    }


def test_a_file_that_is_not_there_or_not_for_training_is_told(one_client):
    notes = one_client.files.create(file=("a.txt", b"some words"), purpose="user_data")
    for given, words in (
        ({"training_file": "file-0123456789ab"}, "there is no file"),
        ({"training_file": notes.id}, "the purpose 'user_data'"),
    ):
        with pytest.raises(openai.BadRequestError) as told:
            one_client.fine_tuning.jobs.create(model=MODEL, **given)
        assert (told.value.code, told.value.param) == ("invalid_training_file", "training_file")
        assert words in told.value.message


def test_a_bad_row_is_told_by_line_and_file(one_client):
    bad = [*CHATS, {"messages": [{"role": "user", "content": "alone"}]}]
    for given, param, name in (
        ({"training_file": upload(one_client, bad, name="bad.jsonl")}, "training_file", "bad"),
        (
            {
                "training_file": upload(one_client),
                "validation_file": upload(one_client, bad, name="eval.jsonl"),
            },
            "validation_file",
            "eval",
        ),
    ):
        with pytest.raises(openai.BadRequestError) as told:
            one_client.fine_tuning.jobs.create(model=MODEL, **given)
        assert (told.value.code, told.value.param) == ("invalid_training_file", param)
        assert f" {name}.jsonl, line 13, column 'messages': no assistant" in told.value.message


def test_too_few_rows_are_told(one_client):
    with pytest.raises(openai.BadRequestError) as told:
        one_client.fine_tuning.jobs.create(model=MODEL, training_file=upload(one_client, CHATS[:5]))

    assert told.value.code == "invalid_training_file"
    assert "at least 10" in told.value.message


def test_pairs_are_no_chats(one_client):
    with pytest.raises(openai.BadRequestError) as told:
        one_client.fine_tuning.jobs.create(model=MODEL, training_file=upload(one_client, PAIRS))

    assert told.value.code == "invalid_training_file"


def test_what_a_state_forbids_is_asked_once(facade):
    num_requests = 0

    def count(_: httpx.Request) -> None:
        nonlocal num_requests
        num_requests += 1

    with openai.OpenAI(
        base_url=f"{facade.url}/v1",
        api_key="sk-of-no-meaning",
        http_client=httpx.Client(event_hooks={"request": [count]}),
    ) as patient:
        made = start(patient)
        facade.train(made.id)
        num_requests = 0
        with pytest.raises(openai.ConflictError) as told:
            patient.fine_tuning.jobs.cancel(made.id)

    assert num_requests == 1
    assert told.value.code == "illegal_transition"
    assert told.value.status_code == 409


def test_routes_parameters_and_bodies_that_do_not_exist_are_told_in_openais_form(facade):
    with httpx.Client(base_url=f"{facade.url}/v1") as plain:
        answers = [
            (plain.get("/no/such/route"), 404, "not_found"),
            (plain.get("/fine_tuning/jobs", params={"limit": 0}), 400, "invalid_request"),
            (plain.get("/fine_tuning/jobs", params={"colour": "red"}), 400, "invalid_value"),
            (plain.get("/files", params={"colour": "red"}), 400, "invalid_request"),
            (plain.post("/fine_tuning/jobs", content=b"{"), 415, "unsupported_media_type"),
            (plain.put("/files"), 405, "method_not_allowed"),
            (plain.get("/files", headers={"host": "evil.example"}), 421, "unknown_host"),
        ]
    for answer, status, code in answers:
        assert answer.status_code == status, answer.text
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["code"] == code
        assert answer.headers["x-request-id"]


def test_native_errors_stay_problems(facade):
    answer = httpx.get(f"{facade.url}/jobs/job_0123456789ab")

    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "job_not_found"


def test_requests_without_a_body_need_none(facade, one_client):
    made = start(one_client)

    answer = httpx.post(f"{facade.url}/v1/fine_tuning/jobs/{made.id}/cancel")

    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")


def test_the_figures_of_a_job_are_no_training_file(facade, one_client):
    made = start(one_client)
    facade.train(made.id)
    (results,) = one_client.fine_tuning.jobs.retrieve(made.id).result_files

    with pytest.raises(openai.BadRequestError) as told:
        one_client.fine_tuning.jobs.create(model=MODEL, training_file=results)

    assert "fine-tune-results" in told.value.message
