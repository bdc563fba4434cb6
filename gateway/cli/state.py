"""The state folder: what a development gateway keeps between starts, and where it says that it is ready."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from gateway.errors import ConfigurationError
from gateway.keys import KeyRing
from gateway.settings import Settings, secret


def state_dir() -> Path:
    """`MCP_GATEWAY_STATE_DIR`, else `.mcp-gateway` here; made private to its owner."""
    folder = Path(secret("STATE_DIR") or ".mcp-gateway").absolute()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def master_keys(settings: Settings, folder: Path) -> str:
    """The key ring's text: from the environment; in development a generated one that is kept in the state folder.

    Raises:
        ConfigurationError: production without `MCP_GATEWAY_MASTER_KEYS`, or a ring that is not one.
    """
    text = secret("MASTER_KEYS")
    if text is None and settings.gateway.mode == "production":
        raise ConfigurationError(
            "MCP_GATEWAY_MASTER_KEYS: production needs it; "
            "set it to 32 random bytes in base64url, the same on every replica"
        )
    if text is None:
        text = _kept(folder / "master.keys")
    KeyRing.parse(text)
    return text


def _kept(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        text = KeyRing.generate()
        write_private(path, text)
        return text


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner reads, whole or not at all."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_run(folder: Path, facts: dict[str, Any]) -> None:
    """`run.json`: for scripts that wait for the gateway."""
    write_private(folder / "run.json", json.dumps(facts, indent=2) + "\n")


def remove_run(folder: Path) -> None:
    """Removes `run.json` if it is ours or that of a gateway that is gone; one that runs keeps its own."""
    path = folder / "run.json"
    try:
        writer = int(json.loads(path.read_text(encoding="utf-8"))["pids"]["serve"])
    except FileNotFoundError:
        return
    except (ValueError, LookupError, TypeError):
        writer = os.getpid()
    if writer == os.getpid() or not _lives(writer):
        path.unlink(missing_ok=True)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
