"""What the routes of webhooks take and return."""

from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, WithJsonSchema

from api.schemas import Schema, Timestamp
from jobs.delivery.addresses import MAX_URL
from jobs.records import Webhook as StoredWebhook
from jobs.store.notices import NoticeType
from trainer_core.spec.base import ShortText, SpecModel, Text

ENDS = [NoticeType.SUCCEEDED, NoticeType.FAILED, NoticeType.CANCELLED]

_Url = Annotated[Text, Field(min_length=1, max_length=MAX_URL)]
_EventType = Annotated[NoticeType, WithJsonSchema({"type": "string", "enum": list(NoticeType)})]
_EventTypes = Annotated[list[_EventType], Field(min_length=1, max_length=20)]


class NewWebhook(SpecModel):
    """Where to send events of jobs, and which."""

    url: _Url
    """An http or https URL on the public internet, or in one of `LUTHIER_WEBHOOK_NETWORKS`."""
    event_types: _EventTypes = ENDS
    """Of what to tell: by default, of every way in which a job ends."""
    name: ShortText | None = None
    """For people."""


class WebhookChanges(SpecModel):
    """What to change of a webhook; what is left out stays as it is."""

    url: _Url | None = None
    event_types: _EventTypes | None = None
    name: ShortText | None = None
    """Null takes the name away."""
    enabled: StrictBool | None = None
    """Whether to send. While it is off nothing new is kept for it; what waits is sent later."""

    def columns(self) -> dict[str, Any]:
        """Return the columns to set."""
        given = {
            "url": self.url,
            "event_types": self.event_types,
            "is_enabled": self.enabled,
        }
        name = {"name": self.name} if "name" in self.model_fields_set else {}
        return {column: value for column, value in given.items() if value is not None} | name


class Rotation(SpecModel):
    """How to rotate a secret."""

    keep_old_secret: StrictBool = True
    """Sign with the old secret as well, for 24 hours."""


class SampleEvent(SpecModel):
    """What to send as a test."""

    event_type: _EventType = NoticeType.SUCCEEDED


class Webhook(Schema):
    """Where events of jobs are sent."""

    id: str
    name: str | None
    url: str
    event_types: list[NoticeType]
    enabled: bool
    disabled_reason: str | None
    """Why the service sends nothing more; null where you have turned it off."""
    secret_hint: str
    """The end of the signing secret."""
    created_at: Timestamp
    updated_at: Timestamp

    @classmethod
    def of(cls, webhook: StoredWebhook) -> "Webhook":
        """Return a stored webhook."""
        return cls(**_visible(webhook))


class WebhookWithSecret(Webhook):
    """A webhook with the secret that signs its events; it is shown this once."""

    secret: str
    """`whsec_…`, as libraries of Standard Webhooks take it."""

    @classmethod
    def showing(cls, webhook: StoredWebhook, *, secret: str) -> "WebhookWithSecret":
        """Return a stored webhook with its secret."""
        return cls(**_visible(webhook), secret=secret)


class WebhookPage(Schema):
    """Webhooks, newest first."""

    data: list[Webhook]
    has_more: bool


class DeliveryTry(Schema):
    """One POST and what came of it."""

    number: int
    at: Timestamp
    """When it was over."""
    duration_seconds: float
    status_code: int | None
    """Null where there was no answer."""
    error: str | None
    """Null where the target took it."""
    answer: str | None
    """The first 1000 bytes."""


class Delivery(Schema):
    """An event on its way to a webhook."""

    event_id: str
    """The header `webhook-id` of every try."""
    event_type: NoticeType
    state: Literal["pending", "delivered", "failed"]
    num_tries: int
    next_try_at: Timestamp | None
    """Null once it is delivered or has failed."""
    created_at: Timestamp
    body: str
    """What is sent, exactly."""
    tries: list[DeliveryTry]


class DeliveryPage(Schema):
    """Deliveries, newest first."""

    data: list[Delivery]
    has_more: bool


def _visible(webhook: StoredWebhook) -> dict[str, object]:
    same = Webhook.model_fields.keys() - {"enabled"}
    return {name: getattr(webhook, name) for name in same} | {"enabled": webhook.is_enabled}
