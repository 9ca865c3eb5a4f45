"""Every error that Luthier raises on purpose, and the form in which one is kept.

    LuthierError
    |-- InvalidSpec             the request or job spec breaks a rule; carries one problem a field
    |-- InvalidRequest          the request can't be taken, whatever it asks for
    |   |-- InvalidJson, UnsupportedMediaType, CrossSiteRequest, UnknownHost
    |   |-- IdempotencyKeyReused, PreconditionFailed, PredictionsOff, PredictionRefused
    |   |-- WebhookTestFailed
    |-- Unauthorized            nobody knows who asks
    |-- Forbidden               it is known who asks, and they may not
    |-- TooMany                 later, or less: RateLimited, QuotaExceeded
    |-- NotFound                no such job, dataset, model, file or task
    |   |-- JobNotFound, DatasetNotFound, ModelNotFound, TaskNotFound, FileNotFound
    |   |-- CheckpointNotFound, UploadNotFound, PermissionNotFound
    |   |-- WebhookNotFound, DeliveryNotFound, SweepNotFound
    |   |-- ProjectNotFound, KeyNotFound, SecretNotFound
    |-- Conflict                the thing exists, and its state forbids the request
    |   |-- IllegalTransition, NameTaken, DatasetInUse, ModelNotReady, HomeInUse
    |   |-- JobInUse, ModelInUse, PushPending, RequestInFlight, TooManyWebhooks
    |-- DataError               the user's rows or files can't be trained on
    |   |-- EmptyFile, UnknownFormat, UnknownColumn, InvalidRows, TooFewRows, UnseenLabel
    |   |-- DataChanged, InvalidTrainingFile
    |-- ModelError              the base model can't be used for the task
    |   |-- UnsafeModel, UnusableModel
    |-- CapacityError           the machine is too small or too full
    |   |-- OutOfMemory, NothingFits, DiskFull, MaxRuntimeReached, TooManyProcesses
    |   |-- PayloadTooLarge
    |-- ForbiddenTarget         a URL leads to where the service sends nothing
    |-- Diverged                the loss became NaN or infinite
    |-- InvalidSetting          an environment variable or flag of the service is wrong
    |-- ServiceFault            our fault, or our infrastructure's
        |-- WorkerLost, ProcessDied, NoUsableCheckpoint, Stalled, ServerFailed
        |-- ServiceUnavailable, InternalError, PredictionFailed, PushFailed, SecretUnreadable

A message says what happened, with the values; what was expected; what to do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

RETRY_AFTER = "retry_after_seconds"  # in the detail of an error that passes


class Whose(StrEnum):
    """Who can mend an error."""

    USER = "user"  # the request or the spec
    DATA = "data"  # the rows or files
    CAPACITY = "capacity"  # memory, disk or time
    SYSTEM = "system"  # the service or what it stands on


@dataclass(frozen=True, slots=True)
class TypedError:
    """An error as it is kept in the database, in `events.jsonl` and in a reply."""

    code: str
    message: str
    hint: str = ""
    whose: Whose = Whose.SYSTEM
    retryable: bool = False
    param: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the error as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TypedError":
        """Return the error that `to_dict` wrote."""
        return cls(**{**values, "whose": Whose(values["whose"])})


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One wrong field of a request."""

    pointer: str  # JSON pointer (RFC 6901) into the body, such as "/training/learning_rate"
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class RowProblem:
    """One row that can't be trained on."""

    file: str
    line: int  # physical line, counted from 1; for Parquet the row, counted from 1
    column: str | None
    reason: str


class LuthierError(Exception):
    """An error with a stable code that a program can act on and a message that a person can."""

    code: ClassVar[str] = "error"
    whose: ClassVar[Whose] = Whose.SYSTEM
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        param: str | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep what happened.

        Args:
            message: what happened, with the values, and what was expected.
            hint: what to do, one imperative sentence.
            param: the field, column or variable at fault.
            detail: further JSON-ready values for programs.
        """
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.param = param
        self.detail = dict(detail or {})

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def to_typed(self) -> TypedError:
        """Return the error in the form that is kept."""
        return TypedError(
            code=self.code,
            message=self.message,
            hint=self.hint,
            whose=self.whose,
            retryable=self.retryable,
            param=self.param,
            detail=self.detail,
        )


class InvalidSpec(LuthierError):
    """A request or spec breaks its schema or a rule between its fields."""

    code = "invalid_spec"
    whose = Whose.USER

    def __init__(self, problems: Sequence[FieldProblem]) -> None:
        """Keep every problem; the message names the first."""
        assert problems, "an InvalidSpec without a problem"
        self.problems = tuple(problems)
        first = self.problems[0]
        more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
        super().__init__(
            f"{first.pointer or '/'}: {first.message}{more}",
            hint=first.hint,
            param=first.pointer,
            detail={"errors": [asdict(problem) for problem in self.problems]},
        )


class InvalidRequest(LuthierError):
    """A request can't be taken, whatever it asks for."""

    code = "invalid_request"
    whose = Whose.USER


class InvalidJson(InvalidRequest):
    code = "invalid_json"


class UnsupportedMediaType(InvalidRequest):
    code = "unsupported_media_type"


class CrossSiteRequest(InvalidRequest):
    """A browser sends it for a page of another site."""

    code = "cross_site_request"


class UnknownHost(InvalidRequest):
    """It is addressed to a host that this service is not."""

    code = "unknown_host"


class WebhookTestFailed(InvalidRequest):
    """A test event was not taken."""

    code = "webhook_test_failed"


class PredictionsOff(InvalidRequest):
    """This service does not let models be tried."""

    code = "predictions_off"


class PredictionRefused(InvalidRequest):
    """A finished model can't be asked so."""

    code = "prediction_refused"


class IdempotencyKeyReused(InvalidRequest):
    """An `Idempotency-Key` was sent before, with another request."""

    code = "idempotency_key_reused"


class PreconditionFailed(InvalidRequest):
    """What the client would change is no longer what it has seen (`If-Match`)."""

    code = "precondition_failed"


class Unauthorized(LuthierError):
    """The request has no key, or none that is known and alive; which of these is not told."""

    code = "unauthorized"
    whose = Whose.USER


class Forbidden(LuthierError):
    """The key is known, and lacks the scope."""

    code = "forbidden"
    whose = Whose.USER


class TooMany(LuthierError):
    """More than is allowed: later, or less."""

    code = "too_many"
    whose = Whose.USER

    def __init__(
        self,
        message: str,
        *,
        retry_after_seconds: int,
        hint: str = "",
        param: str | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep what happened, and after how many seconds it is worth another try."""
        later = {RETRY_AFTER: retry_after_seconds}
        super().__init__(message, hint=hint, param=param, detail={**(detail or {}), **later})


class RateLimited(TooMany):
    code = "rate_limited"


class QuotaExceeded(TooMany):
    code = "quota_exceeded"


class NotFound(LuthierError):
    """No such thing, or not for this caller."""

    code = "not_found"
    whose = Whose.USER


class JobNotFound(NotFound):
    code = "job_not_found"


class DatasetNotFound(NotFound):
    code = "dataset_not_found"


class ModelNotFound(NotFound):
    code = "model_not_found"


class TaskNotFound(NotFound):
    code = "task_not_found"


class FileNotFound(NotFound):
    code = "file_not_found"


class UploadNotFound(NotFound):
    code = "upload_not_found"


class PermissionNotFound(NotFound):
    code = "permission_not_found"


class ProjectNotFound(NotFound):
    code = "project_not_found"


class KeyNotFound(NotFound):
    code = "key_not_found"


class SecretNotFound(NotFound):
    code = "secret_not_found"


class WebhookNotFound(NotFound):
    code = "webhook_not_found"


class DeliveryNotFound(NotFound):
    code = "delivery_not_found"


class SweepNotFound(NotFound):
    code = "sweep_not_found"


class CheckpointNotFound(NotFound):
    code = "checkpoint_not_found"


class Conflict(LuthierError):
    """The state of the thing forbids the request."""

    code = "conflict"
    whose = Whose.USER


class IllegalTransition(Conflict):
    code = "illegal_transition"


class NameTaken(Conflict):
    code = "name_taken"


class TooManyWebhooks(Conflict):
    code = "too_many_webhooks"


class DatasetInUse(Conflict):
    code = "dataset_in_use"


class ModelInUse(Conflict):
    code = "model_in_use"


class ModelNotReady(Conflict):
    code = "model_not_ready"


class JobInUse(Conflict):
    """A job that has not ended needs what another has made."""

    code = "job_in_use"


class PushPending(Conflict):
    """The model of a job is being pushed already."""

    code = "push_pending"


class RequestInFlight(Conflict):
    """The first request with the same `Idempotency-Key` is still being worked on."""

    code = "request_in_flight"
    retryable = True


class HomeInUse(Conflict):
    code = "home_in_use"


class DataError(LuthierError):
    """The user's data can't be trained on as it is."""

    code = "invalid_data"
    whose = Whose.DATA


class EmptyFile(DataError):
    code = "empty_file"


class UnknownFormat(DataError):
    code = "unknown_format"


class UnknownColumn(DataError):
    code = "unknown_column"


class InvalidRows(DataError):
    """Some rows are wrong: the first ones with their place and reason, and how many in all."""

    code = "invalid_rows"

    def __init__(self, problems: Sequence[RowProblem], *, total: int, hint: str) -> None:
        assert problems, "an InvalidRows without a row"
        first = problems[0]
        place = f"{first.file}, line {first.line}" + (
            f", column '{first.column}'" if first.column else ""
        )
        more = f" ({total} bad rows in all)" if total > 1 else ""
        super().__init__(
            f"{place}: {first.reason}{more}",
            hint=hint,
            param=first.column,
            detail={"total": total, "rows": [asdict(problem) for problem in problems]},
        )


class TooFewRows(DataError):
    code = "too_few_rows"


class UnseenLabel(DataError):
    code = "unseen_label"


class InvalidTrainingFile(DataError):
    """Any of these, in OpenAI's words."""

    code = "invalid_training_file"


class DataChanged(DataError):
    code = "data_changed"


class ModelError(LuthierError):
    """The base model can't be used for this task, or not safely."""

    code = "invalid_model"
    whose = Whose.USER


class UnsafeModel(ModelError):
    code = "unsafe_model"


class UnusableModel(ModelError):
    code = "unusable_model"


class CapacityError(LuthierError):
    """The machine, its disk or the time allowed is too small."""

    code = "capacity"
    whose = Whose.CAPACITY


class OutOfMemory(CapacityError):
    code = "out_of_memory"


class NothingFits(CapacityError):
    """No worker that is there is large enough for a job."""

    code = "nothing_fits"


class DiskFull(CapacityError):
    code = "disk_full"
    retryable = True


class TooManyProcesses(CapacityError):
    code = "too_many_processes"


class MaxRuntimeReached(CapacityError):
    code = "max_runtime_reached"


class PayloadTooLarge(CapacityError):
    code = "payload_too_large"


class ForbiddenTarget(LuthierError):
    """A URL leads to an address to which the service sends nothing."""

    code = "forbidden_target"
    whose = Whose.USER


class Diverged(LuthierError):
    code = "diverged"
    whose = Whose.USER


class InvalidSetting(LuthierError):
    code = "invalid_setting"
    whose = Whose.USER


class ServiceFault(LuthierError):
    """Ours, or our infrastructure's; the user's job is not to blame."""

    code = "service_fault"
    retryable = True


class WorkerLost(ServiceFault):
    code = "worker_lost"


class ProcessDied(ServiceFault):
    code = "process_died"


class NoUsableCheckpoint(ServiceFault):
    """There are checkpoints, and none is whole."""

    code = "no_usable_checkpoint"
    retryable = False


class Stalled(ServiceFault):
    """A training process lives and gets no further."""

    code = "stalled"


class ServerFailed(ServiceFault):
    code = "server_failed"


class ServiceUnavailable(ServiceFault):
    code = "service_unavailable"


class InternalError(ServiceFault):
    code = "internal_error"
    retryable = False


class PredictionFailed(ServiceFault):
    """A finished model did not answer."""

    code = "prediction_failed"


class PushFailed(ServiceFault):
    """A finished model could not be pushed to the Hub; the model is there all the same."""

    code = "push_failed"


class SecretUnreadable(ServiceFault):
    """A stored secret was sealed with a key that the service no longer has."""

    code = "secret_unreadable"
    retryable = False


def restored(typed: TypedError) -> LuthierError:
    """Return the error that `to_typed` gave, of its class, where its code names one of ours."""
    kinds = [LuthierError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    kind = next((kind for kind in kinds if kind.code == typed.code), LuthierError)
    error = kind.__new__(kind)
    LuthierError.__init__(
        error, typed.message, hint=typed.hint, param=typed.param, detail=typed.detail
    )
    return error
