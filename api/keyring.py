"""The keys that were used lately, so that a request costs no query; and what each may still ask.

A key is looked up again after `FRESH_SECONDS`: one that was revoked works no longer than that, for
new requests and for streams that are open. Unknown keys are not remembered, so that nobody can fill
the memory with them.
"""

import asyncio
import math
import time
from dataclasses import dataclass, field
from functools import partial

from fastapi.concurrency import run_in_threadpool

from jobs.access_records import Key
from jobs.scopes import DEFAULT_PROJECT, Scope, with_included
from jobs.store import keys, rates
from jobs.store.rates import Drawn
from jobs.transaction import Database
from trainer_core.errors import RateLimited, Unauthorized

FRESH_SECONDS = 2.0
BURST_SECONDS = 2.0  # of the rate, which a key that was idle may ask at once
_DRAWN_SECONDS = 0.5  # of the rate, which are drawn at once


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request."""

    project: str
    scopes: frozenset[Scope]
    key_id: str | None = None
    name: str = "anyone"
    key_sha256: str | None = field(default=None, repr=False)

    @property
    def is_operator(self) -> bool:
        """Whether it may manage projects, and the keys of all of them."""
        return self.project == DEFAULT_PROJECT and Scope.ADMIN in self.scopes


ANYONE = Caller(DEFAULT_PROJECT, frozenset(Scope))
"""Whoever reaches a service that asks for no keys."""


@dataclass(slots=True)
class _Known:
    """A key that works, or has."""

    caller: Caller
    rate: float  # requests a second
    read_at: float
    works: bool = True
    tokens: int = 0  # requests that may be let through
    refused_until: float = 0.0
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    drawing: asyncio.Lock = field(default_factory=asyncio.Lock)


class Keyring:
    """Lets requests in, or not."""

    def __init__(self, database: Database, *, is_open: bool, rate: float) -> None:
        """Begin with no key known.

        Args:
            database: where the keys are.
            is_open: ask for no key, and take everybody for the default project's admin.
            rate: requests a second of a key that has no limit of its own.
        """
        self._database = database
        self._is_open = is_open
        self._rate = rate
        self._known: dict[str, _Known] = {}

    async def admit(self, secret: str | None) -> Caller:
        """Return who has a secret.

        Raises:
            Unauthorized: no key, or none that works; the same words for each.
            RateLimited: it has asked too often.
        """
        if self._is_open:
            return ANYONE
        if secret is None:
            raise _unauthorized()
        known = await self._find(keys.digest(secret))
        await self._count(known)
        return known.caller

    async def still_admits(self, caller: Caller) -> bool:
        """Return whether the key of somebody who was let in works still; not counted as a request.

        However many ask, a key is looked up once in `FRESH_SECONDS`.
        """
        if caller.key_sha256 is None:
            return True
        try:
            await self._find(caller.key_sha256)
        except Unauthorized:
            return False
        return True

    def check_flood(self, secret: str) -> None:
        """Raise RateLimited for a key that was refused a moment ago, before anything else is done.

        So a flood of one key costs others as little as can be.
        """
        known = self._known.get(keys.digest(secret))
        if known is None or known.tokens or not known.works or not _is_fresh(known):
            return  # let it be admitted, or not
        now = time.monotonic()
        if now < known.refused_until:
            raise _limited(known, now)

    async def _find(self, sha256: str) -> _Known:
        known = self._known.get(sha256)
        if known is None:
            known = await self._look_up(sha256)
        elif not _is_fresh(known):
            async with known.reading:
                if not _is_fresh(known):  # the first of those who wait reads for all
                    known = await self._look_up(sha256)
        if not known.works:
            raise _unauthorized()
        return known

    async def _look_up(self, sha256: str) -> _Known:
        key = await run_in_threadpool(self._read, sha256)
        if key is None:
            known = self._known.get(sha256)
            if known is None:
                raise _unauthorized()
            known.works, known.read_at = False, time.monotonic()  # for all who used it
            return known
        caller = Caller(key.project, with_included(key.scopes), key.id, key.name, sha256)
        known = self._known.setdefault(sha256, _Known(caller, 0.0, 0.0))
        known.caller, known.works, known.read_at = caller, True, time.monotonic()
        known.rate = self._rate if key.requests_per_second is None else key.requests_per_second
        return known

    def _read(self, sha256: str) -> Key | None:
        with self._database.transaction() as tx:
            return keys.find(tx, sha256)

    async def _count(self, known: _Known) -> None:
        """Take one request from what the key has left, or raise RateLimited."""
        if not known.tokens:
            async with known.drawing:
                if not known.tokens:
                    await self._draw(known)
        known.tokens -= 1

    async def _draw(self, known: _Known) -> None:
        """Draw tokens, unless the bucket was empty a moment ago.

        It is left alone until it holds as many as are drawn at once: whoever floods the service
        costs the database two writes a second.
        """
        now = time.monotonic()
        if now >= known.refused_until:
            drawn = await run_in_threadpool(partial(self._drawn, known))
            known.tokens, known.refused_until = drawn.tokens, now + drawn.wait_seconds
        if not known.tokens:
            raise _limited(known, now)

    def _drawn(self, known: _Known) -> Drawn:
        assert known.caller.key_id is not None
        with self._database.transaction() as tx:
            return rates.draw(
                tx,
                known.caller.key_id,
                rate=known.rate,
                burst=max(1.0, known.rate * BURST_SECONDS),
                wanted=max(1, math.floor(known.rate * _DRAWN_SECONDS)),
            )


def _is_fresh(known: _Known) -> bool:
    return time.monotonic() - known.read_at < FRESH_SECONDS


def _limited(known: _Known, now: float) -> RateLimited:
    return RateLimited(
        f"the key '{known.caller.name}' may send {known.rate:g} requests a second.",
        hint="Send the request again later, or wait for events in place of asking often.",
        retry_after_seconds=max(1, math.ceil(known.refused_until - now)),
    )


def _unauthorized() -> Unauthorized:
    return Unauthorized(
        "the request has no API key that works here.",
        hint="Send `Authorization: Bearer KEY` (LUTHIER_API_KEY); `luthier keys add` makes one.",
    )
