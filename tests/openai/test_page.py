"""The blocks of `docs/openai.md`, run as they stand."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.identifiers import sibling
from jobs.predictions import Desk
from jobs.states import State
from jobs.store import listing
from tests.openai.conftest import CHATS, PAIRS, Facade, jsonl
from tests.receiver import Receiver

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "openai.md"
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(), re.DOTALL)
ADDRESS, JOB = "http://127.0.0.1:8750", "job_01k9"  # on the page
SAID = {
    "outputs": [{"text": "On its way.", "finish_reason": "stop"}],
    "num_input_tokens": 5,
    "num_output_tokens": 4,
}


@pytest.fixture
def at_work(facade: Facade) -> Iterator[None]:
    """Somebody who trains what is queued under the page's suffix, and answers."""
    stop, desk = threading.Event(), Desk(facade.backends.redis_url)

    def work() -> None:
        while not stop.wait(0.05):
            with facade.backends.database.transaction() as tx:
                wanted = listing.Filter("default", states=(State.QUEUED,))
                waiting = listing.page(tx, wanted, after=None, limit=20)
            for job in waiting:
                if job.name == "support":
                    facade.train(job.id)

    def answer() -> None:
        while not stop.is_set():
            desk.say_alive()
            if (asked := desk.next()) is not None:
                desk.answer(asked, SAID)

    threads = [threading.Thread(target=work), threading.Thread(target=answer)]
    for thread in threads:
        thread.start()
    yield
    stop.set()
    for thread in threads:
        thread.join()
    desk._client.delete("luthier:predict:alive")


def run_in_shell(block: str, *, folder: Path) -> dict[str, str]:
    """Run a block but for what needs a GPU; return the variables that it leaves."""
    lines = [line for line in block.splitlines() if not line.startswith("vllm serve")]
    script = "\n".join([*lines, f"env -0 > {folder}/environment"])
    subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=folder, check=True)
    texts = (folder / "environment").read_text().split("\0")
    return dict(text.split("=", 1) for text in texts if text)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # as in OpenAI's own, files stay open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("at_work")
def test_the_page_is_true(
    facade: Facade,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "chats.jsonl").write_bytes(jsonl(CHATS))
    (tmp_path / "pairs.jsonl").write_bytes(jsonl(PAIRS))
    rows = "".join(f"message {n},{'ab'[n % 2]}\n" for n in range(40))
    (tmp_path / "intents.csv").write_text("text,intent\n" + rows)
    monkeypatch.chdir(tmp_path)
    bin_folder = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", bin_folder, prepend=os.pathsep)
    monkeypatch.setenv("LUTHIER_URL", facade.url)
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # it is there already
    names: dict[str, Any] = {}

    with Receiver() as receiver:
        monkeypatch.setenv("MY_HOOK", receiver.url)
        for language, block in BLOCKS:
            if language == "python":
                exec(block, names)  # noqa: S102 - the page's own code
                continue
            script = block.replace(ADDRESS, facade.url)
            if JOB in script:
                script = script.replace(JOB, sibling(names["job"].id, prefix="job_"))
            for name, value in run_in_shell(script, folder=tmp_path).items():
                if name.startswith("OPENAI_"):
                    monkeypatch.setenv(name, value)
    names["client"].close()

    said = capsys.readouterr().out
    assert [language for language, _ in BLOCKS].count("bash") >= 3
    assert (tmp_path / "model" / "config.json").read_text() == "{}"
    assert "The job is succeeded" in said
    assert "step,train_loss" in said
    assert "ft:smollm2:default:support:" in said
    assert "On its way." in said
    assert "whsec_" in said
