"""Everything that can be told of a job before it is queued, at once; nothing is stored.

The rows are read in a process apart, as those of a submission. The tokens, the choices and the
memory are found by a process with torch (`inspecting.py`), where this machine has one and the
model's files; else the answer says why they are missing.
"""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from jobs.backends import Backends
from jobs.basemodels import NotHere, model_folder
from jobs.fitting import Fit, check_capacity, fit, refusal, targets_of
from jobs.inspecting import CannotInspect, Inspector
from jobs.records import Dataset, Worker
from jobs.store import quotas, workers
from jobs.submission import check_said, files_of, num_weights_of, referred
from trainer_core.errors import (
    FieldProblem,
    InvalidSpec,
    ModelNotFound,
    NothingFits,
    QuotaExceeded,
    TypedError,
    Whose,
)
from trainer_core.inspection import Findings, Request
from trainer_core.rows import apart
from trainer_core.rows.examined import Examined
from trainer_core.rows.files import InputFile
from trainer_core.run_directory import Inputs, RunDirectory, write_json
from trainer_core.spec import JobSpec, check_built, parse_spec, unused

_ALL_OF_IT = "tokens, choices, memory, disk and time"
NO_MODEL = "model:luthier.none"
"""In place of a model that is not named, or wrongly: nobody looks at it."""


@dataclass(frozen=True, slots=True)
class Missing:
    """What could not be found out, and why."""

    what: str
    why: str


@dataclass(slots=True)
class Report:
    """What is to be said of a job."""

    errors: list[TypedError] = field(default_factory=list)
    warnings: list[Mapping[str, str]] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    datasets: Mapping[str, Dataset] = field(default_factory=dict)
    examination: Examined | None = None
    findings: Findings | None = None
    fits: list[Fit] = field(default_factory=list)


def validate(
    backends: Backends,
    inspector: Inspector,
    values: object,
    *,
    project: str,
    may_use_secrets: bool,
    is_submission: bool,
) -> Report:
    """Return everything that is wrong with a job, and what it would do.

    Args:
        backends: where its rows and its model are.
        inspector: looks at tokens and model.
        values: the body of a submission.
        project: in which its references are looked up.
        may_use_secrets: whoever asks may also use the project's secrets in a job.
        is_submission: the project's quotas have to leave room for it, as they are now.
    """
    report = Report()
    if is_submission:
        _foresee(backends, report, project=project)
    spec = _parsed(values, report)
    if spec is not None:
        spec = _without_secrets(backends, spec, report, project=project)
    if spec is None:
        return report
    present = _look_up(backends, spec, report, project=project)
    model = partial(model_folder, backends, spec, project=project, may_use_secrets=may_use_secrets)
    with tempfile.TemporaryDirectory(
        prefix="luthier-inspection-", ignore_cleanup_errors=True
    ) as name:
        folder = Path(name)
        if "train" in report.datasets:
            with files_of(backends.storage, report.datasets) as files:
                report.examination = apart.examine(
                    spec.model_dump(mode="json"), files, folder=folder
                )
            report.errors += [error.to_typed() for error in report.examination.problems]
            _tell_rows(report)
        _inspect(inspector, spec, report, present, model=model, folder=folder)
    return report


def _foresee(backends: Backends, report: Report, *, project: str) -> None:
    """Note which quota has no room for a further job."""
    try:
        with backends.database.transaction() as tx:
            quotas.foresee_job(tx, project)
    except QuotaExceeded as error:
        report.errors.append(error.to_typed())


def _parsed(values: object, report: Report) -> JobSpec | None:
    """Return the spec; where some of it is wrong, without that, so that the rest is looked at."""
    try:
        spec = parse_spec(values)
    except InvalidSpec as error:
        report.errors.append(error.to_typed())
        return _without(values, [problem.pointer for problem in error.problems])
    try:
        check_built(spec)
    except InvalidSpec as error:
        report.errors.append(error.to_typed())
    return spec


def _without_secrets(
    backends: Backends, spec: JobSpec, report: Report, *, project: str
) -> JobSpec | None:
    """Return the spec without what is or looks like a secret, so that the report tells none."""
    values = spec.model_dump(mode="json")
    try:
        with backends.database.transaction() as tx:
            check_said(tx, values, project=project, settings=backends.settings)
    except InvalidSpec as error:
        report.errors.append(error.to_typed())
        return _without(values, [problem.pointer for problem in error.problems])
    return spec


def _without(values: object, pointers: Sequence[str]) -> JobSpec | None:
    """Return the spec without the parts that are wrong, if that is a spec."""
    if not isinstance(values, dict):
        return None
    left = json.loads(json.dumps(values))
    for pointer in pointers:
        match pointer.strip("/").split("/"):
            case ["model", *_]:
                left["model"] = NO_MODEL
            case ["data", name, *_] if isinstance(left.get("data"), dict):
                left["data"].pop(name, None)
            case [name, *_]:
                left.pop(name, None)
    try:
        return parse_spec(left)
    except InvalidSpec:
        return None


def _look_up(backends: Backends, spec: JobSpec, report: Report, *, project: str) -> list[Worker]:
    """Note what the spec refers to, and return the workers that are there."""
    with backends.database.transaction() as tx:
        present = workers.present(tx)
        report.datasets, problems = referred(tx, spec, project=project)
        problems = [one for one in problems if spec.model != NO_MODEL or one.pointer != "/model"]
        if problems:
            report.errors.append(InvalidSpec(problems).to_typed())
        if any(problem.pointer == "/model" for problem in problems) or spec.model == NO_MODEL:
            return present
        try:
            check_capacity(
                spec,
                num_weights=num_weights_of(tx, spec, project=project, home=backends.settings.home),
                workers=present,
            )
        except NothingFits as error:
            report.errors.append(error.to_typed())
    return present


def _tell_rows(report: Report) -> None:
    assert report.examination is not None, "the rows were examined"
    found, repetition = report.examination.found, report.examination.repetition
    if found is not None:  # which columns there are says what rows can use
        report.warnings += [_warning("setting_unused", one) for one in unused(found.spec)]
    if repetition is None:
        return
    for code, numbers, what in (
        ("rows_repeated", repetition.num_duplicates, "rows of {split} are there before"),
        ("labels_contradict", repetition.num_contradictions,
         "rows of {split} are there before with another label"),
        ("splits_overlap", repetition.num_overlapping, "rows of {split} are training rows too"),
    ):  # fmt: skip
        for split, number in numbers.items():
            if number:
                message = f"{number} {what.format(split=split)}."
                report.warnings.append({"code": code, "message": message, "hint": ""})


def _warning(code: str, problem: FieldProblem) -> dict[str, str]:
    return {"code": code, "message": f"{problem.pointer}: {problem.message}", "hint": problem.hint}


def _inspect(
    inspector: Inspector,
    spec: JobSpec,
    report: Report,
    present: Sequence[Worker],
    *,
    model: Callable[[Path], Path],
    folder: Path,
) -> None:
    """Add what only torch can tell: tokens, choices, memory, and whom the job fits."""
    why = _why_not(spec, report)
    if why is None:
        try:
            inspector.check()  # before a model is fetched for it
            _prepare(folder, spec, report, present, model=model)
            report.findings = inspector.inspect(folder)
        except (NotHere, CannotInspect) as error:
            why = str(error)
        except ModelNotFound as error:
            report.errors.append(error.to_typed())
            why = "there is no model to look at"
    if why is not None:
        report.missing.append(Missing(_ALL_OF_IT, why))
    if report.findings is not None:
        report.warnings += report.findings.warnings
        _tell_failure(report.findings.error, report)
    estimates = report.findings.estimates if report.findings else ()
    report.fits = [fit(worker, spec, estimates) for worker in present]
    is_told = any(error.code == NothingFits.code for error in report.errors)
    if not is_told and (refused := refusal(report.fits, estimates)):
        report.errors.append(refused)


def _tell_failure(error: TypedError | None, report: Report) -> None:
    """Note why an inspection ended early: a fault of the job, or of whoever looked at it."""
    if error is None:
        return
    if error.whose in (Whose.USER, Whose.DATA):
        report.errors.append(error)
    else:
        report.missing.append(Missing(_ALL_OF_IT, f"looking at it failed: {error.message}"))


def _why_not(spec: JobSpec, report: Report) -> str | None:
    if report.examination is None or report.examination.found is None:
        return "there are no rows to look at"
    if "train" not in report.examination.sample:
        return "there are no rows to train on"
    if any(error.code == InvalidSpec.code for error in report.errors):
        return "the spec has to be mended first"
    if spec.model == NO_MODEL:
        return "no model is named"
    return None


def _prepare(
    folder: Path,
    spec: JobSpec,
    report: Report,
    present: Sequence[Worker],
    *,
    model: Callable[[Path], Path],
) -> None:
    """Make a run directory of the folder with the sample of the rows.

    Args:
        folder: where they are.
        spec: of the job.
        report: has what was found of them.
        present: the workers that are there.
        model: returns the folder of the base model, or fills the one that it is given.
    """
    assert report.examination is not None, "the rows were examined"
    found, sample = report.examination.found, report.examination.sample
    assert found is not None, "the rows can be read"
    files = {split: InputFile(path, path.name) for split, path in sample.items()}
    inputs = Inputs(
        model=model(folder / "model"),
        train=files["train"],
        eval=files.get("eval"),
        test=files.get("test"),
        num_threads=1,
    )
    directory = RunDirectory(folder)
    write_json(directory.spec, found.spec.model_dump(mode="json"))
    write_json(directory.inputs, inputs.to_dict())
    targets = targets_of(spec, present)
    Request(found.num_rows, found.classes, found.class_counts, targets).write(folder)
