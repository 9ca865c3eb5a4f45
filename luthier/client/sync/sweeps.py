# Made of luthier/client/aio/sweeps.py by `python -m tests.client.twins`: change that one.
"""`client.sweeps`: searches for the best values of a spec's fields."""

from collections.abc import Iterator, Mapping
from typing import Any

from luthier.client.calls import SLOW_SECONDS, Call, once, path_of
from luthier.client.operations import Sweep, Trial
from luthier.client.sync.ending import ended
from luthier.client.sync.paging import pages
from luthier.client.sync.patience import OUTAGE_SECONDS
from luthier.client.sync.transport import Transport
from luthier.client.values import from_json


class Sweeps:
    """The sweeps of a service. Each trial is an ordinary job."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, plan: Mapping[str, Any], *, idempotency_key: str | None = None) -> Sweep:
        """Start a search: `spec`, `space`, and how to search. Made once, however often it is sent.

        Args:
            plan: as `POST /sweeps` takes it.
            idempotency_key: the same for the same sweep; by default a new one.

        Raises:
            InvalidRequest: the plan, or a spec that it makes, breaks a rule.
        """
        call = Call(
            "POST",
            "/sweeps",
            json=dict(plan),
            headers=once(key=idempotency_key),
            read_seconds=SLOW_SECONDS,
        )
        return from_json(Sweep, self._transport.json(call))

    def get(self, sweep_id: str) -> Sweep:
        """Return a sweep with its trials."""
        return from_json(Sweep, self._transport.get(path_of("sweeps", sweep_id)))

    def list(self, *, limit: int | None = None) -> Iterator[Sweep]:
        """Yield sweeps, newest first; at most `limit`."""
        return pages(self._transport, "/sweeps", Sweep, limit=limit)

    def trials(self, sweep_id: str) -> Iterator[Trial]:
        """Yield the trials of a sweep, by number."""
        path = path_of("sweeps", sweep_id, "trials")
        return pages(self._transport, path, Trial, cursor="number")

    def cancel(self, sweep_id: str) -> Sweep:
        """Cancel a sweep with its jobs; one that has ended is left as it is."""
        call = Call("POST", path_of("sweeps", sweep_id, "cancel"), is_repeatable=True)
        return from_json(Sweep, self._transport.json(call))

    def wait(
        self,
        sweep_id: str,
        *,
        timeout: float | None = None,
        outage_seconds: float = OUTAGE_SECONDS,
    ) -> Sweep:
        """Return the sweep once it has ended, however it ended.

        Args:
            sweep_id: the sweep.
            timeout: seconds after which to raise; None for never.
            outage_seconds: how long the service may be out of reach, once it has answered.

        Raises:
            WaitTimedOut: the sweep has not ended within `timeout`; it goes on.
        """
        return ended(
            self.get, sweep_id, kind="sweep", timeout=timeout, outage_seconds=outage_seconds
        )
