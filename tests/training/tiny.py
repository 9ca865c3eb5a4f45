"""Tiny models with random weights, tokenizers made on the spot, and run directories for them."""

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    set_seed,
)

from trainer_core.events import Event, Line, ListReporter, MetricsMeasured, decode_line
from trainer_core.rows.checking import survey
from trainer_core.rows.files import InputFile
from trainer_core.run_directory import Inputs, Outcome, RunDirectory, read_json, write_json
from trainer_core.spec import parse_spec
from trainer_core.training.data.caching import Cache
from trainer_core.training.data.tokens import RowsWriter, TokenizedRows
from trainer_core.training.models.base_model import open_model
from trainer_core.training.process.devices import Device
from trainer_core.training.process.stopping import Stopping
from trainer_core.training.recipes.recipe import Measured, Recipe, Setup
from trainer_core.training.run import run

COLOURS = ["red", "green", "blue"]
WORDS = [
    *COLOURS,
    "round",
    "square",
    "small",
    "large",
    "warm",
    "cold",
    "old",
    "new",
    "a",
    "is",
    "it",
]
BERT_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
WRITER_SIZES: dict[str, Any] = {  # of BART and its kind
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 32,
}
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def save_encoder(folder: Path, *, max_positions: int = 64, dropout: float = 0.1) -> Path:
    """Save a BERT body of two layers whose tokens are whole words."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: number for number, word in enumerate([*specials, *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    make: Any = PreTrainedTokenizerFast  # untyped
    tokenizer = make(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=max_positions,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    set_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        **{**BERT_SIZES, "max_position_embeddings": max_positions},
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=0.15,  # so small a model hardly learns from the usual 0.02
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_wide_encoder(folder: Path) -> Path:
    """Save the encoder with 20 MiB of embeddings for tokens that there are not."""
    save_encoder(folder)
    set_seed(0)
    config = BertConfig.from_pretrained(folder)
    config.vocab_size = (20 << 20) // (4 * config.hidden_size)
    BertModel(config).save_pretrained(folder)
    return folder


def save_masker(folder: Path, *, has_head: bool = True, dropout: float = 0.1) -> Path:
    """Save a BERT of two layers whose tokens are whole words, with a token for masking."""
    tokenizer = AutoTokenizer.from_pretrained(save_encoder(folder))
    tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    set_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        **BERT_SIZES,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=0.15,
    )
    model = BertForMaskedLM(config) if has_head else BertModel(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def chat_tokenizer(*, template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer that knows the ChatML tokens."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([" ".join(WORDS), "user assistant system"], trainer)
    make: Any = PreTrainedTokenizerFast  # untyped
    tokenizer: PreTrainedTokenizerFast = make(
        tokenizer_object=backend,
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>" if template else "<|endoftext|>",
        chat_template=template,
        model_max_length=128,
    )
    return tokenizer


def save_decoder(folder: Path, *, template: str | None = CHATML, dropout: float = 0.0) -> Path:
    """Save a Llama of two layers with a byte-level tokenizer; it has no padding token."""
    tokenizer = chat_tokenizer(template=template)
    set_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=64,
        max_position_embeddings=128,
        attention_dropout=dropout,  # the only one that a Llama has
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_writer(
    folder: Path, *, words: Sequence[str], dropout: float = 0.0, **settings: Any
) -> Path:
    """Save a BART of one layer each whose tokens are whole words."""
    specials = ["<pad>", "<s>", "</s>", "<unk>"]
    vocabulary = {word: number for number, word in enumerate([*specials, *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    make: Any = PreTrainedTokenizerFast  # untyped
    tokenizer = make(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=32,
    )
    set_seed(0)
    config = BartConfig(
        vocab_size=len(vocabulary),
        **WRITER_SIZES,
        init_std=0.15,  # so small a model hardly learns from the usual 0.02
        dropout=dropout,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=2,
        **settings,
    )
    BartForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def colour_rows(count: int, *, seed: int = 1) -> list[dict[str, Any]]:
    """Return texts of a few words whose label is the one colour among them."""
    chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
    rows = []
    for number in range(count):
        colour = COLOURS[number % len(COLOURS)]
        words = [*chance.choices(WORDS[3:], k=chance.randint(1, 8)), colour]
        chance.shuffle(words)
        rows.append({"text": " ".join(words), "label": colour})
    return rows


def make_run(
    folder: Path,
    *,
    model: Path,
    rows: Iterable[Mapping[str, Any]],
    spec: Mapping[str, Any],
    **splits: Iterable[Mapping[str, Any]],
) -> RunDirectory:
    """Write a run directory for rows and the part of a spec that differs from the default."""
    folder.mkdir(parents=True)
    files = {name: _write(folder / f"{name}.jsonl", part) for name, part in splits.items()}
    inputs = Inputs(
        model=model,
        train=_write(folder / "train.jsonl", rows),
        eval=files.get("eval"),
        test=files.get("test"),
        num_threads=1,
        device="cpu",
    )
    data = {"train": "dataset:ds_0123456789ab", **spec.get("data", {})}
    data |= {name: f"dataset:ds_{name:0>10}" for name in files}
    directory = RunDirectory(folder)
    write_json(directory.spec, {"model": "model:tiny", **spec, "data": data})
    write_json(directory.inputs, inputs.to_dict())
    return directory


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> InputFile:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return InputFile(path=path, name=path.name)


def tokenized(folder: Path, rows: Iterable[Mapping[str, Any]]) -> TokenizedRows:
    """Return rows of one token and their labels, as a task would have written them."""
    columns = {"input_ids": np.int32, "labels": np.float32}
    with RowsWriter(folder, split="eval", columns=columns) as writer:
        for row in rows:
            writer.add({"input_ids": np.array([0]), "labels": np.atleast_1d(row["labels"])})
    return writer.rows()


def setup_for(directory: RunDirectory, *, base: Path, spec: Mapping[str, Any]) -> Setup:
    """Return what a task builds from for the files of a run and a spec without an `auto`."""
    inputs = directory.read_inputs()
    parsed = parse_spec(spec)
    given = {"train": inputs.train, "eval": inputs.eval, "test": inputs.test}
    files = {split: file for split, file in given.items() if file is not None}
    found = survey(parsed, files)
    return Setup(
        spec=found.spec,
        found=found,
        files=files,
        base=open_model(base),
        cache=Cache(directory.path / "cache"),
        device=Device(kind="cpu", name="cpu", memory_bytes=None, has_fast_bf16=False),
        reporter=ListReporter(),
        enter=lambda _: None,
    )


def measured_again(
    directory: RunDirectory, *, base: Path, model: Any, build: Callable[[Setup], Recipe]
) -> dict[str, float]:
    """Return what a model that was loaded plainly gives on the evaluation rows of a run."""
    recipe = build(setup_for(directory, base=base, spec=read_json(directory.resolved)["spec"]))
    rows = recipe.rows["eval"]
    batch = recipe.collate([rows[number] for number in range(len(rows))])
    with torch.no_grad():
        loss, output = recipe.forward_loss(model.eval(), batch, recipe.count_targets(batch))
        predictions = recipe.predict(model, batch, output).numpy()
    return {"loss": float(loss), **recipe.measure(Measured("eval", rows, list(predictions)))}


def carry_out(directory: RunDirectory) -> Outcome:
    """Carry out a run in this process."""
    return run(directory, stopping=Stopping(directory))


class StopAfter:
    """A watcher that asks the run to stop once a step's loss was told."""

    def __init__(self, step: int, *, stopping: Stopping) -> None:
        self._step = step
        self._stopping = stopping

    def report(self, event: Event) -> None:
        match event:
            case MetricsMeasured(split="train", step=self._step):
                self._stopping.ask()


def stop_after(directory: RunDirectory, *, step: int) -> Outcome:
    """Carry out a run in this process and ask it to stop once a step is told."""
    stopping = Stopping(directory)
    return run(directory, stopping=stopping, watchers=[StopAfter(step, stopping=stopping)])


def events_of(directory: RunDirectory, kind: str | None = None) -> list[Line]:
    """Return the events of a run, of one type if it is given."""
    lines = [decode_line(text) for text in directory.events.read_text("utf-8").splitlines()]
    return [line for line in lines if kind in (None, line.type)]
