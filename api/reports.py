"""What validation answers, as OpenAPI tells it."""

from typing import Literal

from api.dataset_schemas import BadRow, Column
from api.schemas import JobError, Json, Schema
from jobs.validation import Report
from trainer_core.inspection import Estimate as FoundEstimate

_MAX_LABELS = 1_000


class ReportedError(JobError):
    """Something that is wrong. Of a spec `detail.errors` has every field, of rows `detail.rows`."""


class ReportedWarning(Schema):
    """Something that may not be meant so."""

    code: str
    message: str
    hint: str


class ReportedFile(Schema):
    """A file of rows."""

    split: str
    """For which the spec names it: train, eval or test."""
    name: str
    num_rows: int
    """Rows that can be read."""
    columns: list[Column]
    num_bad_rows: int
    bad_rows: list[BadRow]
    """The first ones that can't be read. Those that do not suit the task are in `errors`."""


class LabelCount(Schema):
    """A class, and how many rows of each split name it."""

    label: str
    num_rows: dict[str, int]


class Twin(Schema):
    """A row with the inputs of an earlier one."""

    file: str
    line: int
    earlier_file: str
    earlier_line: int


class ReportedRows(Schema):
    """What the rows hold; those left out do not count."""

    num_rows: dict[str, int]
    """Usable rows a split."""
    num_skipped: int
    """Bad rows."""
    columns: dict[str, str]
    """Which column plays which role."""
    num_labels: int
    labels: list[LabelCount]
    """The first 1000, in the order of the model's outputs."""
    num_duplicates: dict[str, int]
    """Rows that an earlier one of their split equals."""
    num_contradictions: dict[str, int]
    """Rows with the inputs of an earlier one of their split and another label."""
    num_overlapping: dict[str, int]
    """Rows of eval and test with the inputs of a training row."""
    twins: list[Twin]
    """The first ones of all of these."""


class ReportedTokens(Schema):
    """What the tokenizer makes of a split's rows, measured on up to 1000 of each file."""

    num_rows: int
    percentiles: dict[str, int]
    """Tokens of a row before any is cut: p50, p90, p95, p99 and max."""
    share_truncated: float
    share_without_targets: float
    """Rows with nothing to learn, which are left out."""


class ReportedSegment(Schema):
    """Tokens as text, and whether they are learnt: the loss mask."""

    text: str
    is_learnt: bool


class ReportedExample(Schema):
    """A row as the model reads it."""

    segments: list[ReportedSegment]
    target: str | None
    """What is learnt, where that is no text: a class or a number."""


class ReportedDevice(Schema):
    """A kind of device."""

    kind: Literal["cpu", "cuda", "mps"]
    name: str
    memory_bytes: int | None


class Between(Schema):
    """An estimate."""

    low: float
    expected: float
    high: float


class ReportedEstimate(Schema):
    """What the job takes on a kind of device."""

    device: ReportedDevice
    error: ReportedError | None
    """Why it can't run there."""
    resolved: Json | None
    """The spec without an `auto`, and each choice with its reason."""
    num_steps: int | None
    memory_bytes: Between | None
    """At the peak; on the CPU of the whole process."""
    disk_bytes: int | None
    """At once, at the least."""
    seconds: Between | None
    """Of training and its evaluations, texts that these generate not counted; null where the
    device's speed was not measured."""

    @classmethod
    def of(cls, found: FoundEstimate) -> "ReportedEstimate":
        """Return an estimate."""
        resolved = {"spec": found.spec, "choices": list(found.choices)} if found.spec else None
        return cls(
            device=ReportedDevice.model_validate(found.target),
            error=ReportedError.model_validate(found.error) if found.error else None,
            resolved=resolved,
            num_steps=found.num_steps,
            memory_bytes=Between.model_validate(found.memory) if found.memory else None,
            disk_bytes=found.disk_bytes,
            seconds=Between.model_validate(found.seconds) if found.seconds else None,
        )


class ReportedFit(Schema):
    """Whether the job fits a worker, by the best of its devices."""

    worker: str
    device: str | None
    verdict: Literal["fits", "may_fit", "too_small", "unknown"]


class ReportedGap(Schema):
    """What could not be found out, and why."""

    what: str
    why: str


class Validation(Schema):
    """Everything that is wrong with a job, and what it would do."""

    is_valid: bool
    """There are no `errors`: a submission would be accepted now, and nothing was found for which
    the job would fail. One with errors may be accepted all the same: `POST /jobs` does not look at
    the model, at tokens, and at estimates other than of the weights' own state."""
    errors: list[ReportedError]
    warnings: list[ReportedWarning]
    missing: list[ReportedGap]
    """What this service could not find out."""
    files: list[ReportedFile]
    rows: ReportedRows | None
    tokens: dict[str, ReportedTokens]
    """By split."""
    examples: list[ReportedExample]
    """Three training rows."""
    num_weights: int | None
    num_trained_weights: int | None
    estimates: list[ReportedEstimate]
    """One for each kind of device that the workers have."""
    workers: list[ReportedFit]

    @classmethod
    def of(cls, report: Report) -> "Validation":
        """Return what is to be said of a job."""
        findings = report.findings
        return cls(
            is_valid=not report.errors,
            errors=[ReportedError.model_validate(error) for error in report.errors],
            warnings=[ReportedWarning.model_validate(dict(one)) for one in report.warnings],
            missing=[ReportedGap.model_validate(gap) for gap in report.missing],
            files=_files(report),
            rows=_rows(report),
            tokens={
                split: ReportedTokens.model_validate(tokens)
                for split, tokens in (findings.tokens if findings else {}).items()
            },
            examples=[
                ReportedExample.model_validate(example)
                for example in (findings.examples if findings else ())
            ],
            num_weights=findings.num_weights if findings else None,
            num_trained_weights=findings.num_trained if findings else None,
            estimates=[
                ReportedEstimate.of(one) for one in (findings.estimates if findings else ())
            ],
            workers=[ReportedFit.model_validate(fit) for fit in report.fits],
        )


def _files(report: Report) -> list[ReportedFile]:
    names = ("num_rows", "columns", "num_bad_rows", "bad_rows")
    return [
        ReportedFile(
            split=split,
            name=dataset.name,
            **{name: dataset.description[name] for name in names},
        )
        for split, dataset in report.datasets.items()
    ]


def _rows(report: Report) -> ReportedRows | None:
    found = report.examination and report.examination.found
    repetition = report.examination and report.examination.repetition
    if not found or not repetition:
        return None
    return ReportedRows(
        num_rows=dict(found.num_rows),
        num_skipped=found.num_skipped,
        columns=found.spec.columns.mapped(),
        num_labels=len(found.classes),
        labels=[
            LabelCount(
                label=label,
                num_rows={s: counts.get(label, 0) for s, counts in found.class_counts.items()},
            )
            for label in found.classes[:_MAX_LABELS]
        ],
        num_duplicates=dict(repetition.num_duplicates),
        num_contradictions=dict(repetition.num_contradictions),
        num_overlapping=dict(repetition.num_overlapping),
        twins=[Twin.model_validate(twin) for twin in repetition.twins],
    )
