"""What a program under test is: how it is started, when it is ready, why it cannot be measured."""

import asyncio
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import processes
from benchmarks.load import LoadError, connect
from benchmarks.processes import Cores
from benchmarks.wire import PROTOCOLS, Endpoint, Protocol


class UnavailableError(Exception):
    """A program cannot be measured here; the message says why and what would help."""


@dataclass(frozen=True, eq=False)
class Running:
    """A started program, ready to be called."""

    name: str
    endpoint: Endpoint
    others: tuple[int, ...]
    pid: int
    start_seconds: float = 0.0
    start_cpu_seconds: float = 0.0

    @property
    def roots(self) -> tuple[int, ...]:
        """Every process whose tree belongs to the program."""
        return (self.pid, *self.others)

    def stop(self) -> None:
        """Ends it and all its processes."""
        processes.stop(self.pid, self.others)


class Target(ABC):
    """One program under test."""

    name: str
    protocols: Sequence[Protocol] = PROTOCOLS
    federates = True

    @abstractmethod
    def command(self, port: int, upstreams: dict[str, str], scratch: Path) -> list[str]:
        """The command that serves `upstreams` ({slug: url}) on `port`; may write files into `scratch`.

        Raises:
            UnavailableError: the program is not installed.
        """

    def environment(self, scratch: Path) -> dict[str, str | None]:
        """What the command needs in its environment."""
        return {}

    def prepare(self) -> None:
        """Installs the program if that is this suite's business.

        Raises:
            UnavailableError: it cannot be installed.
        """
        return

    async def ready(self, port: int, scratch: Path) -> tuple[Endpoint, tuple[int, ...]] | None:
        """Where it listens and which processes it owns besides its own tree, once it accepts connections."""
        return (Endpoint(port), ()) if await listening(port) else None

    async def start(self, upstreams: dict[str, str], scratch: Path, cores: Cores, patience: float = 60.0) -> Running:
        """Starts it on the measured core and waits until it is ready.

        Raises:
            UnavailableError: it cannot be started here.
        """
        port = processes.free_port()
        log = scratch / "output.log"
        command = self.command(port, upstreams, scratch)
        begin = time.perf_counter()
        pid = processes.start(command, cores.measured, log, self.environment(scratch))
        deadline = begin + patience
        while (found := await self.ready(port, scratch)) is None:
            status = processes.ended(pid)
            if status is not None or time.perf_counter() > deadline:
                processes.stop(pid)
                what = "was not ready in time" if status is None else f"ended with status {status}"
                words = log.read_text(errors="replace").strip().splitlines()
                raise UnavailableError(f"{self.name} {what}: {words[-1] if words else 'it said nothing'}")
            await asyncio.sleep(0.01)
        elapsed = time.perf_counter() - begin
        return Running(self.name, *found, pid, elapsed, processes.lifetime_cpu((pid, *found[1])))

    def clean(self, scratch: Path) -> None:  # noqa: B027
        """Removes what the program leaves outside `scratch`, once it has ended."""


async def listening(port: int) -> bool:
    """Whether something accepts connections on a port of this machine."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def own_program(name: str, port: int, *arguments: str) -> list[str]:
    """The command for one of the programs in this folder."""
    return [sys.executable, "-m", f"benchmarks.programs.{name}", str(port), *arguments]


async def tool_named(running: Running, protocol: Protocol, slug: str | None = None) -> str:
    """The exposed name of an `echo` tool; of the given upstream where the program serves several.

    Raises:
        UnavailableError: the program lists no such tool.
    """
    try:
        client = await connect(running.endpoint, protocol)
        names = await client.tools()
        await client.end()
    except (LoadError, OSError) as error:
        raise UnavailableError(f"{running.name} does not list tools: {error}") from None
    for name in names:
        if name.endswith("echo") and (slug is None or name.startswith(slug)):
            return name
    raise UnavailableError(f"{running.name} lists {len(names)} tools, none of them echo")
