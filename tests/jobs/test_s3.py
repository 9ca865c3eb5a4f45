"""The storage contract on a real S3 server: `rclone serve s3`."""

import hashlib
import os
import subprocess
import sys

import pytest

from jobs.storage import Storage
from luthier.embedded.ports import free_port
from tests.s3_server import s3_environment, s3_server
from trainer_core.errors import ServiceUnavailable

pytestmark = pytest.mark.slow

_MIB = 1 << 20
_SIZE = 20 * _MIB + 7  # three parts

_DIE = """
import os, sys
from pathlib import Path
from jobs.storage import Storage
source, at = Path(sys.argv[1]), int(sys.argv[2])
passed = []
def check():
    if len(passed) == at:
        os._exit(9)
    passed.append(at)
Storage("s3://bucket/prefix").keep("jobs/x/model.safetensors", source, check=check)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("s3")
    (folder / "bucket").mkdir()
    with s3_server(folder) as url:
        yield url


@pytest.fixture
def storage(server, monkeypatch):
    for name, value in s3_environment(server).items():
        monkeypatch.setenv(name, value)
    found = Storage("s3://bucket/prefix")
    yield found
    found.delete(*found.keys("jobs/"))


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(os.urandom(_SIZE))
    return path


def test_what_is_kept_comes_back_from_a_bucket(storage, source, tmp_path):
    stored = storage.keep("jobs/x/model.safetensors", source, check=lambda: None)
    assert stored.size_bytes == _SIZE
    assert stored.sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    storage.fetch("jobs/x/model.safetensors", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()
    assert storage.keys("jobs/") == ["jobs/x/model.safetensors"]
    assert not storage.is_on_disk_of(tmp_path)


@pytest.mark.parametrize("part", range(3))
def test_upload_whose_process_dies_at_a_part_leaves_nothing_to_be_seen(storage, source, part):
    died = subprocess.run([sys.executable, "-c", _DIE, str(source), str(part)], check=False)
    assert died.returncode == 9
    assert storage.keys("jobs/") == []


@pytest.mark.parametrize("part", range(3))
def test_upload_that_is_ended_at_a_part_leaves_nothing_to_be_seen(storage, source, part):
    passed = []

    def end():
        if len(passed) == part:
            raise RuntimeError("the attempt has ended")
        passed.append(part)

    with pytest.raises(RuntimeError, match="ended"):
        storage.keep("jobs/x/model.safetensors", source, check=end)
    assert storage.keys("jobs/") == []


def test_server_that_is_away_is_an_error_that_passes(storage, source, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    away = Storage("s3://bucket/prefix")
    with pytest.raises(ServiceUnavailable, match="the storage failed"):
        away.keys("jobs/")
