"""No way in starts a process: not the configuration of `serve`, not a client, not an upstream."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import gateway
from gateway import settings
from gateway.errors import ConfigurationError

PACKAGE = Path(gateway.__file__).parent
_MODULES = frozenset({"subprocess", "multiprocessing", "pty", "popen2", "commands"})
_CALLS = frozenset(
    {"system", "popen", "fork", "forkpty", "posix_spawn", "posix_spawnp", "startfile"}
    | {"create_subprocess_exec", "create_subprocess_shell", "subprocess_exec", "subprocess_shell"}
    | {"open_process", "run_process"}
    | {
        f"{family}{ending}"
        for family in ("exec", "spawn")
        for ending in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")
    }
)


def _configured(tmp_path: Path, document: dict[str, Any], name: str = "gateway.yaml") -> Path:
    path = tmp_path / name
    path.write_text(json.dumps(document) if name.endswith("json") else yaml.safe_dump(document), encoding="utf-8")
    return path


def _commands(marker: Path) -> list[tuple[str, dict[str, Any]]]:
    touch = ["touch", str(marker)]
    plain = {"gateway": {}, "servers": [{"slug": "one", "versions": [{"version": "1", "command": touch}]}]}
    with_env = {"servers": [{"slug": "one", "versions": [{"command": touch, "env": {"A": "b"}, "cwd": "/"}]}]}
    client = {"mcpServers": {"one": {"command": "touch", "args": [str(marker)], "env": {"A": "b"}}}}
    stdio = {"mcpServers": {"one": {"type": "stdio", "command": "touch", "args": [str(marker)]}}}
    return [("a.yaml", plain), ("b.yaml", with_env), ("c.json", client), ("d.json", stdio)]


def test_serve_refuses_a_command_and_starts_nothing(tmp_path: Path) -> None:
    """A52: exit status 2 before anything listens, naming the field and the way to do it."""
    marker = tmp_path / "started"
    name, document = _commands(marker)[0]
    config = _configured(tmp_path, document, name)
    environment = {**os.environ, "MCP_GATEWAY_STATE_DIR": str(tmp_path / "state")}
    environment.pop("MCP_GATEWAY_DATABASE_URL", None)
    done = subprocess.run(
        [sys.executable, "-m", "gateway.cli", "serve", "--config", str(config), "--port", "0"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "servers.one.versions.1.command" in line
    assert f"mcp-gateway wrap --port P -- touch {marker}" in line
    assert not marker.exists()
    assert not (tmp_path / "state" / "run.json").exists()


@pytest.mark.parametrize("number", range(4))
def test_every_way_to_write_a_command_is_refused(tmp_path: Path, number: int) -> None:
    """A52, CVE-2026-42271: in our own file and in a client's."""
    marker = tmp_path / "started"
    name, document = _commands(marker)[number]
    loaded = settings.load(_configured(tmp_path, document, name))
    with pytest.raises(ConfigurationError, match=r"command: the gateway starts no processes"):
        settings.check_bind(loaded, "127.0.0.1")
    assert not marker.exists()


@pytest.mark.parametrize(
    "version",
    [
        {"url": "http://127.0.0.1:1/mcp", "command": ["true"]},
        {"url": "http://127.0.0.1:1/mcp", "args": ["true"]},
        {"url": "http://127.0.0.1:1/mcp", "env": {"LD_PRELOAD": "/x.so"}},
        {"url": "http://127.0.0.1:1/mcp", "transport": "stdio"},
        {"url": "http://127.0.0.1:1/mcp", "Command": ["true"]},
        {"url": "file:///bin/true"},
        {"url": "stdio:true"},
        {"url": "http://user:password@127.0.0.1/mcp"},
        {"url": "!!python/object/apply:os.system ['true']"},
    ],
    ids=lambda version: next(iter(version.keys() - {"url"}), version["url"][:12]),
)
def test_what_looks_like_a_command_is_no_setting(tmp_path: Path, version: dict[str, Any]) -> None:
    """A52: unknown keys are errors, and so are addresses that are none."""
    document = {"servers": [{"slug": "one", "versions": [version]}]}
    with pytest.raises(ConfigurationError, match=r"servers\.0\.versions\.0"):
        settings.load(_configured(tmp_path, document))


def test_a_configuration_cannot_make_objects(tmp_path: Path) -> None:
    """A52: YAML's own way to run code."""
    marker = tmp_path / "started"
    path = tmp_path / "gateway.yaml"
    path.write_text(f"servers: !!python/object/apply:os.system ['touch {marker}']\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="is not YAML"):
        settings.load(path)
    assert not marker.exists()


def test_only_the_command_line_can_start_processes() -> None:
    """A52: nothing that serves requests names a way to do it, by import or by call."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.is_relative_to(PACKAGE / "cli"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name.partition(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [(node.module or "").partition(".")[0], *(alias.name for alias in node.names)]
            elif isinstance(node, ast.Attribute):
                names = [node.attr] if node.attr in _CALLS else []
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                names = [node.func.id] if node.func.id in {"exec", "eval", "__import__"} else []
            found += [
                f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)} {name}"
                for name in names
                if name in _MODULES | _CALLS | {"eval", "__import__"}
            ]
    assert found == []
