"""`luthier api` in several processes: one port, and none that is left over."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import psutil
import pytest

from jobs.settings import PREFIX, Settings
from luthier.embedded.ports import free_port
from tests.api.conftest import submit

pytestmark = pytest.mark.slow

SECONDS = 90
MAX_CONNECTIONS = 200


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.1)


class Api:
    """`luthier api` in two processes."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self._port = port

    def answering(self) -> list[psutil.Process]:
        """Return its processes that listen, but for the one that has started them."""
        children = psutil.Process(self.process.pid).children()
        return [one for one in children if self.num_connections(one, psutil.CONN_LISTEN)]

    def num_connections(self, process: psutil.Process, status: str) -> int:
        """Return how many of its connections on the port have a status."""
        ours = [c for c in process.net_connections("tcp") if c.laddr.port == self._port]
        return sum(c.status == status for c in ours)

    def has_two(self) -> bool:
        try:
            return len(self.answering()) == 2 and self.is_up()
        except psutil.NoSuchProcess:
            return False

    def is_up(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=10).status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def started(
    settings: Settings, *, port: int, num_processes: int
) -> Iterator[subprocess.Popen[bytes]]:
    given = {
        "HOME": settings.home, "DATABASE_URL": settings.database_url, "AUTH": "none",
        "REDIS_URL": settings.redis_url, "PORT": port, "API_PROCESSES": num_processes,
    }  # fmt: skip
    environment = {**os.environ, **{f"{PREFIX}{name}": str(one) for name, one in given.items()}}
    command = [sys.executable, "-m", "luthier", "api"]
    with (
        settings.home.with_name("api.log").open("wb") as log,
        subprocess.Popen(command, env=environment, stderr=log, start_new_session=True) as process,
    ):
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def api(service_settings: Settings) -> Iterator[Api]:
    port = free_port()
    with started(service_settings, port=port, num_processes=2) as process:
        api = Api(process, port)
        until(api.has_two)
        yield api


def test_both_answer_and_one_that_is_killed_is_replaced(api: Api) -> None:
    limits = httpx.Limits(max_connections=MAX_CONNECTIONS)
    with httpx.Client(base_url=api.url, limits=limits, timeout=30) as client:
        job_id = submit(client)
        headers = {"Accept": "text/event-stream"}
        for _ in range(MAX_CONNECTIONS - 1):  # which stay open
            request = client.build_request("GET", f"/jobs/{job_id}/events", headers=headers)
            assert client.send(request, stream=True).status_code == 200
            held = [api.num_connections(one, psutil.CONN_ESTABLISHED) for one in api.answering()]
            if min(held) > 0:
                break
        else:
            pytest.fail(f"one of them has all connections: {held}")

    killed = api.answering()[0]
    killed.kill()
    until(lambda: not killed.is_running() and api.has_two())
    assert [httpx.get(f"{api.url}/jobs/{job_id}").status_code for _ in range(10)] == [200] * 10


def test_it_ends_in_order_and_ends_the_streams(api: Api) -> None:
    with httpx.Client(base_url=api.url, timeout=30) as client:
        job_id = submit(client)
        headers = {"Accept": "text/event-stream"}
        with client.stream("GET", f"/jobs/{job_id}/events", headers=headers) as stream:
            api.process.send_signal(signal.SIGTERM)
            told = stream.read()  # to its end, which is no error
    assert b"event: state" in told
    assert api.process.wait(SECONDS) == 0


@pytest.mark.parametrize("num_processes", [1, 2])
def test_port_that_is_taken_is_told(service_settings: Settings, num_processes: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with started(service_settings, port=port, num_processes=num_processes) as process:
            assert process.wait(SECONDS) == 1
    told = service_settings.home.with_name("api.log").read_text()
    assert "address already in use" in told.lower()


def test_none_outlives_the_one_that_started_them(api: Api) -> None:
    left = api.answering()
    api.process.kill()
    psutil.wait_procs(left, timeout=SECONDS)
    assert not [one for one in left if one.is_running()]
    assert not api.is_up()
