"""Luthier: fine-tuning jobs as a service. `Client` talks to one, the command `luthier` starts one.

import luthier
with luthier.Client() as client:
    job = client.jobs.create({"task": "text-classification", ...})
    print(client.jobs.wait(job.id).state)
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from luthier.client import (
        Artifact,
        AuthenticationFailed,
        BadDownload,
        Client,
        Conflict,
        Dataset,
        Event,
        InvalidRequest,
        Job,
        LuthierAPIError,
        Measurement,
        Model,
        NotFound,
        RateLimited,
        RequestRefused,
        ServiceFailed,
        ServiceUnreachable,
        Task,
        UnexpectedReply,
        Validation,
        WaitTimedOut,
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


def __getattr__(name: str) -> object:
    """Import the client on first use: `luthier --help` and `luthier up` need none of it."""
    if name in __all__:
        from importlib import import_module

        return getattr(import_module("luthier.client"), name)
    raise AttributeError(f"module 'luthier' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
