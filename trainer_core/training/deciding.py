"""What is settled before the first token: the base model, every `auto`, where to go on."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from trainer_core.events import Logged, Phase, Reporter, Warned
from trainer_core.run_directory import RunDirectory, write_json
from trainer_core.spec import Choice, Facts, JobSpec, Resolution, resolve, with_micro_batch
from trainer_core.training.limits import check_limits
from trainer_core.training.loop.arguments import check_arguments
from trainer_core.training.loop.lineage import describe_origin, describe_run
from trainer_core.training.loop.resuming import Checkpoint, keep_choices, resumable, tell_resumption
from trainer_core.training.models.base_model import BaseModel, open_model
from trainer_core.training.models.quantizing import choose_quantizing
from trainer_core.training.models.scratch import begin_anew
from trainer_core.training.models.sentence_folders import SentenceForm, read_form
from trainer_core.training.models.shapes import shape_of
from trainer_core.training.preparing import Given
from trainer_core.training.process import processes
from trainer_core.training.process.clock import PhaseClock
from trainer_core.training.recipes.cards import hub_name
from trainer_core.training.recipes.packing import has_flash_attention
from trainer_core.training.room import check_room, estimate_need


@dataclass(frozen=True, slots=True)
class Decided:
    """What is settled before the first row is tokenized."""

    spec: JobSpec  # resolved
    base: BaseModel
    lineage: dict[str, Any]
    checkpoint: Checkpoint | None  # to go on from
    use_cache: bool | None  # the base model's setting, which training turns off

    @property
    def base_name(self) -> str:
        """What the base model is called: its name on the Hub, else as the spec has it."""
        return hub_name(self.spec) or self.spec.model


def decide(
    given: Given, *, directory: RunDirectory, clock: PhaseClock, reporter: Reporter
) -> Decided:
    """Open the base model, decide what the spec leaves open, and write down what was decided."""
    clock.enter(Phase.LOADING)
    base = open_model(given.inputs.model)
    if given.spec.scratch is not None:
        base = begin_anew(base, given.spec.scratch)
    origin = describe_origin(given.spec, inputs=given.inputs, hashes=given.hashes)
    checkpoint = _checkpoint(directory, origin=origin, reporter=reporter)
    resolution = _resolve(given, base, checkpoint)
    check_arguments(resolution.spec, device=given.device)
    if warning := check_limits(resolution.spec, base):
        reporter.report(Warned("max_length_large", warning, "Set it to 'auto'."))
    need = estimate_need(resolution.spec, base, num_train_rows=given.found.num_rows["train"])
    check_room(need, folder=directory.path)
    base = replace(base, quantizing=choose_quantizing(resolution.spec, given.device))
    _tell(resolution, directory=directory, reporter=reporter)
    lineage = describe_run(origin, resolution=resolution, found=given.found, device=given.device)
    if processes.is_first():
        write_json(directory.lineage, lineage)
    if checkpoint:
        tell_resumption(checkpoint, lineage=lineage, reporter=reporter)
    use_cache = getattr(base.config, "use_cache", None)
    return Decided(resolution.spec, base, lineage, checkpoint, use_cache)


def _checkpoint(
    directory: RunDirectory, *, origin: Mapping[str, Any], reporter: Reporter
) -> Checkpoint | None:
    """Return what to go on from; the first process looks, and clears away what is of no use."""

    def look() -> Checkpoint | None:
        found = resumable(directory.checkpoints, origin=origin, reporter=reporter)
        if found is None:  # what was measured before was of another model, or of another spec
            shutil.rmtree(directory.evaluations, ignore_errors=True)
        return found

    return processes.made_by_first(look)


def _tell(resolution: Resolution, *, directory: RunDirectory, reporter: Reporter) -> None:
    spec = resolution.spec.model_dump(mode="json")
    choices = [asdict(choice) for choice in resolution.choices]
    if processes.is_first():
        write_json(directory.resolved, {"spec": spec, "choices": choices})
    for choice in resolution.choices:
        message = f"{choice.pointer.strip('/').replace('/', '.')}: {choice.value}, {choice.why}"
        reporter.report(Logged(message, asdict(choice)))


def _resolve(given: Given, base: BaseModel, checkpoint: Checkpoint | None) -> Resolution:
    """Decide what the spec leaves open, as it was decided for the checkpoint if there is one."""
    spec, kept = _shrunk(given)
    if checkpoint is not None:
        spec, as_before = keep_choices(spec, checkpoint, device=given.device)
        kept = (*kept, *as_before)
    resolution = resolve(spec, facts_of(given, base))
    return Resolution(resolution.spec, (*kept, *resolution.choices))


def _shrunk(given: Given) -> tuple[JobSpec, tuple[Choice, ...]]:
    """Return the spec with the micro-batch of the inputs, if they name one, and that choice."""
    spec, size = given.found.spec, given.inputs.micro_batch_size
    if size is None:
        return spec, ()
    choice = Choice("/training/micro_batch_size", size, "memory ran out with more")
    return with_micro_batch(spec, size), (choice,)


def facts_of(given: Given, base: BaseModel) -> Facts:
    """Return what the choices of a run depend on."""
    form = read_form(base.path, base.config) if given.spec.pools_tokens else None
    lengths = (base.usual_length, form.max_length if form else None)
    return Facts(
        num_train_rows=given.found.num_rows["train"],
        num_eval_rows=given.found.num_rows["eval"],
        num_weights=base.num_weights,
        num_processes=processes.num_processes(),
        max_positions=min((n for n in lengths if n is not None), default=None),
        has_chat_template=bool(base.tokenizer.chat_template),
        device=given.device.kind,
        device_memory_bytes=given.device.memory_bytes,
        has_fast_bf16=given.device.has_fast_bf16,
        can_recompute=base.can_recompute,
        shape=shape_of(base.config),
        has_flash_attention=_has_flash_attention(given, base),
        num_logits_per_token=_num_logits_per_token(given.spec, base),
        **_pooling_facts(form),
    )


def _has_flash_attention(given: Given, base: BaseModel) -> bool:
    device = given.device
    return device.kind == "cuda" and device.has_fast_bf16 and has_flash_attention(base.config)


def _num_logits_per_token(spec: JobSpec, base: BaseModel) -> int:
    is_chunked = spec.has_chunked_loss and not spec.training.compile
    if not spec.has_token_logits or is_chunked:
        return 0
    return int(base.config.get_text_config().vocab_size)


def _pooling_facts(form: SentenceForm | None) -> dict[str, Any]:
    if form is None:
        return {}
    return {
        "pooling": form.pooling,
        "is_normalized": form.is_normalized,
        "is_embedding_model": form.is_given,
    }
