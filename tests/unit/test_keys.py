"""The key ring: what it seals opens, what was touched does not, and rotation refuses nothing."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ConfigurationError
from gateway.keys import KeyRing, SealBroken

OLD = KeyRing.generate()
NEW = KeyRing.generate()
OLD_RING = KeyRing.parse(OLD)
BOTH_RING = KeyRing.parse(f"{NEW}, {OLD}")
NEW_RING = KeyRing.parse(NEW)


@given(st.binary(max_size=200), st.binary(max_size=50))
def test_what_is_sealed_opens_again(plaintext: bytes, aad: bytes) -> None:
    assert OLD_RING.open("a", OLD_RING.seal("a", plaintext, aad), aad) == plaintext


@given(st.binary(max_size=40), st.data())
def test_every_flipped_bit_of_a_sealed_text_is_refused(plaintext: bytes, data: st.DataObject) -> None:
    sealed = OLD_RING.seal("a", plaintext)
    position = data.draw(st.integers(0, len(sealed) * 8 - 1))
    octets = bytearray(sealed.encode())
    octets[position // 8] ^= 1 << position % 8
    with pytest.raises(SealBroken):
        OLD_RING.open("a", octets.decode("latin-1"))


@pytest.mark.parametrize("length", [0, 1, 2])
def test_not_even_the_spare_bits_of_the_last_character_may_differ(length: int) -> None:
    sealed = OLD_RING.seal("a", bytes(length))
    for other in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=":
        if other != sealed[-1]:
            with pytest.raises(SealBroken):
                OLD_RING.open("a", sealed[:-1] + other)


def test_every_flipped_bit_of_the_sealed_bytes_is_refused() -> None:
    sealed = base64.urlsafe_b64decode(OLD_RING.seal("a", b"abc") + "==")
    for position in range(len(sealed) * 8):
        octets = bytearray(sealed)
        octets[position // 8] ^= 1 << position % 8
        with pytest.raises(SealBroken):
            OLD_RING.open("a", base64.urlsafe_b64encode(octets).rstrip(b"=").decode())


@given(st.text(max_size=80))
def test_any_other_text_is_refused_as_broken(text: str) -> None:
    with pytest.raises(SealBroken):
        OLD_RING.open("a", text)


def test_another_label_or_other_associated_data_does_not_open() -> None:
    sealed = OLD_RING.seal("a", b"abc", b"x")
    for label, aad in (("b", b"x"), ("a", b"y"), ("a", b"")):
        with pytest.raises(SealBroken):
            OLD_RING.open(label, sealed, aad)


@given(st.binary(max_size=40))
def test_rotation_across_two_replicas_refuses_nothing(plaintext: bytes) -> None:
    # First the new key is put in front on one replica, then on all, then the old one goes.
    assert BOTH_RING.open("a", OLD_RING.seal("a", plaintext)) == plaintext
    assert NEW_RING.open("a", BOTH_RING.seal("a", plaintext)) == plaintext
    assert OLD_RING.macs("a", plaintext)[0] in BOTH_RING.macs("a", plaintext)
    assert BOTH_RING.macs("a", plaintext)[0] == NEW_RING.macs("a", plaintext)[0]


def test_a_key_that_left_the_ring_opens_nothing() -> None:
    with pytest.raises(SealBroken):
        NEW_RING.open("a", OLD_RING.seal("a", b"abc"))


def test_macs_differ_by_label_key_and_data() -> None:
    seen = {*BOTH_RING.macs("a", b"1"), *BOTH_RING.macs("b", b"1"), *BOTH_RING.macs("a", b"2")}
    assert len(seen) == 6


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "entry 1 of 1 is empty"),
        (f"{OLD},", "entry 2 of 2 is empty"),
        ("not base64!" * 4, "is not base64url"),
        (OLD[:-3], "has 30 bytes instead of 32"),
        (f"{OLD},{NEW},{OLD}", "entry 3 of 3 repeats entry 1"),
        ("A" * 43, "repeats one byte"),
    ],
    ids=["empty", "empty entry", "no base64", "short", "repeated", "weak"],
)
def test_a_wrong_setting_is_refused_by_name_with_a_fix_and_without_its_value(text: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        KeyRing.parse(text)
    words = str(refusal.value)
    assert words.startswith("MCP_GATEWAY_MASTER_KEYS: ")
    assert complaint in words
    assert "openssl rand" in words or "remove one" in words
    assert all(entry not in words for entry in text.split(",") if entry)


def test_padding_and_spaces_around_keys_are_accepted() -> None:
    assert KeyRing.parse(f" {OLD}= , {NEW} ").open("a", OLD_RING.seal("a", b"abc")) == b"abc"


def test_the_ring_does_not_print_its_keys() -> None:
    assert repr(BOTH_RING) == "KeyRing(2 keys)"
