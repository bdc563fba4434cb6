"""PostgreSQL's programs as operating system processes: bound to this one when started, found and ended when left over.

The kernel signals a bound program when we die, however we die, so a `kill -9` of the gateway leaves no database behind.
That needs Linux (prctl) and is best effort; what it missed, the next start finds in /proc and ends. Elsewhere
PostgreSQL's own lock file keeps a second postmaster off the data, and its log, shown in our error, names the first.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from gateway.cli import parent
from gateway.cli.postgres_files import (
    OWN_DATABASE,
    SOCKET_NAME,
    Account,
    EmbeddedPostgresError,
    PostgresFiles,
    sync_folder,
)

DATABASE = "gateway"
ROLE = "gateway"
POLL = 0.01  # seconds between looks at something that reports no event
PROC = Path("/proc")
# How a whole data folder is put on disk when made and before crash recovery; commits are synced as ever. It is one call
# for the file system in place of a thousand, one per file: a cluster in 3 s, not 8 s, on a busy machine of two cores.
SYNC_METHOD = "syncfs" if sys.platform == "linux" else "fsync"
LOG_LINES = 12


class Programs:
    """Starts the programs in one `bin` folder as one account, in `home`, with none of our environment."""

    def __init__(self, folder: Path, account: Account | None, home: Path) -> None:
        self._bin = folder / "bin"
        self._account = account
        self._home = home

    def start(
        self, name: str, *arguments: str, death: signal.Signals, output: IO[bytes], read: int = subprocess.DEVNULL
    ) -> subprocess.Popen[bytes]:
        """Starts a program that gets the signal `death` when our thread ends; both its outputs go to `output`."""
        return subprocess.Popen(
            [str(self._bin / name), *arguments],
            stdin=read,
            stdout=output,
            stderr=output,
            cwd=self._home,
            # Our environment holds secrets (key rings), and PG* variables would change what the programs do.
            env={"PATH": os.defpath, "LC_ALL": "C"},
            user=None if self._account is None else self._account.uid,
            group=None if self._account is None else self._account.gid,
            extra_groups=None if self._account is None else (),
            # A Ctrl-C in the terminal goes to us alone: the database must outlive our own orderly end.
            start_new_session=True,
            preexec_fn=parent.die_with_parent(death),  # noqa: PLW1509
        )

    def run(self, name: str, *arguments: str, log: Path, text: str = "", timeout: float) -> None:
        """Runs a program to its end with `text` as input; a failure raises EmbeddedPostgresError with the log's end."""
        with (
            log.open("ab") as output,
            self.start(name, *arguments, death=signal.SIGKILL, output=output, read=subprocess.PIPE) as program,
        ):
            try:
                program.communicate(text.encode(), timeout=max(timeout, 0))
            except subprocess.TimeoutExpired:
                program.kill()
                raise EmbeddedPostgresError(f"{name} did not finish in time. {failure_text(log)}") from None
            except BaseException:
                program.kill()
                raise
        if program.returncode != 0:
            raise EmbeddedPostgresError(f"{name} ended with status {program.returncode}. {failure_text(log)}")


def make_cluster(
    files: PostgresFiles, programs: Programs, account: Account | None, password: str, deadline: float
) -> None:
    """Makes the data folder with role and database in it. Until complete it has another name, so no half is ever used.

    The role owns its database and may create others, but is no superuser: a superuser may run programs through SQL. The
    superuser that initdb needs has no password, and no rule lets anybody sign in as it.
    """
    for unfinished in files.home.glob("new-*"):
        shutil.rmtree(unfinished, ignore_errors=True)
    # A new name each time: what a killed initdb left running for a moment must not write into our folder.
    new = Path(tempfile.mkdtemp(prefix="new-", dir=files.home))
    if account is not None:
        os.chown(new, account.uid, account.gid)
    # The built-in C.UTF-8 sorts alike everywhere; the C library's locales change with its version and break indexes.
    locale = ("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
    options = (f"--pgdata={new}", "--username=postgres", "--auth=reject", f"--sync-method={SYNC_METHOD}", *locale)
    programs.run("initdb", *options, log=files.log, timeout=deadline - time.monotonic())
    statements = (
        f"CREATE ROLE {ROLE} LOGIN CREATEDB PASSWORD '{password}'",
        # Taken over, not copied: a database is 300 files, each to be synced at the making and again after a crash.
        f"ALTER DATABASE postgres RENAME TO {DATABASE}",
        f"ALTER DATABASE {DATABASE} OWNER TO {ROLE}",
    )
    # log_min_error_statement keeps a failing statement, and with it the password, out of the log.
    single = ("--single", "-D", str(new), "-c", "exit_on_error=on", "-c", "log_min_error_statement=panic", "template1")
    text = "".join(f"{statement}\n" for statement in statements)
    programs.run("postgres", *single, log=files.log, text=text, timeout=deadline - time.monotonic())
    new.rename(files.data(password))
    sync_folder(files.home)


def failure_text(log: Path) -> str:
    """The end of PostgreSQL's log and what to do about it."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
    except OSError:
        lines = []
    told = "".join(f"\n  {line}" for line in lines) or "\n  (nothing)"
    return f"The last lines of {log}:{told}\nCorrect what they name and start again, or {OWN_DATABASE}."


def find_leftovers(name: str) -> set[int]:
    """Pids of the postmaster whose `cluster_name` is `name`, and of its children, also when it is dead.

    A command line is open to all, where the working folder of another user's process is closed even to the root of a
    container.
    """
    found = set()
    for entry in PROC.glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes()
            if name.encode() in words and (entry / "comm").read_text(encoding="utf-8").strip() == "postgres":
                found.add(int(entry.name))
        except OSError:
            continue  # It ended while we looked.
    return found


def end_leftovers(name: str, postmaster: int | None, patience: Sequence[float] = (10, 3, 3)) -> None:
    """Ends every process of the cluster `name`, the gentlest way first; raises EmbeddedPostgresError when one stays.

    `patience` is in seconds, one per step. SIGINT asks the postmaster, and it alone, for a fast shutdown: to the others
    the signal means something else. Children without a postmaster leave by themselves, unless busy in a statement;
    those get SIGQUIT and SIGKILL, which PostgreSQL treats as a crash and recovers from.
    """
    steps = (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL)
    for step, seconds in zip(steps, patience, strict=True):
        present = find_leftovers(name)
        targets = present & {postmaster} if step is signal.SIGINT else present
        for pid in targets:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, step)
        deadline = time.monotonic() + (seconds if targets else 1)
        while find_leftovers(name):
            if time.monotonic() > deadline:
                break
            time.sleep(POLL)
        else:
            return
    left = ", ".join(str(pid) for pid in sorted(find_leftovers(name)))
    raise EmbeddedPostgresError(f"PostgreSQL processes of a former start do not end: {left}. End them and start again.")


def recover(files: PostgresFiles) -> None:
    """Leaves no process on the data and no stale file that would stop a start; the caller holds the owner's lock.

    A postmaster that outlived its owner is stopped and not adopted: it is no child of ours, so it would neither die
    with us nor tell us when it dies, and it runs with the settings, perhaps the version, of another time.
    """
    if not PROC.joinpath("self").exists():
        return
    end_leftovers(files.name, number_in(files.pid))
    files.pid.unlink(missing_ok=True)
    for name in (SOCKET_NAME, f"{SOCKET_NAME}.lock"):
        (files.sockets / name).unlink(missing_ok=True)
    for folder in files.home.glob("data-*"):
        _disown(folder / "postmaster.pid")


def _disown(postmaster_pid: Path) -> None:
    """Makes PostgreSQL take its lock file for stale, which it is: no process is left on the data.

    After a crash the pid in it may be another program's by now, and PostgreSQL would not start. It does take its own
    parent's pid for stale, so we put ours there. The lines after it stay: they name the shared memory, which PostgreSQL
    frees, or refuses to start should somebody use it after all.
    """
    try:
        descriptor = os.open(postmaster_pid, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    with os.fdopen(descriptor, "r+", encoding="utf-8", errors="replace") as file:
        pid, newline, rest = file.read().partition("\n")
        if pid.isdecimal():
            file.seek(0)
            file.write(f"{os.getpid()}{newline}{rest}")
            file.truncate()
            return
    postmaster_pid.unlink()  # Empty or half written: PostgreSQL would not start, and it names no shared memory either.


def number_in(path: Path) -> int | None:
    """The whole number in the first line of a file, None when there is no such file or number."""
    try:
        first, _, _ = path.read_text(encoding="utf-8", errors="replace").partition("\n")
    except FileNotFoundError:
        return None
    return int(first) if re.fullmatch(r"\d+", first) else None
