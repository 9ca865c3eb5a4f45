"""Keys, projects, secrets and the audit log, by both clients."""

import pytest

import luthier
from tests.client.conftest import Connect

pytestmark = pytest.mark.slow


def test_keys_are_made_rotated_and_revoked_and_all_of_it_is_noted(
    url: str, connect: Connect
) -> None:
    with connect(url) as client:
        made = client.keys.create("ci", scopes=["submit"])
        assert made.secret is not None
        assert made.secret.startswith(made.prefix)
        assert made.secret not in repr(made)
        rotated = client.keys.rotate(made.id, overlap_seconds=60)
        assert rotated.secret not in {None, made.secret}
        client.keys.revoke(rotated.id)

        listed = {key.id: key for key in client.keys.list()}
        assert listed[rotated.id].revoked_at is not None
        assert listed[made.id].secret is None
        assert client.keys.get(made.id).scopes == ("submit",)
        actions = [entry.action for entry in client.audit.list()]
        assert actions[:3] == ["key.revoke", "key.rotate", "key.create"]


def test_projects_are_made_and_their_quotas_set(url: str, connect: Connect) -> None:
    with connect(url) as client:
        client.projects.create("vision", max_running_jobs=2)
        edited = client.projects.edit("vision", max_running_jobs=None, max_queued_jobs=5)

        assert (edited.max_running_jobs, edited.max_queued_jobs) == (None, 5)
        assert {project.name for project in client.projects.list()} == {"default", "vision"}
        use = client.projects.get("vision").use
        assert use is not None
        assert use.queued_jobs == 0


def test_secret_is_set_listed_without_its_value_and_forgotten(url: str, connect: Connect) -> None:
    with connect(url) as client:
        stored = client.secrets.set("hf", "hf_0123456789abcdef")

        assert list(client.secrets.list()) == [stored]
        assert "0123456789" not in repr(stored)
        client.secrets.delete("hf")
        with pytest.raises(luthier.NotFound):
            client.secrets.delete("hf")
