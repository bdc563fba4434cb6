"""One stdio server: a process that reads a JSON-RPC message a line and writes a message a line."""

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

from gateway.cli.stdio.message import Message, from_server

MAX_LINE: Final = 16 * 1024 * 1024
"""Bytes. A server that writes more without a line break is ended: nothing could be told apart after a cut."""

GRACE: Final = 2.0
"""Seconds a server has to leave after its input is closed, and again after SIGTERM."""

STDIN, STDOUT, STDERR = 0, 1, 2

_PR_SET_PDEATHSIG: Final = 1
_prctl = getattr(ctypes.CDLL(None), "prctl", None)


@dataclass(frozen=True)
class Command:
    argv: Sequence[str]
    environment: Mapping[str, str]

    @property
    def name(self) -> str:
        return os.path.basename(self.argv[0])  # noqa: PTH119 a word for people, no path is opened


class Child(asyncio.SubprocessProtocol):
    """A running server. `on_message` gets what it writes, `on_end` why it ended, once, after its last message.

    Its process group ends with it, so that what `npx` or a shell started goes too. And it ends with us, even if we are
    killed.
    """

    def __init__(self, name: str, on_message: Callable[[Message], None], on_end: Callable[[str], None]) -> None:
        self.name = name
        self._on_message = on_message
        self._on_end = on_end
        self._lines = {STDOUT: bytearray(), STDERR: bytearray()}
        self._open = {STDOUT, STDERR}
        self._writable = asyncio.Event()
        self._writable.set()
        self._started = asyncio.Event()
        self._exited = asyncio.Event()
        self._ended = asyncio.Event()
        self._reason: str | None = None
        self._ending: asyncio.Task[None] | None = None

    async def start(self, command: Command) -> None:
        """Raises OSError when the command cannot be run."""
        try:
            await asyncio.get_running_loop().subprocess_exec(
                lambda: self,
                *command.argv,
                env=dict(command.environment),
                start_new_session=True,
                preexec_fn=_die_with_parent(os.getpid()),
            )
        except OSError:
            for event in (self._started, self._exited, self._ended):
                event.set()
            raise

    @property
    def running(self) -> bool:
        return self._started.is_set() and self._reason is None and not self._exited.is_set()

    def write(self, message: bytes) -> None:
        """Queue one message. What is written to a server that has ended is gone: `on_end` tells about it."""
        if self.running:
            self._input.write(message + b"\n")

    async def written(self) -> None:
        """Wait until the server has read most of what was queued."""
        await self._writable.wait()

    async def end(self, reason: str) -> None:
        """Close its input, then SIGTERM, then SIGKILL; returns when the process is gone."""
        await asyncio.shield(self._leave(reason))

    async def _stop(self) -> None:
        await self._started.wait()
        if self._exited.is_set():
            await self._ended.wait()
            return
        self._input.close()
        for sign in (signal.SIGTERM, signal.SIGKILL):
            try:
                await asyncio.wait_for(self._exited.wait(), GRACE)
                break
            except TimeoutError:
                self._signal(sign)
        await self._ended.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.SubprocessTransport", transport)
        self._input = cast("asyncio.WriteTransport", self._transport.get_pipe_transport(STDIN))
        self.pid = self._transport.get_pid()
        self._started.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        pending = self._lines[fd]
        searched = len(pending)
        pending += data
        while (newline := pending.find(b"\n", searched)) >= 0:
            line = bytes(pending[:newline])
            del pending[: newline + 1]
            searched = 0
            self._line(fd, line)
        if len(pending) <= MAX_LINE:
            return
        if fd == STDERR:
            self._tell(bytes(pending[:200]) + b" ... (a line without an end)")
        else:
            self._leave(f"it wrote a line of more than {MAX_LINE} bytes")
        pending.clear()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == STDIN:
            self._writable.set()
            self._leave("it closed its input")
            return
        if rest := bytes(self._lines[fd]):
            self._lines[fd].clear()
            self._line(fd, rest)
        self._open.discard(fd)
        if fd == STDOUT:
            self._leave("it closed its output")
        self._finish_if_over()

    def process_exited(self) -> None:
        self._exited.set()
        self._writable.set()
        code = self._transport.get_returncode() or 0
        if self._reason is None or self._reason.startswith("it closed"):
            self._reason = f"it was killed by signal {-code}" if code < 0 else f"it exited with status {code}"
        # Whatever the server started goes with it. Our end of the pipes then closes, but for a descendant that left the
        # process group and holds them open.
        self._signal(signal.SIGKILL)
        asyncio.get_running_loop().call_later(GRACE / 2, self._finish)
        self._finish_if_over()

    def _line(self, fd: int, line: bytes) -> None:
        if fd == STDERR:
            self._tell(line)
        elif line.strip():
            try:
                message = from_server(line)
            except ValueError as error:
                self._tell(f"output ignored ({error}): ".encode() + line[:200])
            else:
                self._on_message(message)

    def _leave(self, reason: str) -> asyncio.Task[None]:
        if self._reason is None:
            self._reason = reason
        if self._ending is None:
            self._ending = asyncio.create_task(self._stop())
        return self._ending

    def _finish_if_over(self) -> None:
        if self._exited.is_set() and not self._open:
            self._finish()

    def _finish(self) -> None:
        if not self._ended.is_set():
            self._ended.set()
            self._transport.close()
            reason = self._reason or "it ended"
            self._tell(f"ended: {reason}".encode())
            self._on_end(reason)

    def _signal(self, sign: signal.Signals) -> None:
        try:
            os.killpg(self.pid, sign)
        except (ProcessLookupError, PermissionError):
            return  # nobody is left in the group

    def _tell(self, line: bytes) -> None:
        sys.stderr.buffer.write(f"[{self.name}] ".encode() + line.rstrip() + b"\n")
        sys.stderr.buffer.flush()


def _die_with_parent(parent: int) -> Callable[[], None]:
    """What the new process runs before the server: ask Linux for SIGKILL at our death, however we die."""

    def prepare() -> None:
        if _prctl is not None:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return prepare
