"""Help: quick, frozen, with examples first."""

import resource
import subprocess
import sys

import click
import click.testing
import pytest

from luthier.cli.main import cli
from luthier.cli.outcomes import EXIT_CODES
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


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_gets_a_script_that_asks_the_command_for_completions(shell: str) -> None:
    script = click.testing.CliRunner().invoke(cli, ["completion", shell]).stdout
    asked = subprocess.run(
        [sys.executable, "-c", "from luthier.cli.main import cli; cli(prog_name='luthier')"],
        env={
            "_LUTHIER_COMPLETE": f"{shell}_complete",
            "COMP_WORDS": "luthier webho",
            "COMP_CWORD": "webho" if shell == "fish" else "1",
            "PYTHONPATH": ":".join(sys.path),
        },
        capture_output=True,
        text=True,
        check=True,
    )

    assert f"_LUTHIER_COMPLETE={shell}_complete" in script
    assert "webhooks" in asked.stdout


def test_exit_codes_are_those_of_the_documentation() -> None:
    page = (SNAPSHOT.parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")

    for code, meaning in EXIT_CODES:
        assert f"| {code.value} | {meaning} |" in page
