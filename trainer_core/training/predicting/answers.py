"""What a model answers, and what all of them share: a folder opened, texts in tokens."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import BatchEncoding, PreTrainedModel

from trainer_core.training.models.base_model import BaseModel, load_model

Input = Mapping[str, Any]
Tell = Callable[[str], None] | None  # of what is being written; None where nobody listens


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model says of each input, and how many tokens it took."""

    outputs: Sequence[Mapping[str, Any]]
    num_input_tokens: int
    num_output_tokens: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return asdict(self)


# (inputs, settings, whom to tell) to answers.
Answerer = Callable[[Sequence[Input], Mapping[str, Any], Tell], Answers]


@dataclass(frozen=True, slots=True)
class Opened:
    """A finished model in memory."""

    base: BaseModel
    model: PreTrainedModel
    device: str

    @property
    def tokenizer(self) -> Any:
        return self.base.tokenizer

    @property
    def labels(self) -> dict[int, str]:
        """Names of the model's outputs."""
        return {int(number): name for number, name in (self.model.config.id2label or {}).items()}

    def encode(self, *texts: Any, **settings: Any) -> BatchEncoding:
        """Return tokens as tensors on the model's device, cut to what it can take."""
        given = {"truncation": True, "max_length": self.base.usual_length, **settings}
        tokens: BatchEncoding = self.tokenizer(*texts, **given, return_tensors="pt")
        return tokens

    def run(self, tokens: Mapping[str, torch.Tensor]) -> Any:
        """Return what the model makes of tokens."""
        return self.model(**{name: tensor.to(self.device) for name, tensor in tokens.items()})


def opened(base: BaseModel, auto_class: Any, *, device: str) -> Opened:
    """Load the weights of a finished model, all of which have to be there."""
    loaded = load_model(base, auto_class, changes={}, seed=0, is_head_new=False)
    return Opened(base, loaded.model.to(device).eval(), device)  # type: ignore[arg-type]
