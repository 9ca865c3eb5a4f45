"""Where a finished model is pushed; the part of a spec, and what the Hub takes for names."""

import re
from typing import Annotated, Self

from pydantic import AfterValidator

from trainer_core.spec.base import Name, SpecModel
from trainer_core.spec.parts import SecretsSpec

_PART = r"\w(?:[\w.-]*\w)?"
_REPOSITORY = re.compile(rf"{_PART}/{_PART}", re.ASCII)
_MAX_REPOSITORY = 96
_REF = re.compile(r"\w(?:[\w./-]{0,98}[\w-])?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


def _is_repository(name: str) -> str:
    """Refuse what is no name of a repository of a user or organization (as the Hub's library)."""
    if not _REPOSITORY.fullmatch(name) or len(name) > _MAX_REPOSITORY:
        raise ValueError(
            "write owner/name: letters, digits, '-', '_' and '.', neither '-' nor '.' at an end, "
            f"up to {_MAX_REPOSITORY} characters"
        )
    if "--" in name or ".." in name or name.endswith(".git"):
        raise ValueError("a repository's name has no '--' or '..', and does not end with '.git'")
    return name


def _is_ref(name: str) -> str:
    """Refuse what git would not take for a branch or a tag, and what only looks like a commit."""
    if not _REF.fullmatch(name) or any(part in name for part in ("..", "//", ".lock/", "/.")):
        raise ValueError("write a branch or tag of git: letters, digits, '-', '_', '.' and '/'")
    if name.startswith("refs/") or name.endswith(".lock") or _COMMIT.fullmatch(name):
        raise ValueError("write the short name of a branch or tag, no full ref and no commit")
    return name


Ref = Annotated[str, AfterValidator(_is_ref)]


class PushSpec(SpecModel):
    """Push the finished model to the Hub. A push that fails costs nothing but the push."""

    repo: Annotated[str, AfterValidator(_is_repository)]
    """Repository, `owner/name`; made if it is not there. Its other files stay."""
    private: bool = True
    """Push to a private repository only, and make a new one private. Default true: publishing is a
    decision."""
    branch: Ref | None = None
    """Branch to push to, made of the main one if it is not there. Default null: the main one."""
    tag: Ref | None = None
    """Tag for what was pushed. Default null: none."""
    secret: Name | None = None
    """Name of the stored secret that holds a token which may write. Default null: that of
    `secrets.hf`."""

    def with_secret(self, secrets: SecretsSpec) -> Self:
        """Return it with the name of the secret that is used, where any is named."""
        return self.model_copy(update={"secret": self.secret or secrets.hf})


class OutputSpec(SpecModel):
    """Where the finished model goes besides the service's own storage."""

    push: PushSpec | None = None
    """Push to the Hub. Default null."""
