"""The programs that are measured: how each is started, and why one cannot be."""

import asyncio
import json
import shutil
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import processes
from benchmarks.load import LoadError, connect
from benchmarks.processes import Cores
from benchmarks.wire import LEGACY, PROTOCOLS, Endpoint, Protocol

ROOT: Final = Path(__file__).parent.parent
VENVS: Final = ROOT / "benchmarks" / ".venvs"


class UnavailableError(Exception):
    """A program cannot be measured here; the message says why and what would help."""


@dataclass(frozen=True, eq=False)
class Running:
    """A started program, ready to be called."""

    name: str
    endpoint: Endpoint
    pid: int
    others: tuple[int, ...] = ()
    start_seconds: float = 0.0

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
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return None
        writer.close()
        return Endpoint(port), ()

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
        return Running(self.name, found[0], pid, found[1], time.perf_counter() - begin)


def own_program(name: str, port: int, *arguments: str) -> list[str]:
    """The command for one of the programs in this folder."""
    return [sys.executable, "-m", f"benchmarks.programs.{name}", str(port), *arguments]


def _upstreams_file(upstreams: dict[str, str], scratch: Path) -> str:
    file = scratch / "upstreams.json"
    file.write_text(json.dumps(upstreams))
    return str(file)


def _numbers(value: object) -> Iterator[int]:
    """Every number in a JSON value, however it is nested."""
    if isinstance(value, int):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _numbers(item)


class Direct(Target):
    """The upstream itself, on the measured core."""

    name = "direct"
    federates = False

    def command(self, port: int, upstreams: dict[str, str], scratch: Path) -> list[str]:
        return own_program("upstream", port)

    async def ready(self, port: int, scratch: Path) -> tuple[Endpoint, tuple[int, ...]] | None:
        found = await super().ready(port, scratch)
        return (Endpoint(port, "/u0/mcp"), ()) if found else None


class Nginx(Target):
    """A pass-through that understands nothing, with its connections to the upstream kept."""

    name = "nginx"
    federates = False

    def command(self, port: int, upstreams: dict[str, str], scratch: Path) -> list[str]:
        binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
        if binary is None:
            raise UnavailableError("nginx is not installed; the Debian package is nginx-light")
        address, _, path = next(iter(upstreams.values())).removeprefix("http://").partition("/")
        stores = "".join(
            f"  {kind}_temp_path {scratch}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        file = scratch / "nginx.conf"
        file.write_text(
            f"daemon off;\nworker_processes 1;\npid {scratch}/nginx.pid;\nerror_log {scratch}/error.log;\n"
            "events { worker_connections 4096; }\n"
            f"http {{\n  access_log off;\n  keepalive_requests 1000000;\n{stores}"
            f"  upstream server_behind {{ server {address}; keepalive 128; keepalive_requests 1000000; }}\n"
            f"  server {{\n    listen 127.0.0.1:{port};\n    location = /mcp {{\n"
            f"      proxy_pass http://server_behind/{path};\n      proxy_http_version 1.1;\n"
            '      proxy_set_header Connection "";\n    }\n  }\n}\n'
        )
        return [binary, "-c", str(file), "-e", str(scratch / "error.log")]


class Floor(Target):
    """Our own minimal edge, the denominator."""

    name = "floor"

    def command(self, port: int, upstreams: dict[str, str], scratch: Path) -> list[str]:
        return own_program("floor", port, _upstreams_file(upstreams, scratch))


class SdkProxy(Target):
    """The SDK's runtime on both sides."""

    name = "sdk_proxy"

    def command(self, port: int, upstreams: dict[str, str], scratch: Path) -> list[str]:
        return own_program("sdk_proxy", port, _upstreams_file(upstreams, scratch))


class Gateway(Target):
    """Ours, with its key required and a state folder, and so a database, of its own."""

    name = "gateway"

    def command(self, port: int, upstreams: dict[str, str], scratch: Path) -> list[str]:
        binary = Path(sys.executable).parent / "mcp-gateway"
        if not binary.exists():
            raise UnavailableError("mcp-gateway is not installed; run make setup")
        servers = [{"slug": slug, "versions": [{"version": "1", "url": url}]} for slug, url in upstreams.items()]
        file = scratch / "gateway.yaml"
        # JSON is YAML too.
        file.write_text(json.dumps({"gateway": {"mode": "development"}, "servers": servers}))
        return [str(binary), "serve", "--config", str(file), "--host", "127.0.0.1", "--port", str(port)]

    def environment(self, scratch: Path) -> dict[str, str | None]:
        # Without an address it starts its embedded Postgres, so every run begins with an empty database.
        return {"MCP_GATEWAY_STATE_DIR": str(scratch / "state"), "MCP_GATEWAY_DATABASE_URL": None}

    async def ready(self, port: int, scratch: Path) -> tuple[Endpoint, tuple[int, ...]] | None:
        facts = scratch / "state" / "run.json"
        if not facts.exists() or await super().ready(port, scratch) is None:
            return None
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n\r\n" % port)
        answer = await reader.read()
        writer.close()
        if not answer.startswith(b"HTTP/1.1 200"):
            return None
        written = json.loads(facts.read_text())
        return Endpoint(port, headers={"Authorization": f"Bearer {written['key']}"}), tuple(_numbers(written["pids"]))


class Peer(Target):
    """A program of others, in a virtual environment that this suite makes from a lock with hashes."""

    lock: str

    @property
    def folder(self) -> Path:
        """Its virtual environment."""
        return VENVS / self.lock

    def prepare(self) -> None:
        requirements = ROOT / "benchmarks" / f"requirements-{self.lock}.txt"
        stamp = self.folder / "installed.txt"
        if stamp.exists() and stamp.read_bytes() == requirements.read_bytes():
            return
        print(f"installing {self.lock} into {self.folder.relative_to(ROOT)} …", file=sys.stderr, flush=True)
        install = [str(self.folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        install += ["--disable-pip-version-check", "--require-hashes", "-r", str(requirements)]
        for command in ([sys.executable, "-m", "venv", "--clear", str(self.folder)], install):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                words = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
                raise UnavailableError(f"{self.lock} could not be installed: {words[-1]}")
        shutil.copyfile(requirements, stamp)


class FastmcpProxy(Peer):
    """FastMCP's proxy as its own command starts it."""

    name = "fastmcp_proxy"
    lock = "fastmcp"

    def command(self, port: int, upstreams: dict[str, str], scratch: Path) -> list[str]:
        source = next(iter(upstreams.values()))
        if len(upstreams) > 1:
            source = str(scratch / "mcp.json")
            servers = {slug: {"url": url, "transport": "http"} for slug, url in upstreams.items()}
            Path(source).write_text(json.dumps({"mcpServers": servers}))
        command = [str(self.folder / "bin" / "fastmcp"), "run", source, "--transport", "http", "--host", "127.0.0.1"]
        return [*command, "--port", str(port), "--no-banner", "--log-level", "ERROR"]

    def environment(self, scratch: Path) -> dict[str, str | None]:
        return {"FASTMCP_CHECK_FOR_UPDATES": "off"}


class McpProxy(Peer):
    """mcp-proxy turns HTTP into stdio or back, so an HTTP upstream takes two of them; it does not federate."""

    name = "mcp_proxy"
    lock = "mcp-proxy"
    protocols = (LEGACY,)
    federates = False

    def command(self, port: int, upstreams: dict[str, str], scratch: Path) -> list[str]:
        binary = str(self.folder / "bin" / "mcp-proxy")
        inner = [binary, "--log-level", "ERROR", "--transport", "streamablehttp", next(iter(upstreams.values()))]
        return [binary, "--log-level", "ERROR", "--host", "127.0.0.1", "--port", str(port), "--", *inner]


TARGETS: Final[dict[str, type[Target]]] = {
    target.name: target for target in (Direct, Nginx, Floor, Gateway, SdkProxy, FastmcpProxy, McpProxy)
}


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
