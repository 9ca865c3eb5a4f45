"""The process that answers with a finished model, a question at a time."""

import gc
import json
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from trainer_core.errors import LuthierError
from trainer_core.spec import parse_spec
from trainer_core.training.predicting.answering import open_answerer
from trainer_core.training.predicting.answers import Answerer
from trainer_core.training.process.failures import typed_error

_NICENESS = 10  # a training process comes first

_log = logging.getLogger(__name__)


def serve(path: Path) -> int:
    """Answer whoever listens at a socket, until they hang up."""
    os.nice(_NICENESS)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        desk = _Desk()
        with connection.makefile("rwb") as lines:
            for line in lines:

                def tell(message: dict[str, Any]) -> None:
                    lines.write(json.dumps(message).encode() + b"\n")
                    lines.flush()

                desk.answer(json.loads(line), tell)
    return 0


class _Desk:
    """Keeps the model that was asked last."""

    def __init__(self) -> None:
        self._key: tuple[str, str] | None = None
        self._answerer: Answerer | None = None

    def answer(self, question: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> None:
        try:
            answerer = self._open(question)
            told = (lambda text: tell({"text": text})) if question["is_streamed"] else None
            with torch.inference_mode():
                answers = answerer(question["inputs"], question["settings"], told)
        except Exception as error:  # noqa: BLE001 - whatever it is, the next question comes
            if not isinstance(error, LuthierError):
                _log.exception("could not answer")
            told_error = typed_error(error, relief=None, folder=Path(question["folder"]))
            tell({"error": told_error.to_dict()})
        else:
            tell(answers.to_dict())

    def _open(self, question: dict[str, Any]) -> Answerer:
        key = (question["folder"], question["device"])
        if self._answerer is None or key != self._key:
            self._answerer = self._key = None
            gc.collect()  # the memory of the one before, before the next is loaded
            spec = parse_spec(question["spec"])
            self._answerer = open_answerer(Path(key[0]), spec, device=key[1])
            self._key = key
        return self._answerer
