"""A process of a run that is shared out on the CPU, which accelerate does on GPUs only.

The test of FSDP runs it under torchrun; all but the two refusals that it lifts is real.
"""

import inspect
import sys
from typing import Any

import accelerate.state

from trainer_core.training.__main__ import main
from trainer_core.training.loop import arguments

State = accelerate.state.AcceleratorState
_make_state = State.__init__


def _make_shared_out(self: Any, *args: Any, **kwargs: Any) -> None:
    _make_state(self, *args, **kwargs)
    plugin = kwargs.get("fsdp_plugin")
    if plugin is not None:
        self.fsdp_plugin = plugin
        self.distributed_type = accelerate.state.DistributedType.FSDP
        accelerate.state.PartialState._shared_state["distributed_type"] = self.distributed_type


if __name__ == "__main__":
    State.__init__ = _make_shared_out
    source = inspect.getsource(arguments._check_fsdp)
    assert 'device.kind != "cuda"' in source
    exec(source.replace('device.kind != "cuda"', "False"), vars(arguments))  # noqa: S102
    sys.exit(main(sys.argv[1:]))
