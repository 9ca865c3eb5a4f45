"""Named secrets of projects, sealed. Only a worker reveals one, for the step that needs it."""

import json

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from jobs.access_records import Secret
from jobs.sealing import Cipher
from jobs.tables import secrets, webhooks
from jobs.transaction import Transaction
from trainer_core.errors import SecretNotFound, SecretUnreadable

_COLUMNS = [secrets.c[name] for name in Secret.__dataclass_fields__]


def put(tx: Transaction, name: str, value: str, *, project: str, cipher: Cipher) -> Secret:
    """Keep a secret under a name, in place of one that has it."""
    ciphertext = _sealed(value, cipher=cipher, project=project, name=name)
    statement = insert(secrets).values(project=project, name=name, ciphertext=ciphertext)
    row = tx.connection.execute(
        statement.on_conflict_do_update(
            index_elements=[secrets.c.project, secrets.c.name],
            set_={"ciphertext": ciphertext, "updated_at": func.now()},
        ).returning(*_COLUMNS)
    ).one()
    return Secret(**row._mapping)


def page(tx: Transaction, *, project: str, after: str | None, limit: int) -> list[Secret]:
    """Return up to `limit` secrets by name, after the secret `after`, without their values."""
    statement = select(*_COLUMNS).where(secrets.c.project == project)
    if after is not None:
        statement = statement.where(secrets.c.name > after)
    rows = tx.connection.execute(statement.order_by(secrets.c.name).limit(limit))
    return [Secret(**row._mapping) for row in rows]


def check(tx: Transaction, name: str, *, project: str) -> None:
    """Raise SecretNotFound if a project has no secret of a name."""
    where = secrets.c.project == project, secrets.c.name == name
    if tx.connection.execute(select(secrets.c.name).where(*where)).one_or_none() is None:
        raise _not_found(name)


def reveal(tx: Transaction, name: str, *, project: str, cipher: Cipher) -> str:
    """Return the value of a secret, or raise SecretNotFound."""
    where = secrets.c.project == project, secrets.c.name == name
    sealed = tx.connection.execute(select(secrets.c.ciphertext).where(*where)).scalar_one_or_none()
    if sealed is None:
        raise _not_found(name)
    return _opened(sealed, cipher=cipher, project=project, name=name)


def reveal_all(tx: Transaction, *, project: str, cipher: Cipher) -> dict[str, str]:
    """Return the values of all secrets of a project by name."""
    rows = tx.connection.execute(
        select(secrets.c.name, secrets.c.ciphertext).where(secrets.c.project == project)
    )
    return {row[0]: _opened(row[1], cipher=cipher, project=project, name=row[0]) for row in rows}


def remove(tx: Transaction, name: str, *, project: str) -> None:
    """Forget a secret, or raise SecretNotFound."""
    where = secrets.c.project == project, secrets.c.name == name
    if not tx.connection.execute(delete(secrets).where(*where)).rowcount:
        raise _not_found(name)


def seal_again(tx: Transaction, *, cipher: Cipher) -> int:
    """Seal all secrets, webhooks' too, by the cipher's first key; return how many there are."""
    rows = tx.connection.execute(
        select(secrets.c.project, secrets.c.name, secrets.c.ciphertext).with_for_update()
    ).all()
    for project, name, sealed in rows:
        value = _opened(sealed, cipher=cipher, project=project, name=name)
        ciphertext = _sealed(value, cipher=cipher, project=project, name=name)
        tx.connection.execute(
            update(secrets)
            .where(secrets.c.project == project, secrets.c.name == name)
            .values(ciphertext=ciphertext)
        )
    return len(rows) + _seal_webhooks_again(tx, cipher)


def _seal_webhooks_again(tx: Transaction, cipher: Cipher) -> int:
    rows = tx.connection.execute(
        select(webhooks.c.id, webhooks.c.secret, webhooks.c.old_secret).with_for_update()
    ).all()
    for webhook_id, secret, old_secret in rows:
        sealed = {
            "secret": cipher.seal(cipher.open(secret)),
            "old_secret": old_secret and cipher.seal(cipher.open(old_secret)),
        }
        tx.connection.execute(update(webhooks).where(webhooks.c.id == webhook_id).values(**sealed))
    return len(rows)


def _sealed(value: str, *, cipher: Cipher, project: str, name: str) -> str:
    return cipher.seal(json.dumps([project, name, value]))


def _opened(sealed: str, *, cipher: Cipher, project: str, name: str) -> str:
    """Return a value, unless somebody moved its row to another project or name."""
    *place, value = json.loads(cipher.open(sealed))
    if place != [project, name]:
        raise SecretUnreadable(
            f"the secret '{name}' of project '{project}' was sealed for another place.",
            hint="Store it again.",
            param=name,
        )
    return str(value)


def _not_found(name: str) -> SecretNotFound:
    return SecretNotFound(
        f"there is no secret '{name[:100]}'.",
        hint=f"`luthier secrets set {name[:100]}` stores one; GET /secrets lists them.",
        param="name",
    )
