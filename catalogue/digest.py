"""Fingerprints of JSON values: SHA-256 over canonical JSON (RFC 8785), so that another language can check them.

One deliberate difference: integers are written exactly at any size, where the RFC takes every number for a double.
Two definitions that differ in the last digit of a large integer must not share an approval.
"""

import json
import math
from decimal import Decimal
from hashlib import sha256
from typing import Any

_LITERALS = {True: "true", False: "false", None: "null"}
_string = json.JSONEncoder(ensure_ascii=False).encode


def fingerprint(value: Any) -> str:
    """SHA-256 of the canonical JSON, 64 hexadecimal digits. Raises ValueError for what is not JSON."""
    return sha256(canonical(value)).hexdigest()


def canonical(value: Any) -> bytes:
    """The one JSON text of a value: members sorted, no spaces, `1.0` as `1`. Raises ValueError for what is not JSON.

    Half a surrogate pair, which JSON can escape but UTF-8 cannot hold, is written as its three bytes.
    """
    parts: list[str] = []
    try:
        _write(value, parts)
    except RecursionError:
        raise ValueError("the value nests too deep") from None
    return "".join(parts).encode(errors="surrogatepass")


def _write(value: Any, parts: list[str]) -> None:
    if isinstance(value, str):
        parts.append(_string(value))
    elif isinstance(value, bool) or value is None:
        parts.append(_LITERALS[value])
    elif isinstance(value, int):
        parts.append(int.__repr__(value))
    elif isinstance(value, float):
        parts.append(_number(value))
    elif isinstance(value, list | tuple):
        separator = "["
        for item in value:
            parts.append(separator)
            _write(item, parts)
            separator = ","
        parts.append("]" if value else "[]")
    elif isinstance(value, dict):
        separator = "{"
        for name in sorted(value, key=_code_units):
            parts.append(f"{separator}{_string(name)}:")
            _write(value[name], parts)
            separator = ","
        parts.append("}" if value else "{}")
    else:
        raise ValueError(f"{type(value).__name__} is not JSON")


def _code_units(name: Any) -> bytes:
    """Sort key: UTF-16 code units, the order of ECMAScript (RFC 8785, section 3.2.3)."""
    if not isinstance(name, str):
        raise ValueError("a member's name is not a string")  # noqa: TRY004
    return name.encode("utf-16-be", errors="surrogatepass")


def _number(number: float) -> str:
    """A double as ECMAScript writes it: the shortest digits, an exponent only below 1e-6 and from 1e21."""
    if not math.isfinite(number):
        raise ValueError("inf and nan are not JSON")
    if number == 0:
        return "0"
    negative, decimals, exponent = Decimal(repr(number)).as_tuple()
    digits = "".join(map(str, decimals)).rstrip("0")
    point = len(decimals) + int(exponent)  # Where the decimal point stands, counted from the first digit.
    if len(digits) <= point <= 21:
        text = digits.ljust(point, "0")
    elif 0 < point <= 21:
        text = f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        text = f"0.{'0' * -point}{digits}"
    else:
        text = f"{digits[0]}.{digits[1:]}".rstrip(".") + f"e{point - 1:+d}"
    return f"-{text}" if negative else text
