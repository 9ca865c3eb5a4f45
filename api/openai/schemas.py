"""What the façade answers: OpenAI's objects, with times in seconds since 1970."""

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import Field

from api.schemas import Schema

T = TypeVar("T")
Number = int | Literal["auto"]


class List(Schema, Generic[T]):
    """A page of objects."""

    object: Literal["list"] = "list"
    data: list[T]
    has_more: bool = False
    first_id: str | None = None
    last_id: str | None = None


class Deleted(Schema):
    """That an object is gone."""

    id: str
    object: str
    deleted: Literal[True] = True


class File(Schema):
    """A file."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed", "error"]
    status_details: str | None
    """What is wrong with its rows."""


class OpenAIUpload(Schema):
    """A file that comes in parts."""

    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    mime_type: str
    status: Literal["pending", "completed", "cancelled", "expired"]
    file: File | None = None


class UploadPart(Schema):
    """A part of an upload."""

    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str


class JobFailure(Schema):
    """Why a job failed."""

    code: str
    message: str
    param: str | None


class FineTuningJob(Schema):
    """A fine-tuning job. `task` and `phase` are ours."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    error: JobFailure | None
    fine_tuned_model: str | None
    finished_at: int | None
    estimated_finish: int | None
    hyperparameters: dict[str, Any]
    integrations: list[dict[str, Any]] | None
    metadata: dict[str, str] | None
    method: dict[str, Any]
    model: str
    organization_id: str
    result_files: list[str]
    seed: int
    status: Literal["queued", "running", "pausing", "paused", "succeeded", "failed", "cancelled"]
    task: str
    phase: str | None
    trained_tokens: int | None
    training_file: str
    validation_file: str | None


class JobEvent(Schema):
    """Something that happened to a job."""

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any] | None


class OpenAICheckpointMetrics(Schema):
    """What was measured at a checkpoint."""

    step: int
    train_loss: float | None = None
    train_mean_token_accuracy: float | None = None
    valid_loss: float | None = None
    valid_mean_token_accuracy: float | None = None
    full_valid_loss: float | None = None
    full_valid_mean_token_accuracy: float | None = None


class OpenAICheckpoint(Schema):
    """What a model was at a step."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    metrics: OpenAICheckpointMetrics
    step_number: int


class Permission(Schema):
    """That a project may use a checkpoint."""

    id: str
    object: Literal["checkpoint.permission"] = "checkpoint.permission"
    created_at: int
    project_id: str


class OpenAIModel(Schema):
    """A model that can be named."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


Count = Annotated[int, Field(ge=0)]


def page_of(found: list[T], *, limit: int, id_of: Any = lambda one: one.id) -> List[T]:
    """Return a page of what was found, of which one more than `limit` was asked for."""
    shown = found[:limit]
    return List[T](
        data=shown,
        has_more=len(found) > limit,
        first_id=id_of(shown[0]) if shown else None,
        last_id=id_of(shown[-1]) if shown else None,
    )


class Usage(Schema):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatMessage(Schema):
    """What a model said."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(Schema):
    """An answer."""

    index: int = 0
    message: ChatMessage
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(Schema):
    """An answer in a conversation."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class TextChoice(Schema):
    """A text that follows."""

    index: int
    text: str
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class Completion(Schema):
    """What follows texts."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage


class Embedding(Schema):
    """A vector."""

    index: int
    object: Literal["embedding"] = "embedding"
    embedding: list[float] | str
    """Numbers, or base64 of 32-bit floats."""


class EmbeddingUsage(Schema):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(Schema):
    """Vectors of texts."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class WebhookEndpoint(Schema):
    """Where events are sent."""

    id: str
    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    created_at: int
    updated_at: int
    event_types: list[str]
    name: str
    url: str
    signing_secret_hint: str


class WebhookEndpointWithSecret(WebhookEndpoint):
    """Where events are sent, with the secret that signs them; it is shown this once."""

    signing_secret: str


class WebhookEndpointTest(Schema):
    """That a test event was taken."""

    object: Literal["webhook_endpoint.test"] = "webhook_endpoint.test"
    event_type: str
    status_code: int
    success: Literal[True] = True
    webhook_endpoint_id: str
