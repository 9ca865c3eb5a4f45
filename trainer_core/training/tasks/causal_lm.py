r"""Causal language modelling: plain text to continue, or chats to answer.

    {"text": "Once upon a time there was a fox."}
    {"prompt": "Translate to French: fox\n", "completion": "renard"}
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}

Plain text is learnt whole, with the tokenizer's end token after it, or joined and cut into blocks.
Of a prompt with a completion the latter is learnt, with its end token; of a chat the assistant's
turns (`loss_on`).
Shapes: B rows of a batch, T tokens, N targets.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from trainer_core.errors import UnusableModel
from trainer_core.events import Phase
from trainer_core.spec.tasks.causal_lm import CausalLM, CompletionRow, TextRow
from trainer_core.spec.tasks.messages import MessagesRow
from trainer_core.training.data.batching import attention_mask, pad_rows
from trainer_core.training.data.chats import encode_chat, render
from trainer_core.training.data.encoding import encode
from trainer_core.training.data.tokens import Array, TokenRow
from trainer_core.training.models.base_model import BaseModel
from trainer_core.training.process.devices import Device
from trainer_core.training.recipes.decoders import load_decoder, usage
from trainer_core.training.recipes.language_loss import make_language_loss, next_labels
from trainer_core.training.recipes.packing import has_flash_attention, keeps_apart, packed_batch
from trainer_core.training.recipes.recipe import Recipe, Setup, count_labels
from trainer_core.training.recipes.token_losses import token_metrics, token_predictions
from trainer_core.training.recipes.tokenizing import (
    Tokenized,
    check_blocks,
    tell_left_out,
    tell_lost_turns,
    tokenize_splits,
)

_NO_LIMIT = 2**31 - 1


@dataclass(frozen=True, slots=True)
class _Tokens:
    ids: Array
    is_learnt: Array  # as long as ids
    has_lost_turns: bool = False


def tokenize_rows(setup: Setup, spec: CausalLM) -> dict[str, Tokenized]:
    """Return the rows, or blocks, of every split that have something to learn.

    Counted are these, those that were cut, chats with turns lost by the template, and the tokens
    learnt (targets) of the rows kept.
    """
    max_length = spec.max_length
    assert max_length != "auto", "the spec is resolved before"

    def encode_rows(rows: Sequence[Any], counts: Counter[str]) -> Iterator[TokenRow]:
        found = _tokenized(setup.base, spec, rows)
        for tokens in _blocks(found, size=max_length) if _is_joined(spec) else found:
            ids, is_learnt = tokens.ids[:max_length], tokens.is_learnt[:max_length]
            num_targets = int(is_learnt[1:].sum())  # nothing comes before the first token
            row = counts["rows"]
            counts["rows"] += 1
            counts["truncated"] += len(tokens.ids) > max_length
            counts["chats_with_lost_turns"] += tokens.has_lost_turns
            counts["targets"] += num_targets
            if num_targets:
                yield {"input_ids": ids, "is_learnt": is_learnt, "row": np.array([row])}

    columns = {"input_ids": np.int32, "is_learnt": np.bool_, "row": np.int64}
    return tokenize_splits(setup, columns=columns, encode=encode_rows)


def _tokenized(base: BaseModel, spec: CausalLM, rows: Sequence[Any]) -> Iterator[_Tokens]:
    texts = [row.text for row in rows if isinstance(row, TextRow)]
    yield from _tokenized_texts(base, texts)
    pairs = [row for row in rows if isinstance(row, CompletionRow)]
    yield from _tokenized_completions(base, pairs, loss_on=spec.loss_on)
    for row in rows:
        if isinstance(row, MessagesRow):
            yield _tokenized_chat(base, row, loss_on=spec.loss_on)


def _tokenized_texts(base: BaseModel, texts: Sequence[str]) -> Iterator[_Tokens]:
    for encoded in encode(base.tokenizer, texts, max_length=_NO_LIMIT):
        ids = _ended(np.asarray(encoded.ids), base)
        yield _Tokens(ids, np.ones(len(ids), dtype=np.bool_))


def _is_joined(spec: CausalLM) -> bool:
    return spec.join_texts and spec.columns.text is not None


def _blocks(texts: Iterable[_Tokens], *, size: int) -> Iterator[_Tokens]:
    """Yield texts joined and cut; the last block may be short."""
    ids = np.concatenate([text.ids for text in texts])
    for start in range(0, len(ids) - 1, size):  # a token alone has nothing to learn
        block = ids[start : start + size]
        yield _Tokens(block, np.ones(len(block), dtype=np.bool_))


def _tokenized_completions(
    base: BaseModel, rows: Sequence[CompletionRow], *, loss_on: str
) -> Iterator[_Tokens]:
    """Encode prompt and completion apart: whoever generates has the prompt's tokens alone.

    Encoded as one text, the last token before the border could hold a part of the completion.
    """
    prompts = encode(base.tokenizer, [row.prompt for row in rows], max_length=_NO_LIMIT)
    for row, prompt in zip(rows, prompts, strict=True):
        before = np.asarray(prompt.ids)
        if before[-1] == base.tokenizer.eos_token_id and not _says_end(base, row.prompt):
            before = before[:-1]  # some tokenizers end every text
        written: Any = base.tokenizer.encode(row.completion, add_special_tokens=False)
        after = _ended(np.asarray(written), base)
        is_learnt = np.arange(len(before) + len(after)) >= (0 if loss_on == "all" else len(before))
        yield _Tokens(np.concatenate([before, after]), is_learnt)


def _ended(ids: Array, base: BaseModel) -> Array:
    """Return tokens with the end token after them, if it is not there."""
    end = base.tokenizer.eos_token_id
    return ids if len(ids) and ids[-1] == end else np.append(ids, end)


def _says_end(base: BaseModel, text: str) -> bool:
    return text.endswith(str(base.tokenizer.eos_token))


def _tokenized_chat(base: BaseModel, row: MessagesRow, *, loss_on: str) -> _Tokens:
    chat = render(
        base.tokenizer,
        [turn.for_template() for turn in row.messages],
        left_out=[turn.weight == 0 for turn in row.messages],
        tools=row.tools,
    )
    ids, is_learnt = encode_chat(base.tokenizer, chat)
    if loss_on == "all":
        is_learnt = ~encode_chat(base.tokenizer, replace(chat, spans=chat.left_out))[1]
    return _Tokens(ids, is_learnt, has_lost_turns=chat.num_lost > 0 and loss_on != "all")


@dataclass(frozen=True, slots=True)
class CausalCollator:
    """Pads the rows of a batch to its longest; what is not to be learnt has the label -100.

    Or packs them, into rows of up to `pack_length` tokens.
    """

    pad_token_id: int
    pack_length: int | None = None

    def __call__(self, rows: Sequence[TokenRow]) -> dict[str, torch.Tensor]:
        ids = [row["input_ids"] for row in rows]
        labels = [np.where(row["is_learnt"], row["input_ids"], -100) for row in rows]
        if self.pack_length is not None:
            return packed_batch(
                ids, labels, capacity=self.pack_length, pad_token_id=self.pad_token_id
            )
        labels_BT = pad_rows(labels, value=-100)
        labels_BT[:, 0] = -100  # no token comes before it to predict it from
        return {
            "input_ids": pad_rows(ids, value=self.pad_token_id),
            "attention_mask": attention_mask(ids),
            "labels": labels_BT,
        }


def build(setup: Setup) -> Recipe:
    """Return the recipe of causal language modelling."""
    spec = setup.spec
    assert isinstance(spec, CausalLM), f"a spec of another task: {spec.task}"
    has_chats = spec.columns.messages is not None
    loaded = load_decoder(setup, chat_template=spec.chat_template if has_chats else None)
    setup.enter(Phase.TOKENIZING)
    tokenized = tokenize_rows(setup, spec)
    tell_left_out(
        setup,
        tokenized,
        why=f"nothing to learn is in their first {spec.max_length} tokens",
        hint="Raise max_length, or shorten what comes before the assistant's answers.",
        param="/max_length",
    )
    if _is_joined(spec):
        check_blocks(tokenized["train"], size=spec.max_length, param="/join_texts")
    tell_lost_turns(setup, tokenized)
    assert isinstance(setup.base.tokenizer.pad_token_id, int), "set with the model"
    loss = make_language_loss(setup, loaded.model, targets=next_labels)
    return Recipe(
        model=loaded.model,
        tokenizer=setup.base.tokenizer,
        rows={split: tokens.rows for split, tokens in tokenized.items()},
        collate=_collator(loaded.model, setup.base.tokenizer.pad_token_id, spec, setup.device),
        forward_loss=loss,
        count_targets=count_labels,
        targets_per_row=tokenized["train"].counts["targets"] / len(tokenized["train"].rows),
        predict=loss.sums_of_rows,
        measure=token_metrics,
        predictions=token_predictions,
        adapter_task="CAUSAL_LM",
        new_modules=loaded.new_modules,
        num_truncated={split: t.counts["truncated"] for split, t in tokenized.items()},
        classes=(),
        pipeline="text-generation",
        usage=usage(is_chat=has_chats),
    )


def _collator(
    model: PreTrainedModel, pad_token_id: int, spec: CausalLM, device: Device
) -> CausalCollator:
    assert spec.max_length != "auto", "the spec is resolved before"
    if not spec.packing:
        return CausalCollator(pad_token_id)
    if not keeps_apart(model):
        raise UnusableModel(
            f"a model of type '{model.config.model_type}' can't learn from packed rows: an example "
            "would see those before it.",
            hint="Set packing to false.",
            param="/packing",
        )
    is_half = device.kind == "cuda" and spec.training.precision != "fp32"
    if is_half and has_flash_attention(model.config):
        model.set_attn_implementation("flash_attention_2")
        return CausalCollator(pad_token_id, pack_length=_NO_LIMIT)  # it knows borders in one row
    return CausalCollator(pad_token_id, pack_length=spec.max_length)
