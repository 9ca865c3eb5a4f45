"""Downloads: whole, resumed, verified, and never outside their folder."""

import os
from pathlib import Path

import pytest

import luthier
from jobs.backends import Backends
from jobs.settings import Settings
from luthier.client.sync.downloading import target_of
from tests.api.conftest import claim, save, succeed
from tests.client.conftest import Connect, submit
from tests.cutting_proxy import CuttingProxy

FILES = {"config.json": b"{}", "model.safetensors": os.urandom(300_000), "vocab/a.txt": b""}


@pytest.fixture
def job(client: luthier.Client, rows: Path, backends: Backends) -> luthier.Job:
    submitted = submit(client, rows)
    succeed(backends, claim(backends), FILES)
    return client.jobs.get(submitted.id)


@pytest.mark.slow
def test_download_is_whole_and_not_fetched_twice(
    url: str, client: luthier.Client, job: luthier.Job, tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []
    folder = tmp_path / "model"

    paths = client.jobs.download(
        job.id, folder, progress=lambda done, total: told.append((done, total))
    )
    with CuttingProxy(url) as proxy, luthier.Client(proxy.url) as again:
        again.jobs.download(job.id, folder)

    assert {str(path.relative_to(folder)): path.read_bytes() for path in paths} == FILES
    assert told == sorted(told)
    assert told[-1] == (300_002, 300_002)
    assert proxy.num_bytes < 10_000
    assert not list(folder.rglob("*.part"))


@pytest.mark.slow
def test_model_of_a_checkpoint_is_downloaded_while_its_job_runs(
    client: luthier.Client, rows: Path, backends: Backends, tmp_path: Path
) -> None:
    submitted = submit(client, rows)
    save(backends, claim(backends), 40, {**FILES, "optimizer.pt": b"x", "manifest.json": b"{}"})

    paths = client.jobs.download(submitted.id, tmp_path, checkpoint=40)

    assert {str(path.relative_to(tmp_path)): path.read_bytes() for path in paths} == FILES
    with pytest.raises(luthier.NotFound, match="step 41"):
        client.jobs.download(submitted.id, tmp_path, checkpoint=41)


@pytest.mark.slow
def test_download_goes_on_from_a_half_made_part(
    url: str, job: luthier.Job, connect: Connect, tmp_path: Path
) -> None:
    weights = FILES["model.safetensors"]
    (tmp_path / "model.safetensors.part").write_bytes(weights[:290_000])

    with CuttingProxy(url) as proxy, connect(proxy.url) as client_by_proxy:
        client_by_proxy.jobs.download(job.id, tmp_path)

    assert (tmp_path / "model.safetensors").read_bytes() == weights
    assert proxy.num_bytes < 30_000


@pytest.mark.slow
@pytest.mark.parametrize("part", [b"rubbish" * 1000, b"rubbish" * 100_000, b"\0" * 300_000])
def test_part_of_something_else_is_fetched_anew(
    client: luthier.Client, job: luthier.Job, tmp_path: Path, part: bytes
) -> None:
    (tmp_path / "model.safetensors.part").write_bytes(part)
    (tmp_path / "config.json").write_bytes(b"[]")

    client.jobs.download(job.id, tmp_path)

    assert (tmp_path / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert (tmp_path / "config.json").read_bytes() == b"{}"


@pytest.mark.slow
def test_download_survives_cuts(
    url: str, job: luthier.Job, connect: Connect, tmp_path: Path
) -> None:
    with CuttingProxy(url, cut_after_bytes=40_000) as proxy, connect(proxy.url) as cut:
        cut.jobs.download(job.id, tmp_path)

    assert (tmp_path / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert proxy.num_cuts >= 7


@pytest.mark.slow
def test_file_with_another_hash_never_gets_its_name(
    client: luthier.Client, job: luthier.Job, settings: Settings, tmp_path: Path
) -> None:
    for path in (settings.home / "storage" / "models").rglob("*"):
        if path.is_file() and path.stat().st_size == 300_000:
            path.write_bytes(bytes(300_000))

    with pytest.raises(luthier.BadDownload) as caught:
        client.jobs.download(job.id, tmp_path)

    assert caught.value.code == "wrong_hash"
    assert not (tmp_path / "model.safetensors").exists()
    assert not (tmp_path / "model.safetensors.part").exists()


@pytest.mark.slow
def test_job_without_a_model_can_not_be_downloaded(
    client: luthier.Client, rows: Path, tmp_path: Path
) -> None:
    job = submit(client, rows)

    with pytest.raises(luthier.Conflict) as caught:
        client.jobs.download(job.id, tmp_path / "model")

    assert caught.value.code == "model_not_ready"
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    "path",
    [
        *("", ".", "..", "../x", "/etc/passwd", "a/../../x", "a//b", "./a"),
        *("C:\\x", "C:x", "a\\..\\x", "a\nb", "a\0b"),
    ],
)
def test_path_that_leaves_the_folder_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(luthier.BadDownload, match="would leave"):
        target_of(tmp_path, path)


def test_path_over_a_link_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)

    with pytest.raises(luthier.BadDownload):
        target_of(folder, "link/x")
