"""Foreign clients and servers in environments of their own, and the real processes the tests put between them.

An environment is made on first use from the lock file in its folder and used again for as long as that file is
unchanged. Nothing here imports the gateway: it is started as its users start it.
"""

import asyncio
import fcntl
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import yaml
from mcp import Client
from mcp.client.client import ConnectMode
from mcp.client.session import ElicitationFnT
from mcp.client.streamable_http import streamable_http_client

TESTS = Path(__file__).resolve().parents[1]
CLIENTS = TESTS / "clients"
SERVERS = TESTS / "servers"
GATEWAY_COMMAND = Path(sys.executable).with_name("mcp-gateway")

INSTALL_SECONDS = 300
CLIENT_SECONDS = 60
START_SECONDS = 60
STOP_SECONDS = 20


# Environments: what is installed, and from which lock


def python_environment(folder: Path) -> Path:
    """The interpreter of the virtual environment that `requirements.txt` in `folder` describes."""
    venv = folder / ".venv"
    interpreter = venv / "bin" / "python"

    def build() -> None:
        shutil.rmtree(venv, ignore_errors=True)
        _install([sys.executable, "-m", "venv", "--without-pip", venv], folder)
        # The tests' own pip fills the environment, which saves a copy of pip in each; byte code is left to the first
        # import, because most of what is installed is never imported.
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(interpreter)]
        options = ["--quiet", "--no-compile", "--only-binary=:all:", "--require-hashes"]
        _install([*pip, "install", *options, "-r", "requirements.txt"], folder)

    _build_once(folder / "requirements.txt", venv / "lock.sha256", build)
    return interpreter


def node_environment(folder: Path) -> Path:
    """The `node_modules` folder that `package-lock.json` in `folder` describes."""
    modules = folder / "node_modules"

    def build() -> None:
        if shutil.which("node") is None or shutil.which("npm") is None:
            raise RuntimeError(f"{folder.name} needs Node.js 20 or newer with npm on the PATH")
        _install(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], folder)

    _build_once(folder / "package-lock.json", modules / "lock.sha256", build)
    return modules


def _build_once(lock: Path, stamp: Path, build: Callable[[], None]) -> None:
    """Build unless the stamp says that this very lock was built; the lock file itself keeps other processes out."""
    with lock.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        wanted = hashlib.sha256(held.read() + sys.version.encode()).hexdigest()
        if stamp.is_file() and stamp.read_text() == wanted:
            return
        build()
        stamp.write_text(wanted)


def _install(command: Sequence[str | Path], folder: Path) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{folder.name}: {' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")


# Clients: one run of the script in a client's folder


@dataclass(frozen=True)
class Endpoint:
    """Where a client is sent: the prefixes are what stands before a tool's or prompt's name and before a URI there."""

    url: str
    key: str | None = None
    tool_prefix: str = ""
    uri_prefix: str = ""


@asynccontextmanager
async def client_of(
    endpoint: Endpoint, era: ConnectMode, answers: ElicitationFnT | None = None
) -> AsyncIterator[Client]:
    """The SDK's own client at the endpoint; `answers` is who answers a server's questions, if anyone does."""
    headers = {} if endpoint.key is None else {"Authorization": f"Bearer {endpoint.key}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30) as http,
        Client(
            streamable_http_client(endpoint.url, http_client=http), mode=era, elicitation_callback=answers
        ) as client,
    ):
        yield client


def what_a_client_sees(name: str, endpoint: Endpoint, era: str, home: Path) -> dict[str, Any]:
    """The one line of JSON that the script in `tests/clients/<name>` prints after it has talked to the endpoint.

    `era` goes to the script as it is; a script whose client knows one era only takes no notice of it.
    """
    folder = CLIENTS / name
    if (folder / "client.mjs").is_file():
        node_environment(folder)
        program: list[str | Path] = ["node", folder / "client.mjs"]
    else:
        program = [python_environment(folder), folder / "client.py"]
    # Nothing of the caller's environment but the PATH: no proxy, no account and no configuration of this machine.
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8"}
    if endpoint.key is not None:
        environment["MCP_API_KEY"] = endpoint.key
    done = subprocess.run(
        [*program, endpoint.url, endpoint.tool_prefix, endpoint.uri_prefix, era],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=CLIENT_SECONDS,
        check=False,
    )
    lines = done.stdout.splitlines()
    if done.returncode != 0 or len(lines) != 1:
        raise AssertionError(f"{name} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    seen: dict[str, Any] = json.loads(lines[0])
    return seen


# Processes: upstreams, wrappers and the gateway


def free_port() -> int:
    """A port of the loopback interface that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def running(
    command: Sequence[str | Path], ready: Callable[[], bool], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[None]:
    """A process, from when `ready` is true until it is stopped by its id; what it prints is in `log`."""
    with started(command, log, environment) as process:
        wait_until(ready, process, log)
        yield


@contextmanager
def started(
    command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    # A variable that keeps Python from caching byte code would make each of the many starts here compile again.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=inherited | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise RuntimeError(f"{command[0]} did not stop on SIGTERM in {STOP_SECONDS} s:\n{_end_of(log)}") from None


def wait_until(ready: Callable[[], bool], process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Return when `ready` is true; raise when the process has ended or the deadline has passed."""
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        try:
            code = process.wait(timeout=0.05)
        except subprocess.TimeoutExpired:
            if time.monotonic() < deadline:
                continue
            raise TimeoutError(f"{process.args!r} was not ready in {START_SECONDS} s:\n{_end_of(log)}") from None
        raise RuntimeError(f"{process.args!r} ended with {code}:\n{_end_of(log)}")


def listening(port: int) -> bool:
    """Whether something accepts connections on the port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def ok(url: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        # No proxy of the environment stands between two processes of one machine.
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-4000:]


@contextmanager
def fixture_upstream(folder: Path) -> Iterator[str]:
    """The URL of `fixture_upstream.py`, running."""
    port = free_port()
    command = [sys.executable, str(SERVERS / "fixture_upstream.py"), str(port)]
    with running(command, lambda: listening(port), folder / "fixture-upstream.log"):
        yield f"http://127.0.0.1:{port}/mcp"


@contextmanager
def wrapped(commands: Mapping[str, Sequence[str | Path]], folder: Path) -> Iterator[dict[str, str]]:
    """URL by slug of stdio servers, each behind its own `mcp-gateway wrap`; all start before one is awaited."""
    urls: dict[str, str] = {}
    with ExitStack() as stack:
        starting = []
        for slug, command in commands.items():
            port = free_port()
            log = folder / f"wrap-{slug}.log"
            wrap = [GATEWAY_COMMAND, "wrap", "--host", "127.0.0.1", "--port", str(port), "--", *command]
            starting.append((stack.enter_context(started(wrap, log)), port, log))
            urls[slug] = f"http://127.0.0.1:{port}/mcp"
        for process, port, log in starting:
            wait_until(partial(listening, port), process, log)
        try:
            yield urls
        finally:
            # All are told to stop before the first is waited for.
            for process, _, _ in starting:
                process.terminate()


@contextmanager
def gateway(upstreams: Mapping[str, str], folder: Path) -> Iterator[Endpoint]:
    """`mcp-gateway serve` in front of the upstreams (URL by slug), from when its list of tools has some of each.

    State and log are kept in `folder`.
    """
    port = free_port()
    state = folder / "state"
    servers = [{"slug": slug, "versions": [{"version": "1", "url": url}]} for slug, url in upstreams.items()]
    configuration = folder / "gateway.yaml"
    configuration.write_text(yaml.safe_dump({"gateway": {"mode": "development"}, "servers": servers}))
    address = ["--host", "127.0.0.1", "--port", str(port)]
    command = [str(GATEWAY_COMMAND), "serve", "--config", str(configuration), *address]
    environment = {"MCP_GATEWAY_STATE_DIR": str(state)}
    log, told_in = folder / "gateway.log", state / "run.json"
    with started(command, log, environment) as process:
        ready = f"http://127.0.0.1:{port}/readyz"
        wait_until(lambda: told_in.is_file() and ok(ready), process, log)
        told = json.loads(told_in.read_text())
        endpoint = Endpoint(url=told["endpoint"], key=told["key"])
        # A gateway is ready before the slowest of its upstreams has told what it has.
        wait_until(lambda: asyncio.run(_listed_at(endpoint)) >= upstreams.keys(), process, log)
        yield endpoint


async def _listed_at(endpoint: Endpoint) -> set[str]:
    """Slugs of the upstreams with a tool in the list."""
    async with client_of(endpoint, "auto") as client:
        return {tool.name.partition("__")[0] for tool in (await client.list_tools()).tools}
