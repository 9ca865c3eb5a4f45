"""The part of a spec that says on what a job runs, and for how long: devices, memory, time."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from trainer_core.spec.base import Auto, SpecModel


class ParallelSpec(SpecModel):
    """How several devices share one model: single settings, never a library's whole config."""

    strategy: Literal["ddp", "fsdp", "deepspeed"] = "ddp"
    """`ddp`: a whole copy on each device, the fastest where it fits. `fsdp`: weights, gradients and
    moments are shared out, layer by layer (PyTorch FSDP2). `deepspeed`: the same by DeepSpeed's
    ZeRO, which has to be installed. Default ddp."""
    zero_stage: Literal[1, 2, 3] | None = None
    """What DeepSpeed shares out: 1 the moments, 2 the gradients too, 3 the weights too. Default
    null: 2."""
    reshard: bool | None = None
    """With `fsdp`: let go of a layer's weights between its forward and its backward pass, which
    saves memory and fetches them twice. Default null: true."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """Keep in the host's memory what is not in use: slow, for models that do not fit. `optimizer`,
    with `deepspeed`: the moments; `all`: the weights too. Default none."""

    @model_validator(mode="after")
    def _settings_are_the_strategys(self) -> Self:
        if self.zero_stage is not None and self.strategy != "deepspeed":
            raise ValueError(f"zero_stage is DeepSpeed's; the strategy is '{self.strategy}'")
        if self.reshard is not None and self.strategy != "fsdp":
            raise ValueError(f"reshard is FSDP's; the strategy is '{self.strategy}'")
        if self.offload != "none" and self.strategy == "ddp":
            raise ValueError(
                "offload goes with 'fsdp' or 'deepspeed': 'ddp' needs all on the device"
            )
        if self.offload == "optimizer" and self.strategy == "fsdp":
            raise ValueError("fsdp has no offload of the optimizer alone; choose 'all' or 'none'")
        if self.strategy == "deepspeed" and self.offload == "all" and self.zero_stage != 3:
            raise ValueError("offload 'all' needs zero_stage 3, which shares the weights out")
        return self


class ResourcesSpec(SpecModel):
    """What the job may use."""

    gpus: Annotated[int, Field(ge=0, le=64)] | Auto = "auto"
    """Devices to train on, on one machine, a process each. `auto`: the one of the worker that takes
    the job; 0 for the CPU."""
    parallel: ParallelSpec = ParallelSpec()
    """How several devices share the work. Default: a whole copy of the model on each."""
    max_runtime_seconds: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Seconds of wall time that an attempt may take, 1 or more; each attempt has them anew. Then a
    checkpoint is saved and the run fails with `max_runtime_reached`. Default null: no limit."""
    max_stall_seconds: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Seconds that a training process may live without a sign of getting further, 1 or more: a
    step, a batch of an evaluation, a thousand rows tokenized. Then its stacks are printed to the
    log, it is ended, and the job is tried again (`stalled`). Raise it for steps, or a compilation,
    that take longer. Default null: the worker's `LUTHIER_STALL_SECONDS`."""
    on_oom: Literal["fail", "shrink"] = "fail"
    """When memory, of the host or the device, runs out while training: `fail` with a smaller spec
    to post; or `shrink`: the service goes on from the newest checkpoint with half the micro-batch
    and twice the accumulation, once, which counts as no attempt and leaves the result the same but
    for rounding and the draws of dropout. Default fail: a batch that did not fit is worth knowing
    of."""
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    """Higher starts earlier; equal ones in the order of submission. Default 0."""

    @property
    def num_gpus(self) -> int:
        """How many GPUs a worker must have for the job; 0 where any worker will do."""
        return 0 if self.gpus == "auto" else self.gpus
