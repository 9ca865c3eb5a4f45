"""A run from its directory to its outcome: the standard workflow, top to bottom."""

import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from trainer_core.events import (
    JsonlReporter,
    Logged,
    Phase,
    PhaseEntered,
    Reporter,
    Reporters,
    Warned,
)
from trainer_core.rows.checking import Survey, survey
from trainer_core.rows.files import InputFile
from trainer_core.run_directory import (
    Inputs,
    Outcome,
    Result,
    RunDirectory,
    read_json,
    write_json,
)
from trainer_core.spec import Facts, JobSpec, Resolution, check_built, parse_spec, resolve
from trainer_core.spec.resolving import num_optimizer_steps
from trainer_core.training.adapters import add_adapter, merge_adapter
from trainer_core.training.arguments import training_arguments
from trainer_core.training.cards import hub_name, model_card
from trainer_core.training.checkpoints import newest_whole, steps_saved
from trainer_core.training.devices import Device, choose_device
from trainer_core.training.directories import clear_leftovers
from trainer_core.training.failures import typed_error
from trainer_core.training.lineage import data_hashes, describe_run, differences
from trainer_core.training.models import BaseModel, check_length, open_model
from trainer_core.training.narrating import LineReporter
from trainer_core.training.recipe import Recipe, Setup
from trainer_core.training.saving import save_adapter, save_model
from trainer_core.training.stopping import StopAsked, Stopping
from trainer_core.training.tasks import find_task
from trainer_core.training.trainer import RunTrainer
