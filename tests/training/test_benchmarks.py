"""That the benches still run, and say of both sides that they did the same."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import (
    large_vocab,
    padding_waste,
    seq2seq_vs_stock,
    sft_vs_trl,
    time_to_first_step,
    tokenize,
)
from benchmarks.harness import Learned, Pair, result
from benchmarks.texts import write_rows

pytestmark = pytest.mark.slow


def test_a_ratio_above_one_is_ours_ahead() -> None:
    runs = [{"ours": {"seconds": ours}, "peer": {"seconds": 6.0}} for ours in (2.0, 3.0, 12.0)]
    options = {"figure": "seconds", "unit": "s", "quality": lambda _: None}
    less = result("b", runs, is_more_better=False, **options)  # type: ignore[arg-type]
    assert (less["ours"], less["peer"], less["ratio"]) == (3.0, 6.0, 2.0)
    more = result("b", runs, is_more_better=True, **options)  # type: ignore[arg-type]
    assert more["ratio"] == 0.5


def pair(ours: float, peer: float) -> Pair:
    return {"ours": {"s": 1.0, "loss": ours, "n": 1}, "peer": {"s": 2.0, "loss": peer, "n": 1}}


def ratio_of(runs: list[Pair], **given: Any) -> float:
    options = {"figure": "s", "unit": "s", "is_more_better": False, "quality": lambda _: None}
    return float(result("b", runs, **options, **given)["ratio"])


def test_a_faster_run_that_learns_less_or_does_other_work_counts_as_nothing() -> None:
    learned = [Learned("loss", is_more_better=False)]
    noisy = [pair(1.1, 1.0), pair(1.0, 1.2), pair(1.2, 1.0)]
    assert ratio_of(noisy, learned=learned, same=["n"]) == 2.0
    worse = [pair(1.31, 1.01), pair(1.3, 1.0), pair(1.29, 0.99)]
    assert ratio_of(worse, learned=learned) == 0.0
    assert ratio_of(worse, learned=[Learned("loss", is_more_better=True)]) == 2.0
    other = pair(1.0, 1.0)
    other["ours"]["n"] = 2
    assert ratio_of([pair(1.0, 1.0), other], same=["n"]) == 0.0


def test_the_chunked_loss_has_the_gradients_of_autograd() -> None:
    assert large_vocab.gradient_error() < 1e-12


def test_little_is_padded_whatever_the_lengths() -> None:
    (found,) = padding_waste.run(1)
    assert len(found["runs"]) == 5
    assert found["ratio"] > 0.97


def test_both_sides_of_the_tokenizing_bench_make_the_same_tokens(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", 200, seed=1)
    ours = tokenize._measure_ours(tmp_path, "ours")
    peer = tokenize._measure_peer(tmp_path, "peer")
    assert ours["quality"] == peer["quality"]
    assert ours["quality"]["num_rows"] == 200


def test_both_sides_of_the_summarizing_bench_train_on_the_same_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"NUM_TRAIN": 10, "NUM_EVAL": 2, "MEDIAN_WORDS": 10}.items():
        monkeypatch.setattr(seq2seq_vs_stock, name, value)
    model = seq2seq_vs_stock._save_model(tmp_path / "model")
    ours = seq2seq_vs_stock._measure_ours(0, model)
    peer = seq2seq_vs_stock._measure_peer(0, model)
    assert ours["tokens"] == peer["tokens"] > 10 * 10
    assert ours["steps"] == peer["steps"] == 3
    assert ours["eval_loss"] == pytest.approx(peer["eval_loss"], rel=0.05)


def test_both_sides_of_the_starting_bench_take_their_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time_to_first_step, "NUM_ROWS", 100)
    folder = time_to_first_step._prepared(tmp_path)
    with time_to_first_step.warm_worker(folder) as measure_ours:
        ours = measure_ours()
    peer = time_to_first_step._measure_peer(folder)
    assert ours["loss"] == pytest.approx(peer["loss"], rel=0.1)  # of other rows, by random weights


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("bench", ["default", "packed"])
def test_both_sides_of_the_sft_bench_learn_the_same(bench: str) -> None:
    size = sft_vs_trl.Size(num_train=48, num_eval=8, num_layers=1, hidden_size=128)
    ours = sft_vs_trl.measure_ours(bench, 0, size=size)
    peer = sft_vs_trl.measure_peer(bench, 0, size=size)
    assert (ours["tokens"], ours["steps"]) == (peer["tokens"], peer["steps"])
    assert ours["loss"] < 8.2  # it begins at 8.32, the logarithm of 4096 words
    assert ours["loss"] == pytest.approx(peer["loss"], abs=0.04)  # they differ by 0.013 and 0.002
