"""Luthier: fine-tuning jobs as a service. `Client` talks to one, the command `luthier` starts one.

import luthier
with luthier.Client() as client:
    job = client.jobs.create({"task": "text-classification", ...})
    print(job.wait().state)
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from luthier.client import (
        Artifact,
        AsyncClient,
        AsyncJob,
        AuditEntry,
        AuthenticationFailed,
        BadDownload,
        BadUpload,
        Checkpoint,
        Client,
        Conflict,
        Dataset,
        Delivery,
        Event,
        InvalidRequest,
        InvalidSignature,
        Job,
        Key,
        LuthierAPIError,
        Measurement,
        Measurements,
        Model,
        NotFound,
        Project,
        Push,
        RateLimited,
        RequestRefused,
        Secret,
        ServiceFailed,
        ServiceUnreachable,
        Sweep,
        Task,
        Trial,
        UnexpectedReply,
        Validation,
        WaitTimedOut,
        Webhook,
        WebhookEvent,
        Worker,
        verify_webhook,
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


def __getattr__(name: str) -> object:
    """Import the client on first use: `luthier --help` and `luthier up` need none of it."""
    if name in __all__:
        from importlib import import_module

        return getattr(import_module("luthier.client"), name)
    raise AttributeError(f"module 'luthier' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
