"""Exposed names: `{slug}__{name}`, at most 64 characters of `[A-Za-z0-9_.-]`, which every model provider accepts.

A name is found again by the table that `assign` gives, never by taking it apart: upstream names may hold `__` too.
Slugs hold no underscore, so the names of two servers cannot meet.
"""

import re
from collections.abc import Sequence
from hashlib import sha256
from itertools import count

MAX_EXPOSED = 64
SEPARATOR = "__"

_SLUG = re.compile(r"[a-z0-9]{1,12}")
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")


def validate_slug(text: str) -> str:
    """The slug itself. Raises ValueError that names the rule."""
    if not isinstance(text, str) or not _SLUG.fullmatch(text):
        raise ValueError("a slug has 1 to 12 characters, each a lower-case letter a-z or a digit")
    return text


def exposed_name(slug: str, upstream_name: str) -> str:
    """The name under which clients see `upstream_name`: itself behind the slug, or shortened with a hash of it."""
    return _plain(slug, upstream_name) or _hashed(slug, upstream_name, upstream_name, 8)


def assign(slug: str, names: Sequence[str]) -> dict[str, str]:
    """Upstream name -> exposed name, unique within the server, in the order of `names`.

    Names that need no hash are served first and the others in alphabetical order, so that an upstream which lists
    its tools in another order does not move an exposed name to another tool. On collision the later one gets a
    longer hash.
    """
    assigned = {name: plain for name in names if (plain := _plain(slug, name))}
    taken = set(assigned.values())
    for name in sorted(set(names) - assigned.keys()):
        exposed = exposed_name(slug, name)
        # An upstream may list the hashed form of another name as a name, at any length; the salt outlasts its list.
        for salt in count():
            if exposed not in taken:
                break
            exposed = _hashed(slug, name, f"{name}\0{salt}" if salt else name, 16)
        taken.add(exposed)
        assigned[name] = exposed
    return {name: assigned[name] for name in names}


def _plain(slug: str, upstream_name: str) -> str | None:
    exposed = f"{slug}{SEPARATOR}{upstream_name}"
    return None if not upstream_name or len(exposed) > MAX_EXPOSED or _UNSAFE.search(upstream_name) else exposed


def _hashed(slug: str, upstream_name: str, hashed: str, digits: int) -> str:
    # Names come from JSON, which may hold half a surrogate pair.
    suffix = "_" + sha256(hashed.encode(errors="surrogatepass")).hexdigest()[:digits]
    room = MAX_EXPOSED - len(slug) - len(SEPARATOR) - len(suffix)
    return f"{slug}{SEPARATOR}{_UNSAFE.sub('_', upstream_name)[:room]}{suffix}"
