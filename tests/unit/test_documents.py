"""What is written for people is true: paths, commands, names and tables in the documents are those of the tree."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from gateway.cli.main import main
from gateway.policy.standard import standard
from gateway.settings import parse
from tests.support.calls import MemoryRecorder

ROOT = Path(__file__).parents[2]
RECORDS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
GUIDES = sorted((ROOT / "docs").glob("*.md"))
READ_FIRST = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
BESIDE = [ROOT / name / "README.md" for name in ("benchmarks", "conformance", "docs/proof")]
DOCUMENTS = [*READ_FIRST, *GUIDES, *RECORDS, *BESIDE]
README = (ROOT / "README.md").read_text("utf-8")

_QUOTED = re.compile(r"`([^`\n]+)`")
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_PATH = re.compile(r"[A-Za-z][\w.*-]*(/[\w.*@-]+)*/?(::\w+)?")
_ENDINGS = (".md", ".py", ".toml", ".yaml", ".yml", ".txt", ".in", ".json", ".conf", ".sh")
_NAME = re.compile(r"(?:gateway|catalogue)(?:\.\w+)+")
_COMMAND = re.compile(r"\bmcp-gateway ([a-z][^`\n#]*)")


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def files() -> frozenset[str]:
    """Every file that is, or is about to be, part of the repository."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode != 0:
        pytest.skip("not a git checkout")
    return frozenset(line for line in found.stdout.splitlines() if (ROOT / line).is_file())


@cache
def tops() -> frozenset[str]:
    return frozenset(name.partition("/")[0] for name in files())


def quoted(path: Path) -> list[str]:
    """Everything in backticks, without blocks of code."""
    return _QUOTED.findall(_FENCED.sub("", path.read_text("utf-8")))


def is_a_path(text: str) -> bool:
    """Does it look like a path of the repository? A wrong one does too, by its first folder or by its ending."""
    if not _PATH.fullmatch(text):
        return False
    plain = text.partition("::")[0]
    if "/" in plain:
        return plain.partition("/")[0] in tops() or plain.endswith(_ENDINGS)
    return plain in tops() or plain.endswith((".md", ".py", ".toml"))


def exists(text: str) -> bool:
    """A file, a folder with files, a pattern that finds some, or a test in a file."""
    plain, _, test = text.partition("::")
    if "*" in plain:
        return any(Path(name).match(plain) for name in files())
    if test:
        return plain in files() and re.search(rf"def {test}\(", (ROOT / plain).read_text("utf-8")) is not None
    folder = plain.rstrip("/") + "/"
    return plain in files() or any(name.startswith(folder) for name in files())


# Paths, names, commands


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_path_in_a_document_exists(document: Path) -> None:
    folder = named(document.parent) + "/" if document in BESIDE else ""  # there, of its own folder
    wrong = [text for text in quoted(document) if is_a_path(text) and not exists(text) and not exists(folder + text)]
    assert wrong == []


@pytest.mark.parametrize(
    "wrong", ["tests/unit/test_nothing.py", "nowhere/file.py", "docs/none/", "NOTHING.md", "tests/*.txt"]
)
def test_a_path_that_is_wrong_would_be_noticed(wrong: str) -> None:
    assert is_a_path(wrong)
    assert not exists(wrong)


def test_a_test_that_is_gone_would_be_noticed() -> None:
    here = named(Path(__file__))
    assert exists(f"{here}::test_a_test_that_is_gone_would_be_noticed")
    assert not exists(f"{here}::test_a_test_that_is")
    assert not is_a_path("tools/call")


def resolve(name: str) -> Any:
    """The module, class, function or attribute of that dotted name."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise AttributeError(name)


def test_every_name_on_the_request_path_is_one_of_the_code() -> None:
    found = [text for path in GUIDES for text in quoted(path) if _NAME.fullmatch(text) and "/" not in text]
    names = [text for text in found if text.partition(".")[2].partition(".")[0] not in SETTINGS]
    assert len(names) > 30
    missing = []
    for name in names:
        try:
            resolve(name)
        except AttributeError:
            missing.append(name)
    assert missing == []
    with pytest.raises(AttributeError):
        resolve("gateway.dispatch.Dispatch.call_nothing")


SETTINGS = frozenset(type(parse({}).gateway).model_fields)
"""`gateway.` begins names of settings too."""


def commands() -> list[str]:
    texts = [path.read_text("utf-8") for path in (*READ_FIRST, *GUIDES)]
    return sorted({match.strip() for text in texts for match in _COMMAND.findall(text)})


def fault(line: str) -> str | None:
    """What is wrong with the words behind `mcp-gateway`."""
    command: click.Command = main
    for word in shlex.split(line.partition(" -- ")[0]):
        context = click.Context(command)
        if word.startswith("--"):
            options = {option for parameter in command.params for option in parameter.opts}
            if word not in options:
                return f"{line}: {word}"
        elif isinstance(command, click.Group):
            found = [command.get_command(context, name) for name in word.split("|")]
            if None in found or found[0] is None:
                return f"{line}: {word}"
            command = found[0]
    return None


def test_every_command_in_a_document_exists_with_its_options() -> None:
    assert len(commands()) > 5
    assert [found for line in commands() if (found := fault(line)) is not None] == []
    assert [fault(line) for line in ("serve --nothing 1", "nothing", "keys create|nothing")].count(None) == 0


def test_every_target_of_make_in_a_document_exists() -> None:
    texts = "".join(path.read_text("utf-8") for path in (*READ_FIRST, *GUIDES))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert {"run", "test"} <= set(re.findall(r"\bmake ([a-z-]+)", README)) <= targets
    assert set(re.findall(r"`make ([a-z-]+)", texts)) <= targets


# The README


def test_the_readme_fits_on_a_few_screens() -> None:
    assert README.count("\n") <= 120


def test_the_table_of_stages_is_the_pipeline_in_its_order() -> None:
    table = README.partition("| stage |")[2].partition("\n\n")[0].splitlines()[2:]
    rows = [row.split("|")[1].strip().lower().replace(" ", "_") for row in table]
    pipeline = standard(MemoryRecorder())
    stages = [*(stage.name for stage in pipeline.request_stages), *(stage.name for stage in pipeline.result_stages)]
    assert rows == ["authentication", *stages]


def test_every_configuration_that_is_shown_is_one() -> None:
    shown = re.findall(r"^```yaml\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert shown
    for text in (*shown, (ROOT / "deploy" / "gateway.yaml").read_text("utf-8")):
        assert parse(yaml.safe_load(text))


@pytest.mark.parametrize("guide", GUIDES, ids=named)
def test_a_guide_is_short(guide: Path) -> None:
    assert guide.read_text("utf-8").count("\n") <= 100


# Decisions


@pytest.mark.parametrize("record", RECORDS, ids=named)
def test_a_decision_has_its_status_its_outcome_and_what_confirms_it(record: Path) -> None:
    text = record.read_text("utf-8")
    name = re.fullmatch(r"(\d{4})(?:-[a-z0-9]+)+\.md", record.name)
    assert name is not None
    assert re.match(
        rf"# {name[1]} \S.*\n\n- Status: (accepted|proposed|rejected|superseded)\b.*\n- Date: \d{{4}}-", text
    )
    sections = dict(re.findall(r"^## (.+)\n((?:(?!## ).*\n?)*)", text, re.MULTILINE))
    assert sections["Decision outcome"].strip()
    confirming = [path for path in _QUOTED.findall(sections["Confirmation"]) if is_a_path(path)]
    assert confirming
    assert [path for path in confirming if not exists(path)] == []


def test_the_numbers_of_decisions_are_unique_and_leave_no_gap() -> None:
    assert [record.name[:4] for record in RECORDS] == [f"{number:04d}" for number in range(1, len(RECORDS) + 1)]


# Invariants


def test_every_invariant_names_a_test_that_holds_it() -> None:
    text = (ROOT / "docs" / "invariants.md").read_text("utf-8")
    rules = re.split(r"^\d+\. ", text, flags=re.MULTILINE)[1:]
    assert [int(number) for number in re.findall(r"^(\d+)\. ", text, re.MULTILINE)] == list(range(1, len(rules) + 1))
    for rule in rules:
        tests = [found for found in _QUOTED.findall(rule) if "::" in found]
        assert tests, rule
        assert [test for test in tests if not exists(test)] == []


# Locks, and where things came from


def test_every_locked_python_package_has_hashes() -> None:
    locks = [name for name in files() if re.search(r"(^|/)requirements[^/]*(/[^/]+)?\.txt$", name)]
    assert len(locks) > 5
    for name in locks:
        entries = re.split(r"\n(?=\S)", (ROOT / name).read_text("utf-8").strip())
        pinned = [entry for entry in entries if not entry.startswith("#")]
        assert pinned
        assert [
            e for e in pinned if not re.match(r"[a-z0-9.\[\],-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", e, re.DOTALL)
        ] == []
        assert "://" not in "".join(pinned), name


def test_no_lock_says_from_where_a_package_is_fetched() -> None:
    locks = [name for name in files() if name.endswith("package-lock.json")]
    assert len(locks) > 3
    for name in locks:
        text = (ROOT / name).read_text("utf-8")
        assert "://" not in text, name
        assert '"integrity": "sha512-' in text, name


def test_no_file_names_a_folder_of_the_machine_it_was_written_on() -> None:
    folders = [
        b"/".join((b"", *parts, b"")) for parts in ((b"work",), (b"root",), (b"home", b"user"), (b"tmp", b"work"))
    ]
    assert [name for name in files() if any(found in (ROOT / name).read_bytes() for found in folders)] == []
