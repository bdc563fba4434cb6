"""Processes of a measurement: started on a core of their own, watched through /proc, stopped by their ids."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
TICKS: Final = os.sysconf("SC_CLK_TCK")
DATABASE: Final = "postgres"


@dataclass(frozen=True)
class Cores:
    """Which cores measure and which is measured; one set for both where there is only one core."""

    load: frozenset[int]
    measured: frozenset[int]

    @property
    def apart(self) -> bool:
        """Whether the program under test has a core to itself, as far as this run is concerned."""
        return self.load != self.measured


def cores() -> Cores:
    """The first allowed core for load and upstreams, the second for the program under test."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        return Cores(frozenset(allowed), frozenset(allowed))
    return Cores(frozenset(allowed[:1]), frozenset(allowed[1:2]))


def free_port() -> int:
    """A port that nothing listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start(command: list[str], on: frozenset[int], log: Path, environment: Mapping[str, str | None]) -> int:
    """Starts a program on the given cores in a session of its own, its output in `log`; returns its process id.

    `environment` adds to what is inherited; None takes a variable away.
    """
    variables = {**os.environ, **environment}
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, on)
    try:
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={name: value for name, value in variables.items() if value is not None},
                start_new_session=True,
            )
    finally:
        os.sched_setaffinity(0, before)
    _started[process.pid] = process
    return process.pid


_started: dict[int, subprocess.Popen[bytes]] = {}


def ended(pid: int) -> int | None:
    """Exit status of a program that `start` started, or None while it runs."""
    return _started[pid].poll()


def stop(pid: int, others: Iterable[int] = (), patience: float = 15.0) -> None:
    """Asks a started program to end, then kills what is left of its tree; `others` are roots it does not own."""
    process = _started.pop(pid, None)
    if process is None:
        return
    members = set(tree([pid, *others])) - {os.getpid()}
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    deadline = time.monotonic() + patience
    while (members := {member for member in members if _alive(member)}) and time.monotonic() < deadline:
        time.sleep(0.05)
    for member in members:
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)


def stop_all() -> None:
    """Ends whatever this run started and has not ended yet."""
    for pid in list(_started):
        stop(pid, patience=3.0)


def _alive(pid: int) -> bool:
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _parents() -> dict[int, int]:
    found: dict[int, int] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    return found


def tree(roots: Iterable[int]) -> list[int]:
    """The roots and all that descends from them, as far as they still run."""
    parents = _parents()
    members = {root for root in roots if root in parents}
    grown = True
    while grown:
        born = {pid for pid, parent in parents.items() if parent in members and pid not in members}
        members |= born
        grown = bool(born)
    return sorted(members)


def is_database(pid: int) -> bool:
    """Whether this is a Postgres process, whose share is reported apart as well."""
    with contextlib.suppress(OSError):
        return (PROC / str(pid) / "comm").read_text().strip() == DATABASE
    return False


@dataclass(frozen=True)
class Cpu:
    """User plus system seconds of a process tree so far, by process."""

    seconds: dict[int, float]
    database: frozenset[int]

    def since(self, earlier: "Cpu") -> tuple[float, float]:
        """CPU seconds spent since then: by the whole tree, and by its Postgres processes alone."""
        spent = {pid: value - earlier.seconds.get(pid, 0.0) for pid, value in self.seconds.items()}
        return sum(spent.values()), sum(spent[pid] for pid in self.database if pid in spent)


def cpu(roots: Iterable[int]) -> Cpu:
    """CPU clocks of a tree with nanosecond resolution; /proc/PID/stat counts in hundredths of a second only.

    The clock id is the one that clock_getcpuclockid(3) makes of a process id, so user and system time of all threads
    are in it, threads that have ended included.
    """
    seconds: dict[int, float] = {}
    database: set[int] = set()
    for pid in tree(roots):
        with contextlib.suppress(OSError):
            seconds[pid] = time.clock_gettime((~pid << 3) | 2)
            if is_database(pid):
                database.add(pid)
    return Cpu(seconds, frozenset(database))


def lifetime_cpu(roots: Iterable[int]) -> float:
    """User plus system seconds that a tree has used in all, children that have ended included."""
    ticks = 0
    for pid in tree(roots):
        with contextlib.suppress(OSError):
            ticks += sum(
                int(value) for value in (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[11:15]
            )
    return ticks / TICKS


def memory_kib(roots: Iterable[int], *, files: bool = False) -> tuple[int, int]:
    """Memory of a tree in KiB: of everything but Postgres, and of Postgres alone; pages in common are divided up.

    Mapped files count only if asked for: their share changes whenever a neighbour maps the same library.
    """
    counted = {"Pss:"} if files else {"Pss_Anon:", "Pss_Shmem:"}
    sizes = {False: 0, True: 0}
    for pid in tree(roots):
        with contextlib.suppress(OSError):
            for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines():
                name, size, *_ = line.split()
                if name in counted:
                    sizes[is_database(pid)] += int(size)
    return sizes[False], sizes[True]


def machine_busy() -> float:
    """CPU seconds that all processes of the machine have used so far, in steps of a hundredth of a second."""
    user, nice, system, _, _, irq, softirq = (int(value) for value in (PROC / "stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / TICKS


@contextlib.contextmanager
def pinned(on: frozenset[int]) -> Iterator[None]:
    """Keeps this process, the load generator, on the given cores meanwhile."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, on)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
