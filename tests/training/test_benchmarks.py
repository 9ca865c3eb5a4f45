"""That the benches still run, and say of both sides that they did the same."""

from pathlib import Path

import pytest

from benchmarks import large_vocab, padding_waste, sft_vs_trl, tokenize
from benchmarks.harness import result
from benchmarks.texts import write_rows

pytestmark = pytest.mark.slow


def test_a_ratio_above_one_is_ours_ahead() -> None:
    runs = [{"ours": {"seconds": ours}, "peer": {"seconds": 6.0}} for ours in (2.0, 3.0, 12.0)]
    options = {"figure": "seconds", "unit": "s", "quality": lambda _: None}
    less = result("b", runs, is_more_better=False, **options)  # type: ignore[arg-type]
    assert (less["ours"], less["peer"], less["ratio"]) == (3.0, 6.0, 2.0)
    more = result("b", runs, is_more_better=True, **options)  # type: ignore[arg-type]
    assert more["ratio"] == 0.5


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


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("bench", ["default", "packed"])
def test_both_sides_of_the_sft_bench_learn_the_same(bench: str) -> None:
    size = sft_vs_trl.Size(num_train=48, num_eval=8, num_layers=1, hidden_size=128)
    ours = sft_vs_trl.measure_ours(bench, 0, size=size)
    peer = sft_vs_trl.measure_peer(bench, 0, size=size)
    assert (ours["tokens"], ours["steps"]) == (peer["tokens"], peer["steps"])
    assert ours["loss"] < 8.2  # it begins at 8.32, the logarithm of 4096 words
    assert ours["loss"] == pytest.approx(peer["loss"], abs=0.04)  # they differ by 0.013 and 0.002
