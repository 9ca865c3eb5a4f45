"""`ETag`, `If-None-Match` and `If-Match` (RFC 9110, section 13).

The ETag of a job is its version, a dash, and a digest of all that is shown. `If-None-Match` asks
whether anything is new, so it compares the whole. `If-Match` asks whether somebody else has edited
what the client is about to edit, so it compares the version: a job that runs shows something new
every second, and none of that is in the way of a new name.
"""

import hashlib
import re

from fastapi import Request

from trainer_core.errors import PreconditionFailed

_ETAG = re.compile(r'(?:W/)?("[^"]*")')


def etag_of(shown: bytes, *, version: int) -> str:
    """Return the ETag of something that can be edited, and has been `version` times."""
    return f'"{version}-{hashlib.sha256(shown).hexdigest()[:16]}"'


def is_known(request: Request, etag: str) -> bool:
    """Return whether the client has this already, by `If-None-Match`."""
    known = request.headers.get("if-none-match", "")
    return known.strip() == "*" or etag in _ETAG.findall(known)


def check_unedited(request: Request, *, version: int) -> None:
    """Raise PreconditionFailed if `If-Match` names only versions that were edited since."""
    given = request.headers.get("if-match", "*")
    if given.strip() == "*":
        return
    if str(version) not in {etag.strip('"').partition("-")[0] for etag in _ETAG.findall(given)}:
        raise PreconditionFailed(
            f"it was edited since: {given[:100]} was expected, and it is at version {version}.",
            hint="Get it again, and decide whether the change is still wanted.",
            param="If-Match",
        )
