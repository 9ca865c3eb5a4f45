"""The bell: a Celery message that says to the workers that a job may be waiting.

A message holds a job id and is a hint only; lost or doubled ones are harmless, since a claim is a
conditional update in the database. The settings follow from what was tried: late acknowledgement
starts a long task again after the visibility timeout, prefetching lets a busy worker hold a job
that an idle one could run, and `revoke` does not reach the training process.
"""

import logging
from collections.abc import Sequence

import redis
from celery import Celery
from kombu.exceptions import OperationalError

TASK = "luthier.run_next"
QUEUE = "luthier"
MAX_WAITING = 100
"""Messages that nobody has answered, from which on no more are sent.

A slot that answers one goes on until nothing is queued; so each need only find one as it gets free.
"""

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
            "visibility_timeout": 86_400,
            "socket_timeout": socket_timeout_seconds,
            "socket_connect_timeout": min(5, socket_timeout_seconds),
            "socket_keepalive": True,
        },
    )
    return app


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
