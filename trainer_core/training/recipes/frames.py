"""The tokens around a text that a model writes: what it begins with, its language and its end."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from trainer_core.errors import FieldProblem, InvalidSpec, UnusableModel
from trainer_core.spec.tasks.seq2seq import Seq2SeqSpec
from trainer_core.training.models.base_model import BaseModel


@dataclass(frozen=True, slots=True)
class Frame:
    """The tokens around a target."""

    start: int  # given to the decoder before it writes anything
    end: int
    pad: int
    first: int | None = None  # the one that it must write first: a language


def choose_languages(base: BaseModel, spec: Seq2SeqSpec) -> None:
    """Tell the tokenizer which languages it reads and writes.

    Raises:
        InvalidSpec: it does not know them, has none, or needs some.
    """
    tokenizer: Any = base.tokenizer
    known = _language_ids(tokenizer)
    codes = {name: getattr(spec, name) for name in ("source_language", "target_language")}
    problems = [
        _language_problem(name, code, known)
        for name, code in codes.items()
        if (code not in known if known else code is not None)
    ]
    if problems:
        raise InvalidSpec(problems)
    if known:
        tokenizer.src_lang, tokenizer.tgt_lang = codes.values()


def _language_ids(tokenizer: Any) -> Mapping[str, int]:
    """Return the token of each language that a tokenizer of several languages knows by its code."""
    if not hasattr(tokenizer, "set_tgt_lang_special_tokens"):
        return {}
    ids: Mapping[str, int] | None = getattr(tokenizer, "lang_code_to_id", None)
    if ids is None:
        codes = map(str, tokenizer.extra_special_tokens)
        ids = {code: tokenizer.convert_tokens_to_ids(code) for code in codes}
    return {code.strip("_"): number for code, number in ids.items()}


def _language_problem(name: str, code: str | None, known: Mapping[str, int]) -> FieldProblem:
    if not known:
        message = "the model's tokenizer has no languages to choose from"
        return FieldProblem(f"/{name}", message, "Leave it out.")
    what = "is required: the model is one of several languages"
    if code is not None:
        what = f"the model's tokenizer has no language '{code}'"
    return FieldProblem(f"/{name}", what, f"Set it to one of: {', '.join(sorted(known))}.")


def frame_of(base: BaseModel, spec: Seq2SeqSpec) -> Frame:
    """Return the tokens around a target; the languages are chosen."""
    tokenizer, config = base.tokenizer, base.config
    end = _first_known(tokenizer.eos_token_id, tokenizer.sep_token_id)
    language = _language_ids(tokenizer).get(spec.target_language or "")
    is_first = target_ids(tokenizer, [""])[0][:1] == [language]
    start = _first_known(
        # Where a target does not begin with its language, the decoder is given it (mBART).
        None if is_first else language,
        getattr(config, "decoder_start_token_id", None),
        tokenizer.cls_token_id,
        tokenizer.bos_token_id,
    )
    if start is None or end is None:
        raise UnusableModel(
            f"the model has no token to {'begin' if start is None else 'end'} a text with.",
            hint="Set decoder_start_token_id in its config.json and eos_token in its tokenizer's.",
        )
    pad = _first_known(tokenizer.pad_token_id, end)
    assert pad is not None, "there is an end"
    return Frame(start, end, pad, first=language if is_first else None)


def _first_known(*tokens: Any) -> int | None:
    return next((token for token in tokens if token is not None), None)


def target_ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Return the tokens of texts in the target's language, or by the target's vocabulary."""
    ids: list[list[int]] = tokenizer(text_target=texts, verbose=False)["input_ids"]
    return ids


def framed(ids: list[int], frame: Frame, *, max_length: int) -> list[int]:
    """Return the tokens that are to be written, with an end.

    The token that begins a text is written too, even where the decoder was given the same one:
    models trained by transformers' own scripts expect it.
    """
    written = ids if frame.end in ids[1:][-2:] else [*ids, frame.end]
    if len(written) <= max_length:
        return written
    # What comes after the end, as a language in mBART, stays after it.
    tail = written[len(written) - written[::-1].index(frame.end) - 1 :]
    return [*written[: max_length - len(tail)], *tail]
