"""A request for a job as a spec, and what is wrong with the spec told in OpenAI's words."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from api.openai.bodies import Hyperparameters, JobBody
from api.openai.naming import model_reference
from trainer_core.errors import FieldProblem, InvalidSpec
from trainer_core.spec import JobSpec, parse_spec
from trainer_core.spec.resolving import usual_learning_rate

_TASKS = {"supervised": "causal-lm", "dpo": "dpo"}
_OF_THE_METHOD = "hyperparameters"


@dataclass(frozen=True, slots=True)
class _Setting:
    """A field of the spec, and where in the request its value is."""

    pointer: str
    value: Any
    said_at: str  # JSON pointer


@dataclass(frozen=True, slots=True)
class Files:
    """The data sets of a request's files."""

    training: str  # reference
    validation: str | None


def spec_of(body: JobBody, ours: Mapping[str, Any], files: Files) -> JobSpec:
    """Return the spec of a request.

    Args:
        body: what it says in OpenAI's words.
        ours: fields of the spec that it has besides.
        files: what its files are.

    Raises:
        InvalidSpec: it is wrong; the places are those of the request.
    """
    given = [*_settings(body, ours, files)]
    values = _merged(ours, given)
    with_data = values.setdefault("data", {})
    if isinstance(with_data, dict):
        # OpenAI's service learns from all rows of the training file.
        with_data.setdefault("eval", None)
    spec = _parsed(values, given)
    hyperparameters, place = _hyperparameters(body)
    multiplier = hyperparameters and hyperparameters.learning_rate_multiplier
    if not isinstance(multiplier, float):
        return spec
    if spec.training.learning_rate != "auto":
        pointer = f"{place}/learning_rate_multiplier"
        raise InvalidSpec([FieldProblem(pointer, "training.learning_rate is given as well", _ONE)])
    usual, _ = usual_learning_rate(spec)
    rate = _Setting(
        "/training/learning_rate", usual * multiplier, f"{place}/learning_rate_multiplier"
    )
    return _parsed(_merged(values, [rate]), [*given, rate])


def told(error: InvalidSpec, places: Mapping[str, str]) -> InvalidSpec:
    """Return an error in a spec with the places of the request that they came from."""
    return InvalidSpec(
        [
            dataclasses.replace(problem, pointer=places.get(problem.pointer, problem.pointer))
            for problem in error.problems
        ]
    )


PLACES = {"/data/train": "/training_file", "/data/eval": "/validation_file"}
"""Where in any request the value of a field of the spec is."""

_ONE = "Give one of the two."


def _settings(body: JobBody, ours: Mapping[str, Any], files: Files) -> Iterator[_Setting]:
    task = _task(body, ours)
    if "task" not in ours:
        yield _Setting("/task", task, "/method/type")
    yield _Setting("/model", model_reference(body.model), "/model")
    yield _Setting("/data/train", files.training, "/training_file")
    if files.validation is not None:
        yield _Setting("/data/eval", files.validation, "/validation_file")
    if body.seed is not None:
        yield _Setting("/training/seed", body.seed, "/seed")
    if body.suffix is not None and "name" not in ours:
        yield _Setting("/name", body.suffix, "/suffix")
    if body.integrations:
        trackers = [one.type for one in body.integrations]
        yield _Setting("/tracking", list(dict.fromkeys(trackers)), "/integrations")
    hyperparameters, place = _hyperparameters(body)
    for name, pointer in (
        ("n_epochs", "/training/epochs"),
        ("batch_size", "/training/batch_size"),
        ("beta", "/beta"),
    ):
        value = getattr(hyperparameters, name, None)
        if value not in (None, "auto"):
            yield _Setting(pointer, value, f"{place}/{name}")


def _task(body: JobBody, ours: Mapping[str, Any]) -> Any:
    method = body.method
    task = ours.get("task", _TASKS[method.type if method else "supervised"])
    if method and method.type == "dpo" and task != "dpo":
        problem = FieldProblem("/task", f"is {task!r} and method.type is 'dpo'"[:200], _ONE)
        raise InvalidSpec([problem])
    return task


def _hyperparameters(body: JobBody) -> tuple[Hyperparameters | None, str]:
    """Return the hyperparameters of a request and where they are."""
    if body.method is None:
        return body.hyperparameters, f"/{_OF_THE_METHOD}"
    kind = body.method.type
    other = "dpo" if kind == "supervised" else "supervised"
    if getattr(body.method, other) is not None:
        problem = FieldProblem(f"/method/{other}", f"method.type is '{kind}'", "Leave it out.")
        raise InvalidSpec([problem])
    of_kind = getattr(body.method, kind)
    found = of_kind.hyperparameters if of_kind else None
    if found is not None and body.hyperparameters is not None:
        raise InvalidSpec(
            [
                FieldProblem(
                    f"/{_OF_THE_METHOD}", f"method.{kind}.hyperparameters is given too", _ONE
                )
            ]
        )
    if found is None and body.hyperparameters is not None:
        return body.hyperparameters, f"/{_OF_THE_METHOD}"
    return found, f"/method/{kind}/{_OF_THE_METHOD}"


def _merged(ours: Mapping[str, Any], settings: list[_Setting]) -> dict[str, Any]:
    """Return the fields of a spec with settings put into them; none may be given twice."""
    values = {name: dict(v) if isinstance(v, dict) else v for name, v in ours.items()}
    for setting in settings:
        *parents, name = setting.pointer.strip("/").split("/")
        part = values
        for parent in parents:
            part = part.setdefault(parent, {})
            if not isinstance(part, dict):
                raise InvalidSpec([FieldProblem(f"/{parent}", "should be an object")])
        if part.get(name, "auto") != "auto":
            what = setting.pointer[1:].replace("/", ".")
            raise InvalidSpec([FieldProblem(setting.said_at, f"{what} is given as well", _ONE)])
        part[name] = setting.value
    return values


def _parsed(values: Mapping[str, Any], given: list[_Setting]) -> JobSpec:
    try:
        return parse_spec(values)
    except InvalidSpec as error:
        raise told(error, {setting.pointer: setting.said_at for setting in given}) from error
