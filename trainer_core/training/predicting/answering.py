"""From a finished model's folder and its spec to what answers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from trainer_core.spec import JobSpec
from trainer_core.training.models.base_model import open_model
from trainer_core.training.predicting.answers import Answerer, Opened, opened
from trainer_core.training.predicting.judging import (
    Chooser,
    Classifier,
    Embedder,
    Guesser,
    QuestionAnswerer,
    Rewarder,
    Tagger,
    tag_pipeline,
)
from trainer_core.training.predicting.writing import Rewriter, Writer

# A task's Auto class, and what answers with its model and the spec.
_Way = tuple[Any, Callable[[Opened, Any], Answerer]]
_WRITES: _Way = (AutoModelForCausalLM, lambda model, _: Writer(model))
_REWRITES: _Way = (AutoModelForSeq2SeqLM, Rewriter)

WAYS: dict[str, _Way] = {
    "text-classification": (AutoModelForSequenceClassification, Classifier),
    "token-classification": (
        AutoModelForTokenClassification,
        lambda model, _: Tagger(tag_pipeline(model)),
    ),
    "question-answering": (AutoModelForQuestionAnswering, QuestionAnswerer),
    "multiple-choice": (AutoModelForMultipleChoice, lambda model, _: Chooser(model)),
    "summarization": _REWRITES,
    "translation": _REWRITES,
    "causal-lm": _WRITES,
    "masked-lm": (AutoModelForMaskedLM, lambda model, _: Guesser(model)),
    "sentence-embedding": (AutoModel, lambda model, _: Embedder(model)),
    "dpo": _WRITES,
    "kto": _WRITES,
    "orpo": _WRITES,
    "reward-model": (AutoModelForSequenceClassification, lambda model, _: Rewarder(model)),
}


def open_answerer(folder: Path, spec: JobSpec, *, device: str) -> Answerer:
    """Load a finished model and return what answers with it.

    Args:
        folder: the model's.
        spec: of the job that made it, resolved.
        device: where to compute.

    Raises:
        ModelError: its files can't be used.
    """
    auto_class, answer = WAYS[spec.task]
    return answer(opened(open_model(folder), auto_class, device=device), spec)
