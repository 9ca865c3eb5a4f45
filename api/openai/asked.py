"""What requests to models say, in OpenAI's words."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field

from api.openai.bodies import parsed
from trainer_core.errors import FieldProblem, InvalidSpec
from trainer_core.predictions import MAX_INPUTS, MAX_NEW_TOKENS, Passage, PredictionSettings
from trainer_core.spec.base import SpecModel

ModelName = Annotated[str, Field(min_length=1, max_length=500)]
_Texts = Annotated[tuple[Passage, ...], Field(min_length=1, max_length=MAX_INPUTS)]

# What changes nothing here, as long as it is this; null is always nothing.
_OFF: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "logprobs": (False,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
_NEUTRAL = frozenset(
    {
        "user",
        "metadata",
        "store",
        "safety_identifier",
        "prompt_cache_key",
        "service_tier",
        "parallel_tool_calls",
    }
)

T = TypeVar("T", bound=SpecModel)


class StreamOptions(SpecModel):
    """What to tell in a stream."""

    include_usage: bool = False
    include_obfuscation: bool = False


class Written(SpecModel):
    """What is said of how to write."""

    model_config = ConfigDict(extra="allow")

    model: ModelName
    """An `ft:` name."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """0 writes the likeliest token each time. Default 1."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stop: Passage | Annotated[tuple[Passage, ...], Field(max_length=4)] | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Most tokens to write; never more than 1024."""

    @property
    def max_new_tokens(self) -> int:
        """Most tokens to write."""
        return self.max_tokens or 16

    def settings(self) -> PredictionSettings:
        """Return it as ours."""
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop
        return PredictionSettings(
            max_new_tokens=min(self.max_new_tokens, MAX_NEW_TOKENS),
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=self.top_p or 1.0,
            stop=stop or (),
            seed=None if self.seed is None else self.seed % 2**31,
        )


class ChatBody(Written):
    """A conversation to go on with."""

    messages: Annotated[tuple[dict[str, Any], ...], Field(min_length=1, max_length=1000)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """The newer name of `max_tokens`. Default 256."""

    @property
    def max_new_tokens(self) -> int:
        return self.max_completion_tokens or self.max_tokens or 256


class CompletionBody(Written):
    """A text, or texts, to go on with."""

    prompt: Passage | _Texts


class EmbeddingBody(SpecModel):
    """Texts to turn into vectors."""

    model_config = ConfigDict(extra="allow")

    model: ModelName
    input: Passage | _Texts
    encoding_format: Literal["float", "base64"] = "float"


def parsed_asked(kind: type[T], values: object) -> T:
    """Return what a request says, or raise InvalidSpec for that and for what is not available."""
    asked = parsed(kind, values)
    problems = [*_unavailable(asked.model_extra or {})]
    if isinstance(asked, CompletionBody) and asked.stream and not isinstance(asked.prompt, str):
        problems.append(FieldProblem("/stream", "goes with one prompt"))
    if problems:
        raise InvalidSpec(problems)
    return asked


def _unavailable(extra: Mapping[str, Any]) -> list[FieldProblem]:
    """Return a problem for each field that would change the answer, and can't here."""
    return [
        FieldProblem(f"/{name}", "is not available here", "Leave it out.")
        for name, value in extra.items()
        if value is not None and name not in _NEUTRAL and value not in _OFF.get(name, ())
    ]
