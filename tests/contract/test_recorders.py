"""What every `Recorder` does, in memory and in the journal alike: what is written, when, and what never is."""

from __future__ import annotations

import asyncio
import os
import resource
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.calls import Answer, Method, Outcome, Outlet, Principal, Round
from gateway.errors import StorageUnavailable
from gateway.policy.pipeline import CallPermit, Pipeline
from gateway.policy.stage import Recorder
from gateway.storage.journal import Journal
from tests.support.calls import FakeClock, MemoryOutlet, MemoryRecorder, call, caller

SECRET = "hunter2-4711"  # in arguments, results, metadata and states; never in a record


@dataclass
class Kept:
    """A recorder, and the lines that somebody else can read of it at this moment."""

    recorder: Recorder
    lines: Callable[[], list[Any]]


@pytest.fixture(params=["memory", "journal"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kept]:
    if request.param == "memory":
        memory = MemoryRecorder()
        yield Kept(memory, lambda: list(memory.lines))
        return
    path = tmp_path / "records" / "1.jsonl"
    journal = Journal(path, clock=FakeClock())
    yield Kept(journal, lambda: read(path))
    journal.close()


@pytest.fixture(params=["memory", "journal"])
def broken(request: pytest.FixtureRequest) -> Iterator[Recorder]:
    """A recorder that can write nothing."""
    if request.param == "memory":
        yield MemoryRecorder(refusing=("opened", "closed"))
        return
    journal = Journal(Path("/dev/full"))
    yield journal
    journal.close()


def read(path: Path) -> list[Any]:
    return [orjson.loads(line) for line in text_of(path).splitlines()]


def text_of(path: Path) -> bytes:
    return path.read_bytes()


def event(line: Any) -> str:
    return str(line["event"] if isinstance(line, dict) else line[0])


def secretive(number: int = 1) -> Any:
    """A call full of what must not be written down."""
    return call(
        caller(Principal("key:alice", "key"), capabilities={"x": SECRET}),
        params={"name": "echo", "arguments": {"password": SECRET}},
        meta={"traceparent": SECRET},
        round=Round(number, inner=SECRET, input_responses={"a": SECRET}),
        progress_token=SECRET,
    )


async def test_a_call_is_one_line_when_it_opens_and_one_when_it_closes(kept: Kept) -> None:
    await kept.recorder.opened(call())
    assert [event(line) for line in kept.lines()] == ["opened"]
    await kept.recorder.closed(call(), Outcome.RESULT, "")
    assert [event(line) for line in kept.lines()] == ["opened", "closed"]


async def test_a_line_can_be_read_by_others_as_soon_as_the_recorder_has_returned(kept: Kept) -> None:
    for number in range(20):
        await kept.recorder.opened(call(id=f"call-{number}"))
        assert len(kept.lines()) == number + 1


async def test_no_argument_no_result_and_no_state_is_ever_written(kept: Kept) -> None:
    async def forward(permit: CallPermit, outlet: Outlet) -> Answer:
        return Answer({"content": [{"type": "text", "text": SECRET}], "isError": True})

    pipeline = Pipeline((), (), kept.recorder)
    await pipeline.enforce(secretive(), MemoryOutlet(), forward)
    assert len(kept.lines()) == 2
    assert SECRET not in repr(kept.lines())


@pytest.mark.parametrize("outcome", list(Outcome))
async def test_every_outcome_can_be_written(kept: Kept, outcome: Outcome) -> None:
    await kept.recorder.closed(call(), outcome, "stage:reason")
    assert outcome.value in repr(kept.lines())
    assert "stage:reason" in repr(kept.lines())


async def test_calls_at_the_same_time_keep_their_lines_apart(kept: Kept) -> None:
    async def one(number: int) -> None:
        of = call(id=f"call-{number}")
        await kept.recorder.opened(of)
        await asyncio.sleep(0)
        await kept.recorder.closed(of, Outcome.RESULT, "")

    await asyncio.gather(*(one(number) for number in range(50)))
    lines = kept.lines()
    assert len(lines) == 100
    for number in range(50):
        assert [event(line) for line in lines if f"'call-{number}'" in repr(line)] == ["opened", "closed"]


async def test_a_recorder_that_cannot_write_says_so(broken: Recorder) -> None:
    with pytest.raises(StorageUnavailable):
        await broken.opened(call())
    with pytest.raises(StorageUnavailable):
        await broken.closed(call(), Outcome.RESULT, "")


async def test_nothing_is_forwarded_when_the_recorder_cannot_write(broken: Recorder) -> None:
    forwarded: list[CallPermit] = []

    async def forward(permit: CallPermit, outlet: Outlet) -> Answer:
        forwarded.append(permit)
        return Answer({})

    with pytest.raises(StorageUnavailable):
        await Pipeline((), (), broken).enforce(call(), MemoryOutlet(), forward)
    assert forwarded == []


# --- the journal's own


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records" / "1.jsonl"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    made = Journal(path, clock=FakeClock(5.0))
    yield made
    made.close()


async def test_the_journal_says_who_called_what_where_and_when(journal: Journal, path: Path) -> None:
    await journal.opened(call(id="c1"))
    await journal.closed(call(id="c1"), Outcome.DENIED, "authorization:hidden")
    opened, closed = read(path)
    assert opened == {
        "event": "opened",
        "record": "c1",
        "round": 1,
        "at": 5.0,
        "principal": "key:alice",
        "endpoint": "",
        "revision": "2026-07-28",
        "server": "one",
        "version": "1",
        "method": "tools/call",
        "name": "one__echo",
    }
    assert closed == {
        "event": "closed",
        "record": "c1",
        "round": 1,
        "at": 5.0,
        "outcome": "denied",
        "detail": "authorization:hidden",
    }


async def test_a_later_round_belongs_to_the_record_of_the_first(journal: Journal, path: Path) -> None:
    await journal.opened(call(id="c1", round=Round(2, "state")))
    assert (read(path)[0]["event"], read(path)[0]["round"], read(path)[0]["record"]) == ("round", 2, "c1")


def test_the_journal_is_for_its_owner_alone(journal: Journal, path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_the_journal_goes_on_where_it_ended(path: Path) -> None:
    for _ in range(2):
        journal = Journal(path)
        await journal.opened(call())
        journal.close()
    assert len(read(path)) == 2


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As a disk on which so many bytes of a file have room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_disk_that_was_full_for_a_while_costs_no_line_that_is_written_later(
    journal: Journal, path: Path
) -> None:
    await journal.opened(call(id="before"))
    with files_of_at_most(len(text_of(path)) + 10), pytest.raises(StorageUnavailable):
        await journal.opened(call(id="lost"))
    await journal.opened(call(id="after"))
    whole = []
    for line in text_of(path).splitlines():
        try:
            whole.append(orjson.loads(line)["record"])
        except orjson.JSONDecodeError:
            assert len(line) == 10, "a torn line stands alone"
    assert whole == ["before", "after"]


async def test_the_text_of_a_failure_names_no_path(tmp_path: Path) -> None:
    journal = Journal(Path("/dev/full"))
    try:
        with pytest.raises(StorageUnavailable) as refusal:
            await journal.opened(call(method=Method.RESOURCES_READ))
    finally:
        journal.close()
    assert os.sep not in str(refusal.value)
