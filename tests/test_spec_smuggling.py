"""Nothing gets into a spec that it does not name, and no field of it is a path or an import."""

import os
import random

import pytest

from trainer_core.errors import InvalidSpec
from trainer_core.spec import TASKS, parse_spec

NUM_SPECS = int(os.environ.get("SMUGGLED_SPECS", "260"))  # 5000 by hand
FOREIGN = {
    "output_dir": ["/etc", "../../x", "~/.ssh"],
    "report_to": ["all", ["wandb"], "azure_ml"],
    "env": [{"LD_PRELOAD": "/tmp/x.so"}],
    "deepspeed": ["/etc/passwd", {"zero_optimization": {"stage": 3}}],
    "fsdp_config": ["/etc/passwd", {}],
    "optim_target_modules": [".*"],
    "optim_args": ["a=__import__('os')"],
    "trust_remote_code": [True],
    "auto_map": [{"AutoModel": "x--y.Z"}],
    "attn_implementation": ["org/kernel"],
    "logging_dir": ["/etc"],
    "hub_token": ["hf_xxx"],
    "push_to_hub": [True],
    "data_files": ["/etc/passwd", "file:///etc/passwd"],
    "resume_from_checkpoint": ["/tmp/evil"],
    "tokenizer_kwargs": [{"vocab_file": "/etc/passwd"}],
    "__class__": ["x"],
    "__init__": [{}],
    "callbacks": ["os.system"],
    "script": ["x.py"],
    "command": ["sh"],
}
WRONG = [
    ("training", "optimizer", ["torch.optim.SGD", "os.system", "evil:Optimizer", "../x", ["sgd"]]),
    ("training", "scheduler", ["os.system", "evil.module", "/etc/passwd"]),
    ("training", "precision", ["/etc/passwd", "eval"]),
    (None, "model", ["/etc/passwd", "../x", "file:///etc", "s3://x/y", "hub:../../x", "job:/x",
                     "model:../x", "hub:a/b@../../x", "https://evil.example/x", "hub:a/b/c/d"]),
    (None, "task", ["os.system", "../x", None, 1, ["text-classification"]]),
    (None, "tracking", [["azure_ml"], ["os.system"], ["/x"]]),
    (None, "version", [2, "x"]),
    ("data", "train", ["/etc/passwd", "file:///etc/passwd", "dataset:../x", "s3://a/b", "http://x",
                       "zip://x::http://y", "hub:../x", "simplecache::file:///etc/passwd"]),
    ("resources", "gpus", ["all; rm -rf /", -1, 10**9]),
]  # fmt: skip


def parts_of(values, pointer=()):
    yield pointer, values
    for name, value in values.items():
        if isinstance(value, dict) and name not in ("labels", "columns"):
            yield from parts_of(value, (*pointer, name))


def smuggled(rng, example):
    """Return a copy of a spec with one thing in it that must not be there."""
    import copy

    spec = copy.deepcopy(example)
    if rng.random() < 0.6:
        _, part = rng.choice(list(parts_of(spec)))
        name = rng.choice(list(FOREIGN))
        part[name] = rng.choice(FOREIGN[name])
        return spec
    where, name, values = rng.choice(WRONG)
    part = spec if where is None else spec.setdefault(where, {})
    part[name] = rng.choice(values)
    return spec


@pytest.mark.parametrize("seed", range(13))
def test_no_spec_with_something_foreign_in_it_is_taken(seed):
    rng = random.Random(seed)
    for _ in range(NUM_SPECS // 13 + 1):
        spec = smuggled(rng, rng.choice(list(TASKS.values())).example)
        with pytest.raises(InvalidSpec):
            pytest.fail(f"taken: {parse_spec(spec)!r} of {spec}")


@pytest.mark.parametrize("task", TASKS)
def test_the_examples_themselves_are_taken(task):
    parse_spec(TASKS[task].example)
