"""The protocols a stage and a recorder satisfy."""

from __future__ import annotations

from typing import Protocol

from gateway.calls import Call, Message, Outcome
from gateway.policy.decision import Decision


class RequestStage(Protocol):
    """Looks at a call before it is permitted. Total: "not my business" is `Allow()`."""

    @property
    def name(self) -> str:
        """Stable machine name, unique in the list."""

    async def on_request(self, call: Call) -> Decision[Call]:
        """Decides about the call; raising denies it."""


class ResultStage(Protocol):
    """Looks at every message of the stream that answers a call: notifications, server requests, the result."""

    @property
    def name(self) -> str:
        """Stable machine name, unique in the list."""

    async def on_message(self, call: Call, message: Message) -> Decision[Message]:
        """Decides about one message on its way to the client; raising denies it."""


class Recorder(Protocol):
    """Writes down what happens to a call. One that cannot write raises, and the call does not go on."""

    async def opened(self, call: Call) -> None:
        """The call begins (round 1), or is taken up again (later rounds)."""

    async def closed(self, call: Call, outcome: Outcome, detail: str) -> None:
        """The call ends; `detail` is `stage:reason` of a denial, else a stable code or ""."""
