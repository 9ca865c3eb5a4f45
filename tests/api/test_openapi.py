"""The public surface, frozen: a difference is a conscious act."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from api.app import create_app
from jobs.settings import load_settings
from trainer_core.spec import TASKS

SNAPSHOT = Path(__file__).parents[1] / "snapshots" / "openapi.json"
RENEW = "UPDATE_SNAPSHOTS=1 .venv/bin/python -m pytest tests/api/test_openapi.py"


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    """The document; making it needs no server."""
    app = create_app(
        load_settings(
            home=tmp_path,
            database_url="postgresql://127.0.0.1:1/none",
            redis_url="redis://127.0.0.1:1/0",
        )
    )
    return app.openapi()


def test_openapi_is_the_snapshot(document: dict[str, Any]) -> None:
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        SNAPSHOT.write_text(text, encoding="utf-8")

    assert text == SNAPSHOT.read_text(encoding="utf-8"), f"if this is meant, run: {RENEW}"


OF_OPENAI = {
    "create_openai_file", "list_openai_files", "get_openai_file", "delete_openai_file",
    "download_openai_file", "create_openai_upload", "add_openai_upload_part",
    "complete_openai_upload", "cancel_openai_upload",
    "create_fine_tuning_job", "list_fine_tuning_jobs", "get_fine_tuning_job",
    "cancel_fine_tuning_job", "pause_fine_tuning_job", "resume_fine_tuning_job",
    "list_fine_tuning_events", "list_fine_tuning_checkpoints",
    "create_checkpoint_permissions", "list_checkpoint_permissions",
    "delete_checkpoint_permission", "list_openai_models", "get_openai_model",
    "delete_openai_model", "create_chat_completion", "create_completion", "create_embedding",
    "create_webhook_endpoint", "list_webhook_endpoints", "get_webhook_endpoint",
    "change_webhook_endpoint", "delete_webhook_endpoint", "rotate_webhook_endpoint_secret",
    "test_webhook_endpoint", "list_webhook_event_types", "run_grader", "validate_grader",
}  # fmt: skip


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        operation["operationId"]: operation
        for path in document["paths"].values()
        for operation in path.values()
    }


def test_operations_are_named_after_their_functions(document: dict[str, Any]) -> None:
    assert set(operations(document)) == {
        "validate_job", "validate_dataset", "list_workers",
        "create_job", "clone_job", "retry_job", "list_jobs", "get_job", "edit_job", "delete_job",
        "cancel_job", "pause_job", "resume_job",
        "list_events", "list_metrics", "get_logs", "download_model", "download_model_file",
        "inspect_model_file", "list_checkpoints", "get_checkpoint", "download_checkpoint",
        "download_checkpoint_file", "inspect_checkpoint_file", "push_checkpoint",
        "begin_upload", "get_upload", "put_upload_part", "complete_upload", "cancel_upload",
        "upload_dataset", "list_datasets", "get_dataset", "preview_dataset", "delete_dataset",
        "create_sweep", "list_sweeps", "get_sweep", "list_trials", "cancel_sweep",
        "create_webhook", "list_webhooks", "get_webhook", "change_webhook", "delete_webhook",
        "rotate_webhook_secret", "send_test_event", "list_deliveries", "redeliver",
        "register_model", "list_models", "get_model", "list_tasks", "get_task",
        "create_project", "list_projects", "get_project", "change_project",
        "create_key", "list_keys", "get_key", "rotate_key", "revoke_key", "list_audit",
        "set_secret", "list_secrets", "delete_secret",
        "get_liveness", "get_readiness", "predict", "push_model",
    } | OF_OPENAI  # fmt: skip


def test_every_operation_is_described_and_answers_errors_as_problems(
    document: dict[str, Any],
) -> None:
    for name, operation in operations(document).items():
        assert operation["description"], name
        answers = operation["responses"]
        assert "default" in answers, name
        for status, answer in answers.items():
            if status[0] in "45d" and status != "416" and name != "get_readiness":
                form = "application/json" if name in OF_OPENAI else "application/problem+json"
                assert set(answer["content"]) == {form}, (name, status)


def test_job_submission_has_a_valid_example_a_task(document: dict[str, Any]) -> None:
    (content,) = operations(document)["create_job"]["requestBody"]["content"].values()

    assert set(content["examples"]) == set(TASKS)
    schema = {**document, "$ref": content["schema"]["$ref"]}
    for example in content["examples"].values():
        Draft202012Validator(schema).validate(example["value"])


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    text = json.dumps(document)
    names = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}

    assert "#/$defs" not in text
    assert names <= set(document["components"]["schemas"])


def test_no_schema_is_named_after_a_module(document: dict[str, Any]) -> None:
    """As two of one name would be: what a generator makes of them would change with our files."""
    assert not [name for name in document["components"]["schemas"] if "__" in name]


def test_no_schema_has_the_name_that_a_generator_gives_to_an_object_within_another(
    document: dict[str, Any],
) -> None:
    """Such as `JobMetrics` for the field `metrics` of `Job`: both would be one class."""
    schemas = document["components"]["schemas"]
    within = {
        name + "".join(word.capitalize() for word in field.split("_"))
        for name, schema in schemas.items()
        for field, value in schema.get("properties", {}).items()
        if value.get("type") == "object"
    }

    classes = {name for name, schema in schemas.items() if "properties" in schema}
    assert not within & classes
