"""Files that come in parts, as OpenAI has it: the order of parts is told at the end."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, delete, func, insert, or_, select, update

from jobs.identifiers import new_id
from jobs.records import Upload, UploadPart
from jobs.store.files import expires_at
from jobs.tables import upload_parts, uploads
from jobs.transaction import Transaction
from trainer_core.errors import FieldProblem, IllegalTransition, InvalidSpec, UploadNotFound

OPEN_SECONDS = 3600  # how long parts may come
_KEPT_SECONDS = 86_400  # how long a row stays to be looked at


def create(tx: Transaction, values: dict[str, Any]) -> Upload:
    """Announce an upload; `values` are its project, purpose, name, type and size."""
    row = tx.connection.execute(
        insert(uploads)
        .values(id=new_id("upload"), state="pending", expires_at=expires_at(OPEN_SECONDS), **values)
        .returning(uploads)
    ).one()
    return Upload(**row._mapping)


def get_pending(
    tx: Transaction, upload_id: str, *, project: str, is_resumable: bool = False
) -> Upload:
    """Return an upload that can still go on, locked until the commit.

    Raises:
        UploadNotFound: no such upload.
        IllegalTransition: it is completed, cancelled or expired.
    """
    row = tx.connection.execute(
        select(uploads, (uploads.c.expires_at < func.now()).label("is_over"))
        .where(*reached(upload_id, project, is_resumable=is_resumable))
        .with_for_update()
    ).one_or_none()
    if row is None:
        raise not_found(upload_id)
    *values, is_over = row
    found = Upload(**dict(zip(uploads.c.keys(), values, strict=True)))
    if found.state != "pending" or is_over:
        state = "expired" if found.state == "pending" else found.state
        raise IllegalTransition(
            f"upload {upload_id} is {state}.", hint="Begin a new one.", detail={"state": state}
        )
    return found


def reached(upload_id: str, project: str, *, is_resumable: bool) -> tuple[ColumnElement[bool], ...]:
    """Return by what an upload of a project is found: each kind by its own routes alone."""
    is_hashed = uploads.c.sha256.is_not(None)
    is_kind = is_hashed if is_resumable else ~is_hashed
    return uploads.c.id == upload_id, uploads.c.project == project, is_kind


def add_part(tx: Transaction, upload_id: str, *, key: str, size_bytes: int) -> UploadPart:
    """Keep a part."""
    row = tx.connection.execute(
        insert(upload_parts)
        .values(id=new_id("part"), upload_id=upload_id, key=key, size_bytes=size_bytes)
        .returning(upload_parts)
    ).one()
    return UploadPart(**row._mapping)


def bytes_announced(tx: Transaction, project: str) -> int:
    """Return how many bytes the open uploads of a project may come to hold."""
    total = select(func.coalesce(func.sum(uploads.c.size_bytes), 0)).where(
        uploads.c.project == project,
        uploads.c.state == "pending",
        uploads.c.expires_at > func.now(),
    )
    return int(tx.connection.execute(total).scalar_one())


def size_of_parts(tx: Transaction, upload_id: str) -> int:
    """Return how many bytes have come."""
    total = select(func.coalesce(func.sum(upload_parts.c.size_bytes), 0)).where(
        upload_parts.c.upload_id == upload_id
    )
    return int(tx.connection.execute(total).scalar_one())


def parts_of(tx: Transaction, upload: Upload, part_ids: Sequence[str]) -> list[UploadPart]:
    """Return parts in the order given, or raise InvalidSpec if they are not what was announced."""
    rows = tx.connection.execute(select(upload_parts).where(upload_parts.c.upload_id == upload.id))
    found = {row.id: UploadPart(**row._mapping) for row in rows}
    for place, part_id in enumerate(part_ids):
        if part_id not in found or part_id in part_ids[:place]:
            why = "is named twice" if part_id in found else f"is no part of upload {upload.id}"
            problem = FieldProblem(f"/part_ids/{place}", f"'{part_id[:80]}' {why}")
            raise InvalidSpec([problem])
    parts = [found[part_id] for part_id in part_ids]
    size = sum(part.size_bytes for part in parts)
    if size != upload.size_bytes:
        message = f"the parts have {size:,} bytes and {upload.size_bytes:,} were announced"
        raise InvalidSpec([FieldProblem("/part_ids", message, "Send what is missing.")])
    return parts


def end(tx: Transaction, upload_id: str, *, state: str, file_id: str | None = None) -> Upload:
    """Complete or cancel an upload."""
    row = tx.connection.execute(
        update(uploads)
        .where(uploads.c.id == upload_id)
        .values(state=state, file_id=file_id)
        .returning(uploads)
    ).one()
    return Upload(**row._mapping)


def take_parts(tx: Transaction, upload_id: str) -> list[str]:
    """Forget the parts of an upload; return their keys, to be deleted after the commit."""
    rows = tx.connection.execute(
        delete(upload_parts)
        .where(upload_parts.c.upload_id == upload_id)
        .returning(upload_parts.c.key)
    )
    return list(rows.scalars())


def take_stale_parts(tx: Transaction) -> list[str]:
    """Forget the parts of uploads that are over, and old uploads; return the keys to delete."""
    is_over = or_(uploads.c.state != "pending", uploads.c.expires_at < func.now())
    over = select(uploads.c.id).where(is_over)
    rows = tx.connection.execute(
        delete(upload_parts).where(upload_parts.c.upload_id.in_(over)).returning(upload_parts.c.key)
    )
    keys = list(rows.scalars())
    long_over = uploads.c.expires_at < expires_at(-_KEPT_SECONDS)
    tx.connection.execute(delete(uploads).where(long_over))
    return keys


def not_found(upload_id: str) -> UploadNotFound:
    """Return the error of an upload that is not there."""
    return UploadNotFound(f"there is no upload '{upload_id[:80]}'.", param="upload_id")
