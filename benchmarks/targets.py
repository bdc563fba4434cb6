"""The programs that are measured."""

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.target import Target, UnavailableError, own_program
from benchmarks.wire import LEGACY, Endpoint
from gateway.cli.postgres_files import SYSTEM_FOLDER

ROOT: Final = Path(__file__).parent.parent
VENVS: Final = ROOT / "benchmarks" / ".venvs"


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

    def clean(self, scratch: Path) -> None:
        # As root, the embedded Postgres keeps its data outside the state folder, beside a note of whose they are.
        for owner in SYSTEM_FOLDER.glob("*/state_dir"):
            if Path(owner.read_text().strip()).is_relative_to(scratch.resolve()):
                shutil.rmtree(owner.parent)


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
