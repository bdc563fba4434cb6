"""Laws of the tree that no type checker knows, read from the source itself.

What imports what is the business of import-linter (`lint-imports`); what is here, it cannot see.
"""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

from gateway.calls import Method

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for package in ("gateway", "catalogue") for path in (ROOT / package).rglob("*.py"))
PROGRAM = [path for path in SOURCES if "cli" not in path.parts]
Function = ast.FunctionDef | ast.AsyncFunctionDef

LONGEST_FILE = 400
LONGEST_POLICY_FILE = 300
NO_NAMES = {
    "utils",
    "util",
    "helpers",
    "helper",
    "common",
    "manager",
    "managers",
    "service",
    "services",
    "misc",
    "base",
}
CATCHES_EVERYTHING = {
    "gateway/policy/pipeline.py": "a stage that fails denies",
    "gateway/edge/app.py": "the outermost: an error of ours becomes a status, never a trace",
    "gateway/edge/methods.py": "one request of a stream that others share",
    "gateway/edge/modern.py": "one request; its stream may have begun",
    "gateway/edge/http_sse.py": "one message of a channel that others share",
    "gateway/upstream/http_sse.py": "one message of a stream that others share: the waiting call gets the error",
    "gateway/sessions/periodic.py": "work that comes again by itself",
    "gateway/storage/changes.py": "its tasks must not end, and one subscriber's fault is not the others'",
    "gateway/storage/stream_log.py": "all who wait for one commit get its error",
}
"""Where `except Exception` (or wider) may stand, and why an error must not go further there."""


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def offenders(paths: Iterable[Path], law: Callable[[Path], object]) -> dict[str, object]:
    """What the law finds in each file where it finds anything."""
    return {named(path): found for path in paths if (found := law(path))}


@cache
def calls(path: Path) -> list[tuple[str, ast.Call]]:
    """Every call in the file, by the last part of what is called."""
    found = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]
    return [(getattr(node.func, "attr", getattr(node.func, "id", "")), node) for node in found]


def calls_of(name: str, path: Path) -> Iterator[ast.Call]:
    yield from (node for called, node in calls(path) if called == name)


def where_called(name: str) -> set[str]:
    return {named(path) for path in PROGRAM if any(calls_of(name, path))}


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """Every file that is, or is about to be, part of the repository."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode != 0:
        pytest.skip("not a git checkout")
    return [path for line in found.stdout.splitlines() if (path := ROOT / line).is_file()]


def test_there_is_something_to_read() -> None:
    assert len(SOURCES) > 60
    assert {"pipeline.py", "dispatch.py", "settings.py"} <= {path.name for path in SOURCES}


# --- the one road


def test_permits_are_made_in_the_pipeline_and_nowhere_else() -> None:
    assert where_called("CallPermit") == {"gateway/policy/pipeline.py"}


def test_housekeeping_permits_are_made_among_the_upstreams_only() -> None:
    made = where_called("HousekeepingPermit")
    assert made
    assert all(path.startswith("gateway/upstream/") for path in made)


def test_calls_are_made_in_dispatch_and_nowhere_else() -> None:
    assert where_called("Call") == {"gateway/dispatch.py"}


def test_every_method_that_carries_a_callers_data_goes_through_dispatch() -> None:
    """Made into a call by dispatch itself, or handed to it as the method of a `resource_call`."""
    by_dispatch = {ast.unparse(node) for node in ast.walk(tree(ROOT / "gateway/dispatch.py"))}
    handed = {
        ast.unparse(argument) for path in SOURCES for call in calls_of("resource_call", path) for argument in call.args
    }
    for method in Method:
        assert f"Method.{method.name}" in by_dispatch | handed


def test_only_the_pipeline_forwards() -> None:
    enforced = {"gateway/dispatch.py", "gateway/bridge/watching.py"}
    assert where_called("enforce") == enforced


# --- what is imported where


def local_imports(node: ast.AST) -> Iterator[ast.stmt]:
    for function in ast.walk(node):
        if isinstance(function, Function):
            for inner in ast.walk(function):
                if isinstance(inner, ast.Import | ast.ImportFrom):
                    yield inner


def test_nothing_is_imported_within_a_function() -> None:
    assert offenders(SOURCES, lambda path: [ast.unparse(found) for found in local_imports(tree(path))]) == {}


def test_processes_are_started_by_the_command_line_alone() -> None:
    for path in PROGRAM:
        for node in ast.walk(tree(path)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & {"subprocess", "multiprocessing"}, named(path)
        for name in ("create_subprocess_exec", "create_subprocess_shell", "fork", "popen", "posix_spawn", "system"):
            assert not any(calls_of(name, path)), f"{named(path)}: {name}"


# --- words


def silent(path: Path) -> list[str]:
    return [
        node.name
        for node in tree(path).body
        if isinstance(node, ast.ClassDef | Function)
        and not node.name.startswith("_")
        and ast.get_docstring(node) is None
        and not any(ast.unparse(decorator).endswith("overload") for decorator in node.decorator_list)
    ]


def test_every_public_class_and_function_says_what_its_name_cannot() -> None:
    assert offenders(PROGRAM, silent) == {}


def test_every_module_says_what_it_is_for() -> None:
    without = [named(path) for path in SOURCES if ast.get_docstring(tree(path)) is None]
    assert [path for path in without if not path.endswith(("/__init__.py", "/__main__.py"))] == []


def test_no_module_is_named_for_what_does_not_fit_elsewhere() -> None:
    assert [named(path) for path in SOURCES if NO_NAMES & {path.stem, *path.parent.parts}] == []


def test_no_class_is_a_manager_of_anything() -> None:
    words = ("Manager", "Helper", "Util", "Service", "Base")
    classes = [node.name for path in SOURCES for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef)]
    assert [name for name in classes if name.endswith(words)] == []


# --- size and failure


def too_long(path: Path) -> int | None:
    is_policy = named(path).startswith("gateway/policy/") or named(path) == "gateway/dispatch.py"
    lines = len(path.read_text(encoding="utf-8").splitlines())
    return lines if lines > (LONGEST_POLICY_FILE if is_policy else LONGEST_FILE) else None


def test_no_file_is_longer_than_one_sitting() -> None:
    assert offenders(SOURCES, too_long) == {}


def catches_everything(path: Path) -> bool:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ExceptHandler):
            caught = "" if node.type is None else ast.unparse(node.type)
            reraises = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
            if caught in ("", "Exception", "BaseException") and not reraises:
                return True
    return False


def test_errors_are_swallowed_whole_only_where_a_reason_is_written() -> None:
    assert {named(path) for path in PROGRAM if catches_everything(path)} == CATCHES_EVERYTHING.keys()


# --- the whole repository


def test_no_file_of_the_repository_names_a_package_index(tracked: list[Path]) -> None:
    """Where packages come from is the business of whoever installs them, and of their own settings."""
    hosts = [".".join(parts).encode() for parts in (
        ("registry", "npmjs", "org"), ("registry", "yarnpkg", "com"), ("pypi", "org"), ("files", "pythonhosted", "org"),
        ("proxy", "golang", "org"), ("deb", "debian", "org"), ("archive", "ubuntu", "com"),
    )]  # fmt: skip
    naming = [named(path) for path in tracked if any(host in path.read_bytes() for host in hosts)]
    assert naming == []


def pauses(path: Path) -> Iterator[int]:
    """Lines that sleep for a time, and not within a loop that looks whether what it waits for has come."""
    polled = {
        id(call)
        for loop in ast.walk(tree(path))
        if isinstance(loop, ast.While)
        for call in ast.walk(loop)
        if isinstance(call, ast.Call)
    }
    for call in calls_of("sleep", path):
        is_yield = call.args and isinstance(call.args[0], ast.Constant) and call.args[0].value == 0
        if id(call) not in polled and not is_yield:
            yield call.lineno


def test_no_test_waits_by_the_clock(tracked: list[Path]) -> None:
    """A test waits for what it waits for; a pause is either too short or too long."""
    tests = [path for path in tracked if path.suffix == ".py" and named(path).startswith("tests/")]
    tests = [path for path in tests if b"sleep" in path.read_bytes()]  # most need not be parsed
    assert offenders(tests, lambda path: list(pauses(path))) == {}
