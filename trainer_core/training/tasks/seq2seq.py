"""Summarization and translation: an encoder-decoder reads one text and writes another.

    {"source": "The committee met on Monday. It ...", "target": "The committee met."}  summarization
    {"source": "How are you?", "target": "Comment vas-tu ?"}                           translation

Measuring means writing a text for each row, as `model.generate` does once the model is saved.
Shapes: B rows of a batch, T tokens of the source, S of the target, N written ones, V vocabulary.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING

from trainer_core.errors import FieldProblem, InvalidSpec, UnusableModel
from trainer_core.events import Phase, Warned
from trainer_core.spec.tasks.seq2seq import Seq2SeqSpec, Summarization
from trainer_core.training.data.batching import attention_mask, pad_rows
from trainer_core.training.data.encoding import encode
from trainer_core.training.data.tokens import TokenRow
from trainer_core.training.metrics.text_metrics import (
    Script,
    count_letters,
    rouge_scores,
    rouge_signature,
    script_of,
    translation_scores,
    translation_signatures,
)
from trainer_core.training.models.base_model import (
    BaseModel,
    LoadedModel,
    check_architecture,
    load_model,
)
from trainer_core.training.recipes.frames import (
    Frame,
    choose_languages,
    frame_of,
    framed,
    target_ids,
)
from trainer_core.training.recipes.recipe import (
    Batch,
    LossOfLabels,
    Measured,
    Recipe,
    Setup,
    count_labels,
)
from trainer_core.training.recipes.token_losses import TokenLoss, sums_of_logits, token_metrics
from trainer_core.training.recipes.tokenizing import Tokenized, tokenize_splits

_NUM_SUMS = 3  # of `sums_of_logits`, before the written tokens of a row


def check_reads_and_writes(base: BaseModel, spec: Seq2SeqSpec) -> None:
    """Raise for a model that can't be used, or not with texts of such a length."""
    check_architecture(base, MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING, task=spec.task)
    read, written = _vocabulary_sizes(base.config)
    if read != written:
        raise UnusableModel(
            f"the model reads a vocabulary of {read} tokens and writes another, of {written}; "
            "there is one tokenizer with it.",
            hint="Use a model whose encoder and decoder share their tokenizer.",
        )
    limit = base.num_positions if base.has_position_table else None
    lengths = {
        "/max_target_length": spec.max_target_length,
        "/generation/max_new_tokens": spec.generation.max_new_tokens,
    }
    problems = [
        FieldProblem(
            pointer,
            f"{length} tokens are more than the {limit} positions of the model",
            f"Set it to {limit} or 'auto'.",
        )
        for pointer, length in lengths.items()
        if limit is not None and length != "auto" and length > limit
    ]
    if problems:
        raise InvalidSpec(problems)


def _vocabulary_sizes(config: PreTrainedConfig) -> tuple[int | None, int | None]:
    """Return the number of tokens that the encoder knows, and the decoder."""
    if hasattr(config, "encoder") and hasattr(config, "decoder"):
        sizes = [getattr(part, "vocab_size", None) for part in (config.encoder, config.decoder)]
    else:
        sizes = [getattr(config, f"{side}_vocab_size", None) for side in ("src", "tgt")]
    return sizes[0], sizes[1]


def load(base: BaseModel, spec: Seq2SeqSpec, frame: Frame) -> LoadedModel:
    """Return the model, whole, that writes as the spec says."""
    changes = {
        "decoder_start_token_id": frame.start,
        "eos_token_id": frame.end,
        "pad_token_id": frame.pad,
    }
    loaded = load_model(
        base, AutoModelForSeq2SeqLM, changes=changes, seed=spec.training.seed, is_head_new=False
    )
    model: Any = loaded.model
    model.generation_config = _generation(model.generation_config, spec, frame)
    return loaded


def _generation(old: GenerationConfig, spec: Seq2SeqSpec, frame: Frame) -> GenerationConfig:
    """Return the spec's settings, with the base model's own on single tokens."""
    wanted = spec.generation
    kept = {
        name: value
        for name, value in old.to_dict().items()
        if (name.endswith("_token_id") or name in ("bad_words_ids", "suppress_tokens"))
        and value is not None
    }
    beams = {"num_beams": wanted.num_beams, "length_penalty": wanted.length_penalty}
    make: Any = GenerationConfig  # untyped
    settings: GenerationConfig = make(
        **kept
        | {
            "decoder_start_token_id": frame.start,
            "eos_token_id": frame.end,
            "pad_token_id": frame.pad,
            "max_new_tokens": wanted.max_new_tokens,
        }
        | ({"forced_bos_token_id": frame.first} if frame.first is not None else {})
        | (beams if wanted.num_beams > 1 else {})  # settings of beams without beams can't be saved
        | ({"no_repeat_ngram_size": n} if (n := wanted.no_repeat_ngram_size) else {})
    )
    return settings


def tokenize_rows(setup: Setup, spec: Seq2SeqSpec, frame: Frame) -> dict[str, Tokenized]:
    """Return source, target and the target's text, in UTF-8, of the rows of every split.

    Counted are sources and targets that were cut, the tokens of targets, and their letters.
    """
    tokenizer, prefix = setup.base.tokenizer, spec.source_prefix or ""
    max_length, max_target_length = spec.max_length, spec.max_target_length
    assert max_length != "auto", "the spec is resolved before"
    assert max_target_length != "auto", "the spec is resolved before"

    def encode_rows(rows: Sequence[Any], counts: Counter[str]) -> Iterator[TokenRow]:
        sources = [f"{prefix}{row.source}" for row in rows]
        encoded = encode(tokenizer, sources, max_length=max_length)
        targets = target_ids(tokenizer, [row.target for row in rows])
        for row, source, target in zip(rows, encoded, targets, strict=True):
            labels = framed(target, frame, max_length=max_target_length)
            counts["truncated"] += source.is_truncated
            counts["targets_truncated"] += len(target) > max_target_length
            counts["targets"] += len(labels)
            counts.update(count_letters(row.target))
            yield {
                "input_ids": np.asarray(source.ids),
                "labels": np.asarray(labels),
                "text": np.frombuffer(row.target.encode(), dtype=np.uint8),
            }

    columns = {"input_ids": np.int32, "labels": np.int32, "text": np.uint8}
    counted = ("input_ids", "labels")
    return tokenize_splits(setup, columns=columns, encode=encode_rows, counted=counted)


@dataclass(frozen=True, slots=True)
class Seq2SeqCollator:
    """Pads sources and targets to the batch's longest; the decoder reads one token behind."""

    frame: Frame

    def __call__(self, rows: Sequence[TokenRow]) -> dict[str, torch.Tensor]:
        ids = [row["input_ids"] for row in rows]
        labels = [row["labels"] for row in rows]
        read = [np.insert(row[:-1], 0, self.frame.start) for row in labels]
        return {
            "input_ids": pad_rows(ids, value=self.frame.pad),
            "attention_mask": attention_mask(ids),
            "decoder_input_ids": pad_rows(read, value=self.frame.pad),
            "labels": pad_rows(labels, value=-100),
        }


def write(model: Any, batch: Batch, output: Any) -> torch.Tensor:
    """Return of each row the sums of its target's likelihood and the tokens written, (B, 3 + N).

    Numbers of fp32 are exact for vocabularies of up to 16 million.
    """
    sums_B3 = sums_of_logits(output.logits, batch["labels"])
    written_BN = model.generate(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
    )
    return torch.cat([sums_B3, written_BN.float()], dim=1)


@dataclass(frozen=True, slots=True)
class TextScores:
    """What a split's written texts are worth, compared with the targets as they were given."""

    tokenizer: PreTrainedTokenizerBase
    spec: Seq2SeqSpec
    script: Script

    def figures(self, measured: Measured) -> dict[str, float]:
        """Return the task's metrics."""
        texts, targets = self._texts(measured)
        loss = {"loss": token_metrics(measured)["loss"]}
        if isinstance(self.spec, Summarization):
            return rouge_scores(texts, targets, script=self.script) | loss
        language = self.spec.target_language
        return translation_scores(texts, targets, script=self.script, language=language) | loss

    def details(self, _measured: Measured) -> dict[str, Any]:
        """Return how the figures are computed."""
        if isinstance(self.spec, Summarization):
            return {"signatures": {"rouge": rouge_signature(self.script)}}
        language = self.spec.target_language
        return {"signatures": translation_signatures(script=self.script, language=language)}

    def predictions(self, measured: Measured) -> Iterator[dict[str, str]]:
        """Yield the text written for each row, and the one that was wanted."""
        for text, target in zip(*self._texts(measured), strict=True):
            yield {"prediction": text, "target": target}

    def _texts(self, measured: Measured) -> tuple[list[str], list[str]]:
        written = (row[_NUM_SUMS:] for row in measured.predictions)
        ids = [row[row >= 0].astype(int).tolist() for row in written]
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        targets = [measured.rows[row]["text"] for row in range(len(ids))]
        return [text.strip() for text in texts], [row.tobytes().decode() for row in targets]


def build(setup: Setup) -> Recipe:
    """Return the recipe of summarization or translation."""
    spec = setup.spec
    assert isinstance(spec, Seq2SeqSpec), f"a spec of another task: {spec.task}"
    check_reads_and_writes(setup.base, spec)
    choose_languages(setup.base, spec)
    frame = frame_of(setup.base, spec)
    loaded = load(setup.base, spec, frame)
    setup.enter(Phase.TOKENIZING)
    tokenized = tokenize_rows(setup, spec, frame)
    script = script_of(tokenized["train"].counts)
    _tell(setup, spec, tokenized, script=script)
    scores = TextScores(setup.base.tokenizer, spec, script)
    return Recipe(
        model=loaded.model,
        tokenizer=setup.base.tokenizer,
        rows={split: tokens.rows for split, tokens in tokenized.items()},
        collate=Seq2SeqCollator(frame),
        forward_loss=LossOfLabels(TokenLoss(spec.training.label_smoothing)),
        count_targets=count_labels,
        targets_per_row=tokenized["train"].counts["targets"] / len(tokenized["train"].rows),
        predict=write,
        measure=scores.figures,
        details=scores.details,
        predictions=scores.predictions,
        adapter_task="SEQ_2_SEQ_LM",
        new_modules=loaded.new_modules,
        num_truncated={split: t.counts["truncated"] for split, t in tokenized.items()},
        classes=(),
        pipeline=spec.task,
        usage=_USAGE.replace("{text}", repr(f"{spec.source_prefix or ''}A text to read")),
    )


def _tell(
    setup: Setup, spec: Seq2SeqSpec, tokenized: Mapping[str, Tokenized], *, script: Script
) -> None:
    for split, tokens in tokenized.items():
        if number := tokens.counts["targets_truncated"]:
            message = (
                f"{number} of {len(tokens.rows)} {split} targets have more than "
                f"{spec.max_target_length} tokens and were cut, so the model learns to end there."
            )
            hint = "Raise max_target_length."
            setup.reporter.report(Warned("targets_truncated", message, hint))
    is_usual = script == "latin" if isinstance(spec, Summarization) else script != "unspaced"
    if not is_usual:
        units = "letters" if script == "unspaced" else "words between spaces"
        message = f"the targets are not written in a to z: the metrics compare {units}."
        setup.reporter.report(Warned("metric_tokens", message))


_USAGE = """\
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}")
model = AutoModelForSeq2SeqLM.from_pretrained("{folder}")
inputs = tokenizer({text}, truncation=True, return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs)[0], skip_special_tokens=True))
"""
