"""All 2026-07-28 calls of all clients on one stdio server: a request carries all that the server needs to know."""

from itertools import count

from mcp_types import INTERNAL_ERROR, INVALID_REQUEST, LOG_LEVEL_META_KEY

from gateway.cli.stdio import message as jsonrpc
from gateway.cli.stdio.calls import CANCELLED, MAX_CALLS, PROGRESS, BusyError, Call, Calls
from gateway.cli.stdio.child import Child
from gateway.cli.stdio.message import ID, Message
from gateway.cli.stdio.stream import Stream
from gateway.jsonrpc import Kind


class Shared:
    """What passes between all modern clients and their one server; nothing of a call may reach another call's client.

    `child` is set by whoever starts it, before the first message.
    """

    child: Child

    def __init__(self) -> None:
        self.ended = False
        self.used_at = 0.0
        self.connections = 0
        self._stream_numbers = count(1)
        self._calls = Calls(self._write)
        self._may_still_log: set[object] = set()
        """Numbers of calls that wanted log messages, were cancelled and have not been answered."""

    def submit(self, request: Message) -> Call:
        """Send a request to the server. Raises BusyError."""
        if len(self._calls) >= MAX_CALLS:
            raise BusyError
        call = Call(request, Stream(next(self._stream_numbers), replayable=False), lambda _: None)
        if self.ended:
            call.refuse(INTERNAL_ERROR, "the stdio server has ended")
        else:
            self._calls.start(call)
        return call

    def cancel(self, call: Call) -> None:
        """The client closed the connection, which is how it cancels."""
        if not call.stream.ended:
            if _wants_log(call):
                self._may_still_log.add(call.number)
            self._calls.cancel(call, "the client closed the connection")
            self._calls.forget(call)
            call.stream.end()

    def receive(self, message: Message) -> None:
        if message.kind is Kind.RESPONSE:
            self._may_still_log.discard(message.body.get("id"))
            self._calls.respond(message)
        elif message.kind is Kind.REQUEST:
            refusal = "a 2026-07-28 server asks by InputRequiredResult, not by a request"
            self._write(jsonrpc.error(message.bytes_of(ID) or b"null", INVALID_REQUEST, refusal))
        elif message.method == PROGRESS:
            self._calls.report(message)
        elif message.method == "notifications/message":
            self._log(message)
        elif message.method == CANCELLED:
            self._close(message)
        else:
            self._calls.publish(message)

    def end(self, why: str) -> None:
        """The server is gone: every open request is answered with an error."""
        self.ended = True
        self._calls.fail(why)

    def _write(self, message: bytes) -> None:
        self.child.write(message)

    def _log(self, notification: Message) -> None:
        """A log message does not say which request it is of. If only one request can be meant, it is that one's.

        Servers are not to send anything for a cancelled request, but many do. So one of those can be meant as well,
        until the server has answered it.
        """
        takers = [call for call in self._calls.open() if _wants_log(call)]
        if len(takers) == 1 and not self._may_still_log:
            takers[0].stream.append(notification.raw, droppable=True)

    def _close(self, notification: Message) -> None:
        """The server ends a subscription. Over HTTP that is the end of the stream."""
        call = self._calls.find(notification.value(("params", "requestId")))
        if call is not None and call.request.method == "subscriptions/listen":
            call.stream.end()
            self._calls.forget(call)


def _wants_log(call: Call) -> bool:
    return call.request.value(("params", "_meta", LOG_LEVEL_META_KEY)) is not None
