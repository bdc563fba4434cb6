"""The requests of HTTP clients that one stdio server is working on, under ids of our own."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from mcp.shared.subscriptions import SUBSCRIPTION_ID_META_KEY
from mcp_types import INTERNAL_ERROR

from gateway.cli.stdio import message as jsonrpc
from gateway.cli.stdio.message import ID, PROGRESS_TOKEN, Message, Path
from gateway.cli.stdio.stream import Stream

MAX_CALLS: Final = 256
"""Requests of one server, waiting ones included; the next one is refused."""

PROGRESS: Final = "notifications/progress"
CANCELLED: Final = "notifications/cancelled"
REQUEST_CANCELLED: Final = -32800
_SUBSCRIPTION: Final[Path] = ("_meta", SUBSCRIPTION_ID_META_KEY)


class BusyError(Exception):
    """The server already has as many requests as it may have."""


@dataclass(eq=False)
class Call:
    """One client request. Its response, and all that belongs to it before, goes to `stream`."""

    request: Message
    stream: Stream
    done: Callable[["Call"], None]
    number: int = 0
    """Its id towards the server; 0 until it is sent."""
    failed: int | None = field(default=None)
    """The code of the error that answered it."""
    cancelled: bool = False

    @property
    def client_id(self) -> bytes:
        """As the client wrote it."""
        return self.request.bytes_of(ID) or b"null"

    def refuse(self, code: int, why: str) -> None:
        """Answer it ourselves."""
        self.failed = code
        self.stream.end(jsonrpc.error(self.client_id, code, why))


class Calls:
    """Everything in flight on one server. `write` takes one message to it.

    A call's progress token becomes its number too, so two clients that both chose `1` stay apart on a shared server.
    """

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._numbers = count(1)
        self._open: dict[int, Call] = {}
        self._pings: dict[int, Callable[[], None]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def open(self) -> list[Call]:
        return [call for call in self._open.values() if not call.cancelled]

    def start(self, call: Call) -> None:
        call.number = next(self._numbers)
        self._open[call.number] = call
        number = b"%d" % call.number
        self._write(call.request.replaced({ID: number, PROGRESS_TOKEN: number}))

    def ping(self, then: Callable[[], None]) -> None:
        """Call `then` once the server has answered a ping, and so has read all that was written before."""
        number = next(self._numbers)
        self._pings[number] = then
        self._write(jsonrpc.request(number, "ping"))

    def find(self, number: object) -> Call | None:
        call = self._open.get(number) if isinstance(number, int) else None
        return None if call is None or call.cancelled else call

    def find_client_id(self, key: str) -> Call | None:
        """The latest open call that the client gave this id."""
        return next((call for call in reversed(self.open()) if call.request.id_key == key), None)

    def cancel(self, call: Call, reason: str) -> None:
        """Tell the server to stop. The call stays until the server answers it or `forget` is called."""
        call.cancelled = True
        self._write(jsonrpc.notification(CANCELLED, {"requestId": call.number, "reason": reason}))

    def forget(self, call: Call) -> None:
        if self._open.pop(call.number, None) is call:
            call.done(call)

    def respond(self, response: Message) -> None:
        """Pass the server's response on to the call it answers; one for a cancelled call ends here."""
        number = response.body.get("id")
        if not isinstance(number, int):
            return
        if (then := self._pings.pop(number, None)) is not None:
            then()
            return
        call = self._open.get(number)
        if call is None:
            return
        if not call.cancelled:
            if response.body.get("error") is not None:
                code = response.value(("error", "code"))
                call.failed = code if isinstance(code, int) else INTERNAL_ERROR
            changes: dict[Path, bytes] = {ID: call.client_id}
            if response.value(("result", *_SUBSCRIPTION)) == call.number:
                changes["result", *_SUBSCRIPTION] = call.client_id
            call.stream.end(response.replaced(changes))
        self.forget(call)

    def report(self, progress: Message) -> None:
        """Pass a progress notification on to the call it is of, while that is open."""
        call = self.find(progress.value(("params", "progressToken")))
        token = None if call is None else call.request.bytes_of(PROGRESS_TOKEN)
        if call is not None and token is not None:
            call.stream.append(progress.replaced({("params", "progressToken"): token}), droppable=True)

    def publish(self, notification: Message) -> None:
        """Pass a notification on to the `subscriptions/listen` that it names."""
        call = self.find(notification.value(("params", *_SUBSCRIPTION)))
        if call is None:
            return
        call.stream.append(notification.replaced({("params", *_SUBSCRIPTION): call.client_id}))
        if call.stream.full:
            # Its client has stopped reading. When its listen ends it listens and fetches again; gaps it would not see.
            self.cancel(call, "the client does not read")
            self.forget(call)
            call.stream.end()

    def fail(self, why: str) -> None:
        """The server is gone: every call gets an error."""
        for call in list(self._open.values()):
            if not call.cancelled:
                call.refuse(INTERNAL_ERROR, why)
            self.forget(call)
        for then in self._pings.values():
            then()
        self._pings.clear()
