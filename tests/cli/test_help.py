"""Help: quick, frozen, with examples first."""

import resource
import subprocess
import sys

import click
import click.testing
import pytest

from luthier.cli.main import cli
from tests.cli.help_pages import SNAPSHOT, rendered

HEAVY = {
    "httpx",
    "rich",
    "fastapi",
    "uvicorn",
    "pydantic",
    "sqlalchemy",
    "celery",
    "redis",
    "torch",
    "transformers",
    "pyarrow",
}


def test_help_is_that_of_the_snapshot() -> None:
    renew = "renew it with `python -m tests.cli.help_pages` and tell of it in the changelog"

    assert rendered() == SNAPSHOT.read_text(encoding="utf-8"), renew


def test_every_page_starts_with_examples_of_its_command() -> None:
    pages = rendered().split("$ luthier")[1:]

    assert len(pages) > 20
    for page in pages:
        title, first, example, *_ = page.splitlines()
        path = f"luthier{title.removesuffix(' --help')}"
        assert first == "Examples:"
        assert path in example, page


def test_help_loads_no_library_and_is_quick() -> None:
    code = (
        "import sys\n"
        "from luthier.cli.main import cli\n"
        "cli(['--help'], standalone_mode=False)\n"
        "print(*sys.modules, file=sys.stderr)\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, encoding="utf-8"
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)

    loaded = {name.partition(".")[0] for name in ended.stderr.split()}
    assert "click" in loaded
    assert not HEAVY & loaded
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        (["sumbit"], "Did you mean 'submit'?"),
        (["datasets", "previw"], "Did you mean 'preview'?"),
        (["submit", "x.json", "--folow"], "Did you mean"),
    ],
)
def test_misspelt_word_is_answered_with_the_right_one(args: list[str], wanted: str) -> None:
    result = click.testing.CliRunner().invoke(cli, args)

    assert result.exit_code == 2
    assert wanted in result.stderr
    assert result.stdout == ""


def test_no_option_takes_a_secret() -> None:
    names: set[str] = set()

    def collect(command: click.Command) -> None:
        names.update(option for param in command.params for option in param.opts)
        for child in command.commands.values() if isinstance(command, click.Group) else ():
            collect(child)

    collect(cli)

    assert "--json" in names
    assert not [name for name in names if "key" in name or "token" in name or "password" in name]


def test_shell_completion_is_offered() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "luthier"],
        env={"_LUTHIER_COMPLETE": "bash_source", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert "complete" in result.stdout
