"""Every setting of the service, read once from the environment. The README's table lists them."""

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from trainer_core.errors import InvalidSetting

PREFIX = "LUTHIER_"

_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_GIB = 1 << 30
_MIN_KEY_CHARACTERS = 16


def _expanded(path: Path) -> Path:
    return path.expanduser().absolute()


IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
_Path = Annotated[Path, AfterValidator(_expanded)]


class Settings(BaseSettings):
    """The service's settings. `LUTHIER_PORT=9000` sets `port`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="ignore", frozen=True, use_attribute_docstrings=True
    )

    home: _Path = Path("~/.luthier")
    """Folder of everything the service keeps on this machine."""
    database_url: Annotated[str | None, Field(repr=False)] = None
    """PostgreSQL to use in place of the embedded one, `postgresql://user:password@host/name`."""
    redis_url: Annotated[str | None, Field(repr=False)] = None
    """Redis or Valkey to use in place of the embedded one, `redis://:password@host:port/0`."""
    storage_url: Annotated[str | None, Field(repr=False)] = None
    """Where data sets and models are kept: a folder (`file:///…`) or a bucket (`s3://…`). Default:
    `storage` in the home folder."""
    auth: Literal["none", "keys"] | None = None
    """Whether callers need an API key. Default: `none` for the service that `luthier up` brings
    whole and that listens on loopback, else `keys`."""
    host: str = "127.0.0.1"
    """Address on which the API listens; without keys loopback only."""
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Names by which the service is reached, separated by `,`, besides its addresses and
    localhost. Only with keys."""
    rate_limit: Annotated[float, Field(gt=0, le=1_000_000)] = 100
    """Requests a second that a key may send, where it has no limit of its own."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8750
    """Port on which the API listens; 0 takes a free one."""
    api_processes: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes of an API server, which share its port. One keeps one core busy."""
    model_roots: Annotated[tuple[_Path, ...], NoDecode] = ()
    """Folders, separated by `:`, below which base models may be registered by path."""
    max_upload_bytes: Annotated[int, Field(ge=1)] = 10 * _GIB
    """Largest upload, bytes."""
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 3
    """How often a job is tried before it fails for good."""
    retry_seconds: Annotated[float, Field(ge=0.1, le=3600)] = 10
    """Pause before the second attempt at a job; before each further one it is six times longer."""
    worker_concurrency: Annotated[int, Field(ge=1, le=64)] | None = None
    """Jobs that one worker runs at once. Default: one a device."""
    devices: Annotated[tuple[str, ...], NoDecode] = ()
    """Devices of this worker, separated by `,`, such as `cuda:0,cuda:1` or `cpu`. Default: the best
    one that torch finds."""
    training_threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """CPU threads of each training process. Default: all cores but one, shared out over the jobs
    that run at once: with a core to itself the service does not make the threads of a step wait."""
    job_memory_bytes: Annotated[int, Field(ge=1 << 20)] | None = None
    """Most memory of the host that the training process of a job may hold with its children, bytes;
    with more it is ended, with `out_of_memory`. Default: as much as there is."""
    job_processes: Annotated[int, Field(ge=2)] = 1024
    """Most processes that a job may have at once, data loaders among them; with more it is ended,
    with `too_many_processes`. Linux only."""
    job_open_files: Annotated[int, Field(ge=256)] = 65_536
    """Most files that each process of a job may have open. Linux only."""
    job_file_bytes: Annotated[int, Field(ge=1 << 20)] | None = None
    """Largest file that a job's processes may write, bytes. Linux only. Default: any."""
    token_cache_bytes: Annotated[int, Field(ge=0)] = 20_000_000_000
    """Room for tokenized rows that later jobs on the same rows use again, bytes; what was not used
    for longest is removed. 0 keeps none."""
    warm_spare: bool = True
    """Keep one training process with everything imported, waiting for the next job."""
    fork_server: _Path | None = None
    """Socket of a `python -m trainer_core.training --fork-server SOCKET`, which then forks every
    training process: for CPU hosts of many small jobs. Default: each is executed on its own."""
    inspect_seconds: Annotated[float, Field(ge=1, le=600)] = 60
    """How long `POST /jobs/validate` may look at a model and tokens; then it answers without."""
    lease_seconds: Annotated[float, Field(ge=1, le=3600)] = 30
    """A worker that has not been heard of for so long has lost its job to another."""
    cancel_grace_seconds: Annotated[float, Field(ge=0, le=600)] = 6
    """From asking a cancelled training process to stop to killing it."""
    drain_grace_seconds: Annotated[float, Field(ge=0, le=3600)] = 60
    """From asking a training process to save and stop to killing it, when its worker stops or its
    job is paused."""
    keep_grace_seconds: Annotated[float, Field(ge=0, le=86_400)] = 1800
    """From asking a training process to measure and save its model, when its job is cancelled with
    `keep`, to killing it; then no model is kept."""
    keep_failed_days: Annotated[float, Field(ge=0, le=3650)] = 7
    """How long the newest checkpoint of a failed job stays on its worker, days. 0 keeps none."""
    predict: str = "cpu"
    """Device on which a worker lets finished models be tried, such as `cuda:1`; `off` for none.
    Default `cpu`: a job in training keeps its device."""
    store_checkpoints: bool = True
    """Copy each checkpoint to the storage while training goes on, so that another machine can go
    on from it. Where the storage is on the same disk it takes no room besides."""
    keep_checkpoints_days: Annotated[float, Field(ge=0, le=3650)] = 7
    """How long the checkpoints of a job that has ended stay in the storage, days."""
    stall_seconds: Annotated[float, Field(ge=1, le=10_000_000)] = 1800
    """A training process that gets no further for so long is ended, and its job tried again."""
    push_seconds: Annotated[float, Field(ge=1, le=604_800)] = 21_600
    """How long one try to push a model to the Hub may take."""
    sweep_seconds: Annotated[float, Field(ge=0.1, le=3600)] = 10
    """How often lost bells and lost leases are looked for."""
    heartbeat_seconds: Annotated[float, Field(ge=0.1, le=3600)] = 15
    """Longest silence on an event stream before a comment is sent."""
    secret_key: Annotated[SecretStr, Field(max_length=1000)] | None = None
    """Key that encrypts stored secrets, any long random text; or several, separated by `,`: the
    first seals, all of them open. Default: `secret.key` in the home."""
    webhook_seconds: Annotated[float, Field(ge=0.05, le=3600)] = 1
    """How often events that are due to be sent to webhooks are looked for."""
    search_seconds: Annotated[float, Field(ge=0.05, le=3600)] = 2
    """How often sweeps of hyperparameters are looked at."""
    webhook_networks: Annotated[tuple[IPNetwork, ...], NoDecode] = ()
    """Networks, separated by `,`, to which webhooks may lead though they are not public."""

    @field_validator("secret_key")
    @classmethod
    def _each_is_long(cls, value: SecretStr | None) -> SecretStr | None:
        keys = value.get_secret_value().split(",") if value else []
        if any(len(key.strip()) < _MIN_KEY_CHARACTERS for key in keys):
            # A stray comma would be a key, and an empty one is known to everybody.
            raise ValueError(f"each key should have at least {_MIN_KEY_CHARACTERS} characters")
        return value

    @field_validator("webhook_networks", mode="before")
    @classmethod
    def _split_networks(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return [part.strip() for part in value.split(",") if part.strip()]

    @field_validator("model_roots", mode="before")
    @classmethod
    def _split_paths(cls, value: object) -> object:
        return [part for part in value.split(":") if part] if isinstance(value, str) else value

    @field_validator("devices", "allowed_hosts", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return [part.strip() for part in value.split(",") if part.strip()]

    @field_validator("devices")
    @classmethod
    def _devices_are_known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for device in value:
            _check_device(device)
        return value

    @field_validator("predict")
    @classmethod
    def _predicts_on_a_device(cls, value: str) -> str:
        if value != "off":
            _check_device(value)
        return value

    @field_validator("database_url")
    @classmethod
    def _with_driver(cls, value: str | None) -> str | None:
        if value is None:
            return None
        scheme, separator, rest = value.partition("://")
        if not separator or scheme.partition("+")[0] not in ("postgresql", "postgres"):
            raise ValueError("write postgresql://user:password@host:port/name")
        url = f"postgresql+psycopg://{rest}"
        try:
            make_url(url)
        except (ArgumentError, ValueError) as error:
            raise ValueError("write postgresql://user:password@host:port/name") from error
        return url

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("redis://", "rediss://")):
            raise ValueError("write redis://:password@host:port/0")
        return value

    @field_validator("storage_url")
    @classmethod
    def _is_storage(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("file:///", "s3://", "gs://", "az://")):
            raise ValueError("write file:///folder, s3://bucket/prefix, gs://… or az://…")
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts_are_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not _HOST_NAME.fullmatch(name):
                raise ValueError(f"'{name}' is not a host name; write it without scheme and port")
        return tuple(name.lower() for name in value)

    @model_validator(mode="after")
    def _is_not_open_to_all(self) -> Self:
        if self.asks_for_keys:
            return self
        if not self.is_on_loopback:
            raise ValueError(
                f"LUTHIER_HOST {self.host} is not a loopback address, and LUTHIER_AUTH is none: "
                "anyone who reaches it could run jobs. Set LUTHIER_AUTH=keys, or use 127.0.0.1"
            )
        if self.allowed_hosts:
            raise ValueError(
                "LUTHIER_ALLOWED_HOSTS goes with LUTHIER_AUTH=keys: without keys a page of "
                "another site could reach the service by such a name"
            )
        return self

    @model_validator(mode="after")
    def _servers_have_passwords(self) -> Self:
        for name in ("database_url", "redis_url"):
            url = getattr(self, name)
            if url and (host := _open_host(url)):
                raise ValueError(
                    f"LUTHIER_{name.upper()} has no password, and {host} is not this machine: "
                    "whoever reaches it could read and change everything. Give it one"
                )
        return self

    @property
    def is_on_loopback(self) -> bool:
        """Whether the API can be reached from this machine alone."""
        return self.host == "localhost" or _is_loopback(self.host)

    @property
    def asks_for_keys(self) -> bool:
        """Whether callers need an API key."""
        if self.auth is None:
            return not (self.is_on_loopback and self.database_url is None)
        return self.auth == "keys"

    @property
    def storage(self) -> str:
        """The storage URL, with its default."""
        return self.storage_url or (self.home / "storage").as_uri()

    @property
    def num_training_threads(self) -> int:
        """CPU threads of each training process."""
        return self.training_threads or max(1, ((os.cpu_count() or 2) - 1) // self.num_slots)

    @property
    def num_slots(self) -> int:
        """Jobs that one worker runs at once."""
        return self.worker_concurrency or max(1, len(self.devices))


def load_settings(**overrides: object) -> Settings:
    """Return the settings of the environment, or raise InvalidSetting naming the variable.

    Args:
        overrides: values that take the place of the environment's, by field name.
    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        reason = first["msg"].removeprefix("Value error, ")
        name = f"{PREFIX}{first['loc'][0]}".upper() if first["loc"] else _named_in(reason)
        shown = f", got {first['input']!r}" if isinstance(first["input"], str | int) else ""
        secret = name.endswith(("_URL", "_KEY"))  # may hold a password
        message = f"{name}: {reason}{'' if secret else shown}."
        raise InvalidSetting(message, param=name) from error


def _check_device(name: str) -> None:
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not index.isdecimal()):
        raise ValueError(f"'{name}' is not a device; write cpu, mps, cuda or cuda:N")


def _named_in(reason: str) -> str:
    """Return the variable that a rule between several names first."""
    found = re.search(PREFIX + "[A-Z_]+", reason)
    assert found, reason
    return found.group()


def _open_host(url: str) -> str:
    """Return a host of a server's URL that is elsewhere and asks for no password, or nothing."""
    parsed = make_url(url)
    query = parsed.query
    credentials = (parsed.password, query.get("password"), query.get("passfile"))
    if any(credentials) or query.get("sslcert") or query.get("ssl_certfile"):
        return ""
    given = query.get("host", ()), query.get("hostaddr", ())
    more = [part for one in given for part in ([one] if isinstance(one, str) else one)]
    hosts = [host for part in (parsed.host or "", *more) for host in part.split(",") if host]
    away = (h for h in hosts if not (h == "localhost" or h.startswith("/") or _is_loopback(h)))
    return next(away, "")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
