"""`python -m luthier` is `luthier`."""

from luthier.cli.main import cli

if __name__ == "__main__":  # else a process of several that it has started
    cli(prog_name="luthier")
