"""A bare PyTorch loop on ready tensors over our whole training loop, a step of a tiny model.

    python -m benchmarks.step_overhead

Rows of 16 tokens in steps of 8, a Llama of two layers and 32 hidden units: little is computed, so
that what a loop costs beside it shows. Both clip the gradient and step a fused AdamW with a linear
schedule. The figure is the least time of a step among the last ones: the machine may be busy.
Goal 0.91; the stock Trainer reaches 0.72.
"""

import argparse
import json
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.harness import measure_apart, pairs, result

NUM_ROWS, LENGTH, BATCH_SIZE, NUM_STEPS = 256, 16, 8, 300
NUM_WARM = 50  # steps that are not counted
RATE = 1e-3


def run(num_runs: int) -> list[dict[str, Any]]:
    """Return milliseconds a step, peer over ours."""
    runs = pairs(lambda side, _: measure_apart("step_overhead", side), num_runs=num_runs)
    return [
        result(
            "step_overhead",
            runs,
            figure="step_ms",
            unit="ms a step, the least of 250",
            is_more_better=False,
            quality=lambda measured: measured["loss"],
        )
    ]


def _model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM, set_seed

    set_seed(0)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=64,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    return LlamaForCausalLM(config)


def _ids() -> Any:
    import torch

    return torch.randint(3, 320, (NUM_ROWS, LENGTH), generator=torch.Generator().manual_seed(1))


def _measure_peer() -> dict[str, Any]:
    import torch

    model, ids = _model().train(), _ids()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, NUM_STEPS)
    batches = ids.reshape(-1, BATCH_SIZE, LENGTH)
    mask = torch.ones(BATCH_SIZE, LENGTH, dtype=torch.long)
    times, losses = [], []
    for step in range(NUM_STEPS):
        begun = time.perf_counter()
        batch = batches[step % len(batches)]
        loss = model(input_ids=batch, attention_mask=mask, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
        times.append(time.perf_counter() - begun)
    return {
        "step_ms": 1000 * min(times[NUM_WARM:]),
        "loss": float(torch.stack(losses)[-20:].mean()),
    }


def _measure_ours() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        return _train(Path(name))


def _train(folder: Path) -> dict[str, Any]:
    from transformers import TrainerCallback

    from benchmarks.runs import watched_training
    from trainer_core.run_directory import Result, RunDirectory, write_json
    from trainer_core.training.run import run as carry_out
    from trainer_core.training.stopping import Stopping

    _save_tiny(folder / "model")
    tokens = [" ".join(f"t{number}" for number in row) for row in _ids()[:, :-1].tolist()]
    rows = "".join(json.dumps({"text": text}) + "\n" for text in tokens)  # the end token is added
    directory = RunDirectory(folder)
    (folder / "train.jsonl").write_text(rows, encoding="utf-8")
    training = {
        "max_steps": NUM_STEPS,
        "batch_size": BATCH_SIZE,
        "learning_rate": RATE,
        "warmup_ratio": 0.0,
        "weight_decay": 0.0,
    }
    write_json(
        directory.spec,
        {
            "task": "causal-lm",
            "model": "model:tiny",
            "data": {"train": "dataset:ds_0123456789ab", "eval": None},
            "training": training,
            "checkpoints": {"strategy": "no"},
        },
    )
    train = {"path": "train.jsonl", "name": "train.jsonl"}
    write_json(
        directory.inputs, {"model": "model", "train": train, "num_threads": 1, "device": "cpu"}
    )

    times: list[float] = []

    class Watch(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    stopping = Stopping(directory)
    with watched_training(Watch):
        outcome = carry_out(directory, stopping=stopping)
    assert outcome.result is Result.SUCCEEDED, outcome.error
    lines = (json.loads(line) for line in directory.events.read_text("utf-8").splitlines())
    losses = [
        line["data"]["metrics"]["loss"]
        for line in lines
        if line["type"] == "metrics" and line["data"]["split"] == "train"
    ]
    steps = [after - before for before, after in pairwise(times)]
    return {"step_ms": 1000 * min(steps[NUM_WARM:]), "loss": sum(losses[-20:]) / 20}


def _save_tiny(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<end>": 0, "<unk>": 1, **{f"t{number}": number for number in range(2, 320)}}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    make: Any = PreTrainedTokenizerFast
    tokenizer = make(tokenizer_object=backend, eos_token="<end>", unk_token="<unk>")
    _model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=["ours", "peer"])
    given = parser.parse_args()
    measures = {"ours": _measure_ours, "peer": _measure_peer}
    print(json.dumps(measures[given.side]() if given.side else run(3)))
