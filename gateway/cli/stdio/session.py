"""A legacy session: one HTTP client, one stdio server, from `initialize` to the end of either."""

import asyncio
from collections import OrderedDict, deque
from itertools import count
from typing import Final

from mcp_types import INTERNAL_ERROR, METHOD_NOT_FOUND

from gateway.cli.stdio import message as jsonrpc
from gateway.cli.stdio.calls import CANCELLED, MAX_CALLS, PROGRESS, REQUEST_CANCELLED, BusyError, Call, Calls
from gateway.cli.stdio.child import Child
from gateway.cli.stdio.message import ID, Message
from gateway.cli.stdio.stream import Stream
from gateway.jsonrpc import Kind

MAX_QUESTIONS: Final = 64
"""Open requests of one server to its client; the next one is answered with an error."""

MAX_KEPT_STREAMS: Final = 64
MAX_KEPT_BYTES: Final = 8 * 1024 * 1024
"""Of ended streams, kept for a client that lost the connection before it had read the end."""

CANCEL_PATIENCE: Final = 5.0
"""Seconds to wait until a server has read a cancellation, before the next interactive call is sent."""

STANDALONE: Final = 0
"""The number of the stream that a GET follows."""

QUESTIONS: Final = {
    "elicitation/create": "elicitation",
    "sampling/createMessage": "sampling",
    "roots/list": "roots",
}
"""What a server may ask, and the client capability it needs."""

_NEVER_ASKS: Final = frozenset(
    {
        "initialize", "ping", "logging/setLevel", "completion/complete", "resources/subscribe", "resources/unsubscribe",
        "tools/list", "prompts/list", "resources/list", "resources/templates/list",
        "tasks/get", "tasks/list", "tasks/cancel",
    }
)  # fmt: skip
"""Requests during which no server asks its client anything, so they need not wait for their turn."""


class Session:
    """What passes between one client and its server.

    `child` is set by whoever starts it, before the first message.
    """

    child: Child

    def __init__(self, session_id: str, initialize: Message) -> None:
        self.id = session_id
        self.version = ""
        self.ended = False
        self.used_at = 0.0
        """By the loop's clock; meaningful while `connections` is 0."""
        self.connections = 0
        self.standalone = Stream(STANDALONE, replayable=True)
        self._stream_numbers = count(STANDALONE + 1)
        self._kept: OrderedDict[int, Stream] = OrderedDict({STANDALONE: self.standalone})
        capabilities = initialize.value(("params", "capabilities"))
        self._declared = {
            name for name in QUESTIONS.values() if isinstance(capabilities, dict) and name in capabilities
        }
        self._calls = Calls(self._write)
        self._turn: Call | None = None
        self._waiting: deque[Call] = deque()
        self._question_numbers = count(1)
        self._questions: dict[str, tuple[bytes, str, Stream]] = {}
        """By our id of an open question: the server's id as it wrote it, the same in comparable form, its stream."""

    # From the client.

    def submit(self, request: Message) -> Call:
        """Send a request to the server, or let it wait for its turn. Raises BusyError."""
        if len(self._calls) + len(self._waiting) >= MAX_CALLS:
            raise BusyError
        call = Call(request, Stream(next(self._stream_numbers), replayable=True), self._done)
        if self.ended:
            call.refuse(INTERNAL_ERROR, "the session has ended")
        elif not self._takes_turns(call):
            self._calls.start(call)
        elif self._turn is None:
            self._turn = call
            self._calls.start(call)
        else:
            self._waiting.append(call)
        return call

    def notify(self, notification: Message) -> None:
        if notification.method == CANCELLED:
            self._cancel(notification)
        else:
            self._write(notification.raw)

    def answer(self, response: Message) -> bool:
        """Pass an answer on to the server; False when no question with its id is open."""
        question = self._questions.pop(response.id_key, None)
        if question is not None:
            self._write(response.replaced({ID: question[0]}))
        return question is not None

    def keep(self, stream: Stream) -> None:
        """Let clients come back to this stream: from now on they know ids of its events."""
        self._kept[stream.number] = stream
        ended = [kept for kept in self._kept.values() if kept.ended and kept is not stream]
        while len(ended) > MAX_KEPT_STREAMS or sum(kept.bytes_kept for kept in ended) > MAX_KEPT_BYTES:
            del self._kept[ended.pop(0).number]

    def find_stream(self, number: int) -> Stream | None:
        return self._kept.get(number)

    # From the server.

    def receive(self, message: Message) -> None:
        if message.kind is Kind.RESPONSE:
            self._calls.respond(message)
        elif message.kind is Kind.REQUEST:
            self._ask(message)
        elif message.method == PROGRESS:
            self._calls.report(message)
        elif message.method == CANCELLED:
            self._withdraw(message)
        else:
            self._stream_for(message).append(message.raw, droppable=True)

    def end(self, why: str) -> None:
        """The server is gone. Every open request is answered with an error, every stream ends."""
        self.ended = True
        waiting, self._waiting = list(self._waiting), deque()
        for call in waiting:
            call.refuse(INTERNAL_ERROR, why)
        self._calls.fail(why)
        self.standalone.end()

    def _write(self, message: bytes) -> None:
        self.child.write(message)

    def _takes_turns(self, call: Call) -> bool:
        return bool(self._declared) and call.request.method not in _NEVER_ASKS

    def _done(self, call: Call) -> None:
        """The server has answered this call, or will not: its questions are closed, and the next call has its turn."""
        self._questions = {key: question for key, question in self._questions.items() if question[2] is not call.stream}
        if self._turn is call:
            self._turn = self._waiting.popleft() if self._waiting else None
            if self._turn is not None:
                self._calls.start(self._turn)

    def _cancel(self, notification: Message) -> None:
        key = jsonrpc.key(notification.value(("params", "requestId")))
        for call in self._waiting:
            if call.request.id_key == key:
                self._waiting.remove(call)
                call.refuse(REQUEST_CANCELLED, "the request was cancelled")
                return
        call_in_flight = self._calls.find_client_id(key)
        if call_in_flight is None or call_in_flight.request.method == "initialize":
            return
        reason = notification.value(("params", "reason"))
        self._calls.cancel(call_in_flight, reason if isinstance(reason, str) else "the client cancelled the request")
        call_in_flight.refuse(REQUEST_CANCELLED, "the request was cancelled")

        # A cancelled request is not answered. Once the server has read the cancellation, seen by a ping that it answers
        # after it, questions it had asked for this call have arrived, and the next call can have its turn.
        def over() -> None:
            self._calls.forget(call_in_flight)

        self._calls.ping(over)
        asyncio.get_running_loop().call_later(CANCEL_PATIENCE, over)

    def _ask(self, question: Message) -> None:
        server_id = question.bytes_of(ID) or b"null"
        capability = QUESTIONS.get(question.method)
        if question.method == "ping":
            self._write(jsonrpc.empty_result(server_id))
        elif capability is not None and capability not in self._declared:
            self._write(jsonrpc.error(server_id, METHOD_NOT_FOUND, f"the client does not support {capability}"))
        elif self._turn is not None and self._turn.cancelled:
            self._write(jsonrpc.error(server_id, REQUEST_CANCELLED, "the client cancelled the request"))
        elif len(self._questions) >= MAX_QUESTIONS:
            self._write(jsonrpc.error(server_id, INTERNAL_ERROR, "too many requests to the client are open"))
        else:
            stream = self.standalone if self._turn is None else self._turn.stream
            our_id = f'"q{next(self._question_numbers)}"'
            self._questions[our_id] = (server_id, question.id_key, stream)
            stream.append(question.replaced({ID: our_id.encode()}))

    def _withdraw(self, notification: Message) -> None:
        """The server no longer wants an answer to its question."""
        key = jsonrpc.key(notification.value(("params", "requestId")))
        for our_id, (_, server_key, stream) in self._questions.items():
            if server_key == key:
                del self._questions[our_id]
                stream.append(notification.replaced({("params", "requestId"): our_id.encode()}))
                return

    def _stream_for(self, notification: Message) -> Stream:
        """Log messages go with the one call they can come from; the rest goes where the client listens, if it does."""
        calls = self._calls.open()
        if not self.version or len(calls) != 1 or calls[0].request.method == "initialize":
            return self.standalone
        if notification.method == "notifications/message" or not self.standalone.followed:
            return calls[0].stream
        return self.standalone
