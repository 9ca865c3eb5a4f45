"""One save in a process of its own, for a tracer to make its system calls fail.

    python -m tests.training.faulty_save FOLDER

prints the code of the error that the run would end with, or "saved". It imports no torch.
"""

import sys
from pathlib import Path

from trainer_core.training.process.directories import whole_or_absent
from trainer_core.training.process.failures import typed_error


def main(folder: Path) -> str:
    try:
        with whole_or_absent(folder / "checkpoint-2") as partial:
            for name in ("model", "optimizer", "state"):
                (partial / name).write_bytes(name.encode() * 1000)
    except OSError as error:
        return typed_error(error, relief=None, folder=folder).code
    return "saved"


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))  # noqa: T201
