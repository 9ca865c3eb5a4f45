"""Webhooks: where they lead, their secrets, and what was sent to them."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Path, Query, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import ValidationError

from api import openapi, problems
from api.access import Admin, Caller, Reader
from api.bodies import JsonBody, OptionalJsonBody
from api.dependencies import PageParameters, Service, WebhookId, WebhookSender
from api.idempotency import NotIdempotent
from api.webhook_schemas import (
    Delivery,
    DeliveryPage,
    NewWebhook,
    Rotation,
    SampleEvent,
    Webhook,
    WebhookChanges,
    WebhookPage,
    WebhookWithSecret,
)
from jobs.backends import Backends
from jobs.delivery import signing
from jobs.delivery.sender import Sender
from jobs.sealing import cipher_of
from jobs.store import audit, deliveries, notices, webhooks
from jobs.store.deliveries import Claimed
from trainer_core.errors import FieldProblem, ForbiddenTarget, InvalidSpec
from trainer_core.spec.base import SpecModel
from trainer_core.spec.parsing import field_problems

router = APIRouter(tags=["webhooks"])

OVERLAP = timedelta(hours=24)  # in which two secrets sign

_Body = TypeVar("_Body", bound=SpecModel)
_EventId = Annotated[str, Path(description="Id of the event, such as `evt_01k9…`.", max_length=100)]


class DeliveryParameters(PageParameters):
    """Which deliveries to list."""

    state: Annotated[
        Literal["pending", "delivered", "failed"] | None, Query(description="Only in this state.")
    ] = None


@router.post(
    "/webhooks",
    status_code=201,
    responses=problems.responses(400, 409, 413, 415, 422),
    openapi_extra=openapi.body(
        {
            "schema": NewWebhook.model_json_schema(),
            "examples": {"every end": {"value": {"url": "https://example.org/hooks"}}},
        }
    ),
)
async def create_webhook(
    caller: Admin,
    service: Service,
    sender: WebhookSender,
    body: JsonBody,
    response: Response,
    _once: NotIdempotent,
) -> WebhookWithSecret:
    """Have events of jobs sent to a URL, signed as Standard Webhooks 1.0 has it.

    The answer holds the signing secret; it is never shown again. The URL has to lead to the public
    internet, and is checked again before each try. What the target does not answer with 2xx within
    15 seconds is tried again after 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h and 24 h.
    """
    wanted = _parsed(body, NewWebhook)
    await _check_target(sender, wanted.url)
    values = {"url": wanted.url, "event_types": wanted.event_types, "name": wanted.name}
    created = await run_in_threadpool(_create, service, caller, values)
    response.headers["Location"] = f"/webhooks/{created.id}"
    return created


@router.get("/webhooks", responses=problems.responses(422))
def list_webhooks(
    caller: Reader, service: Service, parameters: Annotated[PageParameters, Query()]
) -> WebhookPage:
    """List webhooks, newest first."""
    limit = parameters.limit
    with service.database.transaction() as tx:
        found = webhooks.page(tx, project=caller.project, after=parameters.after, limit=limit + 1)
    return WebhookPage(data=[Webhook.of(one) for one in found[:limit]], has_more=len(found) > limit)


@router.get("/webhooks/{webhook_id}", responses=problems.responses(404))
def get_webhook(caller: Reader, service: Service, webhook_id: WebhookId) -> Webhook:
    """Return a webhook, without its secret."""
    with service.database.transaction() as tx:
        return Webhook.of(webhooks.get(tx, webhook_id, project=caller.project))


@router.patch(
    "/webhooks/{webhook_id}",
    responses=problems.responses(400, 404, 413, 415, 422),
    openapi_extra=openapi.body(
        {
            "schema": WebhookChanges.model_json_schema(),
            "examples": {"turn it off": {"value": {"enabled": False}}},
        }
    ),
)
async def change_webhook(
    caller: Admin, service: Service, sender: WebhookSender, webhook_id: WebhookId, body: JsonBody
) -> Webhook:
    """Change the URL, the event types or the name of a webhook, or turn it off or on.

    One that answered 410 was turned off. Turned on again, it gets what had waited for it.
    """
    changes = _parsed(body, WebhookChanges)
    if changes.url is not None:
        await _check_target(sender, changes.url)

    def change() -> Webhook:
        with service.database.transaction() as tx:
            changed = webhooks.change(
                tx, webhook_id, project=caller.project, values=changes.columns()
            )
            audit.note(tx, caller=caller, action="webhook.change", target=webhook_id)
            return Webhook.of(changed)

    return await run_in_threadpool(change)


@router.delete("/webhooks/{webhook_id}", status_code=204, responses=problems.responses(404))
def delete_webhook(caller: Admin, service: Service, webhook_id: WebhookId) -> None:
    """Forget a webhook, and all that was or was still to be sent to it."""
    with service.database.transaction() as tx:
        webhooks.remove(tx, webhook_id, project=caller.project)
        audit.note(tx, caller=caller, action="webhook.delete", target=webhook_id)


@router.post(
    "/webhooks/{webhook_id}/rotate-secret",
    responses=problems.responses(400, 404, 413, 415, 422),
    openapi_extra=openapi.body(
        {
            "schema": Rotation.model_json_schema(),
            "examples": {"at once": {"value": {"keep_old_secret": False}}},
        },
        is_required=False,
    ),
)
def rotate_webhook_secret(
    caller: Admin,
    service: Service,
    webhook_id: WebhookId,
    body: OptionalJsonBody,
    _once: NotIdempotent,
) -> WebhookWithSecret:
    """Make a new signing secret and show it, this once.

    For 24 hours each event has two signatures, of the new and of the old secret, so that the
    receiver can be changed meanwhile. With `{"keep_old_secret": false}` the old one ends at once.
    """
    rotation = _parsed(body, Rotation)
    secret = signing.new_secret()
    with service.database.transaction() as tx:
        rotated = webhooks.rotate(
            tx,
            webhook_id,
            project=caller.project,
            secret=cipher_of(service.settings).seal(secret),
            secret_hint=signing.hint_of(secret),
            overlap=OVERLAP if rotation.keep_old_secret else timedelta(),
        )
        audit.note(tx, caller=caller, action="webhook.rotate_secret", target=webhook_id)
    return WebhookWithSecret.showing(rotated, secret=secret)


@router.post(
    "/webhooks/{webhook_id}/test",
    responses=problems.responses(400, 404, 413, 415, 422),
    openapi_extra=openapi.body(
        {
            "schema": SampleEvent.model_json_schema(),
            "examples": {"a failure": {"value": {"event_type": "job.failed"}}},
        },
        is_required=False,
    ),
)
async def send_test_event(
    caller: Admin,
    service: Service,
    sender: WebhookSender,
    webhook_id: WebhookId,
    body: OptionalJsonBody,
) -> Delivery:
    """Send an event of a job that does not exist, now and once, and return what came of it.

    A webhook that is turned off can be tested too.
    """
    event_type = _parsed(body, SampleEvent).event_type

    def add() -> Claimed:
        with service.database.transaction() as tx:
            webhook = webhooks.get(tx, webhook_id, project=caller.project)
            notice = notices.sample(event_type, at=datetime.now(UTC))
            audit.note(tx, caller=caller, action="webhook.test", target=webhook_id)
            return deliveries.add_claimed(tx, webhook, notice, lease_seconds=sender.lease_seconds)

    claimed = await run_in_threadpool(add)
    await sender.send(claimed, is_only_try=True)
    return await run_in_threadpool(_delivery, service, claimed)


@router.get("/webhooks/{webhook_id}/deliveries", responses=problems.responses(404, 422))
def list_deliveries(
    caller: Reader,
    service: Service,
    webhook_id: WebhookId,
    parameters: Annotated[DeliveryParameters, Query()],
) -> DeliveryPage:
    """List what was sent to a webhook, or is to be, newest first, with every try.

    Deliveries are kept for 30 days.
    """
    limit = parameters.limit
    with service.database.transaction() as tx:
        webhook = webhooks.get(tx, webhook_id, project=caller.project)
        found = deliveries.page(
            tx, webhook.id, state=parameters.state, after=parameters.after, limit=limit + 1
        )
    return DeliveryPage(
        data=[Delivery.model_validate(one) for one in found[:limit]], has_more=len(found) > limit
    )


@router.post(
    "/webhooks/{webhook_id}/deliveries/{event_id}/redeliver",
    status_code=202,
    responses=problems.responses(404),
)
def redeliver(
    caller: Admin, service: Service, webhook_id: WebhookId, event_id: _EventId
) -> Delivery:
    """Send an event again, with the same id and body; its tries go on where they stood."""
    with service.database.transaction() as tx:
        webhook = webhooks.get(tx, webhook_id, project=caller.project)
        delivery = deliveries.again(tx, webhook.id, event_id)
        audit.note(
            tx, caller=caller, action="webhook.redeliver", target=webhook_id, event_id=event_id
        )
        return Delivery.model_validate(delivery)


def _create(service: Backends, caller: Caller, values: dict[str, Any]) -> WebhookWithSecret:
    secret = signing.new_secret()
    sealed = cipher_of(service.settings).seal(secret)
    values = {**values, "secret": sealed, "secret_hint": signing.hint_of(secret)}
    with service.database.transaction() as tx:
        created = webhooks.create(tx, project=caller.project, values=values)
        audit.note(tx, caller=caller, action="webhook.create", target=created.id)
    return WebhookWithSecret.showing(created, secret=secret)


def _delivery(service: Backends, claimed: Claimed) -> Delivery:
    with service.database.transaction() as tx:
        return Delivery.model_validate(deliveries.get(tx, claimed.webhook.id, claimed.event_id))


async def _check_target(sender: Sender, url: str) -> None:
    try:
        await sender.check_target(url)
    except ForbiddenTarget as error:
        raise InvalidSpec([FieldProblem("/url", error.message, error.hint)]) from error


def _parsed(values: object, kind: type[_Body]) -> _Body:
    if not isinstance(values, dict):
        raise InvalidSpec([FieldProblem("", "the body is no JSON object", "Send an object.")])
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise InvalidSpec(field_problems(error, values, kind)) from error
