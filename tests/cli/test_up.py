"""`luthier up` keeps its parts up."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from luthier.embedded.ports import free_port

pytestmark = pytest.mark.slow

PATIENCE_SECONDS = 120


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def _children(parent: int) -> dict[str, int]:
    """Return the processes that a process has started, by a word of their command line."""
    words = {"postgres": "pginstall", "valkey": "valkey-server", "api": " api ", "worker": "worker"}
    found = {}
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        try:
            line = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        found |= {name: int(child) for name, word in words.items() if word in line}
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.timeout(400)
def test_servers_that_die_are_started_again_on_their_data(tmp_path: Path) -> None:
    port = free_port()
    settings = {"HOME": str(tmp_path / "home"), "PREDICT": "off", "WARM_SPARE": "false"}
    log = tmp_path / "up.log"
    with log.open("wb") as file:
        up = subprocess.Popen(
            [sys.executable, "-m", "luthier", "up", "--port", str(port)],
            env={**os.environ, **{f"LUTHIER_{name}": value for name, value in settings.items()}},
            stderr=file,
            start_new_session=True,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:

            def is_ready() -> bool:
                assert up.poll() is None, log.read_text()
                try:
                    return client.get("/readyz").status_code == 200
                except httpx.TransportError:
                    return False

            _until(is_ready, "it is not ready")
            rows = {"file": ("a.csv", "text,label\na,b\nc,d\n")}
            kept = client.post("/datasets", files=rows).json()["id"]
            before = _children(up.pid)
            assert set(before) == {"postgres", "valkey", "api", "worker"}
            for name in ("valkey", "postgres"):
                os.kill(before[name], signal.SIGKILL)
                _until(lambda name=name: _children(up.pid).get(name) not in (None, before[name]),
                       f"{name} was not started again")  # fmt: skip
                _until(is_ready, f"it is not ready once {name} is back")
            assert client.get(f"/datasets/{kept}").status_code == 200
            assert _children(up.pid)["api"] == before["api"]
        up.send_signal(signal.SIGINT)
        assert up.wait(PATIENCE_SECONDS) == 0
    finally:
        up.kill()
        up.wait()
    said = log.read_text()
    assert "Valkey ended by itself with status -9" in said
    assert "PostgreSQL ended by itself" in said
