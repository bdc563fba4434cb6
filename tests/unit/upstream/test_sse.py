"""Server-sent events: however a stream is cut, its events are the same."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.upstream.sse import Event, EventParser, EventTooLarge, encode_event

QUICK = settings(deadline=None, max_examples=100)

# Pieces that matter to the grammar, so that arbitrary sequences of them are interesting streams.
PIECES = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\n\n",
    b"\r\n\r\n",
    b"data",
    b"data:",
    b"data: x",
    b"id: 7",
    b"id",
    b"id:",
    b"id: a\0b",
]
PIECES += [
    b"event: message\r\ndata: {}\r\n\r\n",
    b"event: message\ndata: {}\n\n",
    b"event: ping",
    b"event:",
    b": note",
    b":",
]
PIECES += [
    b"retry: 50",
    b"retry: x",
    b"retry: \xd9\xa1",
    b"unknown: 1",
    b" ",
    b"\xef\xbb\xbf",
    b"\xef",
    b"\xff",
    b"caf\xc3\xa9",
]
streams = st.lists(st.sampled_from(PIECES) | st.binary(max_size=3), max_size=25).map(b"".join)


def parse(*chunks: bytes, max_event: int = 4 * 1024 * 1024) -> list[Event]:
    parser = EventParser(max_event)
    return [event for chunk in chunks for event in parser.feed(chunk)]


def plain(data: bytes) -> Event:
    return Event(data, None, "message", None, has_data=True)


def by_the_book(stream: bytes) -> list[Event]:
    """The algorithm of the standard, line by line over the whole stream, with our two differences."""
    stream = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    events = []
    data: list[bytes] = []
    fields: dict[str, str] = {}
    for line in stream.split(b"\n")[:-1]:
        if not line:
            if data or fields.keys() & {"id", "retry"}:
                retry = int(fields["retry"]) if "retry" in fields else None
                name = fields.get("event") or "message"
                events.append(Event(b"\n".join(data), fields.get("id"), name, retry, bool(data)))
            data, fields = [], {}
            continue
        field, _, value = line.partition(b":")
        value = value[1:] if value[:1] == b" " else value
        if field == b"data":
            data.append(value)
        elif field == b"event" or (field == b"id" and b"\0" not in value):
            fields[field.decode()] = value.decode(errors="replace")
        elif field == b"retry" and value and all(byte in b"0123456789" for byte in value):
            fields["retry"] = value.decode()
    return events


@QUICK
@given(streams)
def test_a_whole_stream_is_read_as_the_standard_says(stream: bytes) -> None:
    assert parse(stream) == by_the_book(stream)


@QUICK
@given(streams, st.data())
def test_any_cutting_of_a_stream_gives_the_same_events(stream: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    chunks = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert parse(*chunks) == parse(stream)


@QUICK
@given(streams)
def test_a_stream_byte_by_byte_gives_the_same_events(stream: bytes) -> None:
    assert parse(*(stream[index : index + 1] for index in range(len(stream)))) == parse(stream)


@QUICK
@given(streams, st.integers(1, 30), st.integers(1, 7))
def test_the_cap_does_not_depend_on_the_cutting(stream: bytes, cap: int, step: int) -> None:
    def outcome(*chunks: bytes) -> list[Event] | None:
        try:
            return parse(*chunks, max_event=cap)
        except EventTooLarge:
            return None

    assert outcome(*(stream[at : at + step] for at in range(0, len(stream), step))) == outcome(stream)


@QUICK
@given(
    st.binary(max_size=40),
    st.none() | st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=8),
    st.none() | st.sampled_from(["message", "endpoint", "caf\u00e9", ""]),
    st.none() | st.integers(0, 10**9),
)
def test_an_encoded_event_is_read_back(data: bytes, identity: str | None, name: str | None, retry: int | None) -> None:
    expected = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    event = Event(expected, identity, name or "message", retry, has_data=True)
    assert parse(encode_event(data, id=identity, event=name, retry=retry)) == [event]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_every_kind_of_line_end_is_understood(end: bytes) -> None:
    stream = end.join([b": hello", b"event: message", b"data: one", b"data: two", b"", b"data:three", b"", b""])
    assert parse(stream) == [plain(b"one\ntwo"), plain(b"three")]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_the_usual_whole_event_is_handed_out_at_once(end: bytes) -> None:
    chunk = b"event: message" + end + b'data: {"a":1}' + end + end
    assert parse(chunk, chunk) == [plain(b'{"a":1}')] * 2


def test_two_usual_events_in_one_chunk_are_two_events() -> None:
    assert parse(encode_event(b"1") + encode_event(b"2")) == [plain(b"1"), plain(b"2")]


def test_a_usual_chunk_in_the_middle_of_an_event_belongs_to_that_event() -> None:
    assert parse(b"id: 1\r\n", encode_event(b"x")) == [Event(b"x", "1", "message", None, has_data=True)]
    assert parse(b"da", encode_event(b"x")) == [plain(b"x")]
    assert parse(b"data: a\r\n", encode_event(b"x")) == [plain(b"a\nx")]
    assert parse(b"data: a", encode_event(b"x")) == [plain(b"aevent: message\nx")]


def test_a_priming_event_is_handed_out_with_its_id() -> None:
    assert parse(b"id: 1\ndata:\n\n") == [Event(b"", "1", "message", None, has_data=True)]
    assert parse(b"id: 1\n\n") == [Event(b"", "1", "message", None, has_data=False)]


def test_a_retry_time_alone_is_handed_out() -> None:
    assert parse(b"retry: 250\n\n") == [Event(b"", None, "message", 250, has_data=False)]


def test_comments_and_events_of_a_name_alone_are_not_handed_out() -> None:
    assert parse(b": ping\n\n:\n\nevent: x\n\ndata: 1\n\n") == [plain(b"1")]


def test_an_id_belongs_to_its_own_event_only() -> None:
    assert [event.id for event in parse(b"id: 1\ndata: a\n\ndata: b\n\nid:\ndata: c\n\n")] == ["1", None, ""]


def test_an_id_with_nul_and_a_retry_of_other_than_digits_are_ignored() -> None:
    fields = b"id: a\0b\nretry: -1\nretry: 1.5\nretry: \nretry: " + b"9" * 5000 + b"\ndata: x\n\n"
    assert parse(fields) == [plain(b"x")]


def test_one_space_after_the_colon_is_dropped_and_no_more() -> None:
    assert parse(b"data:  x\n\n") == [plain(b" x")]


def test_an_event_without_its_blank_line_is_not_handed_out() -> None:
    assert parse(b"data: 1\n\ndata: 2\n") == [plain(b"1")]


def test_a_byte_order_mark_is_dropped_at_the_start_only() -> None:
    mark = b"\xef\xbb\xbf"
    assert parse(mark + b"data: 1\n\n" + mark + b"data: 2\n\n") == [plain(b"1")]
    assert parse(b"\xef", b"\xbb", b"\xbfdata: 1\n\n") == [plain(b"1")]


def test_an_event_of_exactly_the_cap_passes_and_one_byte_more_does_not() -> None:
    assert parse(b"data: 12\n\n", max_event=8) == [plain(b"12")]
    for stream in (b"data: 123\n\n", b"data: 1\ndata: 2\n\n", b"data: 123", b": 1234567", b"unknown: 1\n"):
        with pytest.raises(EventTooLarge):
            parse(stream, max_event=8)


def test_the_cap_holds_for_the_usual_event_too() -> None:
    event = encode_event(b"x" * 100)
    with pytest.raises(EventTooLarge):
        parse(event, max_event=100)
    assert parse(event, max_event=len(event)) == [plain(b"x" * 100)]


def test_comments_may_go_on_for_ever() -> None:
    assert parse(*[b": ping\n"] * 1000, b"data: 1\n\n", max_event=16) == [plain(b"1")]


def test_events_one_after_another_do_not_add_up_to_the_cap() -> None:
    assert len(parse(*[b"data: 1\n\n"] * 1000, max_event=16)) == 1000


def test_a_large_event_in_small_chunks_takes_linear_time() -> None:
    body = b"data: " + b"x" * 2_000_000 + b"\n\n"
    started = time.process_time()
    events = parse(*(body[at : at + 20] for at in range(0, len(body), 20)))
    assert events == [plain(b"x" * 2_000_000)]
    assert time.process_time() - started < 2.0


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "a\0b"])
def test_an_id_or_a_name_cannot_bring_in_another_line(text: str) -> None:
    with pytest.raises(ValueError, match="must not hold"):
        encode_event(b"x", id=text)
    with pytest.raises(ValueError, match="must not hold"):
        encode_event(b"x", event=text)


def test_an_event_is_written_as_the_sdks_write_it() -> None:
    assert encode_event(b"{}") == b"event: message\r\ndata: {}\r\n\r\n"
    assert encode_event(b"", id="1", event=None, retry=5) == b"id: 1\r\nretry: 5\r\ndata: \r\n\r\n"
