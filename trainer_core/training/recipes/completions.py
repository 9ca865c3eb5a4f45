"""A prompt and what was said to it: as tokens, and how likely a model finds what was said.

A row holds S such sequences end to end, as many as are compared with each other. Shapes: B rows of
a batch, S sequences of a row, R = B * S sequences, T tokens, V vocabulary, N learnt tokens of all.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from trainer_core.spec.tasks.messages import Message
from trainer_core.training.data.batching import attention_mask, pad_rows
from trainer_core.training.data.chats import encode_chat, render
from trainer_core.training.data.encoding import encode
from trainer_core.training.data.tokens import Array, TokenRow

_NO_LIMIT = 2**31 - 1

Asked = tuple[Any, Any]  # prompt and completion: two strings, or two tuples of messages

# Columns of a row of S sequences: all tokens, which are learnt, how many each sequence has, and the
# row's number in its split.
COLUMNS = {
    "input_ids": np.int32,
    "is_learnt": np.bool_,
    "num_tokens": np.int32,
    "row": np.int64,
}


@dataclass(frozen=True, slots=True)
class Completion:
    """A prompt and its completion as tokens."""

    ids: Array
    is_learnt: Array  # as long as ids: of the completion, and not the very first token
    is_truncated: bool = False
    has_lost_turns: bool = False  # the template does not show where all of it is

    @property
    def num_learnt(self) -> int:
        return int(self.is_learnt.sum())


Encode = Callable[[Sequence[Asked]], list[Completion]]


def encode_completions(
    asked: Sequence[Asked], *, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[Completion]:
    """Return completions as tokens, with the token that ends each."""
    texts = [both for both in asked if isinstance(both[0], str)]
    of_texts = _encoded_texts(tokenizer, texts)
    return [
        _cut(
            next(of_texts) if isinstance(both[0], str) else _encoded_chat(tokenizer, *both),
            max_length=max_length,
        )
        for both in asked
    ]


def _encoded_texts(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[tuple[str, str]]
) -> Iterator[Completion]:
    """Yield prompts joined to completions.

    What is learnt begins where the tokens differ from those of the prompt alone: a token across
    the border is the completion's.
    """
    end = tokenizer.eos_token_id
    prompts = encode(tokenizer, [prompt for prompt, _ in texts], max_length=_NO_LIMIT)
    wholes = encode(tokenizer, ["".join(both) for both in texts], max_length=_NO_LIMIT)
    for prompt, whole in zip(prompts, wholes, strict=True):
        ids = list(whole.ids)
        if not ids or ids[-1] != end:
            ids.append(end)
        same = takewhile(lambda both: both[0] == both[1], zip(prompt.ids, ids, strict=False))
        num_shared = sum(1 for _ in same)
        yield Completion(np.array(ids, dtype=np.int32), np.arange(len(ids)) >= num_shared)


def _encoded_chat(
    tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Message], completion: Sequence[Message]
) -> Completion:
    """Return a conversation, of which is learnt what the assistant wrote in the completion."""
    turns = [turn.for_template() for turn in (*prompt, *completion)]
    left_out = [turn.role == "assistant" for turn in prompt]
    chat = render(tokenizer, turns, left_out=left_out)
    return Completion(*encode_chat(tokenizer, chat), has_lost_turns=chat.num_lost > 0)


def encode_wholes(
    asked: Sequence[Asked], *, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[Completion]:
    """Return prompts and completions as a pipeline would tokenize them: nothing is added to text.

    All of it counts as learnt, for a model that reads it as a whole.
    """
    texts = ["".join(both) for both in asked if isinstance(both[0], str)]
    of_texts = iter(encode(tokenizer, texts, max_length=max_length))
    wholes = []
    for both in asked:
        if isinstance(both[0], str):
            found = next(of_texts)
            ids, is_truncated = np.array(found.ids, dtype=np.int32), found.is_truncated
        else:
            ids = _encoded_chat(tokenizer, *both).ids
            is_truncated = len(ids) > max_length
        cut = ids[:max_length]
        wholes.append(Completion(cut, np.ones(len(cut), dtype=np.bool_), is_truncated))
    return wholes


def with_other_completion(one: Completion, other: Completion, *, max_length: int) -> Completion:
    """Return the prompt of one with what was said to another's."""
    start, other_start = int(one.is_learnt.argmax()), int(other.is_learnt.argmax())
    ids = np.concatenate([one.ids[:start], other.ids[other_start:]])
    is_learnt = np.concatenate([one.is_learnt[:start], other.is_learnt[other_start:]])
    return _cut(Completion(ids, is_learnt), max_length=max_length)


def _cut(one: Completion, *, max_length: int) -> Completion:
    is_learnt = one.is_learnt[:max_length].copy()
    is_learnt[:1] = False  # nothing comes before it to predict it from
    is_truncated = len(one.ids) > max_length
    return replace(one, ids=one.ids[:max_length], is_learnt=is_learnt, is_truncated=is_truncated)


def row_of(sequences: Sequence[Completion], *, number: int) -> TokenRow:
    """Return sequences as one row, whose number in the split is given."""
    return {
        "input_ids": np.concatenate([one.ids for one in sequences]),
        "is_learnt": np.concatenate([one.is_learnt for one in sequences]),
        "num_tokens": np.array([len(one.ids) for one in sequences]),
        "row": np.array([number]),
    }


@dataclass(frozen=True, slots=True)
class SequencesCollator:
    """Pads the sequences of all rows to the longest; other columns are stacked as they are."""

    pad_token_id: int
    others: tuple[str, ...] = ()

    def __call__(self, rows: Sequence[TokenRow]) -> dict[str, torch.Tensor]:
        ids = _sequences(rows, "input_ids")
        is_learnt_RT = pad_rows(_sequences(rows, "is_learnt"), value=0).bool()
        batch = {
            "input_ids": pad_rows(ids, value=self.pad_token_id),
            "attention_mask": attention_mask(ids),
            "is_learnt": is_learnt_RT,
        }
        num_positions = is_learnt_RT.shape[1]
        by_row = {name: t.view(len(rows), -1, num_positions) for name, t in batch.items()}
        return by_row | {
            name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in self.others
        }


def _sequences(rows: Sequence[TokenRow], column: str) -> list[Array]:
    """Return the sequences of all rows, those of a row one after the other."""
    return [
        part for row in rows for part in np.split(row[column], np.cumsum(row["num_tokens"])[:-1])
    ]


def score(model: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return how likely the model finds each completion: its log-probability in nats, (B, S)."""
    ids_RT = batch["input_ids"].flatten(0, 1)
    is_target_RT = batch["is_learnt"].flatten(0, 1)[:, 1:]
    attention_RT = batch["attention_mask"].flatten(0, 1)
    output = model(input_ids=ids_RT, attention_mask=attention_RT, use_cache=False)
    # Most tokens are the prompt's, whose logits need neither fp32 nor a softmax.
    logits_NV = output.logits[:, :-1][is_target_RT].float()
    losses_N = functional.cross_entropy(logits_NV, ids_RT[:, 1:][is_target_RT], reduction="none")
    zeros_RT = torch.zeros_like(is_target_RT, dtype=torch.float32)
    return (
        -zeros_RT.masked_scatter(is_target_RT, losses_N).sum(1).view(batch["input_ids"].shape[:2])
    )


def num_learnt(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the number of learnt tokens of each completion, (B, S)."""
    return batch["is_learnt"].sum(-1)


def without_dropout(model: torch.nn.Module) -> None:
    """Turn dropout off: its noise would drown the small differences that are compared."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)
