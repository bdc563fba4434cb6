"""The second way to an upstream, and the closed list of what may take it."""

from __future__ import annotations

import pytest

from gateway.calls import Method
from gateway.upstream.permits import Housekeeping, HousekeepingPermit


def test_the_list_of_housekeeping_is_this_one_and_longer_only_by_a_decision() -> None:
    assert {each.value for each in Housekeeping} == {
        "server/discover",
        "initialize",
        "notifications/initialized",
        "tools/list",
        "prompts/list",
        "resources/list",
        "resources/templates/list",
        "subscriptions/listen",
        "logging/setLevel",
        "notifications/roots/list_changed",
    }


def test_no_method_that_carries_a_callers_data_is_housekeeping() -> None:
    # A listen of the gateway's own names lists only; one that names a caller's resources runs under call permits too.
    both = {each.value for each in Housekeeping} & {each.value for each in Method}
    assert both == {"subscriptions/listen"}


@pytest.mark.parametrize("method", list(Housekeeping))
def test_a_permit_is_for_one_method_and_holds_nothing_else(method: Housekeeping) -> None:
    permit = HousekeepingPermit(method)
    assert permit.method is method
    assert HousekeepingPermit.__slots__ == ("method",)
