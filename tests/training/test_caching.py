"""What a run keeps for later ones: found where it is the same, made anew where it is not."""

import errno
import json
import os
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.training.tiny import carry_out as carry_out_run
from tests.training.tiny import (
    colour_rows,
    events_of,
    make_run,
    save_encoder,
    stop_after,
)
from trainer_core.rows import fitting
from trainer_core.rows.files import InputFile
from trainer_core.run_directory import CacheFolder, Outcome, Result, RunDirectory, write_json
from trainer_core.spec import parse_spec
from trainer_core.training.data.caching import Cache
from trainer_core.training.data.keys import rows_key, tokens_key
from trainer_core.training.recipes import tokenizing

SPEC: dict[str, Any] = {
    "task": "text-classification",
    "data": {"eval": 0.2, "test": 0.1},
    "training": {"max_steps": 2, "batch_size": 8},
    "max_length": 8,
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder"))


def make_cached_run(
    folder: Path, *, model: Path, cache: Path, max_bytes: int = 10**9, **changes: Any
) -> RunDirectory:
    """Write a run directory whose inputs name a cache; the rows are the same each time."""
    rows = [*colour_rows(60), {"text": "", "label": "red"}]
    data = {"invalid_rows": "skip", **SPEC["data"]}
    spec = {**SPEC, "data": data, **changes}
    directory = make_run(folder, model=model, rows=rows, spec=spec)
    inputs = replace(directory.read_inputs(), cache=CacheFolder(cache, max_bytes))
    write_json(directory.inputs, inputs.to_dict())
    return directory


def carry_out(directory: RunDirectory) -> Outcome:
    outcome = carry_out_run(directory)
    assert outcome.result is Result.SUCCEEDED, outcome.error
    return outcome


def told(directory: RunDirectory) -> dict[str, list[Any]]:
    """Return the warnings, figures and notes of a run, without what differs each time."""
    notes = [line.data["message"] for line in events_of(directory, "log")]
    return {
        "warnings": [line.data for line in events_of(directory, "warning")],
        "figures": [line.data for line in events_of(directory, "metrics")],
        "notes": [note for note in notes if "cache" in note],
    }


def test_a_second_run_reads_no_rows_and_tells_and_learns_the_same(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    first = make_cached_run(tmp_path / "first", model=encoder, cache=cache)
    second = make_cached_run(tmp_path / "second", model=encoder, cache=cache, name="Another")
    expected = carry_out(first)

    def read_rows(*_: Any, **__: Any) -> None:
        raise AssertionError("the rows are read again")

    monkeypatch.setattr(fitting, "read_rows", read_rows)
    assert carry_out(second).metrics == expected.metrics
    before, after = told(first), told(second)
    assert {warning["code"] for warning in before["warnings"]} >= {"rows_skipped", "rows_truncated"}
    assert after["warnings"] == before["warnings"]
    assert after["figures"] == before["figures"]
    assert before["notes"] == []
    assert after["notes"] == [
        "the tokens of 42 train, 12 eval, 6 test rows are taken from the cache"
    ]


def test_a_resumed_run_goes_on_with_tokens_from_the_cache(encoder: Path, tmp_path: Path) -> None:
    training = {"max_steps": 8, "batch_size": 8, "log_steps": 1}
    whole = make_cached_run(
        tmp_path / "whole", model=encoder, cache=tmp_path / "c1", training=training
    )
    parts = make_cached_run(
        tmp_path / "parts", model=encoder, cache=tmp_path / "c2", training=training
    )
    expected = carry_out(whole)
    assert stop_after(parts, step=3).result is Result.STOPPED
    assert carry_out(parts).metrics == expected.metrics
    assert len(told(parts)["notes"]) == 1


def test_files_are_for_the_owner_alone(encoder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    carry_out(make_cached_run(tmp_path / "run", model=encoder, cache=cache))
    folders = [cache, *(path for path in cache.iterdir())]
    assert len(folders) == 3
    assert all(path.stat().st_mode & 0o777 == 0o700 for path in folders)
    tokens = list(cache.glob("tokens-*/*.bin"))
    assert tokens
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in tokens)
    assert not (tmp_path / "run" / "cache").exists()


def test_a_damaged_entry_is_made_anew(encoder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    expected = carry_out(make_cached_run(tmp_path / "0", model=encoder, cache=cache)).metrics
    (entry,) = cache.glob("tokens-*")
    size = (entry / "train.input_ids.bin").stat().st_size

    def cut() -> None:
        with (entry / "train.input_ids.bin").open("r+b") as file:
            file.truncate(size - 2)

    damages = [
        cut,
        (entry / "eval.labels.bin").unlink,
        lambda: (entry / "entry.json").write_text("{", "utf-8"),
        lambda: (entry / "entry.json").write_text("[]", "utf-8"),
        lambda: shutil.rmtree(entry),
        lambda: (shutil.rmtree(entry), entry.write_text("a file", "utf-8")),
    ]
    for number, damage in enumerate(damages, 1):
        damage()
        directory = make_cached_run(tmp_path / str(number), model=encoder, cache=cache)
        assert carry_out(directory).metrics == expected
        assert told(directory)["notes"] == []
        assert (entry / "train.input_ids.bin").stat().st_size == size


def test_a_cache_that_can_not_be_used_is_told_and_done_without(
    encoder: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    directory = make_cached_run(tmp_path / "run", model=encoder, cache=tmp_path / "file" / "c")
    carry_out(directory)
    assert "cache_unusable" in {warning["code"] for warning in told(directory)["warnings"]}


def test_each_call_of_a_task_has_tokens_of_its_own(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    assert len({cache.claim("tokens-1"), cache.claim("tokens-1"), cache.claim("tokens-2")}) == 3
    assert Cache(tmp_path).claim("tokens-1") == "tokens-1"


def key_of(model: Path, rows: Path, spec: Mapping[str, Any]) -> tuple[str, str]:
    data = {"train": "dataset:ds_0123456789ab", **spec.get("data", {})}
    parsed = parse_spec({**SPEC, "model": "model:m", **spec, "data": data})
    files = {"train": InputFile(rows, rows.name)}
    tokens = tokens_key(parsed, files, model=model, columns={"input_ids": int})
    return rows_key(parsed, files), tokens


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in colour_rows(20)), "utf-8")
    return path


@pytest.mark.parametrize(
    "change",
    [
        {"name": "Another"},
        {"labels": {"team": "a"}},
        {"training": {"learning_rate": 1e-3, "epochs": 9}},
        {"evaluation": {"strategy": "no"}},
        {"checkpoints": {"keep": 1}},
        {"adapter": {"type": "lora"}},
        {"resources": {"priority": 1}},
        {"data": {"train": "dataset:ds_000000000009"}},  # the same bytes under another id
    ],
)
def test_what_comes_after_the_tokens_changes_no_key(
    change: dict[str, Any], encoder: Path, rows: Path
) -> None:
    assert key_of(encoder, rows, change) == key_of(encoder, rows, {})


@pytest.mark.parametrize(
    "change",
    [
        {"training": {"seed": 1}},
        {"data": {"eval": 0.3}},
        {"data": {"max_train_rows": 15}},
        {"data": {"columns": {"text": "body"}}},
        {"problem": "multi-label"},
        {"max_length": 16},
    ],
)
def test_what_decides_rows_changes_both_keys(
    change: dict[str, Any], encoder: Path, rows: Path
) -> None:
    (rows_before, tokens_before), changed = key_of(encoder, rows, {}), key_of(encoder, rows, change)
    assert rows_before != changed[0]
    assert tokens_before != changed[1]


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json"])
def test_another_tokenizer_or_config_changes_the_key_of_tokens_alone(
    name: str, encoder: Path, rows: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(encoder, tmp_path / "other")
    before = key_of(other, rows, {})
    assert before == key_of(encoder, rows, {})
    (other / name).write_text((other / name).read_text("utf-8") + "\n", "utf-8")
    after = key_of(other, rows, {})
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_other_bytes_under_the_same_name_change_the_key(encoder: Path, rows: Path) -> None:
    before = key_of(encoder, rows, {})
    rows.write_text(rows.read_text("utf-8").replace("red", "rod", 1), "utf-8")
    after = key_of(encoder, rows, {})
    assert before[0] != after[0]
    assert before[1] != after[1]


def add(cache: Cache, key: str, *, num_bytes: int = 10) -> None:
    with cache.adding(key) as draft:
        (draft.folder / "values.bin").write_bytes(bytes(num_bytes))
        draft.values["n"] = num_bytes


def age(root: Path, key: str, *, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(root / key / "entry.json", (then, then))


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path, max_bytes=25)
    for seconds, key in ((400, "a"), (300, "b"), (200, "c"), (100, "d")):
        add(cache, key)
        age(tmp_path, key, seconds=seconds)
    assert cache.find("a") is not None  # used again
    cache.prune()
    assert {key for key in "abcd" if cache.find(key)} == {"a", "d"}
    assert {path.name for path in tmp_path.iterdir()} == {"a", "d"}


def test_what_another_run_has_just_found_is_left_to_it(tmp_path: Path) -> None:
    cache = Cache(tmp_path, max_bytes=0)
    add(cache, "a")
    cache.prune()
    assert cache.find("a") is not None


def test_leftovers_of_killed_runs_are_removed_and_not_those_of_others_at_work(
    tmp_path: Path,
) -> None:
    cache = Cache(tmp_path, max_bytes=10**6)
    for name in (".partial-old", ".partial-new", ".discarded-1"):
        (tmp_path / name).mkdir()
    long_ago = time.time() - 2 * 86_400
    os.utime(tmp_path / ".partial-old", (long_ago, long_ago))
    cache.prune()
    assert {path.name for path in tmp_path.iterdir()} == {".partial-new"}


def test_a_block_that_fails_leaves_nothing(tmp_path: Path) -> None:
    cache = Cache(tmp_path, max_bytes=10)
    with pytest.raises(OSError, match="full"), cache.adding("a") as draft:
        (draft.folder / "values.bin").write_bytes(b"half")
        raise OSError("full")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_is_told_and_not_taken_for_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rename(_path: Path, _target: Path) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match="no space left"):
        add(Cache(tmp_path, max_bytes=10**6), "a")
    assert list(tmp_path.iterdir()) == []


def test_an_entry_with_a_link_or_of_another_key_is_none(tmp_path: Path) -> None:
    cache = Cache(tmp_path, max_bytes=10**6)
    add(cache, "a")
    (tmp_path / "a").rename(tmp_path / "b")
    assert cache.find("b") is None
    add(cache, "c")
    (tmp_path / "c" / "values.bin").unlink()
    (tmp_path / "c" / "values.bin").symlink_to("/dev/null")
    assert cache.find("c") is None


def test_runs_that_make_the_same_entry_at_once_end_with_one(tmp_path: Path) -> None:
    barrier = threading.Barrier(4)
    errors = []

    def make() -> None:
        cache = Cache(tmp_path, max_bytes=10**6)
        try:
            for number in range(20):
                barrier.wait()
                add(cache, f"key-{number}", num_bytes=100)
                entry = cache.find(f"key-{number}")
                assert entry is not None
                assert entry.values == {"n": 100}
        except BaseException as error:
            errors.append(error)
            barrier.abort()
            raise

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert {path.name for path in tmp_path.iterdir()} == {f"key-{n}" for n in range(20)}


def test_rows_are_tokenized_in_one_pass_over_each_file(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    read_rows = fitting.read_rows

    def counted(path: Path, **options: Any) -> Any:
        passes.append(path.name)
        return read_rows(path, **options)

    monkeypatch.setattr(fitting, "read_rows", counted)
    monkeypatch.setattr(tokenizing, "ROWS_PER_BATCH", 7)
    carry_out(make_cached_run(tmp_path / "run", model=encoder, cache=tmp_path / "cache"))
    assert passes == ["train.jsonl", "train.jsonl"]  # to look at them, and to tokenize them
