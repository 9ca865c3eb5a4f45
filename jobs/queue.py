"""The bell: a Celery message that says to the workers that a job may be waiting.

A message holds a job id and is a hint only; lost or doubled ones are harmless, since a claim is a
conditional update in the database. The settings follow from what was tried: late acknowledgement
starts a long task again after the visibility timeout, prefetching lets a busy worker hold a job
that an idle one could run, and `revoke` does not reach the training process.
"""

import base64
import json
import logging
import re
import ssl
from collections.abc import Mapping, Sequence
from typing import Any

import redis
from celery import Celery
from kombu.exceptions import OperationalError

TASK = "luthier.run_next"
QUEUE = "luthier"
MAX_WAITING = 100
"""Messages that nobody has answered, from which on no more are sent.

A slot that answers one goes on until nothing is queued; so each need only find one as it gets free.
"""

MAX_MESSAGE_BYTES = 16_384  # one of ours has 1,300

_JOB_ID = re.compile(r"job_[0-9a-z]{1,64}")
_ENVELOPE = {"content-encoding": "utf-8", "content-type": "application/json"}
_HEADERS = {"lang": "py", "task": TASK, "timelimit": [None, None], "ignore_result": True}
_HEADER_TEXTS = frozenset({"id", "root_id", "argsrepr", "kwargsrepr", "origin"})
_PROPERTIES = {
    "body_encoding": "base64",
    "delivery_info": {"exchange": "", "routing_key": QUEUE},
    "delivery_mode": 2,
}
_PROPERTY_TEXTS = frozenset({"correlation_id", "delivery_tag", "reply_to"})

# Without a policy kombu retries to connect for six seconds, in the midst of a request.
_RETRY_POLICY = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}

_log = logging.getLogger(__name__)


def make_celery(redis_url: str, *, socket_timeout_seconds: float) -> Celery:
    """Return a Celery application: the producer's, or the one on which the worker hangs its task.

    Args:
        redis_url: the broker.
        socket_timeout_seconds: how long to wait for an answer of the broker.
    """
    app = Celery("luthier", broker=redis_url)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_default_queue=QUEUE,
        task_acks_late=False,
        task_ignore_result=True,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "socket_timeout": socket_timeout_seconds,
            "socket_connect_timeout": min(5, socket_timeout_seconds),
            "socket_keepalive": True,
        },
    )
    if redis_url.startswith("rediss://"):  # else kombu takes any certificate
        app.conf.broker_use_ssl = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    return app


def is_bell(message: bytes) -> bool:
    """Return whether a message is one as `Bell` sends them, and asks Celery for nothing besides.

    Celery would run any task that it knows, its own too, and obey what else a message says: a limit
    of the task's time, by which the slot is killed, a time far ahead, tasks to follow.
    """
    if len(message) > MAX_MESSAGE_BYTES:
        return False
    try:
        envelope = json.loads(message)
        headers, properties = envelope.pop("headers"), envelope.pop("properties")
        call = json.loads(base64.b64decode(envelope["body"], validate=True))
        (job_id,), keywords, plan = call
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return False
    return (
        _says(envelope, _ENVELOPE, texts=frozenset({"body"}))
        and _says(headers, _HEADERS, texts=_HEADER_TEXTS)
        and _says(properties, _PROPERTIES, texts=_PROPERTY_TEXTS)
        and isinstance(job_id, str)
        and _JOB_ID.fullmatch(job_id) is not None
        and keywords == {}
        and _says(plan, {}, texts=frozenset())
    )


def _says(found: object, fixed: Mapping[str, Any], *, texts: frozenset[str]) -> bool:
    """Return whether an object has these values and texts, and nothing else that is not empty."""
    if not isinstance(found, dict) or not fixed.keys() | texts <= found.keys():
        return False
    for name, value in found.items():
        if name in texts:
            if not (isinstance(value, str) and value.isprintable()):  # some are logged
                return False
        elif name in fixed:
            if value != fixed[name]:
                return False
        elif value:  # as a later Celery may have fields that we do not set
            return False
    return True


class Bell:
    """Rings for waiting jobs. That nobody hears it is logged, and left to the sweeper."""

    def __init__(self, app: Celery, client: redis.Redis) -> None:
        """Keep a Celery application that sends, and a client of the same broker that counts."""
        self._app = app
        self._client = client

    def ring(self, job_ids: Sequence[str]) -> None:
        """Tell the workers that jobs may be waiting, where not many messages say so already."""
        for job_id in job_ids[: max(0, MAX_WAITING - self._num_waiting())]:
            self._send(job_id)

    def _num_waiting(self) -> int:
        try:
            return int(self._client.llen(QUEUE))
        except redis.RedisError:  # whether it is gone, sending tells
            return 0

    def _send(self, job_id: str) -> None:
        try:
            self._app.send_task(
                TASK, args=[job_id], ignore_result=True, retry=True, retry_policy=_RETRY_POLICY
            )
        except (OperationalError, OSError) as error:
            _log.warning(
                "could not ring for %s: %s", job_id, error, extra={"action": "ring_failed"}
            )
