"""How many requests a key has left: a bucket that fills at a constant rate.

An API process draws some at a time and hands them out from its memory, so that a busy key costs a
write a second or so, not one a request; and all processes together keep to one limit.
"""

import math
from dataclasses import dataclass

from sqlalchemy import Float, cast, extract, func, select, update
from sqlalchemy.dialects.postgresql import insert

from jobs.tables import rates
from jobs.transaction import Transaction


@dataclass(frozen=True, slots=True)
class Drawn:
    """What was drawn from a bucket."""

    tokens: int  # requests that may be let through
    wait_seconds: float  # until there are as many more as were wanted, where there were fewer


def draw(tx: Transaction, key_id: str, *, rate: float, burst: float, wanted: int) -> Drawn:
    """Take tokens from a key's bucket.

    Args:
        tx: the transaction.
        key_id: whose bucket.
        rate: tokens that are added a second.
        burst: tokens that it holds, at least 1.
        wanted: how many to take, as far as they are there.
    """
    now = func.clock_timestamp()
    elapsed = cast(extract("epoch", now - rates.c.updated_at), Float)
    filled = (
        select(func.least(burst, rates.c.tokens + func.greatest(elapsed, 0) * rate), now)
        .where(rates.c.key_id == key_id)
        .with_for_update()
    )
    row = tx.connection.execute(filled).one_or_none()
    if row is None:
        full = insert(rates).values(key_id=key_id, tokens=burst, updated_at=now)
        tx.connection.execute(full.on_conflict_do_nothing())
        row = tx.connection.execute(filled).one()
    available, drawn_at = row
    tokens = min(wanted, math.floor(available))
    left = available - tokens
    tx.connection.execute(
        update(rates).where(rates.c.key_id == key_id).values(tokens=left, updated_at=drawn_at)
    )
    return Drawn(tokens, (wanted - left) / rate if tokens < wanted else 0.0)
