"""The vocabulary: one spec type, a union discriminated by `task`, that all of Luthier parses.

Imports pydantic only.
"""

from trainer_core.spec.parsing import TASKS, check_built, parse_spec, spec_schema, unused
from trainer_core.spec.references import (
    Reference,
    Scheme,
    parse_data_reference,
    parse_model_reference,
)
from trainer_core.spec.resolving import Choice, Facts, Resolution, resolve
from trainer_core.spec.shrinking import Relief, half_micro_batch, relief_of, with_micro_batch
from trainer_core.spec.tasks import JobSpec
from trainer_core.spec.tasks.common import Columns, Row, TaskSpec

__all__ = [
    "TASKS",
    "Choice",
    "Columns",
    "Facts",
    "JobSpec",
    "Reference",
    "Relief",
    "Resolution",
    "Row",
    "Scheme",
    "TaskSpec",
    "check_built",
    "half_micro_batch",
    "parse_data_reference",
    "parse_model_reference",
    "parse_spec",
    "relief_of",
    "resolve",
    "spec_schema",
    "unused",
    "with_micro_batch",
]
