"""`luthier secrets`: tokens and keys that jobs refer to by name."""

import sys
from pathlib import Path

import click

from luthier.cli.command import Command, Group, confirm, json_option, open_client, yes_option
from luthier.cli.operating import home_option
from luthier.cli.output import count, print_json, say, suggest


@click.group(
    cls=Group,
    examples=[
        "luthier secrets set my-hf < token.txt",
        "luthier secrets ls",
        "luthier submit job.json --set secrets.hf=my-hf",
    ],
    short_help="Store tokens that jobs refer to by name.",
)
def secrets() -> None:
    """Secrets: stored sealed, given only to the step of a job that needs them, never shown."""


@secrets.command("set", cls=Command, examples=["luthier secrets set my-hf < token.txt"])
@click.argument("name", metavar="NAME")
def set_(*, name: str) -> None:
    """Store a secret: its value is read from stdin, or asked for at a terminal."""
    if sys.stdin.isatty():
        value = click.prompt("Value", hide_input=True, err=True)
    else:
        value = sys.stdin.read()
    with open_client() as client:
        client.secrets.set(name, value.strip())
    say(f"{name} is stored.")
    suggest(f"luthier submit job.json --set secrets.hf={name}")


@secrets.command(cls=Command, examples=["luthier secrets ls"])
@json_option
def ls(*, as_json: bool) -> None:
    """List the names of the secrets."""
    with open_client() as client:
        names = [secret.name for secret in client.secrets.list()]
    if as_json:
        print_json(names)
        return
    for name in names:
        click.echo(name)


@secrets.command(cls=Command, examples=["luthier secrets rm my-hf -y"])
@click.argument("name", metavar="NAME")
@yes_option
def rm(*, name: str, yes: bool) -> None:
    """Forget a secret."""
    confirm(f"Delete the secret {name}?", yes=yes)
    with open_client() as client:
        client.secrets.delete(name)
    say(f"{name} is deleted.")


@secrets.command("new-key", cls=Command, examples=["LUTHIER_SECRET_KEY=$(luthier secrets new-key)"])
def new_key() -> None:
    """Print a new key for LUTHIER_SECRET_KEY (operator)."""
    import secrets as randomness

    click.echo(randomness.token_urlsafe(32))


@secrets.command(cls=Command, examples=["LUTHIER_SECRET_KEY=new,old luthier secrets reseal"])
@home_option
def reseal(*, home: Path | None) -> None:
    """Seal all secrets, webhooks' too, by the first key of LUTHIER_SECRET_KEY (operator).

    To replace a key, put the new one before the old one, restart every part with both, reseal, and
    take the old one away.
    """
    from jobs.sealing import cipher_of
    from jobs.settings import load_settings
    from jobs.store import audit
    from jobs.store import secrets as store
    from luthier.operating import Operator, transaction

    settings = load_settings(**({} if home is None else {"home": home}))
    with transaction(settings) as tx:
        num_sealed = store.seal_again(tx, cipher=cipher_of(settings))
        audit.note(tx, caller=Operator(), action="secret.reseal", target="all")
    say(f"Sealed by the first key: {count(num_sealed, 'secret')}.")
