"""`python -m luthier` is `luthier`."""

from luthier.cli.main import cli

cli(prog_name="luthier")
