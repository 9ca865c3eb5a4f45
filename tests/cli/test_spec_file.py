"""Reading specs, and `--set`."""

from pathlib import Path
from typing import Any

import click
import pytest

from luthier.cli.spec_file import parse_value, read_spec, with_settings


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("5e-5", 5e-5),
        ("true", True),
        ("null", None),
        ('"5"', "5"),
        ("auto", "auto"),
        ("hub:org/name@main", "hub:org/name@main"),
        ('{"patience": 2}', {"patience": 2}),
        ('["tensorboard"]', ["tensorboard"]),
        ("NaN", "NaN"),
        ("", ""),
        ("a=b", "a=b"),
    ],
)
def test_value_is_json_or_else_text(text: str, value: Any) -> None:
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


def test_settings_reach_into_the_spec_and_make_what_is_missing() -> None:
    spec = {"training": {"epochs": 3, "seed": 1}, "name": "x"}

    changed = with_settings(
        spec, ["training.epochs=5", "labels.team=support", "/labels/a.b~1c=d=e", "name="]
    )

    assert changed == {
        "training": {"epochs": 5, "seed": 1},
        "labels": {"team": "support", "a.b/c": "d=e"},
        "name": "",
    }
    assert spec == {"training": {"epochs": 3, "seed": 1}, "name": "x"}


def test_null_is_replaced_by_an_object() -> None:
    changed = with_settings({"adapter": None}, ["adapter.r=8"])

    assert changed == {"adapter": {"r": 8}}


@pytest.mark.parametrize("setting", ["epochs", "=5", "a..b=5", ".a=1", "/=1"])
def test_setting_of_another_form_is_refused(setting: str) -> None:
    with pytest.raises(click.UsageError, match="PATH=VALUE"):
        with_settings({}, [setting])


def test_setting_below_a_number_is_refused_with_its_place() -> None:
    with pytest.raises(click.UsageError, match="training is 3, which has no fields"):
        with_settings({"training": 3}, ["training.epochs=5"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"task": "x",\n "model" "y"}', r"spec.json:2:10: Expecting ':' delimiter"),
        (b"[1]", "a job spec is a JSON object"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": 1, "a": 2}', "the key 'a' is given twice"),
        (b"[" * 100_000, "nested too deeply"),
        (rb'{"a": "\ud800"}', "half a surrogate pair"),
        (b"\xff\xfe{", "is not UTF-8"),
        (b"", r"spec.json:1:1"),
    ],
)
def test_file_that_is_no_spec_is_refused_with_its_place(
    content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "spec.json"
    path.write_bytes(content)

    with pytest.raises(click.UsageError, match=message):
        read_spec(str(path))


def test_byte_order_mark_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_bytes(b'\xef\xbb\xbf{"task": "x"}')

    assert read_spec(str(path)) == {"task": "x"}


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(click.UsageError, match=r"nowhere.json: No such file"):
        read_spec(str(tmp_path / "nowhere.json"))
