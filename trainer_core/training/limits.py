"""What a resolved spec may not ask for, because the model or the Trainer can't do it."""

from trainer_core.errors import FieldProblem, InvalidSpec
from trainer_core.spec import JobSpec
from trainer_core.training.models.base_model import BaseModel

_LAST_RATE = 1e-7  # where transformers' polynomial schedule ends, whatever it starts from


def check_limits(spec: JobSpec, base: BaseModel) -> str | None:
    """Return a warning, or None; raise InvalidSpec with every problem."""
    assert spec.max_length != "auto", "the spec is resolved before"
    problems = []
    table = base.num_positions if base.has_position_table else None
    if table is not None and spec.max_length > table:
        message = f"{spec.max_length} tokens are more than the {table} positions of the model"
        problems.append(FieldProblem("/max_length", message, f"Set it to {table} or 'auto'."))
    training = spec.training
    if training.gradient_checkpointing is True and not base.can_recompute:
        message = f"a model of type '{base.config.model_type}' can't recompute its activations"
        pointer = "/training/gradient_checkpointing"
        problems.append(FieldProblem(pointer, message, "Set it to false."))
    assert training.learning_rate != "auto", "the spec is resolved before"
    has_end = training.scheduler_options.min_lr_ratio is not None
    if training.scheduler == "polynomial" and not has_end and training.learning_rate <= _LAST_RATE:
        message = f"a polynomial schedule falls to {_LAST_RATE}, so it must start above that"
        hint = "Raise it, or choose another training.scheduler."
        problems.append(FieldProblem("/training/learning_rate", message, hint))
    if problems:
        raise InvalidSpec(problems)
    return _warning(base, max_length=spec.max_length)


def _warning(base: BaseModel, *, max_length: int) -> str | None:
    usual = base.usual_length
    if usual is None or max_length <= usual:
        return None
    return (
        f"max_length: {max_length} tokens are more than the {usual} that the model says it is made "
        "for; it may do badly on so many."
    )
