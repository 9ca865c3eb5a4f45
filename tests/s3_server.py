"""A real S3 server on loopback, `rclone serve s3`: each folder of a folder is a bucket."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from luthier.embedded.ports import free_port

RCLONE = Path(sys.executable).with_name("rclone")
_KEY, _SECRET = "the-key", "the-secret-of-tests"
_READY_SECONDS = 30


@contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """Serve the folders of a folder as buckets for a while, and give the URL."""
    port = free_port()
    process = subprocess.Popen(
        [
            str(RCLONE), "serve", "s3", "--addr", f"127.0.0.1:{port}",
            "--auth-key", f"{_KEY},{_SECRET}", str(folder),
        ],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        try:
            httpx.get(url)
            break
        except httpx.TransportError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
    try:
        yield url
    finally:
        process.kill()  # in order it would wait for connections that are open
        process.wait(10)


def s3_environment(url: str) -> dict[str, str]:
    """Return the variables by which a process finds a server, and may use it."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": _KEY,
        "AWS_SECRET_ACCESS_KEY": _SECRET,
    }
