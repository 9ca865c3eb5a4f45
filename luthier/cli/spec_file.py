"""Reading a spec from a file, and changing fields of it from the command line."""

import json
from collections.abc import Iterable
from typing import Any, NoReturn

import click

Json = dict[str, Any]


def read_spec(source: str) -> Json:
    """Return the JSON object in a file, or on stdin for `-`.

    Raises:
        UsageError: it can't be read, or is no JSON object; the message names line and column.
    """
    try:
        with click.open_file(source, encoding="utf-8-sig") as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{source}: is not UTF-8: {error.reason}") from error
    except OSError as error:
        raise click.UsageError(f"{source}: {error.strerror}") from error
    name = "stdin" if source == "-" else source
    try:
        values = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_unique)
        json.dumps(values, ensure_ascii=False).encode()  # as it will be sent
    except json.JSONDecodeError as error:
        raise click.UsageError(f"{name}:{error.lineno}:{error.colno}: {error.msg}") from error
    except RecursionError as error:
        raise click.UsageError(f"{name}: the JSON is nested too deeply") from error
    except UnicodeEncodeError as error:
        raise click.UsageError(f"{name}: half a surrogate pair is no text") from error
    except ValueError as error:
        raise click.UsageError(f"{name}: {error}") from error
    if not isinstance(values, dict):
        raise click.UsageError(f'{name}: a job spec is a JSON object, as in {{"task": …}}')
    return values


def with_settings(spec: Json, settings: Iterable[str]) -> Json:
    """Return a spec with `path=value` settings made; the spec given stays as it is.

    A path is names joined by dots, as in `training.epochs`, or a JSON pointer, as in
    `/labels/team.name`, for names that have dots of their own. A value that is JSON is taken as
    such, anything else as text.
    """
    result: Json = json.loads(json.dumps(spec))
    for setting in settings:
        path, separator, value = setting.partition("=")
        names = _names(path)
        if not separator or not all(names):
            raise click.UsageError(f"--set {setting}: write PATH=VALUE, as in training.epochs=5")
        _put(result, names, parse_value(value))
    return result


def parse_value(text: str) -> Any:
    """Return a value of the command line: JSON if it is JSON, else the text itself."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except ValueError:
        return text


def _put(values: Json, names: list[str], value: Any) -> None:
    here = values
    for depth, name in enumerate(names[:-1], start=1):
        child = here.get(name)
        if child is None:
            child = here[name] = {}
        if not isinstance(child, dict):
            place = ".".join(names[:depth])
            raise click.UsageError(
                f"--set {'.'.join(names)}: {place} is {json.dumps(child)[:60]}, which has no fields"
            )
        here = child
    here[names[-1]] = value


def _names(path: str) -> list[str]:
    if path.startswith("/"):
        return [name.replace("~1", "/").replace("~0", "~") for name in path[1:].split("/")]
    return path.split(".")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _unique(items: list[tuple[str, Any]]) -> Json:
    values = dict(items)
    if len(values) < len(items):
        names = [name for name, _ in items]
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key '{double}' is given twice in one object")
    return values
