"""Rows are read in a process that may be lost; who asks it goes on, and stays small."""

import gzip
import json
import os
import resource

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainer_core import memory
from trainer_core.errors import DataError, EmptyFile, UnknownColumn, restored
from trainer_core.rows import apart
from trainer_core.rows.describing import describe
from trainer_core.rows.examining import examine, sample_values
from trainer_core.rows.files import InputFile
from trainer_core.spec import parse_spec

MIB = 1 << 20
SMALL = 64 * MIB
SPEC = {
    "task": "text-classification",
    "model": "hub:org/encoder",
    "data": {"train": "dataset:ds_00000000"},
}


@pytest.fixture(scope="module")
def small_pool():
    pool = apart.Pool(1, memory_bytes=SMALL)
    yield pool
    pool.stop()


def held_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def table(path, **columns):
    pq.write_table(pa.table(columns), path, compression="zstd", write_page_checksum=True)


def test_a_file_is_described_as_here(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "\\u00e9", "n": 1}\n{"text": 2}\n[]\n{"n": 1e999}\n')
    assert apart.describe(path, name="rows.jsonl") == describe(path, name="rows.jsonl")


def test_what_is_wrong_with_a_file_or_its_rows_is_told_as_here(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(b"")
    with pytest.raises(EmptyFile, match=r"rows\.csv"):
        apart.describe(path, name="rows.csv")
    path.write_text("text,intent\n" + "a,b\n" * 20)
    with pytest.raises(UnknownColumn, match="label") as told:
        spec = parse_spec(SPEC).model_dump(mode="json")
        apart.check(spec, {"train": InputFile(path, "rows.csv")})
    assert told.value.hint


def test_an_error_comes_back_as_it_went():
    error = DataError("it is so.", hint="Do.", param="p", detail={"rows": [1]})
    again = restored(error.to_typed())
    assert (type(again), again.to_typed()) == (DataError, error.to_typed())


def test_a_cell_that_needs_too_much_memory_is_refused_and_the_service_stays_small(
    tmp_path, small_pool
):
    path = tmp_path / "bomb.parquet"
    table(path, text=["x" * (100 * MIB)])
    assert path.stat().st_size < MIB
    before = held_mib()
    with pytest.raises(DataError, match=r"bomb\.parquet"):
        apart.describe(path, name="bomb.parquet", pool=small_pool)
    assert held_mib() - before < 20


def test_rows_are_examined_as_here(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"text": f"text {n % 15}", "label": "ab"[n % 15 % 2]} for n in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"text": 1}]))
    files = {"train": InputFile(path, "rows.jsonl")}
    spec = parse_spec(SPEC)
    here = examine(spec, files)
    folder = tmp_path / "sample"
    folder.mkdir()
    found = apart.examine(spec.model_dump(mode="json"), files, folder=folder)
    assert here.found is not None
    assert found.found is not None
    for name in ("spec", "num_rows", "num_skipped", "classes", "class_counts"):
        assert getattr(found.found, name) == getattr(here.found, name), name
    assert [one.to_typed() for one in found.problems] == [one.to_typed() for one in here.problems]
    assert found.repetition == here.repetition
    for split, sample in here.sample.items():
        lines = found.sample[split].read_text().splitlines()
        assert [json.loads(line) for line in lines] == [
            sample_values(here.found.spec, row) for row in sample
        ]


def test_rows_that_need_too_much_memory_are_a_problem_and_the_service_stays_small(
    tmp_path, small_pool
):
    path = tmp_path / "bomb.parquet"
    table(path, text=["x" * (100 * MIB)], label=["a"])
    spec, files = parse_spec(SPEC).model_dump(mode="json"), {"train": InputFile(path, path.name)}
    before = held_mib()
    found = apart.examine(spec, files, folder=tmp_path, pool=small_pool)
    assert held_mib() - before < 20
    assert found.found is None
    assert [problem.code for problem in found.problems] == ["invalid_data"]


def test_a_process_that_dies_takes_its_file_alone(tmp_path, small_pool, monkeypatch):
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + "a,b\n" * 20)
    apart.describe(path, name="rows.csv", pool=small_pool)
    monkeypatch.setattr(apart._Process, "ask", _killed)
    with pytest.raises(DataError, match="memory"):
        apart.describe(path, name="rows.csv", pool=small_pool)
    monkeypatch.undo()
    assert apart.describe(path, name="rows.csv", pool=small_pool).num_rows == 20


_ask = apart._Process.ask


def _killed(process, request):
    os.kill(process._child.pid, 9)
    return _ask(process, request)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("zeros.csv.gz", gzip.compress(b"\0" * (40 * MIB))),
        ("one.jsonl", b'{"text": "' + b"x" * (40 * MIB) + b'"}'),
        ("deep.json", b"[" * 100_000 + b"]" * 100_000),
        ("deep.jsonl", b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
        ("long.csv", b"text,label\n" + b"x" * (40 * MIB) + b",a\n"),
        ("keys.jsonl", b"{" + b",".join(b'"k%d":1' % n for n in range(300_000)) + b"}"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # content would be megabytes of name
)
def test_bombs_are_refused_or_their_rows_are_bad(tmp_path, small_pool, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    try:
        described = apart.describe(path, name=name, pool=small_pool)
    except DataError:
        return
    assert described.num_rows == 0
    assert described.num_bad_rows


@pytest.mark.skipif(not memory.PROC.is_dir(), reason="there is no /proc")
def test_the_process_holds_no_secret_of_the_service(small_pool, tmp_path, monkeypatch):
    monkeypatch.setenv("LUTHIER_DATABASE_URL", "postgresql://user:secret@host/name")
    pool = apart.Pool(1)
    try:
        pool.warm()
        (process,) = list(pool._waiting.queue)
        with open(f"/proc/{process._child.pid}/environ", "rb") as file:  # noqa: PTH123
            assert b"secret" not in file.read()
    finally:
        pool.stop()
