"""References: the strings by which a spec names a model or a data set.

    hub:org/name[@revision]              a model of the Hub; a bare org/name means the same
    hub:org/name[:config][@revision]     a data set of the Hub
    model:NAME                           a base model registered with this service
    job:ID[/checkpoint-N]                what an earlier job made
    ft:BASE:PROJECT:SUFFIX:ID[:ckpt-step-N]    the same, by the name that OpenAI's clients see
    dataset:ID                           an uploaded file

Of an `ft:` name the id alone counts; the words before it are for people, as those of a web address.
A reference never is a path of the server.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field


class Scheme(StrEnum):
    """Where a reference points."""

    HUB = "hub"
    MODEL = "model"
    JOB = "job"
    DATASET = "dataset"


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference, taken apart."""

    scheme: Scheme
    name: str  # repository, model name, job id or data set id
    revision: str | None = None
    config: str | None = None
    checkpoint: int | None = None  # optimizer step


_WORD = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_REPOSITORY = rf"(?:{_WORD}/)?{_WORD}"
_REVISION = r"[A-Za-z0-9][A-Za-z0-9_./-]{0,127}"
_MODEL_FORMS = (
    re.compile(rf"(?P<scheme>hub):(?P<name>{_REPOSITORY})(?:@(?P<revision>{_REVISION}))?"),
    re.compile(rf"(?P<scheme>model):(?P<name>{_WORD})"),
    re.compile(r"(?P<scheme>job):(?P<name>job_[0-9a-z]{8,40})(?:/checkpoint-(?P<checkpoint>\d+))?"),
)
_DATA_FORMS = (
    re.compile(r"(?P<scheme>dataset):(?P<name>ds_[0-9a-z]{8,40})"),
    re.compile(
        rf"(?P<scheme>hub):(?P<name>{_REPOSITORY})(?::(?P<config>{_WORD}))?"
        rf"(?:@(?P<revision>{_REVISION}))?"
    ),
)
_FINE_TUNED = re.compile(
    r"ft:[^\s:]{1,200}:[^\s:]{0,100}:[^\s:]{0,64}:(?P<id>[0-9a-z]{8,40})(?::ckpt-step-(?P<step>\d{1,12}))?"
)
_BARE_REPOSITORY = re.compile(rf"{_WORD}/{_WORD}(?:@{_REVISION})?")


def parse_model_reference(text: str) -> Reference:
    """Return the parts of a model reference, or raise ValueError saying which forms there are."""
    return _parse(
        _full_model(text),
        _MODEL_FORMS,
        "hub:org/name[@revision], model:NAME or job:ID[/checkpoint-N]",
    )


def parse_data_reference(text: str) -> Reference:
    """Return the parts of a data reference, or raise ValueError saying which forms there are."""
    full = f"hub:{text}" if _BARE_REPOSITORY.fullmatch(text) else text
    return _parse(full, _DATA_FORMS, "dataset:ID or hub:org/name[:config][@revision]")


def _parse(text: str, forms: tuple[re.Pattern[str], ...], expected: str) -> Reference:
    for form in forms:
        if (match := form.fullmatch(text)) and ".." not in text:
            parts = match.groupdict()
            checkpoint = parts.get("checkpoint")
            return Reference(
                scheme=Scheme(parts["scheme"]),
                name=parts["name"],
                revision=parts.get("revision"),
                config=parts.get("config"),
                checkpoint=int(checkpoint) if checkpoint else None,
            )
    raise ValueError(f"'{text[:80]}' is not a reference; write {expected}")


def _full_model(text: str) -> str:
    """Return a model reference with its scheme."""
    if named := _FINE_TUNED.fullmatch(text):
        step = named["step"]
        return f"job:job_{named['id']}" + (f"/checkpoint-{step}" if step else "")
    return f"hub:{text}" if _BARE_REPOSITORY.fullmatch(text) else text


def _checked_model(text: str) -> str:
    parse_model_reference(text)
    return _full_model(text)


def _checked_data(text: str) -> str:
    parse_data_reference(text)
    return f"hub:{text}" if _BARE_REPOSITORY.fullmatch(text) else text


ModelReference = Annotated[str, Field(max_length=400), AfterValidator(_checked_model)]
DataReference = Annotated[str, Field(max_length=400), AfterValidator(_checked_data)]
