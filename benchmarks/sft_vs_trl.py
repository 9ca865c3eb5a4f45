"""Real tokens a second of a language model, ours over TRL's; goals 2.0 and, packed, 1.1.

    python -m benchmarks.sft_vs_trl [--runs N] [--peer '{"gradient_checkpointing": false}']

A Llama of 4 layers with random weights, a quarter of them in its head (of SmolLM2-135M it is a
fifth), learns generated texts: log-normal, on average 173 tokens, at most 512. The peer is TRL's
`SFTTrainer`, with its defaults but for what has to be equal (texts, epochs, rate, seed,
evaluations) and for fp32, which is our default on a CPU: its bf16 is slow on those without AMX.

`sft_vs_trl_default`: 8 texts a step, its default, of any length and padded to the longest.
`sft_vs_trl_packed`: `packing=True`, by its default strategy: 8 rows of up to 512 tokens a step, and
ours takes as many steps of as many texts as are in them on average. Its rows go through the model
one by one. By default all 8 are one row of 4096 tokens, and a CPU's attention computes what it
masks. In both the peer computes activations again in the backward pass, as it does by default, and
ours does not: `--peer` tells what that makes.

Tokens a CPU second on one thread, from the first step to the last, evaluations included; tokenizing
and packing are not counted. The loss of both is that of the saved model at the same held-out texts,
one at a time, over all tokens. Each pair has texts and a seed of its own, and the same weights. The
order of the same texts moves a loss by about 0.002.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import Learned, measure_apart, pairs, result

MAX_LENGTH, RATE, EPOCHS = 512, 1e-3, 2
_MEDIAN_WORDS, _SIGMA = 80, 0.9
_VOCABULARY = 4096
_ROWS_PER_STEP = 8  # of the peer: texts, or rows of packed ones
_PEER_SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "packed": {
        "packing": True,
        "per_device_train_batch_size": 1,
        "per_device_eval_batch_size": 1,
        "gradient_accumulation_steps": _ROWS_PER_STEP,
    },
}


@dataclass(frozen=True, slots=True)
class Size:
    """Of what is learnt, and by what."""

    num_train: int = 224
    num_eval: int = 64
    num_layers: int = 4
    hidden_size: int = 256


def run(num_runs: int, *, peer: str = "{}") -> list[dict[str, Any]]:
    """Return real tokens a CPU second, ours over the peer's, and the losses of both.

    Args:
        num_runs: pairs of each bench.
        peer: settings of `SFTConfig` to go over those of the bench, as JSON.
    """
    return [_compared(bench, num_runs, peer=peer) for bench in _PEER_SETTINGS]


def _compared(bench: str, num_runs: int, *, peer: str) -> dict[str, Any]:
    runs = pairs(
        lambda side, number: measure_apart("sft_vs_trl", side, bench, number, "--peer", peer),
        num_runs=num_runs,
    )
    return result(
        f"sft_vs_trl_{bench}",
        runs,
        figure="tokens_per_cpu_second",
        unit="real tokens a CPU second of training",
        is_more_better=True,
        quality=lambda measured: {"loss": measured["loss"], "steps": measured["steps"]},
        same=["tokens", "steps"],
        learned=[Learned("loss", False)],
    )


def measure_ours(bench: str, seed: int, *, size: Size) -> dict[str, Any]:
    """Return what our causal language modelling needs and learns."""
    from benchmarks.runs import PLAIN_TRAINING, carry_out, watched_training

    with tempfile.TemporaryDirectory() as name, watched_training() as clock:
        folder = Path(name)
        model, rows = _save_model(folder / "base", size), _write_rows(folder, seed, size)
        lengths = [len(ids) for ids in _token_ids(model, rows["train"])]
        spec = {
            "task": "causal-lm",
            "max_length": MAX_LENGTH,
            "training": {
                "epochs": EPOCHS,
                "batch_size": _batch_size(bench, lengths),
                "learning_rate": RATE,
                "seed": seed,
                **PLAIN_TRAINING,
            },
            "evaluation": {"baseline": False},
            "checkpoints": {"strategy": "no"},
        }
        told = carry_out(folder / "run", model=model, spec=spec, rows=rows)
        loss = _held_out_loss(folder / "run" / "model", rows["eval"])
    return _figures(clock.seconds, tokens=told["tokens"], steps=told["steps"], loss=loss)


def measure_peer(
    bench: str, seed: int, *, size: Size, settings: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return what `SFTTrainer` needs and learns.

    Args:
        bench: `default` or `packed`.
        seed: of the texts, and of their order.
        size: of the work.
        settings: of `SFTConfig`, over those of the bench.
    """
    from datasets import load_dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from benchmarks.runs import QUIET_PEER, TrainingClock

    clock = TrainingClock()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, rows = _save_model(folder / "base", size), _write_rows(folder, seed, size)
        files = {split: str(path) for split, path in rows.items()}
        texts = load_dataset("json", data_files=files, cache_dir=str(folder / "cache"))
        arguments = {
            "output_dir": str(folder / "run"),
            "num_train_epochs": EPOCHS,
            "learning_rate": RATE,
            "max_length": MAX_LENGTH,
            "seed": seed,
            "bf16": False,
            "eval_strategy": "epoch",
            **QUIET_PEER,
        }
        trainer = SFTTrainer(
            model=str(model),
            args=SFTConfig(**{**arguments, **_PEER_SETTINGS[bench], **(settings or {})}),
            train_dataset=texts["train"],
            eval_dataset=texts["eval"],
            processing_class=AutoTokenizer.from_pretrained(model),
        )
        clock.start()
        trainer.train()
        clock.stop()
        trainer.save_model(str(folder / "model"))
        num_tokens = EPOCHS * sum(map(len, trainer.train_dataset["input_ids"]))
        loss = _held_out_loss(folder / "model", rows["eval"])
    return _figures(clock.seconds, tokens=num_tokens, steps=trainer.state.global_step, loss=loss)


def _batch_size(bench: str, lengths: Sequence[int]) -> int:
    """Return how many texts a step takes, for as many steps as the peer's."""
    from trainer_core.training.recipes.packing import pack

    if bench == "default":
        return _ROWS_PER_STEP
    num_steps = -(-len(pack(lengths, capacity=MAX_LENGTH)) // _ROWS_PER_STEP)
    return -(-len(lengths) // num_steps)


def _figures(seconds: float, *, tokens: int, steps: int, loss: float) -> dict[str, Any]:
    return {
        "tokens_per_cpu_second": tokens / seconds,
        "tokens": tokens,
        "cpu_seconds": seconds,
        "steps": steps,
        "loss": loss,
    }


def _write_rows(folder: Path, seed: int, size: Size) -> dict[str, Path]:
    from benchmarks.texts import write_rows

    rows = {}
    counts = {"train": (size.num_train, seed), "eval": (size.num_eval, 1000)}
    for split, (count, own_seed) in counts.items():
        rows[split] = folder / f"{split}.jsonl"
        write_rows(rows[split], count, seed=own_seed, median_words=_MEDIAN_WORDS, sigma=_SIGMA)
    return rows


def _save_model(folder: Path, size: Size) -> Path:
    """Save a Llama with random weights and a tokenizer made for such texts."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

    from benchmarks.texts import texts

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        texts(5000, seed=2000),
        vocab_size=_VOCABULARY,
        special_tokens=["<pad>", "<end>"],
        show_progress=False,
    )
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe._tokenizer,  # noqa: SLF001 - the class is a thin cover of it
        pad_token="<pad>",
        eos_token="<end>",
    )
    set_seed(0)
    config = LlamaConfig(
        vocab_size=_VOCABULARY,
        hidden_size=size.hidden_size,
        intermediate_size=size.hidden_size * 8 // 3,
        num_hidden_layers=size.num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2 * MAX_LENGTH,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _held_out_loss(model_folder: Path, rows: Path) -> float:
    """Return the mean negative log-likelihood of all tokens after a text's first one, in nats."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    model.train(False)  # as eval(), which is untyped
    total, count = 0.0, 0
    for ids in _token_ids(model_folder, rows):
        ids_T = torch.tensor(ids)
        with torch.no_grad():
            logits_TV = model(input_ids=ids_T[None]).logits[0]
        losses_T = torch.nn.functional.cross_entropy(logits_TV[:-1], ids_T[1:], reduction="none")
        total += float(losses_T.double().sum())
        count += len(losses_T)
    return total / count


def _token_ids(model_folder: Path, rows: Path) -> Iterator[list[int]]:
    """Yield the tokens of each text, the end token after them, as far as they are learnt."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    for line in rows.read_text("utf-8").splitlines():
        text = json.loads(line)["text"] + tokenizer.eos_token
        yield tokenizer(text)["input_ids"][:MAX_LENGTH]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--peer", default="{}", help="settings of SFTConfig, as JSON")
    parser.add_argument("--side", nargs=3, metavar=("SIDE", "BENCH", "SEED"))
    given = parser.parse_args()
    if not given.side:
        print(json.dumps(run(given.runs, peer=given.peer), indent=2))
    elif given.side[0] == "ours":
        print(json.dumps(measure_ours(given.side[1], int(given.side[2]), size=Size())))
    else:
        settings = json.loads(given.peer)
        chosen, seed = given.side[1], int(given.side[2])
        print(json.dumps(measure_peer(chosen, seed, size=Size(), settings=settings)))
