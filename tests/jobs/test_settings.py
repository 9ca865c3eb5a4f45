"""Settings: a bad value is one clear line, and nothing is open to everybody."""

import re
from pathlib import Path

import pytest

from jobs.settings import Settings, load_settings
from trainer_core.errors import InvalidSetting

LOCAL = "postgresql://luthier@localhost/luthier"
README = Path(__file__).parents[2] / "README.md"


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("LUTHIER_PORT", "http", "LUTHIER_PORT: .*integer.*'http'"),
        ("LUTHIER_PORT", "70000", "LUTHIER_PORT"),
        ("LUTHIER_DATABASE_URL", "mysql://a:secret@b/c", "LUTHIER_DATABASE_URL: write postgresql"),
        ("LUTHIER_DATABASE_URL", "postgresql://a:secret@b:x/c", "LUTHIER_DATABASE_URL: write post"),
        ("LUTHIER_REDIS_URL", "amqp://a:secret@b", "LUTHIER_REDIS_URL: write redis"),
        ("LUTHIER_STORAGE_URL", "/srv/luthier", "LUTHIER_STORAGE_URL: write file:///"),
        ("LUTHIER_DEVICES", "cuda:0,tpu", "'tpu' is not a device"),
        ("LUTHIER_LEASE_SECONDS", "0", "LUTHIER_LEASE_SECONDS"),
        ("LUTHIER_WEBHOOK_NETWORKS", "10.0.0.0/8,10.0.0.1/8", "LUTHIER_WEBHOOK_NETWORKS"),
        ("LUTHIER_SECRET_KEY", "secret", "LUTHIER_SECRET_KEY"),
        ("LUTHIER_SECRET_KEY", ",a-key-that-is-long", "each key"),
        ("LUTHIER_SECRET_KEY", "a-key-that-is-long,", "each key"),
    ],
)
def test_bad_value_is_one_line_naming_the_variable(monkeypatch, variable, value, words):
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidSetting, match=words) as caught:
        load_settings()
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_bind_beyond_loopback_asks_for_keys_or_is_refused(monkeypatch, host):
    monkeypatch.setenv("LUTHIER_HOST", host)
    assert load_settings().asks_for_keys
    monkeypatch.setenv("LUTHIER_AUTH", "none")
    with pytest.raises(InvalidSetting, match=r"LUTHIER_HOST.*not a loopback address") as caught:
        load_settings()
    assert caught.value.param == "LUTHIER_HOST"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_bind_to_loopback_is_accepted(host):
    assert load_settings(host=host, auth="none").host == host


def test_keys_are_asked_for_unless_the_whole_service_is_on_this_machine():
    assert not load_settings().asks_for_keys
    assert load_settings(database_url=LOCAL).asks_for_keys
    assert not load_settings(database_url=LOCAL, auth="none").asks_for_keys
    assert load_settings(auth="keys").asks_for_keys


def test_names_of_the_service_go_with_keys():
    settings = load_settings(auth="keys", allowed_hosts="luthier.example, Luthier")
    assert settings.allowed_hosts == ("luthier.example", "luthier")
    with pytest.raises(InvalidSetting, match="LUTHIER_ALLOWED_HOSTS goes with"):
        load_settings(allowed_hosts="luthier.example")
    with pytest.raises(InvalidSetting, match="is not a host name"):
        load_settings(auth="keys", allowed_hosts="http://luthier.example")


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("database_url", "postgresql://luthier@db.internal/luthier"),
        ("database_url", "postgresql://db.internal/luthier"),
        ("database_url", "postgresql://luthier@127.0.0.1,10.0.0.7/luthier"),
        ("database_url", "postgresql://luthier@/luthier?host=db.internal"),
        ("database_url", "postgresql://luthier@localhost/luthier?hostaddr=10.0.0.7"),
        ("database_url", "postgresql://luthier:@10.0.0.7/luthier"),
        ("redis_url", "redis://queue.internal:6379/0"),
        ("redis_url", "rediss://luthier@queue.internal/0"),
        ("redis_url", "redis://[2001:db8::1]/0"),
    ],
)
def test_server_elsewhere_without_a_password_is_refused(name, url):
    with pytest.raises(InvalidSetting, match="has no password") as caught:
        load_settings(**{name: url})
    assert caught.value.param == f"LUTHIER_{name.upper()}"


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("database_url", "postgresql://luthier@localhost/luthier"),
        ("database_url", "postgresql:///luthier?host=/run/postgresql"),
        ("database_url", "postgresql://luthier:secret@db.internal/luthier"),
        (
            "database_url",
            "postgresql://luthier@db.internal/luthier?sslcert=/etc/luthier/client.pem",
        ),
        ("redis_url", "redis://127.0.0.1:6379/0"),
        ("redis_url", "rediss://:secret@queue.internal/0"),
    ],
)
def test_server_on_this_machine_or_with_a_password_is_accepted(name, url):
    assert load_settings(**{name: url})


def test_lists_are_split_and_paths_expanded(monkeypatch):
    monkeypatch.setenv("LUTHIER_MODEL_ROOTS", "~/models:/srv/models")
    monkeypatch.setenv("LUTHIER_DEVICES", "cuda:0, cuda:1")
    settings = load_settings()
    assert settings.model_roots == (Path.home() / "models", Path("/srv/models"))
    assert settings.devices == ("cuda:0", "cuda:1")
    assert settings.num_slots == 2


def test_database_url_gets_the_driver():
    settings = load_settings(database_url="postgres://u:p@h:5/n")
    assert settings.database_url == "postgresql+psycopg://u:p@h:5/n"


def test_readme_lists_every_setting_with_its_default():
    rows = dict(re.findall(r"^\| `LUTHIER_(\w+)` \| (.*?) \|", README.read_text(), re.MULTILINE))
    of_clients = {"URL", "API_KEY", "API_KEY_FILE"}
    assert set(rows) == {name.upper() for name in Settings.model_fields} | of_clients
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, int | float) and not isinstance(field.default, bool):
            assert str(field.default).removesuffix(".0") in rows[name.upper()], name
