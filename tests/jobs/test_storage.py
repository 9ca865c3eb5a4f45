"""The storage contract, on a folder."""

import errno
import hashlib

import pytest

from jobs.storage import Storage
from trainer_core.errors import DiskFull, ServiceUnavailable


@pytest.fixture
def storage(tmp_path):
    return Storage((tmp_path / "storage with space").as_uri())


def test_what_is_put_comes_back(storage, tmp_path):
    data = bytes(range(256)) * 100_000  # more than one chunk
    stored = storage.put("a/b.bin", (data[i : i + 999_983] for i in range(0, len(data), 999_983)))
    assert (stored.size_bytes, stored.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert b"".join(storage.read("a/b.bin", start=0, end=len(data))) == data
    assert b"".join(storage.read("a/b.bin", start=5, end=17)) == data[5:17]
    with storage.local("a/b.bin") as path:
        assert path.read_bytes() == data
    storage.fetch("a/b.bin", tmp_path / "copy" / "b.bin")
    assert (tmp_path / "copy" / "b.bin").read_bytes() == data


def test_empty_file_comes_back_empty(storage):
    assert storage.put("empty", []).size_bytes == 0
    assert list(storage.read("empty", start=0, end=0)) == []


def test_write_that_breaks_off_leaves_nothing(storage):
    def source():
        yield b"half"
        raise RuntimeError("the client went away")

    with pytest.raises(RuntimeError):
        storage.put("a/c.bin", source())
    with pytest.raises(ServiceUnavailable):
        list(storage.read("a/c.bin", start=0, end=4))


def test_lost_file_is_told_without_the_servers_folder(storage, tmp_path):
    with pytest.raises(ServiceUnavailable, match="the storage has lost datasets/x") as caught:
        list(storage.read("datasets/x", start=0, end=1))
    assert str(tmp_path) not in str(caught.value)
    assert "storage%20with" not in str(caught.value)
    assert "ry again" not in str(caught.value)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_told_as_such(storage, number):
    def source():
        yield b"half"
        raise OSError(number, "full")

    with pytest.raises(DiskFull):
        storage.put("a/d.bin", source())


def test_keys_below_a_prefix_are_listed(storage):
    for key in ("jobs/a/one", "jobs/a/deep/two", "jobs/b/three"):
        storage.put(key, [b"x"])
    assert sorted(storage.keys("jobs/a/")) == ["jobs/a/deep/two", "jobs/a/one"]
    assert storage.keys("jobs/c/") == []


def test_deleting_twice_is_no_error(storage):
    storage.put("x", [b"1"])
    storage.delete("x", "never-there")
    storage.delete("x")
    with pytest.raises(ServiceUnavailable):
        list(storage.read("x", start=0, end=1))
