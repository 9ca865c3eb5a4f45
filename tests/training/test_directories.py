from pathlib import Path

import pytest

from trainer_core.run_directory import verified_manifest
from trainer_core.training.process.directories import clear_leftovers, discard, whole_or_absent


def test_a_directory_appears_sealed(tmp_path: Path) -> None:
    with whole_or_absent(tmp_path / "model") as partial:
        (partial / "a.txt").write_text("a")
        assert not (tmp_path / "model").exists()
    manifest = verified_manifest(tmp_path / "model")
    assert manifest is not None
    assert [file.path for file in manifest] == ["a.txt"]


def test_a_failure_leaves_nothing_and_keeps_what_was_there(tmp_path: Path) -> None:
    with whole_or_absent(tmp_path / "model") as partial:
        (partial / "a.txt").write_text("first")

    def fail() -> None:
        with whole_or_absent(tmp_path / "model") as partial:
            (partial / "a.txt").write_text("second")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "a.txt").read_text() == "first"


def test_a_directory_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with whole_or_absent(tmp_path / "model") as partial:
            (partial / "a.txt").write_text(text)
    assert (tmp_path / "model" / "a.txt").read_text() == "second"


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    for name in (".partial-checkpoint-3", ".discarded-checkpoint-1", "checkpoint-2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    clear_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


def test_a_discarded_directory_is_gone(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-1").mkdir()
    discard(tmp_path / "checkpoint-1")
    assert list(tmp_path.iterdir()) == []
