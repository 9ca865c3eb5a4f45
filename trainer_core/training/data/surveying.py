"""What the rows of a job hold, from the cache if they were looked at before."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from trainer_core.rows.checking import Survey, survey
from trainer_core.rows.files import InputFile
from trainer_core.spec import JobSpec
from trainer_core.training.data.caching import Cache, Draft, Entry
from trainer_core.training.data.keys import rows_key

_HELD_OUT = "held_out.bin"


def known_survey(cache: Cache, spec: JobSpec, files: Mapping[str, InputFile]) -> Survey:
    """Return what `survey` says of the rows; rows that can't be trained on are never kept.

    Raises:
        DataError: as `survey`.
    """
    key = cache.claim(rows_key(spec, files))
    if (entry := cache.find(key)) and (kept := _restored(entry, spec)):
        return kept
    found = survey(spec, files)
    if cache.is_kept:
        with cache.adding(key) as draft:
            _keep(found, draft)
    return found


def _keep(found: Survey, draft: Draft) -> None:
    (draft.folder / _HELD_OUT).write_bytes(found.held_out)
    draft.values.update(
        columns=found.spec.columns.model_dump(mode="json"),
        num_rows=dict(found.num_rows),
        num_skipped=found.num_skipped,
        classes=found.classes,
        class_counts=found.class_counts,
    )


def _restored(entry: Entry, spec: JobSpec) -> Survey | None:
    values: Mapping[str, Any] = entry.values
    try:
        held_out = (entry.folder / _HELD_OUT).read_bytes()
    except FileNotFoundError:  # removed in this moment
        return None
    columns = type(spec.columns).model_validate(values["columns"])
    data = spec.data.model_copy(update={"columns": columns})
    return Survey(
        spec=spec.model_copy(update={"data": data}),
        num_rows=values["num_rows"],
        num_skipped=values["num_skipped"],
        classes=tuple(values["classes"]),
        class_counts={split: Counter(counts) for split, counts in values["class_counts"].items()},
        held_out=held_out,
    )
