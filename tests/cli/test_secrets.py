"""`luthier secrets`: stored and listed by name, and all sealed again when their key is replaced."""

import json
from collections.abc import Iterator

import click.testing
import httpx
import pytest

from jobs.backends import Backends
from jobs.sealing import Cipher
from jobs.settings import Settings, load_settings
from jobs.store import audit, secrets, webhooks
from luthier.cli.main import cli
from tests.api.conftest import serve
from tests.cli.conftest import Run, command
from trainer_core.errors import SecretUnreadable

pytestmark = pytest.mark.slow

OLD, NEW = "the-key-that-was-there", "the-key-that-comes-now"
VALUE = "hf_0123456789abcdef"


@pytest.fixture
def sealed(service_settings: Settings, backends: Backends) -> Iterator[Run]:
    """Commands on a service whose secrets are sealed by the old key; it has one of each kind."""
    networks = {"webhook_networks": ("127.0.0.0/8",)}
    values = service_settings.model_dump() | {"secret_key": OLD} | networks
    with serve(load_settings(**values)) as url:
        run = command(url)
        assert run("secrets", "set", "my-hf", stdin=f"{VALUE}\n").exit_code == 0
        hook = httpx.post(f"{url}/webhooks", json={"url": "http://127.0.0.1:9/"}).json()
        httpx.post(f"{url}/webhooks/{hook['id']}/rotate-secret", json={"keep_old_secret": True})
        yield run


def reseal(backends: Backends, *, keys: str) -> click.testing.Result:
    settings = backends.settings
    environment = {
        "LUTHIER_DATABASE_URL": str(settings.database_url),
        "LUTHIER_HOME": str(settings.home),
        "LUTHIER_SECRET_KEY": keys,
    }
    return click.testing.CliRunner(env=environment).invoke(cli, ["secrets", "reseal"])


def opened(backends: Backends, key: str) -> list[str]:
    """Return all that is sealed, opened by one key."""
    cipher = Cipher(key)
    with backends.database.transaction() as tx:
        (hook,) = webhooks.page(tx, project="default", after=None, limit=9)
        named = secrets.reveal(tx, "my-hf", project="default", cipher=cipher)
    assert hook.old_secret is not None
    return [named, cipher.open(hook.secret), cipher.open(hook.old_secret)]


def test_sealing_key_is_replaced_and_nothing_is_lost(sealed: Run, backends: Backends) -> None:
    before = opened(backends, OLD)
    done = reseal(backends, keys=f"{NEW},{OLD}")
    assert done.exit_code == 0, done.stderr
    assert "2 secrets" in done.stderr
    assert opened(backends, NEW) == before
    assert before[0] == VALUE
    with pytest.raises(SecretUnreadable):
        opened(backends, OLD)
    with backends.database.transaction() as tx:
        newest = audit.page(tx, project="default", after=None, limit=1)
    assert [(one.action, one.actor.split()[0]) for one in newest] == [("secret.reseal", "operator")]


def test_without_the_old_key_nothing_is_sealed_again(sealed: Run, backends: Backends) -> None:
    before = opened(backends, OLD)
    done = reseal(backends, keys=NEW)
    assert done.exit_code == 1
    assert "sealed with another key" in done.stderr
    assert opened(backends, OLD) == before


def test_value_comes_from_stdin_and_names_alone_are_listed(sealed: Run) -> None:
    shown = sealed("secrets", "ls", "--json")
    assert json.loads(shown.stdout) == ["my-hf"]
    assert sealed("secrets", "ls").stdout == "my-hf\n"
    assert sealed("secrets", "rm", "my-hf", "-y").exit_code == 0
    assert sealed("secrets", "ls").stdout == ""
    again = sealed("secrets", "rm", "my-hf", "-y")
    assert (again.exit_code, "no secret 'my-hf'" in again.stderr) == (1, True)


def test_new_keys_are_long_and_differ() -> None:
    made = [click.testing.CliRunner().invoke(cli, ["secrets", "new-key"]).stdout for _ in range(2)]
    assert made[0] != made[1]
    assert all(len(key.strip()) >= 43 and "," not in key for key in made)
