"""What README and docs say is true of the tree; the commands of the README are run."""

import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import httpx
import pytest

from jobs.settings import Settings
from jobs.states import FINAL, TRANSITIONS, State
from luthier.cli.main import cli
from luthier.embedded.ports import free_port

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
ADRS = sorted((ROOT / "docs" / "adr").glob("*.md"))
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("*/README.md"))]
IGNORED = re.compile(
    r"\..*|.*\.egg-info|__pycache__|build|dist|demo-output|drills\.jsonl|README\.md"
)

pages = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])


def named_in_map() -> list[str]:
    """Return the paths of the README's map: a folder ends in `/`, its content is indented by 2."""
    lines = block(README, "<!-- map -->").splitlines()
    parents: list[str] = []
    paths = []
    for line in lines:
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        parents[depth:] = [name]
        paths.append("".join(parents))
    return paths


def block(page: Path, marker: str) -> str:
    """Return what is in the fenced blocks that follow a marker, joined."""
    found = re.findall(rf"{re.escape(marker)}\n```\w*\n(.*?)```", page.read_text(), re.DOTALL)
    assert found, f"{page.name} has no block after {marker}"
    return "\n".join(found)


def code_of(page: Path) -> Iterator[str]:
    """Yield the lines of fenced blocks, and the code within lines of text."""
    is_fenced = False
    for line in page.read_text().splitlines():
        if line.startswith("```"):
            is_fenced = not is_fenced
        elif is_fenced:
            yield line.partition(" #")[0]
        else:
            yield from re.findall(r"`([^`]+)`", line)


def test_every_path_in_the_map_exists():
    paths = named_in_map()
    missing = [
        p for p in paths if not (ROOT / p).exists() or (ROOT / p).is_dir() != p.endswith("/")
    ]
    assert not missing
    assert len(set(paths)) == len(paths)


def test_map_has_everything_at_the_top():
    found = {
        f"{path.name}/" if path.is_dir() else path.name
        for path in ROOT.iterdir()
        if not IGNORED.fullmatch(path.name)
    }
    assert found == {path for path in named_in_map() if "/" not in path.rstrip("/")}


def test_map_that_opens_a_folder_lists_all_its_modules():
    paths = named_in_map()
    opened = {f"{path.rstrip('/').rpartition('/')[0]}/" for path in paths} - {"/"}
    modules = {
        f"{folder}{path.name}{'/' if path.is_dir() else ''}"
        for folder in opened
        for path in (ROOT / folder).iterdir()
        if (path.suffix == ".py" and path.name != "__init__.py") or (path / "__init__.py").exists()
    }
    assert modules <= set(paths)
    packages = {"api/", "jobs/", "luthier/", "trainer_core/", "worker/"}
    assert packages <= opened


@pages
def test_every_make_target_named_exists(page):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for code in code_of(page) for name in re.findall(r"\bmake ([a-z]+)", code)}
    assert named <= targets


@pages
def test_every_luthier_command_named_exists_with_its_options(page):
    lines = [
        found.partition(" | ")[0].split()
        for code in code_of(page)
        for found in re.findall(r"(?:^|[\s(=])luthier ((?:-|[a-z])[^`)]*)", code)
    ]
    for words in lines:
        command = command_of(words)
        options = {option for param in command.params for option in param.opts} | {"--help", "-h"}
        options |= {"--version"}
        assert {word for word in words if re.fullmatch(r"--?[a-z][a-z-]*", word)} <= options, words


def command_of(words: list[str]) -> click.Command:
    """Return the command that the first words of a command line name."""
    command: click.Command = cli
    for word in words:
        if not isinstance(command, click.Group) or word.startswith("-"):
            break
        assert word in command.commands, f"there is no `luthier {' '.join(words)}`"
        command = command.commands[word]
    return command


@pages
def test_every_link_leads_somewhere(page):
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(#[^)]*)?\)", page.read_text()):
        path = page.parent / target if target else page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", text).lower().replace(" ", "-") for text in headings]
            assert anchor[1:] in slugs


@pages
def test_every_file_named_in_code_exists(page):
    names = {
        name
        for code in code_of(page)
        for name in re.findall(r"(?<![\w/.<-])((?:[a-z_]+/)+[a-z_]+\.(?:py|toml|txt|md))\b", code)
    }
    made = ("my-run/", "trainer_core/training/tasks/your_task.py")
    missing = {
        name
        for name in names
        if not name.startswith(made)
        and not any((ROOT / base / name).exists() for base in ("", "trainer_core"))
    }
    assert not missing


@pytest.mark.parametrize("page", ADRS, ids=[page.stem for page in ADRS])
def test_decision_is_short_and_has_its_four_parts(page):
    text = page.read_text()
    assert len(text.splitlines()) <= 40
    assert re.match(r"# \d+\. .+\n\nDate: \d{4}-\d\d-\d\d\n\n> .+\n", text)
    assert int(text[2:].partition(".")[0]) == int(page.name[:4])
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == [
        "Context", "Decision", "Consequences", "Alternatives",
    ]  # fmt: skip


def test_every_dependency_has_a_decision():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.match(r"[\w-]+", line)[0] for line in project["dependencies"]}
    text = "\n".join(page.read_text() for page in ADRS)
    assert {name for name in names if f"`{name}`" not in text} == set()


def test_states_in_the_docs_are_those_of_the_code():
    page = (ROOT / "docs" / "architecture.md").read_text()
    text = page.partition("| State | Meaning | Next |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]*)\|$", text, re.MULTILINE)
    documented = {State(name): set(re.findall(r"`(\w+)`", targets)) for name, targets in rows}
    assert documented == {state: set(targets) for state, targets in TRANSITIONS.items()}
    assert {state for state, targets in documented.items() if not targets} == FINAL


@pytest.fixture
def clone(tmp_path) -> Path:
    """A folder in which the README's commands find what they name."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    return tmp_path


def run_in(folder: Path, script: str, **environment: str) -> str:
    answer = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


@pytest.mark.slow
def test_training_alone_works_as_written(clone):
    output = run_in(clone, block(README, "<!-- run: alone -->"))
    assert '"result": "succeeded"' in output
    assert (clone / "my-run" / "model" / "model.safetensors").exists()


@pytest.mark.slow
def test_training_from_python_works_as_written(clone):
    (clone / "five_lines.py").write_text(block(README, "<!-- run: python -->"))
    assert "'accuracy': " in run_in(clone, ".venv/bin/python five_lines.py")
    assert (clone / "my-python-run" / "model" / "model.safetensors").exists()


@pytest.fixture
def service(settings: Settings) -> Iterator[str]:
    """`luthier up` on the servers of the tests; gives its address."""
    url = f"http://127.0.0.1:{free_port()}"
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LUTHIER_HOME": str(settings.home),
        "LUTHIER_PORT": url.rpartition(":")[2],
        "LUTHIER_DATABASE_URL": str(settings.database_url),
        "LUTHIER_REDIS_URL": str(settings.redis_url),
        "LUTHIER_AUTH": "none",
        "LUTHIER_MODEL_ROOTS": sys.prefix,
        "LUTHIER_TRAINING_THREADS": "1",
    }
    process = subprocess.Popen([sys.executable, "-m", "luthier", "up"], env=environment)
    deadline = time.monotonic() + 120
    while not is_ready(url):
        assert process.poll() is None, "`luthier up` ended by itself"
        assert time.monotonic() < deadline, "`luthier up` was not ready in time"
        time.sleep(0.3)
    yield url
    process.send_signal(signal.SIGINT)
    assert process.wait(90) == 0


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


@pytest.mark.slow
@pytest.mark.timeout(900)  # it trains for four epochs, however busy the machine is
@pytest.mark.skipif(shutil.which("curl") is None, reason="the README uses curl")
def test_quickstart_works_as_written(clone, service):
    script = block(README, "<!-- run: service -->").replace("http://127.0.0.1:8750", service)
    output = run_in(clone, script, LUTHIER_URL=service)
    assert "event: progress" in output
    assert '"state":"succeeded"' in output
    assert (clone / "head.bin").stat().st_size == 100
    head = (clone / "my-model" / "model.safetensors").read_bytes()[:100]
    assert (clone / "head.bin").read_bytes() == head
    with tarfile.open(clone / "my-model.tar") as archive:
        assert "model/model.safetensors" in archive.getnames()
    made = run_in(clone, block(README, "<!-- run: upload -->"), url=service)
    assert '"id":"ds_' in made.splitlines()[-1]
    (clone / "try.py").write_text(block(README, "<!-- run: model -->"))
    assert "'label'" in run_in(clone, ".venv/bin/python try.py")
