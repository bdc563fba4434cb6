"""Which events of a stream have to go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.bridge.stream_log import MAX_BYTES, MAX_EVENTS
from gateway.storage import stream_sizes
from gateway.storage.stream_sizes import Sizes

A = ("s:one", "a")


@given(st.lists(st.integers(0, MAX_BYTES // 2), min_size=1, max_size=30), st.integers(1, 10))
def test_what_stays_fits_and_is_all_that_fits(lengths: list[int], at_once: int) -> None:
    sizes = Sizes()
    sizes.begin([A])
    cut = 0
    for seq, length in enumerate(lengths, 1):
        sizes.add(A, seq, length)
        if seq % at_once == 0 or seq == len(lengths):
            cut = sizes.cut([A]).get(A, cut)
    kept = lengths[cut:]
    assert kept
    assert len(kept) == 1 or sum(kept) <= MAX_BYTES
    assert cut == 0 or sum(lengths[cut - 1 :]) > MAX_BYTES


def test_the_number_of_events_is_bounded_too() -> None:
    sizes = Sizes()
    sizes.load(A, [(seq, 1) for seq in range(MAX_EVENTS)])
    assert sizes.cut([A]) == {}
    sizes.add(A, MAX_EVENTS, 1)
    assert sizes.cut([A]) == {A: 0}
    assert sizes.cut([A]) == {}


def test_streams_are_forgotten_when_all_together_hold_too_many_events() -> None:
    sizes = Sizes()
    many = [(seq, 1) for seq in range(MAX_EVENTS)]
    for number in range(stream_sizes._MOST_EVENTS // MAX_EVENTS + 5):
        sizes.load(("s:one", str(number)), many)
    assert ("s:one", "0") not in sizes
    assert len(sizes._sizes) <= stream_sizes._MOST_EVENTS // MAX_EVENTS + 1
    # Adding to one that is not known here is no error: it is read again when it is needed.
    sizes.add(("s:one", "0"), 1, 1)
    assert ("s:one", "0") not in sizes


def test_what_is_forgotten_is_not_known() -> None:
    sizes = Sizes()
    sizes.begin([A])
    assert A in sizes
    sizes.forget([A, A])
    assert A not in sizes
    assert sizes._events == 0
