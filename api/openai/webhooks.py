"""`/v1/webhook_endpoints`: our webhooks, in OpenAI's words and of OpenAI's events."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.concurrency import run_in_threadpool

from api import openapi
from api.access import Admin, Reader
from api.bodies import JsonBody, OptionalJsonBody
from api.dependencies import Cursor, Limit, Parameters, Service, WebhookId, WebhookSender
from api.openai import schemas
from api.openai.bodies import EndpointBody, EndpointChanges, EndpointRotation, EndpointTest, parsed
from api.openai.naming import seconds
from api.openai_errors import responses as errors
from jobs.delivery import signing
from jobs.delivery.sender import Sender
from jobs.records import Webhook
from jobs.sealing import cipher_of
from jobs.store import audit, deliveries, notices, webhooks
from jobs.store.deliveries import Claimed
from jobs.store.notices import OPENAI_TYPES, NoticeType
from trainer_core.errors import FieldProblem, ForbiddenTarget, InvalidSpec, WebhookTestFailed

router = APIRouter()

_OVERLAP = timedelta(hours=24)


class EndpointParameters(Parameters):
    """Parameters of the list."""

    after: Cursor = None
    limit: Limit = 20


@router.post(
    "/webhook_endpoints",
    openapi_extra=openapi.body({"schema": openapi.schema_of(EndpointBody)}),
    responses=errors(409, 413, 415),
)
async def create_webhook_endpoint(
    caller: Admin, service: Service, sender: WebhookSender, body: JsonBody
) -> schemas.WebhookEndpointWithSecret:
    """Have the ends of jobs sent to a URL. `client.webhooks.unwrap` reads and verifies them."""
    wanted = parsed(EndpointBody, body)
    await _check_target(sender, wanted.url)
    secret = signing.new_secret()
    values = {
        "url": wanted.url,
        "event_types": wanted.event_types,
        "name": wanted.name,
        "secret": cipher_of(service.settings).seal(secret),
        "secret_hint": signing.hint_of(secret),
    }

    def create() -> Webhook:
        with service.database.transaction() as tx:
            created = webhooks.create(tx, project=caller.project, values=values)
            audit.note(tx, caller=caller, action="webhook.create", target=created.id)
            return created

    return _with_secret(await run_in_threadpool(create), secret)


@router.get("/webhook_endpoints")
def list_webhook_endpoints(
    caller: Reader, service: Service, parameters: Annotated[EndpointParameters, Query()]
) -> schemas.List[schemas.WebhookEndpoint]:
    """List the webhooks that want OpenAI's events alone, newest first."""
    with service.database.transaction() as tx:
        found = webhooks.page(
            tx,
            project=caller.project,
            after=parameters.after,
            limit=parameters.limit + 1,
            only_types=OPENAI_TYPES,
        )
    return schemas.page_of([_shown(one) for one in found], limit=parameters.limit)


@router.get("/webhook_endpoints/{webhook_id}", responses=errors(404))
def get_webhook_endpoint(
    caller: Reader, service: Service, webhook_id: WebhookId
) -> schemas.WebhookEndpoint:
    """Return a webhook, without its secret."""
    with service.database.transaction() as tx:
        return _shown(webhooks.get(tx, webhook_id, project=caller.project))


@router.post(
    "/webhook_endpoints/{webhook_id}",
    openapi_extra=openapi.body({"schema": openapi.schema_of(EndpointChanges)}),
    responses=errors(404, 413, 415),
)
async def change_webhook_endpoint(
    caller: Admin, service: Service, sender: WebhookSender, webhook_id: WebhookId, body: JsonBody
) -> schemas.WebhookEndpoint:
    """Change where a webhook leads, what it is told of, or its name."""
    changes = parsed(EndpointChanges, body)
    if changes.url is not None:
        await _check_target(sender, changes.url)
    values = changes.model_dump(exclude_none=True)

    def change() -> Webhook:
        with service.database.transaction() as tx:
            changed = webhooks.change(tx, webhook_id, project=caller.project, values=values)
            audit.note(tx, caller=caller, action="webhook.change", target=webhook_id)
            return changed

    return _shown(await run_in_threadpool(change))


@router.delete("/webhook_endpoints/{webhook_id}", responses=errors(404))
def delete_webhook_endpoint(
    caller: Admin, service: Service, webhook_id: WebhookId
) -> schemas.Deleted:
    """Forget a webhook, and all that was still to be sent to it."""
    with service.database.transaction() as tx:
        webhooks.remove(tx, webhook_id, project=caller.project)
        audit.note(tx, caller=caller, action="webhook.delete", target=webhook_id)
    return schemas.Deleted(id=webhook_id, object="webhook_endpoint.deleted")


@router.post(
    "/webhook_endpoints/{webhook_id}/rotate_secret",
    openapi_extra=openapi.body({"schema": openapi.schema_of(EndpointRotation)}, is_required=False),
    responses=errors(404, 413, 415),
)
def rotate_webhook_endpoint_secret(
    caller: Admin, service: Service, webhook_id: WebhookId, body: OptionalJsonBody
) -> schemas.WebhookEndpointWithSecret:
    """Make a new signing secret and show it, this once."""
    rotation = parsed(EndpointRotation, body)
    secret = signing.new_secret()
    with service.database.transaction() as tx:
        rotated = webhooks.rotate(
            tx,
            webhook_id,
            project=caller.project,
            secret=cipher_of(service.settings).seal(secret),
            secret_hint=signing.hint_of(secret),
            overlap=_OVERLAP if rotation.keep_old_secret_active_for_24_hours else timedelta(),
        )
        audit.note(tx, caller=caller, action="webhook.rotate_secret", target=webhook_id)
    return _with_secret(rotated, secret)


@router.post(
    "/webhook_endpoints/{webhook_id}/test",
    openapi_extra=openapi.body({"schema": openapi.schema_of(EndpointTest)}),
    responses=errors(404, 413, 415),
)
async def test_webhook_endpoint(
    caller: Admin, service: Service, sender: WebhookSender, webhook_id: WebhookId, body: JsonBody
) -> schemas.WebhookEndpointTest:
    """Send an event of a job that does not exist, now and once. One that is not taken is 400."""
    event_type = NoticeType(parsed(EndpointTest, body).event_type)

    def add() -> Claimed:
        with service.database.transaction() as tx:
            webhook = webhooks.get(tx, webhook_id, project=caller.project)
            notice = notices.sample(event_type, at=datetime.now(UTC))
            audit.note(tx, caller=caller, action="webhook.test", target=webhook_id)
            return deliveries.add_claimed(tx, webhook, notice, lease_seconds=sender.lease_seconds)

    outcome = await sender.send(await run_in_threadpool(add), is_only_try=True)
    if outcome.error is not None or outcome.status_code is None:
        raise WebhookTestFailed(
            f"the event was not taken: {outcome.error}.",
            hint="See that the URL leads to a server that answers with 2xx.",
            param="url",
        )
    return schemas.WebhookEndpointTest(
        event_type=event_type, status_code=outcome.status_code, webhook_endpoint_id=webhook_id
    )


@router.get("/webhook_event_types")
def list_webhook_event_types(_: Reader) -> schemas.List[str]:
    """List what a webhook of these can be told of."""
    return schemas.List[str](data=sorted(OPENAI_TYPES))


async def _check_target(sender: Sender, url: str) -> None:
    try:
        await sender.check_target(url)
    except ForbiddenTarget as error:
        raise InvalidSpec([FieldProblem("/url", error.message, error.hint)]) from error


def _with_secret(webhook: Webhook, secret: str) -> schemas.WebhookEndpointWithSecret:
    return schemas.WebhookEndpointWithSecret(**_values(webhook), signing_secret=secret)


def _shown(webhook: Webhook) -> schemas.WebhookEndpoint:
    return schemas.WebhookEndpoint(**_values(webhook))


def _values(webhook: Webhook) -> dict[str, Any]:
    return {
        "id": webhook.id,
        "created_at": seconds(webhook.created_at),
        "updated_at": seconds(webhook.updated_at),
        "event_types": webhook.event_types,
        "name": webhook.name or "",
        "url": webhook.url,
        "signing_secret_hint": webhook.secret_hint,
    }
