"""Group C, what comes from elsewhere and goes there: base models and models."""

import hashlib
import os
import random
import threading
import time
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import text

from jobs.store import artifacts
from tests.cutting_proxy import CuttingProxy
from tests.drills.plan import Counted, Drill
from tests.drills.site import Site, until
from tests.drills.work import Work, save_model, spec_of
from tests.fake_hub import FakeHub
from tests.pushable_hub import HANG, PushableHub
from tests.s3_server import RCLONE, s3_environment, s3_server

_BIG_BYTES = 24 << 20  # three reads of the storage
_RACES = 10  # of C14, a trial
_NEVER = 1_000_000  # parts
_PARTS = ".rclone_temp_"  # how the server's own files of unfinished uploads begin


def drills(work: Work) -> list[Drill]:
    """Return the group's drills for a site that is set up."""
    trials = _Trials(work)
    return [
        Drill("C10", "Hub's main branch moves meanwhile", "the first commit", trials.c10, 10),
        Drill(
            "C12", "worker dies at a part of an upload to S3", "no visible part", trials.c12, 50,
            obstacle=None if RCLONE.exists() else "no S3 server is installed (rclone serve s3)",
        ),
        Drill("C13", "Hub refuses or does not answer", "succeeded, pushed later", trials.c13, 30),
        Drill(
            "C14", "model deleted while it is downloaded", "whole, or an error", trials.c14, 100,
            unit="downloads", per_trial=_RACES,
        ),
    ]  # fmt: skip


class _Trials:
    def __init__(self, work: Work) -> None:
        self._work = work
        self._num_parts = 0  # of the model of C12, once it is known
        self._part = -1  # the latest at which an upload died

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

    def c12(self, site: Site, _: random.Random) -> None:
        with s3_server(site.settings.home) as url, CuttingProxy(url) as proxy:
            worker = {"storage_url": "s3://storage", "store_checkpoints": False}
            worker |= s3_environment(proxy.url)
            spec = self._spec_of_wide(site)
            if not self._num_parts:
                _cut_at(proxy, _NEVER)
                site.only_worker(**worker)
                ended = site.wait_for_end(site.submit(spec))
                assert ended["state"] == "succeeded", ended["error"]
                self._num_parts = _NEVER - proxy.num_passed_before_cut
            self._part = (self._part + 1) % self._num_parts
            _cut_at(proxy, self._part)
            site.only_worker(**worker)
            job_id = site.submit(spec)
            until(lambda: proxy.num_cuts, seconds=60, what="the part was not sent")
            proxy.hold()
            site.kill_workers()
            proxy.reset_all()
            proxy.release()
            made = _files_below(site.settings.home / "runs" / job_id / "attempt-1" / "model")
            assert site.job(job_id)["artifacts"] == [], "a model is shown before it is whole"
            assert site.client.get(f"/jobs/{job_id}/model").status_code == 409
            for path, sha256 in _model_in_storage(site, job_id).items():
                assert made[path] == sha256, f"{path} is stored by half"
            site.only_worker(**worker)
            job = site.wait_for_end(job_id)
            assert job["state"] == "succeeded", (job["state"], job["error"])
            assert {file["path"]: file["sha256"] for file in job["artifacts"]} == made
            assert _model_in_storage(site, job_id) == made
            assert len(job["attempts"]) == 2
            site.kill_workers()  # before its storage goes away
        # Parts that nobody completes are no objects; buckets expire them.
        for part in (site.settings.home / "storage").rglob(f"{_PARTS}*"):
            part.unlink()

    def _spec_of_wide(self, site: Site) -> dict[str, Any]:
        """Return the spec of a job whose weights are uploaded in several parts."""
        folder = site.settings.model_roots[0] / "wide"
        if not folder.exists():
            save_model("wide_encoder", folder)
            answer = site.client.post("/models", json={"name": "wide", "path": str(folder)})
            assert answer.status_code == 201, answer.text
        training = {"max_steps": 2}
        return spec_of(self._work.dataset, training=training) | {"model": "model:wide"}

    def c13(self, site: Site, chance: random.Random) -> None:
        hub = PushableHub()
        site.client.put("/secrets/hub", json={"value": hub.token}).raise_for_status()
        step = chance.choice(("create", "yaml", "preupload", "batch", "put", "commit"))
        hub.fail(step, chance.choice((500, 502, 503, 504, 429, HANG)), headers={"Retry-After": "1"})
        output = {"push": {"repo": "owner/colours", "secret": "hub"}}
        with hub.serve() as url:
            site.only_worker(HF_ENDPOINT=url, push_seconds=8, max_attempts=1)
            job_id = site.submit(spec_of(self._work.dataset, output=output))
            before = self._work.assert_whole(site, job_id)
            until(lambda: _push_of(site, job_id)["state"] != "pending", seconds=90, what=step)
            failed = _push_of(site, job_id)
            assert (failed["state"], failed["error"]["code"]) == ("failed", "push_failed"), failed
            assert failed["error"]["retryable"], failed
            told = [event["data"] for event in site.events(job_id) if event["type"] == "warning"]
            assert "push_failed" in [warning["code"] for warning in told]
            assert not hub.repositories or not hub.files("owner/colours")
            hub.faults.clear()
            assert site.client.post(f"/jobs/{job_id}/push").status_code == 202
            until(lambda: _push_of(site, job_id)["state"] == "pushed", seconds=60, what="again")
            after = self._work.assert_whole(site, job_id)
            assert after["attempts"] == before["attempts"], "it was trained again"
            pushed = hub.files("owner/colours")
            stored = {file["path"]: file["sha256"] for file in after["artifacts"]}
            assert "model.safetensors" in pushed
            for path, content in pushed.items():
                assert hashlib.sha256(content).hexdigest() == stored[path], path
            site.kill_workers()  # before the Hub goes away

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
        with site.backends.engine.begin() as connection:  # it is in no manifest
            connection.execute(text("DELETE FROM artifacts WHERE key = :key"), {"key": key})
        return Counted(_RACES)


def _cut_at(proxy: CuttingProxy, part: int) -> None:
    """Break the connection in the midst of a part of an upload, once, after so many others."""
    proxy.num_passed_before_cut = part
    proxy.cut_after_request = b"PUT /"


def _files_below(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(_PARTS)
    }


def _model_in_storage(site: Site, job_id: str) -> dict[str, str]:
    """Return the hashes of the files of a job's model, by all attempts, as the storage has them."""
    folders = (site.settings.home / "storage" / "jobs" / job_id).glob("attempt-*/model")
    return {path: sha256 for one in folders for path, sha256 in _files_below(one).items()}


def _push_of(site: Site, job_id: str) -> dict[str, Any]:
    return dict(site.job(job_id)["pushes"][-1])


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
