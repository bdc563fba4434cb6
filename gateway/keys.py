"""The key ring: every symmetric key of the gateway comes from here.

`MCP_GATEWAY_MASTER_KEYS` lists master keys. The first one seals and signs, all of them open and verify, so a key is
rotated by putting a new one in front, restarting every replica, and later dropping the old one. Master keys are never
used directly: HKDF-SHA256 derives one key per purpose, named by a label, so that what was sealed for one purpose cannot
be opened for another.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway.errors import ConfigurationError

SETTING = "MCP_GATEWAY_MASTER_KEYS"
_FIX = "make one with `openssl rand -base64 32 | tr '+/' '-_'`; several are separated by commas, the first one seals"

_KEY_BYTES = 32
_VERSION = b"\x01"
_ID_BYTES = 4
_NONCE_BYTES = 12
_TAG_BYTES = 16
_HEADER_BYTES = len(_VERSION) + _ID_BYTES


class SealBroken(ValueError):
    """A sealed text was damaged, made for another purpose, or sealed by a key that is not in the ring."""


class KeyRing:
    """Master keys, the current one first."""

    def __init__(self, masters: tuple[bytes, ...]) -> None:
        if not masters:
            raise ConfigurationError(f"{SETTING}: is empty; {_FIX}")
        self._masters = masters
        self._ids = tuple(_derive(master, "key-id", _ID_BYTES) for master in masters)
        self._ciphers: dict[tuple[int, str], AESGCM] = {}
        self._mac_keys: dict[str, tuple[bytes, ...]] = {}

    @classmethod
    def parse(cls, text: str) -> KeyRing:
        """The ring of a setting's text: base64url keys of 32 bytes, separated by commas.

        Raises:
            ConfigurationError: naming the entry by its position, never by its value.
        """
        entries = [entry.strip() for entry in text.split(",")]
        masters: list[bytes] = []
        for position, entry in enumerate(entries, 1):
            where = f"{SETTING}: entry {position} of {len(entries)}"
            if not entry:
                raise ConfigurationError(f"{where} is empty; {_FIX}")
            try:
                master = _decode(entry.rstrip("="))
            except ValueError:
                raise ConfigurationError(f"{where} is not base64url; {_FIX}") from None
            if len(master) != _KEY_BYTES:
                raise ConfigurationError(f"{where} has {len(master)} bytes instead of {_KEY_BYTES}; {_FIX}")
            if len(set(master)) == 1:
                raise ConfigurationError(f"{where} repeats one byte and is no secret; {_FIX}")
            if master in masters:
                raise ConfigurationError(f"{where} repeats entry {masters.index(master) + 1}; remove one of them")
            masters.append(master)
        return cls(tuple(masters))

    @staticmethod
    def generate() -> str:
        """A new master key, as the setting wants it."""
        return _encode(secrets.token_bytes(_KEY_BYTES))

    def seal(self, label: str, plaintext: bytes, aad: bytes = b"") -> str:
        """AES-256-GCM under the current key, as base64url text; `aad` must be given again to open it."""
        header = _VERSION + self._ids[0]
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = self._cipher(0, label).encrypt(nonce, plaintext, header + aad)
        return _encode(header + nonce + sealed)

    def open(self, label: str, sealed: str, aad: bytes = b"") -> bytes:
        """What was sealed under `label` with the same `aad` by any key of the ring.

        Raises:
            SealBroken: for any damage; the reasons are not told apart.
        """
        try:
            data = _decode(sealed)
        except ValueError:
            raise SealBroken("not a sealed text") from None
        header, nonce = data[:_HEADER_BYTES], data[_HEADER_BYTES : _HEADER_BYTES + _NONCE_BYTES]
        body = data[_HEADER_BYTES + _NONCE_BYTES :]
        if header[:1] != _VERSION or len(body) < _TAG_BYTES:
            raise SealBroken("not a sealed text")
        for index, key_id in enumerate(self._ids):
            if key_id == header[1:]:
                try:
                    return self._cipher(index, label).decrypt(nonce, body, header + aad)
                except InvalidTag:
                    # Two master keys may share the four bytes of their ids; the next one may fit.
                    continue
        raise SealBroken("the seal does not open")

    def macs(self, label: str, data: bytes) -> tuple[bytes, ...]:
        """HMAC-SHA256 of `data` under every key of the ring, the current one first."""
        keys = self._mac_keys.get(label)
        if keys is None:
            keys = self._mac_keys[label] = tuple(_derive(master, f"mac:{label}") for master in self._masters)
        return tuple(hmac.digest(key, data, "sha256") for key in keys)

    def __repr__(self) -> str:
        return f"KeyRing({len(self._masters)} keys)"

    def _cipher(self, index: int, label: str) -> AESGCM:
        # Labels are constants of the code, so this cache is bounded by their number.
        cipher = self._ciphers.get((index, label))
        if cipher is None:
            cipher = self._ciphers[index, label] = AESGCM(_derive(self._masters[index], f"seal:{label}"))
        return cipher


def _derive(master: bytes, info: str, length: int = _KEY_BYTES) -> bytes:
    return HKDF(hashes.SHA256(), length, salt=None, info=b"mcp-gateway/" + info.encode()).derive(master)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decode(text: str) -> bytes:
    """Strict base64url without padding: one text per value, so that no bit of a text goes unchecked."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not base64url") from None
    if _encode(data) != text:
        raise ValueError("not canonical base64url")
    return data
