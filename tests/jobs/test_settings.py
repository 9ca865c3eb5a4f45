"""Settings: a bad value is one clear line, and nothing listens beyond loopback."""

import re
from pathlib import Path

import pytest

from jobs.settings import Settings, load_settings
from trainer_core.errors import InvalidSetting

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
    ],
)
def test_bad_value_is_one_line_naming_the_variable(monkeypatch, variable, value, words):
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidSetting, match=words) as caught:
        load_settings()
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_bind_beyond_loopback_is_refused(monkeypatch, host):
    monkeypatch.setenv("LUTHIER_HOST", host)
    with pytest.raises(InvalidSetting, match="not a loopback address"):
        load_settings()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_bind_to_loopback_is_accepted(host):
    assert load_settings(host=host).host == host


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
    assert set(rows) == {name.upper() for name in Settings.model_fields} | {"URL", "API_KEY"}
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, int | float) and not isinstance(field.default, bool):
            assert str(field.default).removesuffix(".0") in rows[name.upper()], name
