"""Processes that are started here and stopped here, whatever happens in between."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.error import URLError
from urllib.request import urlopen

POLL = 0.1


class ChildError(Exception):
    """A process ended early or did not become ready; the message ends with its last words."""


@dataclass(frozen=True)
class Child:
    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def last_words(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Children:
    """A context manager: leaving it, also by an exception or Ctrl-C, stops every child, last started first.

    Each child leads a process group of its own. So Ctrl-C in a terminal reaches this process alone, which then stops
    the children in order, and what a child started itself can be stopped with it.
    """

    def __init__(self, patience: float = 30) -> None:
        self._children: list[Child] = []
        self._patience = patience

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Impatience while this cleans up would leave behind what it is about to stop.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        while self._children:
            self._stop(self._children.pop())

    def start(
        self, name: str, argv: Sequence[str], log: Path, *, cwd: Path, env: Mapping[str, str] | None = None
    ) -> Child:
        with log.open("wb") as output:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        child = Child(name, process, log)
        self._children.append(child)
        return child

    def run(self, name: str, argv: Sequence[str], log: Path, *, cwd: Path, seconds: float) -> str:
        """Run to the end and return the output; one that takes longer than `seconds` is stopped where it is."""
        child = self.start(name, argv, log, cwd=cwd)
        try:
            child.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._stop(child)
            with log.open("a") as output:
                output.write(f"\nstopped after {seconds:g} seconds\n")
        self._children.remove(child)
        return log.read_text(errors="replace")

    def wait_until(self, child: Child, ready: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            code = child.process.poll()
            if code is not None:
                raise ChildError(f"{child.name}: ended with code {code} while starting\n{child.last_words()}")
            if time.monotonic() > deadline:
                raise ChildError(f"{child.name}: not ready after {seconds:g} seconds\n{child.last_words()}")
            time.sleep(POLL)

    def _stop(self, child: Child) -> None:
        if child.process.poll() is None:
            child.process.terminate()
            try:
                child.process.wait(self._patience)
            except subprocess.TimeoutExpired:
                os.killpg(child.process.pid, signal.SIGKILL)
                child.process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def answers_ok(url: str) -> bool:
    try:
        with urlopen(url, timeout=2) as response:  # noqa: S310 - the URL is put together here, for loopback
            return bool(response.status == 200)
    except (URLError, OSError):
        return False
