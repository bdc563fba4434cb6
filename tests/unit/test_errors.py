"""The tree of errors: as drawn, and never with what must not be told."""

from __future__ import annotations

import re

import pytest

from gateway import errors
from gateway.errors import Denied, GatewayError, NeedsScope, UpstreamError, UpstreamRefused


def in_tree(of: type[GatewayError] = GatewayError, depth: int = 0) -> dict[str, int]:
    """Name -> depth of every error that the module defines."""
    found = {of.__name__: depth}
    for each in of.__subclasses__():
        if each.__module__ == errors.__name__:
            found |= in_tree(each, depth + 1)
    return found


def test_the_drawing_is_the_tree() -> None:
    assert errors.__doc__ is not None
    drawn: dict[str, int] = {"GatewayError": 0}
    for line in errors.__doc__.splitlines():
        if match := re.match(r"    ([│ ]*)[├└]── (\w+)", line):
            drawn[match[2]] = len(match[1]) // 4 + 1
    assert drawn == in_tree()


def test_every_error_of_the_module_is_in_the_tree() -> None:
    defined = {
        name for name, each in vars(errors).items() if isinstance(each, type) and each.__module__ == errors.__name__
    }
    assert defined == in_tree().keys()


def test_a_denial_has_stable_codes_and_one_sentence() -> None:
    denied = Denied("budget", "over", "Not before tomorrow.", 250)
    assert (denied.stage, denied.reason, str(denied)) == ("budget", "over", "Not before tomorrow.")
    assert (denied.retry_after_ms, denied.answered_as, denied.record) == (250, None, None)


def test_missing_scopes_are_named_once_and_in_order() -> None:
    assert NeedsScope(["b", "a"]).missing == ("a", "b")
    assert str(NeedsScope(["zzz"])) == "Insufficient scope"


@pytest.mark.parametrize(
    "error", [each for each in UpstreamError.__subclasses__() if each.__module__ == errors.__name__]
)
def test_every_failure_of_an_upstream_has_a_code_of_its_own(error: type[UpstreamError]) -> None:
    assert re.fullmatch(r"[a-z_]+", error.reason)
    assert error.reason != UpstreamError.reason
    assert [other for other in UpstreamError.__subclasses__() if other.reason == error.reason] == [error]


def test_an_upstreams_own_words_are_kept_apart_from_ours() -> None:
    refused = UpstreamRefused("one", -32602, "its words", {"a": 1})
    assert (refused.slug, refused.code, str(refused), refused.data) == ("one", -32602, "its words", {"a": 1})


def test_the_words_for_absent_name_the_kind_and_not_the_name() -> None:
    assert str(errors.UnknownName("tool")) == "Unknown tool"
    assert str(errors.UnknownResource("secret:x")) == "Resource not found"
    assert str(errors.UnknownMethod("secret/x")) == "Method not found"
