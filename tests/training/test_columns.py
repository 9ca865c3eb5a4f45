"""Tokenized rows on disk: what is read is what was written, and little of it stays in memory."""

import multiprocessing
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from trainer_core.training.data.columns import read_lengths
from trainer_core.training.data.tokens import RowsWriter, TokenizedRows

COLUMNS = {"input_ids": np.int32, "labels": np.int64, "none": np.float32}


def write(folder: Path, count: int) -> RowsWriter:
    """Write rows of 0 to 6 tokens, one label, and an empty column."""
    stored = {"input_ids": np.uint16}
    with RowsWriter(folder, split="train", columns=COLUMNS, stored=stored) as writer:
        for number in range(count):
            writer.add(
                {
                    "input_ids": np.arange(number, number + number % 7),
                    "labels": np.array([-number]),
                    "none": np.array([]),
                }
            )
    return writer


def opened(folder: Path, count: int) -> TokenizedRows:
    return write(folder, count).rows()


def test_rows_are_read_as_they_were_written_in_the_type_announced(tmp_path: Path) -> None:
    rows = opened(tmp_path, 2500)
    for number in (0, 1, 999, 1000, 2499):
        row = rows[number]
        assert row["input_ids"].tolist() == list(range(number, number + number % 7))
        assert row["labels"].tolist() == [-number]
        assert {name: values.dtype for name, values in row.items()} == COLUMNS
    assert rows.lengths.tolist() == [number % 7 for number in range(2500)]
    assert rows.values("labels").tolist() == [-number for number in range(2500)]
    assert rows.values("none").tolist() == []


def test_ids_take_two_bytes_and_equal_lengths_nothing(tmp_path: Path) -> None:
    writer = write(tmp_path, 700)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    num_ids = int(read_lengths(tmp_path / "train.input_ids.bin", writer.columns["input_ids"]).sum())
    assert sizes == {
        "train.input_ids.bin": 2 * num_ids,
        "train.input_ids.lengths": 4 * 700,
        "train.labels.bin": 8 * 700,
        "train.none.bin": 0,
    }
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in tmp_path.iterdir())


def test_a_value_that_does_not_fit_is_never_changed(tmp_path: Path) -> None:
    columns, stored = {"input_ids": np.int32}, {"input_ids": np.uint16}
    with (
        pytest.raises(AssertionError, match="values beyond uint16"),
        RowsWriter(tmp_path, split="eval", columns=columns, stored=stored) as writer,
    ):
        writer.add({"input_ids": np.array([-100])})


def test_rows_stay_readable_when_their_folder_is_removed(tmp_path: Path) -> None:
    rows = opened(tmp_path / "rows", 50)
    shutil.rmtree(tmp_path / "rows")
    assert rows[13]["input_ids"].tolist() == list(range(13, 19))
    assert len(rows.values("labels")) == 50


def test_forked_and_spawned_readers_do_not_move_each_other(tmp_path: Path) -> None:
    rows = opened(tmp_path, 300)
    again: TokenizedRows = pickle.loads(pickle.dumps(rows))  # noqa: S301 - our own
    assert again[20]["input_ids"].tolist() == rows[20]["input_ids"].tolist()

    def read(start: int) -> None:
        for _ in range(20):
            for number in range(start, 300, 2):
                assert rows[number]["labels"].tolist() == [-number]

    context = multiprocessing.get_context("fork")
    readers = [context.Process(target=read, args=(start,)) for start in (0, 1)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert [reader.exitcode for reader in readers] == [0, 0]


def test_no_rows_are_no_rows(tmp_path: Path) -> None:
    rows = opened(tmp_path, 0)
    assert len(rows) == 0
    assert rows.values("labels").tolist() == []


def test_rows_that_were_read_do_not_stay_in_memory(tmp_path: Path) -> None:
    values = np.arange(50_000, dtype=np.int32)
    with RowsWriter(tmp_path, split="train", columns={"input_ids": np.int32}) as writer:
        for _ in range(300):  # 60 MB
            writer.add({"input_ids": values})
    rows = writer.rows()
    before = resident_bytes()
    num_read = sum(int(rows[number]["input_ids"][-1]) for number in range(300))
    assert num_read == 300 * 49_999
    assert resident_bytes() - before < 8_000_000


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
