"""The text of an API key: `mgw_<id>_<secret>_<checksum>`.

The prefix lets secret scanners find leaked keys. The checksum lets them, and us, tell a key from a lookalike without
asking anybody: what was mistyped or made up costs no look-up.
"""

from __future__ import annotations

import re
import secrets
import string
import zlib

_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_ID_LENGTH = 12
_SECRET_LENGTH = 43  # 256 bits in base 62
_CHECKSUM_LENGTH = 6
_FORM = re.compile(
    rf"(mgw_([0-9A-Za-z]{{{_ID_LENGTH}}})_[0-9A-Za-z]{{{_SECRET_LENGTH}}})_([0-9A-Za-z]{{{_CHECKSUM_LENGTH}}})"
)


def generate() -> tuple[str, str]:
    """A new key's id and text."""
    key_id, secret = _random(_ID_LENGTH), _random(_SECRET_LENGTH)
    body = f"mgw_{key_id}_{secret}"
    return key_id, f"{body}_{_checksum(body)}"


def find_id(key_text: str) -> str | None:
    """The id in a key's text; None when the text is no key of ours."""
    match = _FORM.fullmatch(key_text)
    if match is None or match[3] != _checksum(match[1]):
        return None
    return match[2]


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def _checksum(body: str) -> str:
    number = zlib.crc32(body.encode("ascii"))
    digits = []
    for _ in range(_CHECKSUM_LENGTH):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
