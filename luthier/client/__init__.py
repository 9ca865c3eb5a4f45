"""The Python client: a typed view of the HTTP service, to be awaited or not.

aio         `AsyncClient` and all that hangs from it, as it is written
sync        `Client`: made of `aio`, word by word, by `python -m tests.client.twins`
calls       requests, answers and when to send again, without input or output
values      what the calls return, frozen
inputs      the same, of data sets, models, tasks and validations
operations  the same, of webhooks, sweeps, workers, keys, projects and secrets
errors      what they raise
signatures  `verify_webhook`, for those who receive
"""

from luthier.client.aio.client import AsyncClient
from luthier.client.aio.job import AsyncJob
from luthier.client.errors import (
    AuthenticationFailed,
    BadDownload,
    BadUpload,
    Conflict,
    InvalidRequest,
    InvalidSignature,
    LuthierAPIError,
    NotFound,
    RateLimited,
    RequestRefused,
    ServiceFailed,
    ServiceUnreachable,
    UnexpectedReply,
    WaitTimedOut,
)
from luthier.client.inputs import Dataset, Model, Task, Validation
from luthier.client.operations import (
    AuditEntry,
    Delivery,
    Key,
    Project,
    Secret,
    Sweep,
    Trial,
    Webhook,
    Worker,
)
from luthier.client.signatures import WebhookEvent, verify_webhook
from luthier.client.sync.client import Client
from luthier.client.sync.job import Job
from luthier.client.values import (
    Artifact,
    Checkpoint,
    Event,
    Measurement,
    Measurements,
    Push,
)

__all__ = [
    "Artifact",
    "AsyncClient",
    "AsyncJob",
    "AuditEntry",
    "AuthenticationFailed",
    "BadDownload",
    "BadUpload",
    "Checkpoint",
    "Client",
    "Conflict",
    "Dataset",
    "Delivery",
    "Event",
    "InvalidRequest",
    "InvalidSignature",
    "Job",
    "Key",
    "LuthierAPIError",
    "Measurement",
    "Measurements",
    "Model",
    "NotFound",
    "Project",
    "Push",
    "RateLimited",
    "RequestRefused",
    "Secret",
    "ServiceFailed",
    "ServiceUnreachable",
    "Sweep",
    "Task",
    "Trial",
    "UnexpectedReply",
    "Validation",
    "WaitTimedOut",
    "Webhook",
    "WebhookEvent",
    "Worker",
    "verify_webhook",
]
