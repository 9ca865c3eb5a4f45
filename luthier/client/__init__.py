"""The Python client: a typed, synchronous view of the HTTP service.

client      `Client`, from which everything hangs
jobs        create, watch, wait for, download: `client.jobs`
datasets    uploads: `client.datasets`
models      registered base models: `client.models`
tasks       what can be trained: `client.tasks`
values      what the calls return, frozen
errors      what they raise
transport   requests, retries with back-off
following   event streams that survive cut connections
downloading resumed and verified downloads
"""

from luthier.client.client import Client
from luthier.client.errors import (
    AuthenticationFailed,
    BadDownload,
    Conflict,
    InvalidRequest,
    LuthierAPIError,
    NotFound,
    RateLimited,
    RequestRefused,
    ServiceFailed,
    ServiceUnreachable,
    UnexpectedReply,
    WaitTimedOut,
)
from luthier.client.values import (
    Artifact,
    Dataset,
    Event,
    Job,
    Measurement,
    Model,
    Task,
    Validation,
)

__all__ = [
    "Artifact",
    "AuthenticationFailed",
    "BadDownload",
    "Client",
    "Conflict",
    "Dataset",
    "Event",
    "InvalidRequest",
    "Job",
    "LuthierAPIError",
    "Measurement",
    "Model",
    "NotFound",
    "RateLimited",
    "RequestRefused",
    "ServiceFailed",
    "ServiceUnreachable",
    "Task",
    "UnexpectedReply",
    "Validation",
    "WaitTimedOut",
]
