"""Causal language modelling: plain text to continue, or chats to answer.

    {"text": "Once upon a time there was a fox."}
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}

Plain text is learnt whole, with the tokenizer's end token after it. Of a chat the assistant's turns
are learnt (`loss_on`). Shapes: B rows of a batch, T tokens, V vocabulary.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
)

from trainer_core.errors import TooFewRows, UnusableModel
from trainer_core.events import Phase, Warned
from trainer_core.spec.tasks.causal_lm import CausalLM, MessagesRow, TextRow
from trainer_core.spec.tasks.common import TaskSpec
from trainer_core.training.batching import attention_mask, pad_rows
from trainer_core.training.chats import CHATML_END, chatml_template, encode_chat, render
from trainer_core.training.models import (
    BaseModel,
    LoadedModel,
    check_architecture,
    load_model,
    mend_generation,
)
from trainer_core.training.recipe import (
    Batch,
    LossOfLabels,
    Recipe,
    Setup,
    count_labels,
)
from trainer_core.training.token_losses import TokenLoss, sums_of_logits, token_metrics
from trainer_core.training.tokenizing import Tokenized, tokenize_splits
from trainer_core.training.tokens import Array, TokenRow, encode

_NO_LIMIT = 2**31 - 1


@dataclass(frozen=True, slots=True)
class _Tokens:
    ids: Array
    is_learnt: Array  # as long as ids
    has_lost_turns: bool = False


def tokenize_rows(setup: Setup, spec: CausalLM) -> dict[str, Tokenized]:
    """Return the rows of every split that have something to learn.

    Counted are rows, those that were cut, those dropped for nothing being left to learn, chats
    with turns lost by the template, and the tokens learnt (targets) of the rows kept.
    """
    max_length = spec.max_length
    assert max_length != "auto", "the spec is resolved before"

    def encode_rows(rows: Sequence[Any], counts: Counter[str]) -> Iterator[TokenRow]:
        for tokens in _tokenized(setup.base, spec, rows):
            ids, is_learnt = tokens.ids[:max_length], tokens.is_learnt[:max_length]
            num_targets = int(is_learnt[1:].sum())  # nothing comes before the first token
            counts["rows"] += 1
            counts["truncated"] += len(tokens.ids) > max_length
            counts["chats_with_lost_turns"] += tokens.has_lost_turns
            counts["targets"] += num_targets
            counts["dropped"] += num_targets == 0
            if num_targets:
                yield {"input_ids": ids, "is_learnt": is_learnt}

    columns = {"input_ids": np.int32, "is_learnt": np.bool_}
    return tokenize_splits(setup, columns=columns, encode=encode_rows)


def _tokenized(base: BaseModel, spec: CausalLM, rows: Sequence[Any]) -> Iterator[_Tokens]:
    texts = [row.text for row in rows if isinstance(row, TextRow)]
    yield from _tokenized_texts(base, texts)
    for row in rows:
        if isinstance(row, MessagesRow):
            yield _tokenized_chat(base, row, loss_on=spec.loss_on)


def _tokenized_texts(base: BaseModel, texts: Sequence[str]) -> Iterator[_Tokens]:
    end = base.tokenizer.eos_token_id
    for encoded in encode(base.tokenizer, texts, max_length=_NO_LIMIT):
        ids = np.asarray(encoded.ids)
        if not len(ids) or ids[-1] != end:
            ids = np.append(ids, end)
        yield _Tokens(ids, np.ones(len(ids), dtype=np.bool_))


def _tokenized_chat(base: BaseModel, row: MessagesRow, *, loss_on: str) -> _Tokens:
    turns = [{"role": turn.role, "content": turn.content} for turn in row.messages]
    chat = render(base.tokenizer, turns, left_out=[turn.weight == 0 for turn in row.messages])
    ids, is_learnt = encode_chat(base.tokenizer, chat)
    if loss_on == "all":
        is_learnt = ~encode_chat(base.tokenizer, replace(chat, spans=chat.left_out))[1]
    return _Tokens(ids, is_learnt, has_lost_turns=chat.num_lost > 0 and loss_on != "all")


def prepare_tokenizer(base: BaseModel, *, chat_template: str | None) -> None:
    """Give the tokenizer the padding token and the chat template that the job needs.

    Args:
        base: whose tokenizer.
        chat_template: `model` or `chatml`; None where no row is a chat.
    """
    tokenizer = base.tokenizer
    if tokenizer.eos_token_id is None:
        raise UnusableModel(
            "the model's tokenizer has no end-of-sequence token, so texts could not end.",
            hint="Set eos_token in its tokenizer_config.json.",
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if chat_template:
        prepare_template(tokenizer, chat_template)


def prepare_template(tokenizer: PreTrainedTokenizerBase, chat_template: str) -> None:
    """Give the tokenizer the chat template that is chosen: `model` or `chatml`."""
    if chat_template == "chatml":
        tokenizer.chat_template = chatml_template(tokenizer)
    elif not tokenizer.chat_template:
        raise UnusableModel(
            "the model's tokenizer has no chat template.", hint="Set chat_template to 'chatml'."
        )


def check_reads_forward(base: BaseModel, spec: TaskSpec) -> None:
    """Raise UnusableModel for a model that can't learn to continue text."""
    check_architecture(base, MODEL_FOR_CAUSAL_LM_MAPPING, task=spec.task)
    is_encoder = type(base.config) in MODEL_FOR_MASKED_LM_MAPPING
    if is_encoder and not getattr(base.config, "is_decoder", False):
        raise UnusableModel(
            f"a model of type '{base.config.model_type}' reads in both directions, so it can't "
            "learn to continue text.",
            hint="Use a decoder, such as a Llama, Qwen or GPT-2 model.",
        )


def load(base: BaseModel, spec: TaskSpec) -> LoadedModel:
    """Return the model, whole: a new head could not speak."""
    changes = {"pad_token_id": base.tokenizer.pad_token_id}
    return load_model(
        base, AutoModelForCausalLM, changes=changes, seed=spec.training.seed, is_head_new=False
    )


def end_turns(model: Any, base: BaseModel, *, chat_template: str | None) -> None:
    """Make generation stop where ChatML ends a turn, if the tokenizer's own end is another token.

    The assistant learns to say `<|im_end|>`; nobody would listen for it.
    """
    tokenizer = base.tokenizer
    end = tokenizer.get_vocab().get(CHATML_END)
    if chat_template != "chatml" or end is None:
        return
    ends = dict.fromkeys([end, tokenizer.eos_token_id])
    tokenizer.eos_token = CHATML_END
    model.generation_config.eos_token_id = list(ends)
    model.config.eos_token_id = end


@dataclass(frozen=True, slots=True)
class CausalCollator:
    """Pads the rows of a batch to its longest; what is not to be learnt has the label -100."""

    pad_token_id: int

    def __call__(self, rows: Sequence[TokenRow]) -> dict[str, torch.Tensor]:
        ids = [row["input_ids"] for row in rows]
        labels = [np.where(row["is_learnt"], row["input_ids"], -100) for row in rows]
        labels_BT = pad_rows(labels, value=-100)
        labels_BT[:, 0] = -100  # no token comes before it to predict it from
        return {
            "input_ids": pad_rows(ids, value=self.pad_token_id),
            "attention_mask": attention_mask(ids),
            "labels": labels_BT,
        }


@dataclass(frozen=True, slots=True)
class CausalLoss:
    """The negative log-likelihood of the learnt tokens, in nats, over a number of tokens."""

    smoothing: float = 0.0  # while training only

    def __call__(
        self, output: Any, labels_BT: torch.Tensor, num_tokens: torch.Tensor
    ) -> torch.Tensor:
        total = TokenLoss(self.smoothing).of_logits(output.logits[:, :-1], labels_BT[:, 1:])
        return total / num_tokens


def sums_of_rows(_model: Any, batch: Batch, output: Any) -> torch.Tensor:
    """Return of each row its loss, number of learnt tokens and number guessed right, (B, 3)."""
    return sums_of_logits(output.logits[:, :-1], batch["labels"][:, 1:])


def build(setup: Setup) -> Recipe:
    """Return the recipe of causal language modelling."""
    spec = setup.spec
    assert isinstance(spec, CausalLM), f"a spec of another task: {spec.task}"
    check_reads_forward(setup.base, spec)
    template = spec.chat_template if spec.columns.messages else None
    prepare_tokenizer(setup.base, chat_template=template)
    loaded = load(setup.base, spec)
    end_turns(loaded.model, setup.base, chat_template=template)
    if warning := mend_generation(loaded.model):
        setup.reporter.report(Warned("generation_settings_replaced", warning))
    setup.enter(Phase.TOKENIZING)
    tokenized = tokenize_rows(setup, spec)
    for split, tokens in tokenized.items():
        _tell(setup, spec, split=split, counts=tokens.counts)
    assert isinstance(setup.base.tokenizer.pad_token_id, int), "set by prepare_tokenizer"
    return Recipe(
        model=loaded.model,
        tokenizer=setup.base.tokenizer,
        rows={split: tokens.rows for split, tokens in tokenized.items()},
        collate=CausalCollator(setup.base.tokenizer.pad_token_id),
        forward_loss=LossOfLabels(CausalLoss(spec.training.label_smoothing)),
        count_targets=count_labels,
        targets_per_row=tokenized["train"].counts["targets"] / len(tokenized["train"].rows),
        predict=sums_of_rows,
        measure=token_metrics,
        adapter_task="CAUSAL_LM",
        new_modules=loaded.new_modules,
        num_truncated={split: t.counts["truncated"] for split, t in tokenized.items()},
        classes=(),
        pipeline="text-generation",
        usage=CHAT_USAGE if spec.columns.messages else TEXT_USAGE,
    )


def _tell(setup: Setup, spec: CausalLM, *, split: str, counts: Mapping[str, int]) -> None:
    """Report rows that are not learnt as they were given; raise if none is left."""
    if counts["dropped"] == counts["rows"]:
        raise TooFewRows(
            f"no row of the {split} split has anything to learn in its first {spec.max_length} "
            "tokens.",
            hint="Raise max_length, or shorten what comes before the assistant's answers.",
            param="/max_length",
        )
    if counts["dropped"]:
        message = (
            f"{counts['dropped']} of {counts['rows']} {split} rows are left out: nothing to learn "
            f"is in their first {spec.max_length} tokens."
        )
        setup.reporter.report(Warned("rows_left_out", message, "Raise max_length."))
    if counts["chats_with_lost_turns"]:
        message = (
            f"in {counts['chats_with_lost_turns']} of {counts['rows']} {split} chats the model's "
            "chat template changes earlier turns, so that not all of the assistant's are learnt."
        )
        hint = "Set chat_template to 'chatml', or give one answer a row."
        setup.reporter.report(Warned("turns_not_learnt", message, hint))


TEXT_USAGE = """\
from transformers import pipeline

generate = pipeline("text-generation", model="{folder}")
print(generate("The beginning of a text"))
"""
CHAT_USAGE = """\
from transformers import pipeline

generate = pipeline("text-generation", model="{folder}")
print(generate([{"role": "user", "content": "A question"}]))
"""
