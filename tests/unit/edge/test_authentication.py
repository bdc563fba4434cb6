"""Who is calling: a key that is valid, or nobody where that is allowed, and no third outcome."""

from __future__ import annotations

import pytest

from gateway.edge.authentication import ANONYMOUS, Authentication
from gateway.errors import StorageUnavailable, Unauthenticated
from gateway.identity.api_keys import ApiKeys
from gateway.identity.issuing import KeyIssuer
from tests.support.asgi import FakeHttp
from tests.support.calls import FakeClock
from tests.support.stores import MemoryChanges, MemoryKeyStore
from tests.support.worlds import RING


class Doors:
    """Both kinds of door to one store of keys."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.changes = MemoryChanges()
        self.store = MemoryKeyStore(self.changes)
        self.issuer = KeyIssuer(self.store, RING, self.clock)
        keys = ApiKeys(self.store, RING, self.changes, clock=self.clock)
        self.closed = Authentication(keys, anonymous=False)
        self.open = Authentication(keys, anonymous=True)


@pytest.fixture
def doors() -> Doors:
    return Doors()


def credential(text: str | None) -> FakeHttp:
    return FakeHttp(headers={} if text is None else {"authorization": text})


@pytest.mark.parametrize("kind", ["Bearer", "bearer", "BEARER"])
async def test_a_valid_key_is_its_principal(doors: Doors, kind: str) -> None:
    issued = await doors.issuer.create("ci")
    for door in (doors.closed, doors.open):
        for _ in range(2):
            principal = await door.authenticate(credential(f"{kind} {issued.text}").request)
            assert principal.kind == "key"
            assert principal.grants == ("*",)


async def test_without_a_credential_only_an_open_door_lets_anybody_in(doors: Doors) -> None:
    assert await doors.open.authenticate(credential(None).request) is ANONYMOUS
    with pytest.raises(Unauthenticated):
        await doors.closed.authenticate(credential(None).request)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic dTpw",
        "mgw_x",
        "Bearer nonsense",
        "Bearer mgw_x_y",
        "Bearer é",
        "Bearer hunter2 x",
    ],
)
async def test_a_credential_that_is_given_must_be_valid_at_every_door(doors: Doors, text: str) -> None:
    for door in (doors.closed, doors.open):
        with pytest.raises(Unauthenticated) as refusal:
            await door.authenticate(credential(text).request)
        assert "hunter2" not in str(refusal.value)


async def test_a_key_that_the_store_does_not_know_is_nobodys(doors: Doors) -> None:
    issued = await doors.issuer.create("ci")
    doors.store.records.clear()
    with pytest.raises(Unauthenticated):
        await doors.open.authenticate(credential(f"Bearer {issued.text}").request)


async def test_a_store_that_is_away_is_no_refusal(doors: Doors) -> None:
    issued = await doors.issuer.create("ci")
    doors.store.away = True
    with pytest.raises(StorageUnavailable):
        await doors.closed.authenticate(credential(f"Bearer {issued.text}").request)


async def test_the_anonymous_principal_has_no_scopes() -> None:
    assert (ANONYMOUS.kind, ANONYMOUS.scopes) == ("anonymous", frozenset())
