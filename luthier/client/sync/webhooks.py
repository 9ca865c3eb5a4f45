# Made of luthier/client/aio/webhooks.py by `python -m tests.client.twins`: change that one.
"""`client.webhooks`: where events of jobs are sent, and what came of it."""

from collections.abc import Iterator, Sequence

from luthier.client.calls import Call, given, path_of
from luthier.client.operations import Delivery, Webhook
from luthier.client.sync.paging import pages
from luthier.client.sync.transport import Transport
from luthier.client.values import from_json


class Webhooks:
    """The webhooks of a service. `luthier.verify_webhook` is for the one that receives them."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self, url: str, *, event_types: Sequence[str] | None = None, name: str | None = None
    ) -> Webhook:
        """Have events sent to a URL. The answer alone has the signing `secret`; keep it.

        Args:
            url: on the public internet.
            event_types: such as `job.failed`; by default every way in which a job ends.
            name: for people.
        """
        types = None if event_types is None else [*event_types]
        body = given(url=url, event_types=types, name=name)
        call = Call("POST", "/webhooks", json=body)
        return from_json(Webhook, self._transport.json(call))

    def list(self, *, limit: int | None = None) -> Iterator[Webhook]:
        """Yield webhooks, newest first; at most `limit`."""
        return pages(self._transport, "/webhooks", Webhook, limit=limit)

    def get(self, webhook_id: str) -> Webhook:
        """Return a webhook, without its secret."""
        return from_json(Webhook, self._transport.get(path_of("webhooks", webhook_id)))

    def edit(
        self,
        webhook_id: str,
        *,
        url: str | None = None,
        event_types: Sequence[str] | None = None,
        name: str | None = None,
        enabled: bool | None = None,
    ) -> Webhook:
        """Change a webhook, or turn it off or on; what is None stays as it is."""
        types = None if event_types is None else [*event_types]
        body = given(url=url, event_types=types, name=name, enabled=enabled)
        path = path_of("webhooks", webhook_id)
        call = Call("PATCH", path, json=body, is_repeatable=True)
        return from_json(Webhook, self._transport.json(call))

    def delete(self, webhook_id: str) -> None:
        """Forget a webhook, and all that was or was still to be sent to it."""
        self._transport.request(Call("DELETE", path_of("webhooks", webhook_id)))

    def rotate_secret(self, webhook_id: str, *, keep_old_secret: bool = True) -> Webhook:
        """Make a new signing `secret` and return it, this once.

        Args:
            webhook_id: the webhook.
            keep_old_secret: sign with the old one as well, for 24 hours.
        """
        path = path_of("webhooks", webhook_id, "rotate-secret")
        call = Call("POST", path, json={"keep_old_secret": keep_old_secret})
        return from_json(Webhook, self._transport.json(call))

    def test(self, webhook_id: str, *, event_type: str = "job.succeeded") -> Delivery:
        """Send an event of a job that does not exist, once, and return what came of it."""
        path = path_of("webhooks", webhook_id, "test")
        call = Call("POST", path, json={"event_type": event_type})
        return from_json(Delivery, self._transport.json(call))

    def deliveries(
        self, webhook_id: str, *, state: str | None = None, limit: int | None = None
    ) -> Iterator[Delivery]:
        """Yield what was sent or is to be, newest first.

        Args:
            webhook_id: the webhook.
            state: only `pending`, `delivered` or `failed` ones.
            limit: at most so many; None for every one.
        """
        path = path_of("webhooks", webhook_id, "deliveries")
        return pages(self._transport, path, Delivery, cursor="event_id", limit=limit, state=state)

    def redeliver(self, webhook_id: str, event_id: str) -> Delivery:
        """Have an event sent again, with the same id and body."""
        path = path_of("webhooks", webhook_id, "deliveries", event_id, "redeliver")
        call = Call("POST", path, is_repeatable=True)
        return from_json(Delivery, self._transport.json(call))
