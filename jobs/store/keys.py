"""API keys. Of a secret only the SHA-256 is kept: of 256 random bits there is nothing to guess."""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from jobs.access_records import Key
from jobs.identifiers import new_id
from jobs.tables import api_keys
from jobs.transaction import Transaction
from trainer_core.errors import KeyNotFound, ProjectNotFound

MARK = "luthier_"
"""How each secret begins, so that scanners of repositories and logs know it."""
USE_NOTED_SECONDS = 60

_RANDOM_BYTES = 32
_NUM_SHOWN = len(MARK) + 6
_COLUMNS = [api_keys.c[name] for name in Key.__dataclass_fields__]


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new key with its secret, which can be told this once."""

    key: Key
    secret: str


def issue(
    tx: Transaction,
    *,
    project: str,
    name: str,
    scopes: Sequence[str],
    expires_at: datetime | None = None,
    requests_per_second: float | None = None,
) -> IssuedKey:
    """Keep a new key of a project, or raise ProjectNotFound."""
    secret = MARK + secrets.token_urlsafe(_RANDOM_BYTES)
    try:
        row = tx.connection.execute(
            insert(api_keys)
            .values(
                id=new_id("key"),
                project=project,
                name=name,
                prefix=secret[:_NUM_SHOWN],
                sha256=digest(secret),
                scopes=list(scopes),
                expires_at=expires_at,
                requests_per_second=requests_per_second,
            )
            .returning(*_COLUMNS)
        ).one()
    except IntegrityError as error:
        raise ProjectNotFound(
            f"there is no project '{project[:100]}'.",
            hint="`luthier projects add` makes one.",
            param="project",
        ) from error
    return IssuedKey(Key(**row._mapping), secret)


def rotate(
    tx: Transaction, key_id: str, *, project: str | None, overlap_seconds: float
) -> IssuedKey:
    """Issue a key like another one, which works for a while yet.

    Args:
        tx: the transaction.
        key_id: the key to replace.
        project: of the key; None for any.
        overlap_seconds: for how long both work.

    Raises:
        KeyNotFound: no such key, or it works no more.
    """
    old = get(tx, key_id, project=project)
    ends_at = func.now() + timedelta(seconds=overlap_seconds)
    row = tx.connection.execute(
        update(api_keys)
        .where(*_reached(key_id, project), *_alive())
        .values(expires_at=func.least(api_keys.c.expires_at, ends_at))  # null counts as later
        .returning(func.now())
    ).one_or_none()
    if row is None:
        raise _not_found(key_id)
    return issue(
        tx,
        project=old.project,
        name=old.name,
        scopes=old.scopes,
        expires_at=old.expires_at and row[0] + (old.expires_at - old.created_at),
        requests_per_second=old.requests_per_second,
    )


def revoke(tx: Transaction, key_id: str, *, project: str | None) -> Key:
    """End a key for good; again is no error. Raises KeyNotFound."""
    row = tx.connection.execute(
        update(api_keys)
        .where(*_reached(key_id, project))
        .values(revoked_at=func.coalesce(api_keys.c.revoked_at, func.now()))
        .returning(*_COLUMNS)
    ).one_or_none()
    if row is None:
        raise _not_found(key_id)
    return Key(**row._mapping)


def get(tx: Transaction, key_id: str, *, project: str | None) -> Key:
    """Return a key, or raise KeyNotFound."""
    statement = select(*_COLUMNS).where(*_reached(key_id, project))
    row = tx.connection.execute(statement).one_or_none()
    if row is None:
        raise _not_found(key_id)
    return Key(**row._mapping)


def page(tx: Transaction, *, project: str | None, after: str | None, limit: int) -> list[Key]:
    """Return up to `limit` keys, newest first, older than the key `after`."""
    statement = select(*_COLUMNS)
    if project is not None:
        statement = statement.where(api_keys.c.project == project)
    if after is not None:
        statement = statement.where(api_keys.c.id < after)
    rows = tx.connection.execute(statement.order_by(api_keys.c.id.desc()).limit(limit))
    return [Key(**row._mapping) for row in rows]


def find(tx: Transaction, sha256: str) -> Key | None:
    """Return the key with a secret of this digest, if it works.

    That it is used is noted once a minute at most. What is compared is a digest: nobody can choose
    one, so its place in the index tells nothing of a secret.
    """
    noted_before = func.now() - timedelta(seconds=USE_NOTED_SECONDS)
    is_due = or_(api_keys.c.last_used_at.is_(None), api_keys.c.last_used_at < noted_before)
    row = tx.connection.execute(
        select(*_COLUMNS, is_due.label("is_due")).where(api_keys.c.sha256 == sha256, *_alive())
    ).one_or_none()
    if row is None:
        return None
    key = Key(**{name: row._mapping[name] for name in Key.__dataclass_fields__})
    if row.is_due:
        tx.connection.execute(
            update(api_keys).where(api_keys.c.id == key.id, is_due).values(last_used_at=func.now())
        )
    return key


def digest(secret: str) -> str:
    """Return the SHA-256 of a secret, in hex."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def _reached(key_id: str, project: str | None) -> list[ColumnElement[bool]]:
    """Return the conditions for a key of a project, or of any."""
    return [api_keys.c.id == key_id, *([api_keys.c.project == project] if project else [])]


def _alive() -> tuple[ColumnElement[bool], ...]:
    is_unexpired = or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > func.now())
    return api_keys.c.revoked_at.is_(None), is_unexpired


def _not_found(key_id: str) -> KeyNotFound:
    return KeyNotFound(
        f"there is no working key '{key_id[:80]}'.", hint="GET /keys lists them.", param="id"
    )
