"""Who is told that a list changed: those who see the change, and on a server's own endpoint what the server says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from catalogue.live import Catalogue
from catalogue.model import Kind, Server
from gateway.bridge.announcements import NOTIFICATIONS, Announcements
from gateway.calls import Caller, Principal
from tests.support.calls import ALICE, NOBODY, ONE, TWO, caller, catalogue, definition, tool

TOOLS = "notifications/tools/list_changed"
PROMPTS = "notifications/prompts/list_changed"
RESOURCES = "notifications/resources/list_changed"
ECHO, ADD = definition(tool("echo")), definition(tool("add"))


class Listening:
    """A catalogue and what each listener was told."""

    def __init__(self) -> None:
        self.catalogue: Catalogue = catalogue((ONE, ECHO), (TWO, ECHO))
        self.announcements = Announcements(self.catalogue)

    def open(self, asking: Caller) -> tuple[list[str], Callable[[], None]]:
        told: list[str] = []
        return told, self.announcements.open(asking, told.append)


@pytest.fixture
def listening() -> Listening:
    return Listening()


def granted(*grants: str, endpoint: str = "") -> Caller:
    return caller(Principal("key:g", "key", grants=grants), endpoint)


def test_a_change_is_told_on_the_federated_endpoint_and_on_the_servers_own(listening: Listening) -> None:
    federated, _ = listening.open(caller())
    own, _ = listening.open(caller(endpoint="one"))
    versioned, _ = listening.open(caller(endpoint="one@1"))
    other, _ = listening.open(caller(endpoint="two"))
    listening.catalogue.publish(ONE, ADD)
    assert federated == own == versioned == [TOOLS]
    assert other == []


def test_another_version_of_the_slug_is_not_meant(listening: Listening) -> None:
    newer = Server("one", "2", ONE.url)
    listening.catalogue = catalogue((ONE, ECHO), (newer, ECHO))
    listening.announcements = Announcements(listening.catalogue)
    first, _ = listening.open(caller(endpoint="one@1"))
    second, _ = listening.open(caller(endpoint="one@2"))
    listening.catalogue.publish(newer, ADD)
    assert (first, second) == ([], [TOOLS])


def test_nothing_is_told_where_nothing_changed(listening: Listening) -> None:
    told, _ = listening.open(caller())
    listening.catalogue.publish(ONE, ECHO)
    listening.catalogue.publish(ONE, None)
    assert told == []


def test_what_a_server_says_is_said_on_its_own_endpoint_and_not_on_the_federated(listening: Listening) -> None:
    federated, _ = listening.open(caller())
    own, _ = listening.open(caller(endpoint="one"))
    listening.catalogue.publish(ONE, ECHO, frozenset({Kind.PROMPT}))
    assert (federated, own) == ([], [PROMPTS])


def test_who_does_not_see_the_change_does_not_hear_of_it(listening: Listening) -> None:
    sees, _ = listening.open(granted("one__*"))
    sees_other, _ = listening.open(granted("two__*"))
    sees_nothing, _ = listening.open(caller(NOBODY))
    sees_part, _ = listening.open(granted("one__echo"))
    listening.catalogue.publish(ONE, definition(tool("echo"), tool("secret")))
    assert sees == [TOOLS]
    assert sees_other == sees_nothing == sees_part == []
    listening.catalogue.publish(ONE, definition(tool("echo", title="Echo"), tool("secret")))
    assert sees_part == [TOOLS]


def test_a_change_that_is_taken_back_is_told_again(listening: Listening) -> None:
    told, _ = listening.open(granted("one__echo"))
    for found in (ADD, ECHO, ECHO, ADD):
        listening.catalogue.publish(ONE, found)
    assert told == [TOOLS] * 3


def test_resources_and_their_templates_are_told_once(listening: Listening) -> None:
    told, _ = listening.open(caller())
    changed: dict[str, Any] = {
        "resources": [{"uri": "a:b", "name": "b"}],
        "templates": [{"uriTemplate": "a:{b}", "name": "b"}],
        "prompts": [{"name": "p"}],
    }
    listening.catalogue.publish(ONE, definition(tool("new"), **changed))
    assert sorted(told) == sorted([PROMPTS, RESOURCES, TOOLS])


def test_a_closed_listener_hears_no_more_and_may_be_closed_twice(listening: Listening) -> None:
    told, close = listening.open(caller())
    other, _ = listening.open(caller())
    close()
    close()
    listening.catalogue.publish(ONE, ADD)
    assert (told, other) == ([], [TOOLS])


def test_a_listener_may_close_itself_while_it_is_told(listening: Listening) -> None:
    told: list[str] = []
    closers: list[Callable[[], None]] = []

    def tell(method: str) -> None:
        told.append(method)
        closers[0]()

    closers.append(listening.announcements.open(caller(ALICE), tell))
    listening.catalogue.publish(ONE, ADD)
    listening.catalogue.publish(ONE, ECHO)
    assert told == [TOOLS]


def test_an_endpoint_that_does_not_exist_is_never_told_anything(listening: Listening) -> None:
    told, _ = listening.open(granted("*", "x", endpoint="nobody"))
    listening.catalogue.publish(ONE, ADD)
    assert told == []


def test_every_kind_has_its_notification() -> None:
    assert set(NOTIFICATIONS) == set(Kind)
