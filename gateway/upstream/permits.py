"""The second way to an upstream: housekeeping, which carries nothing of any caller."""

from __future__ import annotations

from enum import StrEnum


class Housekeeping(StrEnum):
    """The closed list of methods that need no call: they carry no caller data."""

    DISCOVER = "server/discover"
    INITIALIZE = "initialize"
    INITIALIZED = "notifications/initialized"
    LIST_TOOLS = "tools/list"
    LIST_PROMPTS = "prompts/list"
    LIST_RESOURCES = "resources/list"
    LIST_TEMPLATES = "resources/templates/list"
    LISTEN = "subscriptions/listen"
    SET_LEVEL = "logging/setLevel"
    ROOTS_CHANGED = "notifications/roots/list_changed"


class HousekeepingPermit:
    """Evidence that a request is housekeeping. Made in this package only."""

    __slots__ = ("method",)

    def __init__(self, method: Housekeeping) -> None:
        self.method = method
