"""A bare PyTorch loop on ready tensors over our whole training loop, a step of a tiny model.

    python -m benchmarks.step_overhead

Rows of 16 tokens in steps of 8, a Llama of two layers and 32 hidden units: little is computed, so
that what a loop costs beside it shows. Both clip the gradient and step a fused AdamW with a linear
schedule. They take turns in one process, ten steps each: on a machine that others use, the same
code in two processes may differ by 10 %. The figure is the median of CPU time, logging and all.
Goal 0.91; the stock Trainer reaches 0.72.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import Learned, measure_apart, result

NUM_ROWS, LENGTH, BATCH_SIZE, NUM_STEPS = 256, 16, 8, 600
NUM_WARM = 50  # steps that are not counted
STEPS_A_TURN = 10
RATE = 1e-3


def run(num_runs: int) -> list[dict[str, Any]]:
    """Return milliseconds a step, peer over ours."""
    return [
        result(
            "step_overhead",
            [measure_apart("step_overhead", "both") for _ in range(num_runs)],
            figure="step_ms",
            unit="CPU ms a step, the median of 550",
            is_more_better=False,
            quality=lambda measured: measured["loss"],
            learned=[Learned("loss", False)],
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


class _BareLoop:
    """What one writes by hand, a step at a time."""

    def __init__(self) -> None:
        import torch

        self.times: list[float] = []
        self._model, ids = _model().train(), _ids()
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=RATE, fused=True)
        make_schedule = torch.optim.lr_scheduler.LinearLR
        self._schedule = make_schedule(self._optimizer, 1.0, 0.0, NUM_STEPS)
        self._batches = ids.reshape(-1, BATCH_SIZE, LENGTH)
        self._mask = torch.ones(BATCH_SIZE, LENGTH, dtype=torch.long)
        self._losses: list[Any] = []

    def step(self) -> None:
        import torch

        begun = time.process_time()
        batch = self._batches[len(self.times) % len(self._batches)]
        loss = self._model(input_ids=batch, attention_mask=self._mask, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad()
        self._losses.append(loss.detach())
        self.times.append(time.process_time() - begun)

    def loss(self) -> float:
        return sum(map(float, self._losses[-20:])) / 20


def _measure() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        return _train(Path(name))


def _train(folder: Path) -> dict[str, Any]:
    from transformers import TrainerCallback

    from benchmarks.runs import PLAIN_TRAINING, watched_training, write_rows
    from trainer_core.run_directory import Result, RunDirectory
    from trainer_core.training.alone import train

    times: list[float] = []
    bare = _BareLoop()

    class Watch(TrainerCallback):
        """Lets the bare loop go as many steps after every tenth of ours."""

        begun = 0.0

        def on_step_begin(self, *given: Any, **_: Any) -> None:
            state = given[1]
            if state.global_step:
                times.append(time.process_time() - self.begun)
            if state.global_step % STEPS_A_TURN == 0:
                for _turn in range(STEPS_A_TURN):
                    bare.step()
            self.begun = time.process_time()

    tokens = [" ".join(f"t{number}" for number in row) for row in _ids()[:, :-1].tolist()]
    rows = write_rows(folder / "train.jsonl", ({"text": text} for text in tokens))  # and the end
    spec = {
        "task": "causal-lm",
        "data": {"eval": None},
        "training": {
            "max_steps": NUM_STEPS,
            "batch_size": BATCH_SIZE,
            "learning_rate": RATE,
            **PLAIN_TRAINING,
        },
        "checkpoints": {"strategy": "no"},
    }
    model = _save_tiny(folder / "model")
    with watched_training(Watch):
        outcome = train(
            folder / "run", spec, model=model, rows={"train": rows}, num_threads=1, device="cpu"
        )
    assert outcome.result is Result.SUCCEEDED, outcome.error
    events = RunDirectory(folder / "run").events
    lines = (json.loads(line) for line in events.read_text("utf-8").splitlines())
    losses = [
        line["data"]["metrics"]["loss"]
        for line in lines
        if line["type"] == "metrics" and line["data"]["split"] == "train"
    ]
    return {
        "ours": {"step_ms": _median_ms(times), "loss": sum(losses[-20:]) / 20},
        "peer": {"step_ms": _median_ms(bare.times), "loss": bare.loss()},
    }


def _median_ms(seconds: list[float]) -> float:
    return 1000 * statistics.median(seconds[NUM_WARM:])


def _save_tiny(folder: Path) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<end>": 0, "<unk>": 1, **{f"t{number}": number for number in range(2, 320)}}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    make: Any = PreTrainedTokenizerFast
    tokenizer = make(tokenizer_object=backend, eos_token="<end>", unk_token="<unk>")
    _model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=["both"])
    print(json.dumps(_measure() if parser.parse_args().side else run(3)))
