"""What every part of a spec shares: frozen, no unknown fields, text that a database can hold."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints

Auto = Literal["auto"]


class SpecModel(BaseModel):
    """A part of a spec: immutable, and an unknown field is an error, never ignored."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
    )


def _without_nul(text: str) -> str:
    if "\x00" in text:
        raise ValueError("must not contain a NUL character")
    return text


Text = Annotated[str, AfterValidator(_without_nul)]
ShortText = Annotated[Text, StringConstraints(min_length=1, max_length=200)]
ColumnName = Annotated[Text, StringConstraints(min_length=1, max_length=256)]
Name = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", min_length=1, max_length=96)
]
