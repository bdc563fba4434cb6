"""Ids of server requests: an address that only the session it was given to can use."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.bridge.server_requests import Address, ServerRequests
from gateway.keys import KeyRing
from tests.support.worlds import RING

REQUESTS = ServerRequests(RING)
IDS = st.integers(-(2**80), 2**80) | st.text(max_size=10) | st.just("\ud800")


@settings(deadline=None, max_examples=60)
@given(IDS)
def test_an_answer_finds_its_way_back_with_the_id_and_type_that_the_upstream_gave(upstream_id: str | int) -> None:
    address = Address("one@1", upstream_id)
    found = REQUESTS.open("session", REQUESTS.seal("session", address))
    assert found == address
    assert found is not None
    assert type(found.upstream_id) is type(upstream_id)


def test_an_id_is_of_no_use_to_another_session() -> None:
    sealed = REQUESTS.seal("session", Address("one@1", 1))
    assert REQUESTS.open("another", sealed) is None
    assert REQUESTS.open("", sealed) is None


def test_an_id_is_good_on_every_replica_of_the_same_keys_and_on_no_other() -> None:
    sealed = REQUESTS.seal("session", Address("one@1", 1))
    assert ServerRequests(RING).open("session", sealed)
    assert ServerRequests(KeyRing.parse(KeyRing.generate())).open("session", sealed) is None


def test_an_id_shows_nothing_of_the_upstreams() -> None:
    assert "secret" not in REQUESTS.seal("session", Address("one@1", "secret"))


ODD: tuple[Any, ...] = (None, 5, True, [], {}, "", "x", "é", "\ud800", "A" * 80, RING.seal("cursor", b"[1,2]"))


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_an_id_that_was_never_given_leads_nowhere(odd: Any) -> None:
    assert REQUESTS.open("session", odd) is None
