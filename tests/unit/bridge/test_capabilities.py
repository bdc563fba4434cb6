"""An upstream that needs more of the client than it was offered: whose lack that is, and who is told what."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.bridge.capabilities import CODE, missing
from gateway.errors import MissingCapability, UpstreamError, UpstreamRefused
from tests.support.calls import LEGACY, MODERN, call, caller


def told(required: Any, declared: dict[str, Any], revision: str = MODERN) -> object:
    error = UpstreamRefused("one", CODE, "its words", required)
    return missing(error, call(caller(revision=revision, capabilities=declared)))


@pytest.mark.parametrize(
    ("required", "declared", "lacking"),
    [
        ({"sampling": {}}, {}, {"sampling": {}}),
        ({"sampling": {"tools": {}}}, {"sampling": {}}, {"sampling": {"tools": {}}}),
        ({"sampling": {}, "roots": {}}, {"roots": {}}, {"sampling": {}}),
        ({"elicitation": {"url": {}}}, {"elicitation": {"form": {}}}, {"elicitation": {"url": {}}}),
        ({"elicitation": {"url": {}}}, {"elicitation": None}, {"elicitation": {"url": {}}}),
    ],
)
def test_a_modern_client_hears_of_what_it_lacks_itself(
    required: dict[str, Any], declared: dict[str, Any], lacking: dict[str, Any]
) -> None:
    found = told({"requiredCapabilities": required}, declared)
    assert isinstance(found, MissingCapability)
    assert found.required == lacking


@pytest.mark.parametrize(
    ("data", "declared", "revision", "words"),
    [
        (
            {"requiredCapabilities": {"sampling": {}}},
            {"sampling": {}},
            MODERN,
            "which is not passed on to it: sampling",
        ),
        ({"requiredCapabilities": {"sampling": {}}}, {}, LEGACY, "which your client does not offer: sampling"),
        ({"requiredCapabilities": {"b": {}, "a": {}}}, {}, LEGACY, "which your client does not offer: a, b"),
        ({"requiredCapabilities": {}}, {}, MODERN, "more than it was offered"),
        ({"requiredCapabilities": 5}, {}, MODERN, "more than it was offered"),
        (None, {}, MODERN, "more than it was offered"),
        ([], {}, LEGACY, "more than it was offered"),
    ],
)
def test_what_is_not_the_clients_own_lack_is_a_failure_of_the_upstream_in_words(
    data: Any, declared: dict[str, Any], revision: str, words: str
) -> None:
    found = told(data, declared, revision)
    assert type(found) is UpstreamError
    assert words in str(found)
    assert "its words" not in str(found)
