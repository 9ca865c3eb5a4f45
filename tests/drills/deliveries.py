"""Group C, what comes from elsewhere and goes there: base models and models."""

import hashlib
import os
import random
import threading
import time
from pathlib import Path

import httpx

from jobs.store import artifacts
from tests.drills.fake_hub import FakeHub
from tests.drills.plan import Counted, Drill, not_run
from tests.drills.site import Site
from tests.drills.work import Work, spec_of

_BIG_BYTES = 24 << 20  # three reads of the storage
_RACES = 10  # of C14, a trial


def drills(work: Work) -> list[Drill]:
    """Return the group's drills for a site that is set up."""
    trials = _Trials(work)
    return [
        Drill("C10", "Hub's main branch moves meanwhile", "the first commit", trials.c10, 10),
        not_run("C12", "upload to S3 dies half-way", "no S3 server is installed (rclone serve s3)"),
        not_run("C13", "Hub push fails", "this version does not push to the Hub"),
        Drill(
            "C14", "model deleted while it is downloaded", "whole, or an error", trials.c14, 100,
            unit="downloads", per_trial=_RACES,
        ),
    ]  # fmt: skip


class _Trials:
    def __init__(self, work: Work) -> None:
        self._work = work

    def c10(self, site: Site, chance: random.Random) -> None:
        folder = site.settings.model_roots[0] / "encoder"
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        changed = {**files, "model.safetensors": _flipped(files["model.safetensors"])}
        hub = FakeHub()
        with hub.serve() as url:
            hub.push(files)
            site.only_worker(HF_ENDPOINT=url)
            model = f"hub:owner/encoder-{chance.randrange(1 << 32)}"
            job_id = site.submit({**spec_of(self._work.dataset), "model": model})
            site.wait(job_id, lambda job: (job["progress"] or {}).get("step", 0) >= 1)
            hub.push(changed)
            site.only_worker(HF_ENDPOINT=url)
            self._work.assert_whole(site, job_id)
            assert hub.num_requests, "nobody asked the Hub"

    def c14(self, site: Site, chance: random.Random) -> Counted:
        job = self._work.assert_whole(site, self._work.submit(site))
        content = os.urandom(1 << 20) * (_BIG_BYTES >> 20)
        sha256 = hashlib.sha256(content).hexdigest()
        key = f"jobs/{job['id']}/attempt-1/model/big.bin"
        with site.backends.database.transaction() as tx:
            file = {"path": "big.bin", "key": key, "size_bytes": len(content), "sha256": sha256}
            artifacts.add(tx, job["id"], [file])
        stored = site.settings.home / "storage" / key
        for _ in range(_RACES):
            stored.write_bytes(content)
            delay = chance.uniform(0, 0.1)
            remover = threading.Thread(target=_remove_after, args=(delay, stored))
            remover.start()
            answered = _download(site, f"/jobs/{job['id']}/model/big.bin")
            remover.join()
            assert answered in (None, sha256), "a download that looked whole is not"
        stored.write_bytes(content)
        return Counted(_RACES)


def _download(site: Site, path: str) -> str | None:
    """Return the hash of what was downloaded, None if the client was told that it failed."""
    digest = hashlib.sha256()
    try:
        with site.client.stream("GET", path) as answer:
            for block in answer.iter_bytes(1 << 18):
                digest.update(block)
                time.sleep(0.001)
    except httpx.TransportError:
        return None
    if answer.status_code == 200:
        return digest.hexdigest()
    assert answer.status_code in (404, 410, 503), answer.status_code
    return None


def _remove_after(seconds: float, path: Path) -> None:
    time.sleep(seconds)
    path.unlink()


def _flipped(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[-2] ^= 1
    return bytes(changed)
