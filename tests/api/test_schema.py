"""Requests made from the OpenAPI document: no 5xx, and every reply as it is documented."""

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from jobs.backends import Backends
from tests.api.conftest import claim, save, submit, succeed

pytestmark = pytest.mark.slow

NUM_EXAMPLES = os.environ.get("SCHEMA_TEST_EXAMPLES", "3")  # an operation; 215 for 20,000 cases
SEED = os.environ.get("SCHEMA_TEST_SEED", "1")
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_headers_conformance,response_schema_conformance"
)
HOOKS = """
import schemathesis

@schemathesis.hook
def map_query(context, query):
    # A log that is followed ends with its job, and no worker is there to end one.
    return {name: value for name, value in (query or {}).items() if name != "follow"}
"""
CONFIG = """
[[operations]]  # questions to models: no worker is there, which is what they say
include-name-regex = "/predict$|/v1/(chat/)?completions$|/v1/embeddings$"
checks.not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "503"]
"""
MODEL = {"config.json": b"{}", "model.safetensors": b"weights", "manifest.json": b"{}"}


def _fill(client: httpx.Client, backends: Backends) -> None:
    """Bring jobs of which requests can find more than that they are not there."""
    for _ in range(2):
        submit(client, labels={"team": "a"})
        job = claim(backends)
        save(backends, job, 40, MODEL)
    succeed(backends, job, MODEL)
    submit(client, labels={"team": "a"})


@pytest.mark.timeout(0)
def test_no_request_fails_and_every_reply_is_documented(
    url: str, client: httpx.Client, backends: Backends, tmp_path: Path
) -> None:
    _fill(client, backends)
    (tmp_path / "made_hooks.py").write_text(HOOKS)
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    script = Path(sys.executable).with_name("schemathesis")

    done = subprocess.run(  # noqa: PLW1510 - what it printed is told below
        [script, "run", f"{url}/openapi.json", "--checks", CHECKS, "--phases",
         "fuzzing,stateful", "--max-examples", NUM_EXAMPLES, "--seed", SEED,
         "--continue-on-failure", "--request-timeout", "30", "--suppress-health-check", "all",
         "--warnings", "off"],
        cwd=tmp_path,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "made_hooks", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout[-6000:]
    found = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert found is not None, done.stdout[-3000:]
    sys.stdout.write(f"{found[0]}\n")  # shown with -s
    assert int(found[1]) >= 50
