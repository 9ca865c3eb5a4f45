"""The sender: every API process has one, and they share what is due."""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

from anyio import CapacityLimiter, to_thread

from jobs.backends import Backends
from jobs.delivery import posting
from jobs.delivery.addresses import Resolve, addresses_of, parse, resolve_name
from jobs.delivery.signing import signed_headers
from jobs.records import Webhook
from jobs.sealing import cipher_of
from jobs.store import deliveries, webhooks
from jobs.store.deliveries import Claimed, Outcome
from trainer_core.errors import SecretUnreadable
from trainer_core.failpoints import failpoint

_MINUTE = 60
_HOUR = 60 * _MINUTE
DELAYS_SECONDS = (
    # Before each try, as Standard Webhooks suggests; 75 hours and 35 minutes in all.
    0,
    5,
    5 * _MINUTE,
    30 * _MINUTE,
    2 * _HOUR,
    5 * _HOUR,
    10 * _HOUR,
    14 * _HOUR,
    20 * _HOUR,
    24 * _HOUR,
)
TIMEOUT_SECONDS = 15
KEEP_DAYS = 30

_MAX_AT_ONCE = 32
_MAX_A_WEBHOOK = 4  # so that one target that hangs holds up no other
_STEP_A_WEBHOOK = 2  # claimed at a time
_RESOLVE_SECONDS = 5
_STOP_SECONDS = 2
_TIDY_SECONDS = _HOUR

_log = logging.getLogger(__name__)


class Sender:
    """Sends what is due. Delays and timeout can be shortened, to see days go by in a test."""

    def __init__(
        self,
        backends: Backends,
        *,
        delays_seconds: Sequence[float] = DELAYS_SECONDS,
        timeout_seconds: float = TIMEOUT_SECONDS,
        resolve: Resolve = resolve_name,
    ) -> None:
        self._backends = backends
        self._delays_seconds = delays_seconds
        self._timeout_seconds = timeout_seconds
        self.lease_seconds = 2 * timeout_seconds + 10  # longer than any try
        self._resolve = resolve
        self._threads = CapacityLimiter(2)  # requests may have taken all of the others
        self._at_work: dict[asyncio.Task[Outcome], str] = {}  # to the webhook of each
        self._tidied_at = time.monotonic()

    async def run_until(self, stopping: asyncio.Event) -> None:
        """Send until the service stops; what is being sent then is sent again later."""
        stop = asyncio.create_task(stopping.wait())
        while not stopping.is_set():
            try:
                await self.start_due()
                await self._tidy()
            except Exception:  # noqa: BLE001 - whatever it is, events wait for the next time
                _log.exception("could not look for deliveries", extra={"action": "sender_failed"})
                await asyncio.wait({stop}, timeout=self._backends.settings.webhook_seconds)
            await self._wait(stop)
        if self._at_work:
            await asyncio.wait(self._at_work, timeout=_STOP_SECONDS)
        for task in self._at_work:
            task.cancel()

    async def send_due(self) -> int:
        """Send all that is due by now and return how many tries that were."""
        num_tries = 0
        while (started := await self.start_due()) or self._at_work:
            num_tries += started
            await asyncio.wait(self._at_work, return_when=asyncio.FIRST_COMPLETED)
            self._reap()
        return num_tries

    async def start_due(self) -> int:
        """Begin to send what is due, as far as there is room, and return how much that is."""
        room = _MAX_AT_ONCE - len(self._at_work)
        if room <= 0:
            return 0
        counts = Counter(self._at_work.values())
        busy = {one for one, n in counts.items() if n > _MAX_A_WEBHOOK - _STEP_A_WEBHOOK}
        claimed = await to_thread.run_sync(self._claim, room, busy, limiter=self._threads)
        for one in claimed:
            task = asyncio.create_task(self.send(one))
            self._at_work[task] = one.webhook.id
        return len(claimed)

    async def check_target(self, url: str) -> None:
        """Raise ForbiddenTarget if nothing would be sent to a URL; names may come to be later."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_RESOLVE_SECONDS):
                await addresses_of(
                    parse(url),
                    networks=self._backends.settings.webhook_networks,
                    resolve=self._resolve,
                )

    async def send(self, claimed: Claimed, *, is_only_try: bool = False) -> Outcome:
        """Try a delivery now, and keep what comes of it."""
        outcome = await self._post(claimed)
        failpoint("webhook.posted")
        delays = () if is_only_try else self._delays_seconds
        await to_thread.run_sync(self._record, claimed, outcome, delays, limiter=self._threads)
        return outcome

    async def _post(self, claimed: Claimed) -> Outcome:
        settings = self._backends.settings
        try:
            signing_secrets = self._secrets_of(claimed.webhook)
        except SecretUnreadable as error:
            return Outcome(duration_seconds=0, error=str(error))
        headers = signed_headers(
            claimed.event_id,
            claimed.body,
            signing_secrets=signing_secrets,
            timestamp=int(time.time()),
        )
        return await posting.post(
            claimed.webhook.url,
            claimed.body,
            headers=headers,
            networks=settings.webhook_networks,
            timeout_seconds=self._timeout_seconds,
            resolve=self._resolve,
        )

    def _secrets_of(self, webhook: Webhook) -> list[str]:
        cipher = cipher_of(self._backends.settings)
        found = [cipher.open(webhook.secret)]
        until = webhook.old_secret_until
        if webhook.old_secret is not None and until is not None and until > datetime.now(UTC):
            found.append(cipher.open(webhook.old_secret))
        return found

    def _claim(self, room: int, busy: set[str]) -> list[Claimed]:
        with self._backends.database.transaction() as tx:
            return deliveries.claim(
                tx,
                limit=room,
                a_webhook=_STEP_A_WEBHOOK,
                busy=busy,
                lease_seconds=self.lease_seconds,
            )

    def _record(self, claimed: Claimed, outcome: Outcome, delays: Sequence[float]) -> None:
        with self._backends.database.transaction() as tx:
            deliveries.record(tx, claimed, outcome, delays_seconds=delays)
            if outcome.status_code == posting.GONE:
                webhooks.disable(tx, claimed.webhook.id, reason="the target answered 410 Gone")

    async def _wait(self, stop: asyncio.Task[bool]) -> None:
        """Wait until there may be something to do, and tell of tries that broke."""
        seconds = self._backends.settings.webhook_seconds
        await asyncio.wait(
            {stop, *self._at_work}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        self._reap()

    def _reap(self) -> None:
        for task in [task for task in self._at_work if task.done()]:
            del self._at_work[task]
            if not task.cancelled() and (error := task.exception()):
                _log.error("a try was not kept", exc_info=error, extra={"action": "try_lost"})

    async def _tidy(self) -> None:
        if time.monotonic() - self._tidied_at < _TIDY_SECONDS:
            return
        self._tidied_at = time.monotonic()
        await to_thread.run_sync(self._forget, limiter=self._threads)

    def _forget(self) -> None:
        with self._backends.database.transaction() as tx:
            deliveries.forget(tx, older_than_days=KEEP_DAYS)
