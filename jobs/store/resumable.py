"""Data sets that come in numbered parts: each may be sent again, and none is missed.

An upload is known by what it will be: whoever announces the same file again, in another process or
after a crash, goes on with what has come of it.
"""

from collections.abc import Sequence

from sqlalchemy import func, insert, select, update
from sqlalchemy.dialects import postgresql

from jobs.identifiers import new_id
from jobs.records import Upload, UploadPart
from jobs.store.files import TRAINING, expires_at
from jobs.store.uploads import get_pending, not_found, reached, size_of_parts
from jobs.tables import upload_parts, uploads
from jobs.transaction import Transaction
from trainer_core.errors import FieldProblem, InvalidSpec

OPEN_SECONDS = 86_400  # from the latest part on
_SHOWN = 20


def begin(
    tx: Transaction, *, project: str, name: str, size_bytes: int, sha256: str, has_header: bool
) -> tuple[Upload, bool]:
    """Return the open upload of a file, and whether it is new."""
    same = {
        "project": project,
        "name": name,
        "size_bytes": size_bytes,
        "sha256": sha256,
        "has_header": has_header,
        "state": "pending",
    }
    begun = (
        select(uploads)
        .where(*(uploads.c[column] == value for column, value in same.items()))
        .where(uploads.c.expires_at > func.now())
        .order_by(uploads.c.id)
        .limit(1)
    )
    row = tx.connection.execute(begun).one_or_none()
    if row is not None:
        return Upload(**row._mapping), False
    made = insert(uploads).values(
        id=new_id("upload"),
        purpose=TRAINING,
        mime_type="application/octet-stream",
        expires_at=expires_at(OPEN_SECONDS),
        **same,
    )
    return Upload(**tx.connection.execute(made.returning(uploads)).one()._mapping), True


def get(tx: Transaction, upload_id: str, *, project: str) -> Upload:
    """Return an upload, or raise UploadNotFound."""
    row = tx.connection.execute(
        select(uploads).where(*reached(upload_id, project, is_resumable=True))
    ).one_or_none()
    if row is None:
        raise not_found(upload_id)
    return Upload(**row._mapping)


def get_open(tx: Transaction, upload_id: str, *, project: str) -> Upload:
    """Return an upload that can still go on, locked until the commit.

    Raises:
        UploadNotFound: no such upload.
        IllegalTransition: it is completed, cancelled or expired.
    """
    return get_pending(tx, upload_id, project=project, is_resumable=True)


def parts_of(tx: Transaction, upload_id: str) -> list[UploadPart]:
    """Return the parts that have come, by number."""
    of_upload = upload_parts.c.upload_id == upload_id
    rows = tx.connection.execute(
        select(upload_parts).where(of_upload).order_by(upload_parts.c.number)
    )
    return [UploadPart(**row._mapping) for row in rows]


def put_part(
    tx: Transaction, upload: Upload, number: int, *, key: str, size_bytes: int, sha256: str
) -> tuple[UploadPart, str | None]:
    """Keep a part in place of the one of its number; return it, and the key of that one.

    Raises:
        InvalidSpec: with it there are more bytes than were announced.
    """
    replaced = tx.connection.execute(
        select(upload_parts.c.key, upload_parts.c.size_bytes).where(
            upload_parts.c.upload_id == upload.id, upload_parts.c.number == number
        )
    ).one_or_none()
    total = size_of_parts(tx, upload.id) + size_bytes - (replaced.size_bytes if replaced else 0)
    if total > upload.size_bytes:
        message = f"makes {total:,} bytes, of {upload.size_bytes:,} announced"
        raise InvalidSpec([FieldProblem("/data", message)])
    values = {"key": key, "size_bytes": size_bytes, "sha256": sha256}
    row = tx.connection.execute(
        postgresql.insert(upload_parts)
        .values(id=new_id("part"), upload_id=upload.id, number=number, **values)
        .on_conflict_do_update(index_elements=["upload_id", "number"], set_=values)
        .returning(upload_parts)
    ).one()
    later = update(uploads).where(uploads.c.id == upload.id)
    tx.connection.execute(later.values(expires_at=expires_at(OPEN_SECONDS)))
    return UploadPart(**row._mapping), replaced.key if replaced else None


def check_whole(upload: Upload, parts: Sequence[UploadPart]) -> None:
    """Raise InvalidSpec unless parts are all that was announced."""
    numbers = {part.number for part in parts}
    size = sum(part.size_bytes for part in parts)
    missing = [str(n) for n in range(1, len(parts) + 1) if n not in numbers]
    if size == upload.size_bytes and not missing:
        return
    message = f"{size:,} bytes have come, of {upload.size_bytes:,} announced"
    if missing:
        message += f"; parts that are missing: {', '.join(missing[:_SHOWN])}"
    raise InvalidSpec([FieldProblem("", message, "Send what is missing.")])
