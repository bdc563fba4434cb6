"""The values that travel the request path. All frozen: a stage that wants another call makes another."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Protocol

from catalogue.model import Item, Server
from gateway import jsonrpc

OUR_META_PREFIX = "dev.mcp-gateway/"
RECORD_META_KEY = "dev.mcp-gateway/record"
DENIAL_META_KEY = "dev.mcp-gateway/denial"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who was authenticated. `grants` are glob patterns over exposed names and decide what exists for it."""

    id: str
    kind: str
    scopes: frozenset[str] = frozenset()
    grants: tuple[str, ...] = ("*",)


class Holder(Protocol):
    """Whose upstream sessions are used: a gateway session, or a principal of session-less clients."""

    key: str


@dataclass(frozen=True, slots=True)
class Caller:
    """A principal on an endpoint, with what its client said of itself for this request.

    `endpoint` is "" for the federated endpoint, else a slug. `holder` is None for clients without a session:
    their upstream sessions are found by principal. `log_level` is None when no log messages are wanted.
    """

    principal: Principal
    endpoint: str
    revision: str
    capabilities: Mapping[str, Any]
    holder: Holder | None = None
    log_level: str | None = None

    @property
    def modern(self) -> bool:
        """True for the stateless revisions (2026-07-28 and later): no session, no server requests."""
        return self.holder is None


class Method(StrEnum):
    """The methods that carry a caller's data to an upstream."""

    TOOLS_CALL = "tools/call"
    PROMPTS_GET = "prompts/get"
    RESOURCES_READ = "resources/read"
    COMPLETE = "completion/complete"
    SUBSCRIBE = "resources/subscribe"
    UNSUBSCRIBE = "resources/unsubscribe"
    LISTEN = "subscriptions/listen"


@dataclass(frozen=True, slots=True)
class Round:
    """One request that carries a call: `number` counts from 1, `inner` is the upstream's own requestState."""

    number: int = 1
    inner: str | None = None
    input_responses: Mapping[str, Any] | None = None


FIRST_ROUND = Round()


@dataclass(frozen=True, slots=True)
class Call:
    """What one client asked for, resolved and attributed, not yet permitted.

    `params` are the upstream's: its own names and URIs, without `_meta`. `meta` holds what of the client's `_meta`
    may travel on. `item` is None for what has no catalogue entry of its own (a URI read through no listed template).
    """

    id: str
    caller: Caller
    method: Method
    server: Server
    item: Item | None
    exposed_name: str
    params: Mapping[str, Any]
    meta: Mapping[str, Any] = field(default_factory=dict)
    progress_token: str | int | None = None
    round: Round = FIRST_ROUND

    @property
    def federated(self) -> bool:
        """True when the client sees rewritten names and URIs."""
        return not self.caller.endpoint


class Answer:
    """An upstream's result: decoded to inspect, forwarded as the bytes received unless it was rewritten.

    `value` is for reading only; to change it, build another from `exact()`, which keeps numbers exact.
    """

    __slots__ = ("_raw", "value")

    def __init__(self, value: dict[str, Any], raw: bytes | None = None) -> None:
        self.value = value
        self._raw = raw

    @property
    def raw(self) -> bytes:
        """The JSON text of the result."""
        if self._raw is None:
            self._raw = jsonrpc.dumps(self.value)
        return self._raw

    def exact(self) -> dict[str, Any]:
        """A fresh copy that keeps big integers exact; to be changed and put into another `Answer`."""
        decoded: dict[str, Any] = jsonrpc.loads_exact(self.raw)
        return decoded

    def rewritten(self, change: Callable[[dict[str, Any]], Any]) -> Answer:
        """Another answer, whose value is `change(exact copy)`."""
        return Answer(change(self.exact()))


class MessageKind(StrEnum):
    """What an upstream may send while a call runs."""

    RESULT = "result"
    NOTIFICATION = "notification"
    REQUEST = "request"


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the stream that answers a call, on its way to the client.

    `method` is that of the notification or server request; "" for the result. `answer` is the result, or the params.
    A server request has the upstream session's key and the id that its answer must carry there.
    """

    kind: MessageKind
    method: str
    answer: Answer
    upstream_id: str | int | None = None
    upstream_key: str = ""


class Outlet(Protocol):
    """The client's side of one request: where messages go before the final result."""

    async def send(self, message: Message) -> None:
        """Writes a notification or a server request to the stream of this request."""

    def opened(self) -> None:
        """The upstream will take its time: the stream may be opened now."""


_PROCESS: Final = os.urandom(12).hex()
_COUNT = itertools.count(int.from_bytes(os.urandom(4), "big"))


def new_id() -> str:
    """An id of a call or of a request to an upstream: unlike any other of this process and of any other replica.

    It names, it opens nothing: what must not be guessed is sealed. So 96 random bits per process and a count will do,
    at a tenth of the price of a fresh random number per id.
    """
    return f"{_PROCESS}{next(_COUNT):08x}"


class Outcome(StrEnum):
    """What became of a call, for the record."""

    RESULT = "result"
    TOOL_ERROR = "tool_error"
    INPUT_REQUIRED = "input_required"
    DENIED = "denied"
    FAILED = "failed"
    CANCELLED = "cancelled"
