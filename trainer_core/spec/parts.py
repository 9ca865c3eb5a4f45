"""The parts of a spec that every task shares. Each field says its unit, range, default and why."""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from trainer_core.spec.base import Auto, ColumnName, Name, ShortText, SpecModel, Text
from trainer_core.spec.references import DataReference, Scheme, parse_data_reference

Fraction = Annotated[float, Field(gt=0, lt=1)]
PositiveInt = Annotated[int, Field(ge=1, le=2**31 - 1)]


class DataSpec(SpecModel):
    """Where the rows come from. Each task adds `columns`, the mapping from its roles to columns."""

    train: DataReference
    """Rows to learn from: `dataset:ID` of an upload. Data sets of the Hub, `hub:org/name`, are
    refused in this version: upload their rows."""
    eval: Fraction | DataReference | None = 0.1
    """Rows to measure on while training: a fraction of `train` in (0, 1), a reference, or null for
    none. Default 0.1: without held-out rows nobody can tell learning from memorizing."""
    test: Fraction | DataReference | None = None
    """Rows measured once, at the end: a fraction of `train`, a reference, or null. Default null."""
    max_train_rows: PositiveInt | None = None
    """Use at most so many rows of `train`, the first ones, before a fraction is taken from them.
    Default null: all."""
    max_eval_rows: PositiveInt | None = None
    """Use at most so many rows for evaluation, the first ones. Default null: all."""
    invalid_rows: Literal["refuse", "skip"] = "refuse"
    """What to do with rows that can't be trained on. Default `refuse`: silent loss is worse than a
    stop; `skip` leaves them out and says how many."""

    @model_validator(mode="after")
    def _fractions_leave_rows(self) -> Self:
        shares = [share for share in (self.eval, self.test) if isinstance(share, float)]
        if sum(shares) >= 1:
            raise ValueError("eval and test together must leave rows for training: sum below 1")
        return self

    def references(self) -> dict[str, str]:
        """Return split -> reference of each split that has rows of its own."""
        sources = {"train": self.train, "eval": self.eval, "test": self.test}
        return {split: source for split, source in sources.items() if isinstance(source, str)}

    def dataset_ids(self) -> list[str]:
        """Return the ids of the data sets that are referred to, in order."""
        references = [parse_data_reference(source) for source in self.references().values()]
        return sorted({one.name for one in references if one.scheme is Scheme.DATASET})


class EarlyStopping(SpecModel):
    """Stop when the metric for the best model no longer improves."""

    patience: Annotated[int, Field(ge=1, le=1000)] = 2
    """Evaluations without improvement before stopping, 1 to 1000. Default 2."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """Smallest change that counts as improvement, in the metric's unit, >= 0. Default 0."""


Optimizer = Literal[
    "adamw_torch",
    "adamw_torch_fused",
    "adafactor",
    "sgd",
    "adagrad",
    "rmsprop",
    "lion_32bit",
    "lion_8bit",
    "paged_lion_8bit",
    "adamw_8bit",
    "paged_adamw_32bit",
    "paged_adamw_8bit",
    "ademamix",
    "ademamix_8bit",
    "schedule_free_adamw",
    "schedule_free_radam",
    "schedule_free_sgd",
    "stable_adamw",
]
Scheduler = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
    "cosine_with_min_lr",
    "warmup_stable_decay",
    "reduce_lr_on_plateau",
]


class SchedulerOptions(SpecModel):
    """What single schedulers take; an option of another scheduler is refused."""

    num_cycles: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Waves of a cosine, > 0, or whole restarts. Default null: 0.5, from the peak down, or 1."""
    power: Annotated[float, Field(gt=0, le=10)] | None = None
    """Exponent of `polynomial`, in (0, 10]. Default null: 1, a straight line."""
    min_lr_ratio: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Lowest learning rate, as a share of the peak, in [0, 1). Default null: 0.1 for
    `cosine_with_min_lr`, else 0."""
    decay_ratio: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of all steps over which `warmup_stable_decay` falls at the end. Default null: 0.1."""
    decay_type: Literal["linear", "cosine", "1-sqrt"] | None = None
    """Form of that fall. Default null: 1-sqrt (Hägele et al. 2024)."""
    timescale_steps: PositiveInt | None = None
    """Steps after which `inverse_sqrt` has fallen by a factor of 1.4. Default null: those of the
    warm-up, or 10000 without one."""
    factor: Annotated[float, Field(gt=0, lt=1)] | None = None
    """What `reduce_lr_on_plateau` multiplies the learning rate by, in (0, 1). Default null: 0.1."""
    patience: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Evaluations without improvement before it does so, 0 to 1000. Default null: 10."""


SCHEDULER_OPTIONS: dict[str, frozenset[str]] = {
    "cosine": frozenset({"num_cycles"}),
    "cosine_with_restarts": frozenset({"num_cycles"}),
    "polynomial": frozenset({"power", "min_lr_ratio"}),
    "inverse_sqrt": frozenset({"timescale_steps"}),
    "cosine_with_min_lr": frozenset({"num_cycles", "min_lr_ratio"}),
    "warmup_stable_decay": frozenset({"decay_ratio", "decay_type", "min_lr_ratio"}),
    "reduce_lr_on_plateau": frozenset({"factor", "patience", "min_lr_ratio"}),
}


FreezePattern = Annotated[
    ShortText, StringConstraints(pattern=r"^(layers:[1-9]\d{0,3}|[A-Za-z0-9_.*?\[\]!-]+)$")
]


class TrainingSpec(SpecModel):
    """How to train. `auto` is chosen by the service, and the choice is recorded with its reason."""

    epochs: Annotated[float, Field(gt=0, le=10_000)] = 3.0
    """Passes over the training rows, > 0. Default 3, the usual for fine-tuning."""
    max_steps: PositiveInt | None = None
    """Optimizer steps to take in place of `epochs`. Default null."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] | Auto = "auto"
    """Peak learning rate, in (0, 10]. `auto`: 5e-5 for all weights, 2e-4 for an adapter; less for
    preference tasks, which start from a model that already answers; 5e-4 for random weights."""
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 16
    """Examples per optimizer step over all devices. Default 16. It changes the result."""
    micro_batch_size: Annotated[int, Field(ge=1, le=65_536)] | Auto = "auto"
    """Examples of the greatest length per forward pass and device; of shorter ones as many as have
    no more tokens. It divides `batch_size`; the rest is accumulated. It changes memory and speed
    only. `auto`: as many as are estimated to fit."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the forward and backward pass. `auto`: bf16 where the device has it fast, a CPU
    with AMX for models of 5 million weights or more; else fp32."""
    tf32: bool | Auto = "auto"
    """Round the factors of fp32 products to 10 bits of mantissa, on GPUs that have it: faster, and
    the result differs in the fourth digit. `auto`: there, unless precision is fp32."""
    gradient_checkpointing: bool | Auto = "auto"
    """Recompute activations in place of keeping them: less memory, about a third more time.
    `auto`: only where the batch would not fit otherwise."""
    compile: bool = False
    """Run the model through torch.compile. Default false: it pays off on long GPU runs only."""
    optimizer: Optimizer = "adamw_torch_fused"
    """Optimizer, by the Trainer's name for it. Default fused AdamW: the same steps, faster.
    Those of 8 bits, `paged_`, `lion_` and `ademamix` need bitsandbytes; `schedule_free_` needs
    schedulefree, and `stable_adamw` torch-optimi."""
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """First-moment decay of Adam optimizers, in [0, 1). Default 0.9."""
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Second-moment decay of Adam optimizers, in [0, 1). Default 0.999."""
    adam_epsilon: Annotated[float, Field(gt=0, le=1)] = 1e-8
    """Denominator term of Adam optimizers, in (0, 1]. Default 1e-8."""
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.01
    """Weight decay, in [0, 10], not on biases and norms. Default 0.01. The Adam family, Adafactor
    and Lion decouple it from the gradient; sgd, adagrad and rmsprop add it to the gradient."""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Clip the gradient to this L2 norm; null for no clipping. Default 1.0."""
    scheduler: Scheduler = "linear"
    """Learning-rate schedule after the warm-up. Default linear decay to zero.
    `reduce_lr_on_plateau` falls when `evaluation.metric` no longer improves, without a warm-up."""
    scheduler_options: SchedulerOptions = SchedulerOptions()
    """What the scheduler takes besides. Default null for each: the scheduler's own."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.06
    """Share of all steps over which the learning rate rises from zero, in [0, 1). Default 0.06."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability mass spread over the wrong classes, in [0, 1). Default 0."""
    neftune_noise_alpha: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Noise on the embeddings while training (NEFTune); null for none. Default null."""
    freeze: Annotated[tuple[FreezePattern, ...], Field(max_length=64)] = ()
    """Weights that stay as they are: `embeddings`, `body` (all but the head), `layers:N` (the first
    N of each stack), or names of modules or weights, whole or from a dot on, where `*`, `?` and
    `[0-3]` match as in file names: `encoder.layer.[0-3]`. Default none."""
    early_stopping: EarlyStopping | None = None
    """Stop before the end when evaluation no longer improves; needs evaluation. Default null."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 42
    """Seed of weights, dropout, splits and row order. Default 42."""
    log_steps: PositiveInt | Literal["epoch"] | Auto = "auto"
    """Optimizer steps between two training-loss records, each the mean since the one before; or
    `epoch`: a record an epoch. `auto`: about 200 records a run."""
    data_loader_workers: Annotated[int, Field(ge=0, le=64)] = 0
    """Processes that collate batches beside the training process. Default 0: rows are tokenized
    before the first step, so collating is cheap."""

    @model_validator(mode="after")
    def _options_are_the_schedulers(self) -> Self:
        known = SCHEDULER_OPTIONS.get(self.scheduler, frozenset())
        given = {name for name, value in self.scheduler_options if value is not None}
        if others := sorted(given - known):
            has = f"it has {', '.join(sorted(known))}" if known else "it has none"
            raise ValueError(f"the scheduler '{self.scheduler}' has no option '{others[0]}'; {has}")
        if (self.scheduler_options.decay_ratio or 0) + self.warmup_ratio > 1:
            raise ValueError("warmup_ratio and decay_ratio together are more than all steps")
        cycles = self.scheduler_options.num_cycles
        if cycles and cycles % 1 and self.scheduler == "cosine_with_restarts":
            raise ValueError(f"num_cycles {cycles} of restarts is to be a whole number")
        return self

    @model_validator(mode="after")
    def _micro_batch_divides_batch(self) -> Self:
        micro = self.micro_batch_size
        if micro != "auto" and self.batch_size % micro:
            raise ValueError(
                f"micro_batch_size {micro} does not divide batch_size {self.batch_size}; "
                "choose a divisor or 'auto'"
            )
        return self


class EvaluationSpec(SpecModel):
    """When to measure on the evaluation rows, and by which metric the best model is chosen."""

    strategy: Literal["epoch", "steps", "no"] = "epoch"
    """Measure after each epoch, every `steps` steps, or once, after training (`no`). Default
    `epoch`."""
    steps: PositiveInt | None = None
    """Optimizer steps between two evaluations; with strategy `steps` only."""
    batch_size: PositiveInt | Auto = "auto"
    """Examples per forward pass while measuring. `auto`: twice the micro-batch, or as many for a
    language model."""
    metric: Name | Auto = "auto"
    """Metric that chooses the best model. `auto`: the task's main metric."""
    baseline: bool | Auto = "auto"
    """Measure the base model on the evaluation rows before the first step, so that the job says
    what it gained. `auto`: where it takes little of the time of training and generates no text."""

    @model_validator(mode="after")
    def _steps_go_with_strategy(self) -> Self:
        if (self.strategy == "steps") != (self.steps is not None):
            raise ValueError("'steps' is given with strategy 'steps', and only then")
        return self


class CheckpointSpec(SpecModel):
    """When to save what a run needs to go on after a stop."""

    strategy: Literal["evaluation", "epoch", "steps", "no"] = "evaluation"
    """Save after each evaluation, each epoch, every `steps` steps, or never. Default `evaluation`,
    so that the best model is always one that was saved. With evaluation off, after each epoch."""
    steps: PositiveInt | None = None
    """Optimizer steps between two checkpoints; with strategy `steps` only."""
    keep: Annotated[int, Field(ge=1, le=1000)] = 2
    """Newest checkpoints kept; the best one is kept besides. Default 2: disks fill up."""

    @model_validator(mode="after")
    def _steps_go_with_strategy(self) -> Self:
        if (self.strategy == "steps") != (self.steps is not None):
            raise ValueError("'steps' is given with strategy 'steps', and only then")
        return self


class ScratchSpec(SpecModel):
    """Begin with random weights in the base model's architecture, and keep its tokenizer.

    Sizes are those of the base model where they are null. They go by transformers' usual names,
    whatever the architecture calls them.
    """

    num_hidden_layers: Annotated[int, Field(ge=1, le=256)] | None = None
    """Layers, 1 to 256."""
    hidden_size: Annotated[int, Field(ge=8, le=16_384)] | None = None
    """Numbers that stand for a token between the layers, 8 to 16384; divided among the heads."""
    num_attention_heads: Annotated[int, Field(ge=1, le=256)] | None = None
    """Attention heads of a layer, 1 to 256."""
    num_key_value_heads: Annotated[int, Field(ge=1, le=256)] | None = None
    """Heads of keys and values, which divide the attention heads, 1 to 256."""
    intermediate_size: Annotated[int, Field(ge=8, le=131_072)] | None = None
    """Numbers inside a layer's feed-forward part, 8 to 131072."""
    max_position_embeddings: Annotated[int, Field(ge=8, le=1_048_576)] | None = None
    """Tokens that the model is made for, 8 to 1048576."""


class AdapterSpec(SpecModel):
    """Train a small low-rank addition in place of all weights (LoRA, Hu et al. 2021)."""

    type: Literal["lora", "dora"] = "lora"
    """`lora`, or `dora` (LoRA with a learned magnitude). Default lora."""
    r: Annotated[int, Field(ge=1, le=1024)] = 16
    """Rank, 1 to 1024. Default 16."""
    alpha: Annotated[float, Field(gt=0, le=4096)] = 32.0
    """Scale: the addition is multiplied by alpha / r. Default 32."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapter's input, in [0, 1). Default 0."""
    target_modules: tuple[ShortText, ...] | Literal["all-linear"] = "all-linear"
    """Modules that get an adapter: names, or every linear layer of the body. Default all-linear."""
    quantization: Literal["none", "8bit", "4bit"] = "none"
    """Precision of the frozen weights (4bit is QLoRA), by bitsandbytes. Default none. A merged
    model has whole weights again."""
    output: Literal["merged", "adapter"] = "merged"
    """Hand out one merged model, or the adapter alone. Default merged: it loads everywhere."""


class SecretsSpec(SpecModel):
    """Which of the project's stored secrets a job uses, by their names; never a value."""

    hf: Name | None = None
    """Token with which the base model is fetched from the Hub, and the finished one pushed, if
    `output.push` names no other. Default null: without one."""
    wandb: Name | None = None
    """Key for the tracker `wandb`. Default null: the worker's own, if it has one."""
    mlflow: Name | None = None
    """Token for the tracker `mlflow`. Default null: the worker's own, if it has one."""
    trackio: Name | None = None
    """Token for the tracker `trackio`. Default null: the worker's own, if it has one."""

    def given(self) -> dict[str, str]:
        """Return use -> name of every secret that is named."""
        return {use: name for use, name in self if name is not None}


Tracker = Literal["tensorboard", "wandb", "mlflow", "trackio"]
Labels = dict[
    Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w./-]{0,62}$")],
    Annotated[Text, Field(max_length=256)],
]

__all__ = [
    "AdapterSpec",
    "CheckpointSpec",
    "ColumnName",
    "DataSpec",
    "EarlyStopping",
    "EvaluationSpec",
    "Labels",
    "SchedulerOptions",
    "ScratchSpec",
    "SecretsSpec",
    "Tracker",
    "TrainingSpec",
]
