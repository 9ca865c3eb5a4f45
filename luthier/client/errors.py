"""Every error that the client raises.

LuthierError (trainer_core.errors)
|-- LuthierAPIError         a call did not end as asked; carries what the service said
    |-- ServiceUnreachable  no answer: no connection, or one that broke or stayed silent
    |-- UnexpectedReply     an answer that is not the service's, such as a proxy's page
    |-- BadDownload         a file that is not what the service says, or leaves its folder
    |-- BadUpload           what arrived is not what was sent
    |-- WaitTimedOut        the time that the caller allowed is over; also a TimeoutError
    |-- RequestRefused      the service refused (4xx)
    |   |-- AuthenticationFailed  401, 403
    |   |-- NotFound              404
    |   |-- Conflict              409, 412
    |   |-- InvalidRequest        400, 413, 422
    |   |-- RateLimited           429
    |-- ServiceFailed       the service could not do it (5xx)

A webhook that can't be trusted is an InvalidSignature: no call was made, so it is a LuthierError.
A setting of the client that can't be used, such as a LUTHIER_URL without a scheme, is an
InvalidSetting of trainer_core.errors.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from trainer_core.errors import FieldProblem, LuthierError


class LuthierAPIError(LuthierError):
    """A call did not end as asked."""

    code: str  # type: ignore[misc]  # here it is what the service said, not the class's

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str = "client_error",
        hint: str = "",
        param: str | None = None,
        errors: Sequence[FieldProblem] = (),
        detail: Mapping[str, Any] | None = None,
        request_id: str | None = None,
    ) -> None:
        """Keep what the service said.

        Args:
            message: what happened, with the values, and what was expected.
            status: HTTP status; None if there was no answer.
            code: the service's stable name of the error, such as `job_not_found`.
            hint: what to do.
            param: the field, column or variable at fault.
            errors: every wrong field of the request, with its JSON pointer.
            detail: further members of the answer, such as `rows` and `total` of bad rows.
            request_id: by which the service's log names the request.
        """
        super().__init__(message, hint=hint, param=param, detail=detail)
        self.status = status
        self.code = code
        self.errors = tuple(errors)
        self.request_id = request_id


class ServiceUnreachable(LuthierAPIError):
    """No answer: no connection, or one that broke or stayed silent."""


class UnexpectedReply(LuthierAPIError):
    """An answer that is not the service's, such as a proxy's page."""


class BadDownload(LuthierAPIError):
    """A file that is not what the service says it is, or whose path leaves its folder."""


class BadUpload(LuthierAPIError):
    """What arrived at the service is not what was sent."""


class InvalidSignature(LuthierError):
    """A request that claims to be a webhook's has no signature that its secret makes, or is old."""

    code = "invalid_signature"


class WaitTimedOut(LuthierAPIError, TimeoutError):
    """The time that the caller allowed is over; the job goes on."""


class RequestRefused(LuthierAPIError):
    """The service refused the request (4xx)."""


class AuthenticationFailed(RequestRefused):
    """The service does not know the key, or the key may not do this."""


class NotFound(RequestRefused):
    """There is no such thing."""


class Conflict(RequestRefused):
    """The state of the thing forbids the request."""


class InvalidRequest(RequestRefused):
    """The request, the spec or the data breaks a rule."""


class RateLimited(RequestRefused):
    """Too many requests; the client has already waited and tried again."""


class ServiceFailed(LuthierAPIError):
    """The service could not do it (5xx)."""


_BY_STATUS: dict[int, type[RequestRefused]] = {
    400: InvalidRequest,
    401: AuthenticationFailed,
    403: AuthenticationFailed,
    404: NotFound,
    409: Conflict,
    412: Conflict,
    413: InvalidRequest,
    422: InvalidRequest,
    429: RateLimited,
}
_MEMBERS = {
    "type",
    "title",
    "status",
    "detail",
    "code",
    "hint",
    "param",
    "errors",
    "request_id",
    "instance",
}


def error_of(status: int, problem: Mapping[str, Any], *, request_id: str | None) -> LuthierAPIError:
    """Return the error that a problem+json answer tells of.

    Args:
        status: HTTP status of the answer, 400 or more.
        problem: its body.
        request_id: its `X-Request-ID` header.
    """
    kind = ServiceFailed if status >= 500 else _BY_STATUS.get(status, RequestRefused)
    problems = [
        FieldProblem(
            str(item.get("pointer", "")), str(item.get("message", "")), str(item.get("hint") or "")
        )
        for item in problem.get("errors") or ()
        if isinstance(item, Mapping)
    ]
    return kind(
        str(problem.get("detail") or problem.get("title") or f"HTTP status {status}"),
        status=status,
        code=str(problem.get("code") or "unknown"),
        hint=str(problem.get("hint") or ""),
        param=problem.get("param"),
        errors=problems,
        detail={name: value for name, value in problem.items() if name not in _MEMBERS},
        request_id=problem.get("request_id") or request_id,
    )
