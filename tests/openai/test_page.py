"""The blocks of `docs/openai.md`, run as they stand."""

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.predictions import Desk
from jobs.states import State
from jobs.store import listing, models
from tests.openai.conftest import CHATS, PAIRS, Facade, jsonl
from tests.receiver import Receiver

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "openai.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
SAID = {
    "outputs": [{"text": "On its way.", "finish_reason": "stop"}],
    "num_input_tokens": 5,
    "num_output_tokens": 4,
}


@pytest.fixture
def at_work(facade: Facade) -> Iterator[None]:
    """Somebody who trains what is queued under the page's suffix, and answers."""
    stop, desk = threading.Event(), Desk(facade.backends.redis_url)
    desk.say_alive()

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


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # as in OpenAI's own, files stay open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("at_work")
def test_the_page_is_true(
    facade: Facade,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({}))
    with facade.backends.database.transaction() as tx:
        models.create(tx, "smollm2", project="default", path=str(tmp_path), hub=None, revision=None)
    (tmp_path / "chats.jsonl").write_bytes(jsonl(CHATS))
    (tmp_path / "pairs.jsonl").write_bytes(jsonl(PAIRS))
    rows = "".join(f"message {n},{'ab'[n % 2]}\n" for n in range(40))
    (tmp_path / "intents.csv").write_text("text,intent\n" + rows)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_BASE_URL", f"{facade.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    names: dict[str, Any] = {}

    with Receiver() as receiver:
        monkeypatch.setenv("MY_HOOK", receiver.url)
        for block in BLOCKS:
            exec(block, names)  # noqa: S102 - the page's own code
    names["client"].close()

    said = capsys.readouterr().out
    assert "The job is succeeded" in said
    assert "step,train_loss" in said
    assert "ft:smollm2:default:support:" in said
    assert "On its way." in said
    assert "whsec_" in said
