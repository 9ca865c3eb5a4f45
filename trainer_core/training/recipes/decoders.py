"""A language model that continues text, and its tokenizer, made ready to be trained."""

from typing import Any

from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
)

from trainer_core.errors import UnusableModel
from trainer_core.events import Warned
from trainer_core.training.data.chats import CHATML_END, chatml_template
from trainer_core.training.models.base_model import (
    BaseModel,
    LoadedModel,
    check_architecture,
    load_model,
    mend_generation,
)
from trainer_core.training.recipes.recipe import Setup


def load_decoder(setup: Setup, *, chat_template: str | None) -> LoadedModel:
    """Return the model, whole, and make its tokenizer ready.

    Args:
        setup: whose model.
        chat_template: `model` or `chatml`; None where no row is a chat.
    """
    base, spec = setup.base, setup.spec
    _check_reads_forward(base, task=spec.task)
    _prepare_tokenizer(base.tokenizer)
    if chat_template:
        prepare_template(base.tokenizer, chat_template)
    changes = {"pad_token_id": base.tokenizer.pad_token_id}
    loaded = load_model(  # a new head could not speak
        base, AutoModelForCausalLM, changes=changes, seed=spec.training.seed, is_head_new=False
    )
    if chat_template == "chatml":
        _end_turns(loaded.model, base.tokenizer)
    if warning := mend_generation(loaded.model):
        setup.reporter.report(Warned("generation_settings_replaced", warning))
    return loaded


def _check_reads_forward(base: BaseModel, *, task: str) -> None:
    """Raise UnusableModel for a model that can't learn to continue text."""
    check_architecture(base, MODEL_FOR_CAUSAL_LM_MAPPING, task=task)
    is_encoder = type(base.config) in MODEL_FOR_MASKED_LM_MAPPING
    if is_encoder and not getattr(base.config, "is_decoder", False):
        raise UnusableModel(
            f"a model of type '{base.config.model_type}' reads in both directions, so it can't "
            "learn to continue text.",
            hint="Use a decoder, such as a Llama, Qwen or GPT-2 model.",
        )


def _prepare_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    if tokenizer.eos_token_id is None:
        raise UnusableModel(
            "the model's tokenizer has no end-of-sequence token, so texts could not end.",
            hint="Set eos_token in its tokenizer_config.json.",
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token


def prepare_template(tokenizer: PreTrainedTokenizerBase, chat_template: str) -> None:
    """Give the tokenizer the chat template that is chosen: `model` or `chatml`."""
    if chat_template == "chatml":
        tokenizer.chat_template = chatml_template(tokenizer)
    elif not tokenizer.chat_template:
        raise UnusableModel(
            "the model's tokenizer has no chat template.", hint="Set chat_template to 'chatml'."
        )


def _end_turns(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make generation stop where ChatML ends a turn, if the tokenizer's own end is another token.

    The assistant learns to say `<|im_end|>`; nobody would listen for it.
    """
    end = tokenizer.get_vocab().get(CHATML_END)
    if end is None:
        return
    ends = dict.fromkeys([end, tokenizer.eos_token_id])
    tokenizer.eos_token = CHATML_END
    model.generation_config.eos_token_id = list(ends)
    model.config.eos_token_id = end


def usage(*, is_chat: bool) -> str:
    """Return lines that load the model and let it write."""
    return _CHAT_USAGE if is_chat else _TEXT_USAGE


_TEXT_USAGE = """\
from transformers import pipeline

generate = pipeline("text-generation", model="{folder}")
print(generate("The beginning of a text"))
"""
_CHAT_USAGE = """\
from transformers import pipeline

generate = pipeline("text-generation", model="{folder}")
print(generate([{"role": "user", "content": "A question"}]))
"""
