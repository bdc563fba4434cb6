"""API keys: what is remembered, for how long, and what makes a replica forget it."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from gateway.calls import Principal
from gateway.errors import StorageUnavailable, Unauthenticated
from gateway.identity import key_text
from gateway.identity.api_keys import ApiKeys
from gateway.identity.issuing import IssuedKey, KeyFieldWrong, KeyIssuer, KeyUnknown
from gateway.identity.model import KeyRecord
from gateway.keys import KeyRing
from tests.support.cost import in_hashes
from tests.support.stores import MemoryChanges, MemoryKeyStore

OLD = KeyRing.generate()
NEW = KeyRing.generate()


class Replica:
    """One replica, a clock to turn, and the store behind it."""

    def __init__(self, keys: str = OLD, *, cache_size: int = 100) -> None:
        self.now = 1_800_000_000.0
        self.changes = MemoryChanges()
        self.store = MemoryKeyStore(self.changes)
        self.issuer = KeyIssuer(self.store, KeyRing.parse(OLD), self.clock)
        self.keys = ApiKeys(
            self.store, KeyRing.parse(keys), self.changes, clock=self.clock, remembered=60.0, cache_size=cache_size
        )

    def clock(self) -> float:
        return self.now

    async def refuses(self, text: str) -> bool:
        if self.keys.find_cached(text) is not None:
            return False
        try:
            await self.keys.authenticate(text)
        except Unauthenticated:
            return True
        return False


@pytest.fixture
def replica() -> Replica:
    return Replica()


@pytest.fixture
async def issued(replica: Replica) -> IssuedKey:
    return await replica.issuer.create("ci", scopes=("issues.write",), grants=("github__*",))


async def test_a_key_names_its_principal_and_is_remembered(replica: Replica, issued: IssuedKey) -> None:
    assert replica.keys.find_cached(issued.text) is None
    expected = Principal(f"key:{issued.record.id}", "key", frozenset({"issues.write"}), ("github__*",))
    assert await replica.keys.authenticate(issued.text) == expected
    asked = replica.store.asked
    assert replica.keys.find_cached(issued.text) == expected
    assert await replica.keys.authenticate(issued.text) == expected
    assert replica.store.asked == asked


async def test_only_the_hash_and_a_mac_of_a_key_are_kept(replica: Replica, issued: IssuedKey) -> None:
    await replica.keys.authenticate(issued.text)
    secret = issued.text.split("_")[2]
    assert secret not in repr(replica.store.records)
    assert secret not in repr({name: getattr(replica.keys, name) for name in vars(replica.keys)})


async def test_a_malformed_key_is_refused_without_asking_the_store(replica: Replica, issued: IssuedKey) -> None:
    asked = replica.store.asked
    for text in ("", "mgw_x", issued.text[:-1] + ("0" if issued.text[-1] != "0" else "1"), "\ud800", "é" * 68):
        assert await replica.refuses(text)
    assert replica.store.asked == asked


async def test_an_unknown_key_is_asked_for_once_in_five_seconds(replica: Replica) -> None:
    _, text = key_text.generate()
    assert await replica.refuses(text)
    assert await replica.refuses(text)
    assert replica.store.asked == 1
    replica.now += 6.0
    assert await replica.refuses(text)
    assert replica.store.asked == 2


async def test_a_wrong_secret_with_a_known_id_is_refused(replica: Replica, issued: IssuedKey) -> None:
    key_id, text = key_text.generate()
    await replica.store.add(dataclasses.replace(issued.record, id=key_id))
    assert await replica.refuses(text)
    assert not await replica.refuses(issued.text)


async def test_a_revoked_key_is_refused_at_once_where_the_change_is_heard(replica: Replica, issued: IssuedKey) -> None:
    await replica.keys.authenticate(issued.text)
    await replica.store.revoke(issued.record.id, replica.now)
    assert await replica.refuses(issued.text)


async def test_a_revoked_key_is_refused_at_once_where_changes_go_unheard(replica: Replica, issued: IssuedKey) -> None:
    await replica.keys.authenticate(issued.text)
    replica.changes.healthy = False
    assert replica.keys.find_cached(issued.text) is None
    await replica.keys.authenticate(issued.text)
    await replica.store.revoke(issued.record.id, replica.now)
    assert await replica.refuses(issued.text)
    replica.changes.reconnect()
    assert await replica.refuses(issued.text)


async def test_a_revocation_whose_notice_was_lost_is_seen_within_a_minute(replica: Replica, issued: IssuedKey) -> None:
    await replica.keys.authenticate(issued.text)
    record = replica.store.records[issued.record.id]
    replica.store.records[issued.record.id] = dataclasses.replace(record, revoked=replica.now)
    replica.now += 59.0
    assert not await replica.refuses(issued.text)
    replica.now += 1.0
    assert await replica.refuses(issued.text)


async def test_a_revocation_during_the_reading_of_the_key_is_not_overlooked(
    replica: Replica, issued: IssuedKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, revoked = asyncio.Event(), asyncio.Event()

    async def slow(key_id: str) -> KeyRecord | None:
        record = replica.store.records.get(key_id)
        reading.set()
        await revoked.wait()
        return record

    with monkeypatch.context() as patch:
        patch.setattr(replica.store, "find", slow)
        authenticating = asyncio.create_task(replica.keys.authenticate(issued.text))
        await reading.wait()
        await replica.store.revoke(issued.record.id, replica.now)
        revoked.set()
        await authenticating
    assert replica.keys.find_cached(issued.text) is None
    assert await replica.refuses(issued.text)


async def test_expiry_is_honoured_at_each_look_up(replica: Replica) -> None:
    issued = await replica.issuer.create("short", lifetime=10.0)
    await replica.keys.authenticate(issued.text)
    replica.now += 9.9
    assert replica.keys.find_cached(issued.text) is not None
    replica.now += 0.1
    assert replica.keys.find_cached(issued.text) is None
    assert await replica.refuses(issued.text)


async def test_one_reading_serves_all_who_ask_at_once(replica: Replica, issued: IssuedKey) -> None:
    asked = replica.store.asked
    await asyncio.gather(*(replica.keys.authenticate(issued.text) for _ in range(50)))
    assert replica.store.asked == asked + 1


async def test_an_unreachable_store_refuses_nobody_as_unauthenticated(replica: Replica, issued: IssuedKey) -> None:
    replica.store.away = True
    with pytest.raises(StorageUnavailable):
        await replica.keys.authenticate(issued.text)
    replica.store.away = False
    assert not await replica.refuses(issued.text)


async def test_the_caches_stay_within_their_bound() -> None:
    replica = Replica(cache_size=10)
    texts = [(await replica.issuer.create(f"key {number}")).text for number in range(40)]
    for text in texts:
        await replica.keys.authenticate(text)
        await replica.refuses(key_text.generate()[1])
    assert len(replica.keys._verified) == len(replica.keys._digests) == len(replica.keys._known) == 10
    assert replica.keys.find_cached(texts[-1]) is not None


async def test_a_key_outlives_the_rotation_of_the_master_key_and_is_renewed_by_it() -> None:
    replica = Replica(keys=f"{NEW},{OLD}")
    issued = await replica.issuer.create("ci")
    await replica.keys.authenticate(issued.text)
    # The old master key may go now.
    without_old = ApiKeys(replica.store, KeyRing.parse(NEW), MemoryChanges(), clock=replica.clock)
    assert (await without_old.authenticate(issued.text)).id == issued.record.principal


async def test_a_rotated_key_keeps_its_principal_and_the_old_one_ends_after_the_overlap(replica: Replica) -> None:
    old = await replica.issuer.create("ci", scopes=("a",), lifetime=86_400.0)
    replica.now += 60.0
    new = await replica.issuer.rotate(old.record.id, overlap=3600.0)
    principals = [await replica.keys.authenticate(text) for text in (old.text, new.text)]
    assert principals[0] == principals[1]
    assert new.record.expires == replica.now + 86_400.0
    replica.now += 3600.0
    assert await replica.refuses(old.text)
    assert not await replica.refuses(new.text)
    with pytest.raises(KeyUnknown):
        await replica.issuer.rotate(old.record.id, overlap=0.0)


@pytest.mark.parametrize(
    ("name", "scopes", "grants", "field"),
    [
        ("", (), ("*",), "name"),
        ("a\nb", (), ("*",), "name"),
        ("ci", ("two words",), ("*",), "scope"),
        ("ci", (), ("",), "grant"),
    ],
)
async def test_a_wrong_field_is_refused_by_name(
    replica: Replica, name: str, scopes: tuple[str, ...], grants: tuple[str, ...], field: str
) -> None:
    with pytest.raises(KeyFieldWrong, match=f"^{field}: "):
        await replica.issuer.create(name, scopes=scopes, grants=grants)
    assert replica.store.records == {}


async def test_finding_a_remembered_key_costs_less_than_four_hashes(replica: Replica, issued: IssuedKey) -> None:
    await replica.keys.authenticate(issued.text)
    text = issued.text
    # About two microseconds, of which the hash of the text takes one.
    assert in_hashes(lambda: replica.keys.find_cached(text)) < 4.0
