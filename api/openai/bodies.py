"""What requests say, in OpenAI's words. Where the client may send `null`, it says nothing."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, Field, StringConstraints, ValidationError

from trainer_core.errors import FieldProblem, InvalidSpec
from trainer_core.spec.base import Auto, SpecModel, Text
from trainer_core.spec.parsing import field_problems


def kept_purpose(purpose: str | None) -> str | None:
    """Return a purpose as a file has it: a client may send `evals`, and knows no such file."""
    return "user_data" if purpose == "evals" else purpose


Purpose = Annotated[
    Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"],
    AfterValidator(kept_purpose),
]
Metadata = Annotated[
    dict[
        Annotated[Text, StringConstraints(max_length=64)],
        Annotated[Text, StringConstraints(max_length=512)],
    ],
    Field(max_length=16),
]
FileName = Annotated[Text, StringConstraints(min_length=1, max_length=255)]

_BatchSize = Annotated[int, Field(ge=1, le=256)] | Auto | None
_Multiplier = Annotated[float, Field(gt=0, le=1000)] | Auto | None
_Epochs = Annotated[int, Field(ge=1, le=50)] | Auto | None
_Beta = Annotated[float, Field(gt=0, le=2)] | Auto | None

T = TypeVar("T", bound=BaseModel)


class Hyperparameters(SpecModel):
    """Of supervised fine-tuning."""

    batch_size: _BatchSize = None
    """Examples per optimizer step, 1 to 256."""
    learning_rate_multiplier: _Multiplier = None
    """What the usual learning rate is multiplied by, > 0."""
    n_epochs: _Epochs = None
    """Passes over the rows, 1 to 50. For more, or for a part of one, say `training.epochs`."""


class PreferenceHyperparameters(Hyperparameters):
    """Of direct preference optimization."""

    beta: _Beta = None
    """Strength of the pull towards the base model, in (0, 2]."""


class Supervised(SpecModel):
    """How to learn from examples."""

    hyperparameters: Hyperparameters | None = None


class Preferences(SpecModel):
    """How to learn from preferences."""

    hyperparameters: PreferenceHyperparameters | None = None


class Method(SpecModel):
    """How to train."""

    type: Literal["supervised", "dpo"]
    supervised: Supervised | None = None
    dpo: Preferences | None = None


class WandB(SpecModel):
    """Where Weights & Biases is to keep the figures."""

    project: Annotated[Text, StringConstraints(min_length=1, max_length=128)]
    entity: Annotated[Text, StringConstraints(min_length=1, max_length=128)] | None = None
    name: Annotated[Text, StringConstraints(min_length=1, max_length=128)] | None = None
    tags: Annotated[
        tuple[Annotated[Text, StringConstraints(min_length=1, max_length=64)], ...],
        Field(max_length=50),
    ] = ()


class Integration(SpecModel):
    """An experiment tracker."""

    type: Literal["wandb"]
    wandb: WandB


class JobBody(SpecModel):
    """What OpenAI's client says of a job. Every other key is a field of the spec."""

    model: Annotated[Text, StringConstraints(min_length=1, max_length=400)]
    """Name of a registered base model, an `ft:` name, or any reference of a spec."""
    training_file: Annotated[Text, StringConstraints(min_length=1, max_length=100)]
    """Id of a file of purpose `fine-tune`, or of a data set."""
    validation_file: Annotated[Text, StringConstraints(min_length=1, max_length=100)] | None = None
    """The same, to measure on. Without one nothing is held out, unless `data.eval` says so."""
    method: Method | None = None
    hyperparameters: Hyperparameters | None = None
    """The old form of `method.supervised.hyperparameters`."""
    suffix: (
        Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
        | None
    ) = None
    """Part of the model's name."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    metadata: Metadata | None = None
    integrations: Annotated[tuple[Integration, ...], Field(max_length=5)] | None = None


class ExpiresAfter(SpecModel):
    """When a file is to go."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3600, le=2_592_000)]


class UploadBody(SpecModel):
    """What is going to come in parts."""

    bytes: Annotated[int, Field(ge=1)]
    filename: FileName
    mime_type: Annotated[Text, StringConstraints(min_length=1, max_length=255)]
    purpose: Purpose
    expires_after: ExpiresAfter | None = None


class CompletionOfUpload(SpecModel):
    """Which parts make the file, in order."""

    part_ids: Annotated[tuple[Text, ...], Field(min_length=1, max_length=10_000)]
    md5: Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{32}$")] | None = None


class PermissionBody(SpecModel):
    """Who may use a checkpoint."""

    project_ids: Annotated[
        tuple[Annotated[Text, StringConstraints(min_length=1, max_length=100)], ...],
        Field(min_length=1, max_length=100),
    ]


Url = Annotated[Text, StringConstraints(min_length=1, max_length=2048)]
EventTypes = Annotated[
    list[
        Literal["fine_tuning.job.succeeded", "fine_tuning.job.failed", "fine_tuning.job.cancelled"]
    ],
    Field(min_length=1, max_length=20),
]
EndpointName = Annotated[Text, StringConstraints(min_length=1, max_length=200)]


class EndpointBody(SpecModel):
    """Where to send events, and which."""

    event_types: EventTypes
    name: EndpointName
    url: Url


class EndpointChanges(SpecModel):
    """What to change of a webhook."""

    event_types: EventTypes | None = None
    name: EndpointName | None = None
    url: Url | None = None


class EndpointRotation(SpecModel):
    """How to rotate a secret."""

    keep_old_secret_active_for_24_hours: bool = False


class EndpointTest(SpecModel):
    """What to send as a test."""

    event_type: Literal[
        "fine_tuning.job.succeeded", "fine_tuning.job.failed", "fine_tuning.job.cancelled"
    ]


def parsed(kind: type[T], values: object) -> T:
    """Return what a body says, or raise InvalidSpec with every problem."""
    if not isinstance(values, Mapping):
        raise InvalidSpec([FieldProblem("", "the body is no JSON object")])
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise InvalidSpec(field_problems(error, values, kind)) from error


def split_job(values: object) -> tuple[JobBody, dict[str, Any]]:
    """Return what a body says of a job in OpenAI's words, and what it says in ours."""
    if not isinstance(values, Mapping):
        raise InvalidSpec([FieldProblem("", "the body is no JSON object")])
    _refuse_reinforcement(values.get("method"))
    known = {name: value for name, value in values.items() if name in JobBody.model_fields}
    ours = {name: value for name, value in values.items() if name not in known}
    return parsed(JobBody, known), ours


def _refuse_reinforcement(method: object) -> None:
    if isinstance(method, Mapping) and method.get("type") == "reinforcement":
        problem = FieldProblem(
            "/method/type",
            "'reinforcement' is not available here: graders are not run",
            "Use 'supervised', or 'dpo' with pairs of answers.",
        )
        raise InvalidSpec([problem])
