"""The vocabulary: one spec type, a union discriminated by `task`, that all of Luthier parses.

Imports pydantic only.
"""

from trainer_core.spec.parsing import TASKS, JobSpec, check_built, parse_spec, spec_schema
from trainer_core.spec.references import (
    Reference,
    Scheme,
    parse_data_reference,
    parse_model_reference,
)
from trainer_core.spec.resolving import Choice, Facts, Resolution, resolve
from trainer_core.spec.tasks import CausalLM, Columns, Row, TaskSpec, TextClassification

__all__ = [
    "TASKS",
    "CausalLM",
    "Choice",
    "Columns",
    "Facts",
    "JobSpec",
    "Reference",
    "Resolution",
    "Row",
    "Scheme",
    "TaskSpec",
    "TextClassification",
    "check_built",
    "parse_data_reference",
    "parse_model_reference",
    "parse_spec",
    "resolve",
    "spec_schema",
]
