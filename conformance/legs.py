"""The legs, and the pinned suites that run them."""

import hashlib
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
MODULES = FOLDER / "node_modules"
# The suites use functions of `fs` that older versions lack, and fail while they are imported.
OLDEST_NODE = 22


class SuiteError(Exception):
    """Something the suites need is not there; the message says what to do."""


@dataclass(frozen=True)
class Leg:
    """One revision, or one suite. `excused` scenarios do not pass against the reference upstream itself."""

    package: str
    scenarios: int
    spec_version: str | None = None
    excused: frozenset[str] = frozenset()


_CURRENT = "@modelcontextprotocol/conformance"

LEGS: dict[str, Leg] = {
    "2025-06-18": Leg(_CURRENT, 27, "2025-06-18"),
    "2025-11-25": Leg(_CURRENT, 33, "2025-11-25"),
    "2026-07-28": Leg(_CURRENT, 40, "2026-07-28"),
    # This suite says 2025-03-26 in the request that it expects to be resumable, which that revision was not.
    "0.1.16": Leg("conformance-stable", 32, excused=frozenset({"server-sse-polling"})),
}

# Legs to run if the upstream answers one era only: those that clients of the other era need.
CROSS_LEGS = {"legacy": "2026-07-28", "modern": "2025-11-25"}


def install() -> None:
    """Install what `package-lock.json` pins, unless that was done before."""
    wanted = hashlib.sha256((FOLDER / "package-lock.json").read_bytes()).hexdigest()
    stamp = MODULES / ".installed"
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    npm = shutil.which("npm")
    if npm is None:
        raise SuiteError("npm: not found; install Node.js with npm, then run this again")
    print("Installing the suites (npm ci, about 240 MB) ...", file=sys.stderr)
    done = subprocess.run([npm, "ci"], cwd=FOLDER, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SuiteError(f"npm ci: failed in {FOLDER.name}/\n{done.stderr.strip()}")
    stamp.write_text(wanted)


def node() -> str:
    """The Node that the lock brings along, else the one of this machine if it is new enough."""
    machine = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64"}.get(platform.machine().lower(), "")
    pinned = MODULES / f"node-{sys.platform}-{machine}" / "bin" / "node"
    if pinned.is_file():
        return str(pinned)
    own = shutil.which("node")
    if own is not None:
        version = subprocess.run([own, "--version"], capture_output=True, text=True, check=True).stdout.strip()
        if int(version.removeprefix("v").split(".")[0]) >= OLDEST_NODE:
            return own
    raise SuiteError(
        f"node: version {OLDEST_NODE} or newer is needed on this platform; install it, then run this again"
    )


def command(leg: Leg, url: str, results: Path) -> list[str]:
    """The suite's command line; it writes its results under `results`."""
    script = MODULES / leg.package / "dist" / "index.js"
    if not script.is_file():
        raise SuiteError(f"{leg.package}: not installed; remove {MODULES.name}/ and run this again")
    version = ["--spec-version", leg.spec_version] if leg.spec_version else []
    return [node(), str(script), "server", "--url", url, "--suite", "all", *version, "--output-dir", str(results)]
