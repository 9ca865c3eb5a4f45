"""Registering base models: only real model folders below an allowed root."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.conftest import Shared, spec_of, upload

pytestmark = pytest.mark.slow


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The one model root of the settings, with a model `good` in it and a model `out` beside it."""
    root = tmp_path / "models"
    make_model(root / "good")
    make_model(tmp_path / "out")
    return root


def make_model(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"x")


def test_folder_below_a_root_is_registered_and_can_be_used(
    client: httpx.Client, root: Path
) -> None:
    response = client.post("/models", json={"name": "good", "path": str(root / "good")})

    model = response.json()
    assert response.status_code == 201
    assert response.headers["Location"] == "/models/good"
    assert (model["name"], model["path"]) == ("good", str((root / "good").resolve()))
    assert (model["hub"], model["revision"]) == (None, None)
    assert client.get("/models/good").json() == model
    assert client.post("/jobs", json=spec_of(upload(client), model="model:good")).status_code == 201


def test_hub_repository_is_registered(client: httpx.Client) -> None:
    body = {"name": "mini", "hub": "org/mini", "revision": "main"}

    response = client.post("/models", json=body)

    assert response.status_code == 201
    assert {name: response.json()[name] for name in body} == body


def test_models_are_listed_by_name(client: httpx.Client) -> None:
    for name in ("c", "a", "b"):
        client.post("/models", json={"name": name, "hub": f"org/{name}"})

    first = client.get("/models?limit=2").json()
    rest = client.get("/models?after=b").json()

    assert ([m["name"] for m in first["data"]], first["has_more"]) == (["a", "b"], True)
    assert ([m["name"] for m in rest["data"]], rest["has_more"]) == (["c"], False)


def test_name_is_taken_once(client: httpx.Client) -> None:
    body = {"name": "mini", "hub": "org/mini"}

    answers = [client.post("/models", json=body) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [201, 409]
    assert answers[1].json()["code"] == "name_taken"


@pytest.mark.parametrize(
    "path",
    [
        "{root}",
        "{root}/nothing",
        "{root}/../out",
        "{out}",
        "{root}/link-out",
        "{root}/linked-files",
        "{root}/no-weights",
        "{root}-other",
        "models/good",
        "/etc",
        "/",
        "",
        "~",
        "{root}/good\x00",
        "{root}/" + "x" * 5000,
        "{root}/" + "x" * 300,
        "{root}/loop",
    ],
)
def test_path_that_is_no_model_below_a_root_is_refused(
    client: httpx.Client, root: Path, path: str
) -> None:
    out = root.parent / "out"
    make_model(root.parent / "models-other")
    (root / "link-out").symlink_to(out)
    (root / "loop").symlink_to(root / "loop")
    (root / "no-weights").mkdir()
    (root / "no-weights" / "config.json").write_text("{}")
    (root / "linked-files").mkdir()
    for name in ("config.json", "model.safetensors"):
        (root / "linked-files" / name).symlink_to(out / name)

    given = path.format(root=root, out=out)
    response = client.post("/models", json={"name": "bad", "path": given})

    problem = response.json()
    assert (response.status_code, problem["code"]) == (422, "invalid_spec")
    assert problem["errors"][0]["pointer"] == "/path"
    assert client.get("/models").json()["data"] == []


def test_folder_outside_says_the_same_whether_it_exists_or_not(
    client: httpx.Client, root: Path
) -> None:
    make_model(root.parent / "model-1")

    there, missing = (
        client.post("/models", json={"name": "x", "path": str(root.parent / name)}).json()
        for name in ("model-1", "model-2")
    )

    assert there["detail"].replace("model-1", "model-2") == missing["detail"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ([], ""),
        ({"name": "x"}, ""),
        ({"name": "x", "hub": "org/x", "path": "/x"}, ""),
        ({"name": "x", "path": "/x", "revision": "main"}, ""),
        ({"name": "../x", "hub": "org/x"}, "/name"),
        ({"name": "x.", "hub": "org/x"}, ""),
        ({"name": "x" * 200, "hub": "org/x"}, "/name"),
        ({"name": 3, "hub": "org/x"}, "/name"),
        ({"hub": "org/x"}, "/name"),
        ({"name": "x", "hub": "https://example.org/x"}, ""),
        ({"name": "x", "hub": "../../etc"}, ""),
        ({"name": "x", "hub": "org/x", "revision": "../x"}, ""),
        ({"name": "x", "hub": "org/x", "trust_remote_code": True}, "/trust_remote_code"),
    ],
)
def test_wrong_registration_names_its_field(client: httpx.Client, body: Any, pointer: str) -> None:
    response = client.post("/models", json=body)

    assert response.status_code == 422, response.text
    assert response.json()["errors"][0]["pointer"] == pointer
    assert client.get("/models").json()["data"] == []


@pytest.mark.parametrize("name", ["unknown", "a%2Fb", "%00", "x" * 500])
def test_unknown_model_is_not_found(shared: Shared, name: str) -> None:
    assert shared.client.get(f"/models/{name}").status_code == 404
