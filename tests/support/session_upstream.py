"""An upstream of 2025-11-25 whose calls ask, wait, report and go on when a test says so, each on its session."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.processes import until
from tests.support.upstreams import TOOL, Exchange, ScriptedUpstream

RESOURCE = "note://today"
FORM = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
LEVELS = ("debug", "info", "error")


def _tool(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "description": description, "inputSchema": {"type": "object"}}


@dataclass
class SessionUpstream(ScriptedUpstream):
    """Calls to a session that it does not know are 404, as for every other method. `gates` are opened by the test."""

    gates: defaultdict[str, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))

    def __post_init__(self) -> None:
        self.era = "legacy"
        self.tools = [
            TOOL,
            _tool("ask", "Asks its user for a name in the middle of the call."),
            _tool("hold", "Answers when its gate is open."),
            _tool("climb", "Reports a step, waits for its gate, reports another and answers."),
            _tool("report", "Writes one log line of each of three levels."),
        ]
        self.resources = [{"uri": RESOURCE, "name": "today"}]
        self.capabilities = {"logging": {}}
        self.acts["tools/call"] = self._call

    async def _call(self, exchange: Exchange) -> None:
        if exchange.seen.headers.get("mcp-session-id") not in self.sessions:
            await exchange.error(-32600, "Session not found", status=404)
            return
        acts: dict[str, Callable[[Exchange], Awaitable[None]]] = {
            "ask": self._ask,
            "hold": self._hold_call,
            "climb": self._climb,
            "report": self._report,
        }
        name = exchange.params["name"]
        if name in acts:
            await acts[name](exchange)
        else:
            await exchange.result(_text(str(exchange.params.get("arguments"))))

    async def _ask(self, exchange: Exchange) -> None:
        question = f"question-{exchange.id}"
        params = {"mode": "form", "message": "Who are you?", "requestedSchema": FORM}
        await exchange.stream()
        await exchange.event({"jsonrpc": "2.0", "id": question, "method": "elicitation/create", "params": params})
        answer = await until(lambda: self._answer_to(question), "an answer to the question")
        await _finish(exchange, str(answer["content"]["name"]))

    def _answer_to(self, question: str) -> dict[str, Any] | None:
        bodies = (seen.json for seen in self.seen if seen.body)
        answers = (body["result"] for body in bodies if body.get("id") == question and "result" in body)
        return next(answers, None)

    async def _hold_call(self, exchange: Exchange) -> None:
        await exchange.stream()
        leaving = asyncio.create_task(exchange.gone())
        opening = asyncio.create_task(self._gate(exchange).wait())
        try:
            await asyncio.wait((leaving, opening), return_when=asyncio.FIRST_COMPLETED)
            if not leaving.done():
                await _finish(exchange, "held")
        finally:
            leaving.cancel()
            opening.cancel()

    async def _climb(self, exchange: Exchange) -> None:
        token = exchange.params["_meta"]["progressToken"]
        await exchange.stream()
        await exchange.notify("notifications/progress", {"progressToken": token, "progress": 1})
        await self._gate(exchange).wait()
        await exchange.notify("notifications/progress", {"progressToken": token, "progress": 2})
        await _finish(exchange, "climbed")

    async def _report(self, exchange: Exchange) -> None:
        await exchange.stream()
        for level in LEVELS:
            await exchange.notify("notifications/message", {"level": level, "data": f"a line of level {level}"})
        await _finish(exchange, "reported")

    def _gate(self, exchange: Exchange) -> asyncio.Event:
        return self.gates[str(exchange.params["arguments"]["gate"])]

    def calls(self, tool: str, **arguments: Any) -> list[dict[str, Any]]:
        """Bodies of the calls of a tool with these arguments."""
        params = {"name": tool, "arguments": arguments}
        return [body for body in self.requests("tools/call") if params.items() <= body["params"].items()]

    def stands_on(self, session: str) -> Exchange | None:
        """The GET stream of a session, if one stands."""
        streams = (each for each in self.listening if each.seen.headers.get("mcp-session-id") == session)
        return next(streams, None)


def _text(text: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text}]}


async def _finish(exchange: Exchange, text: str) -> None:
    await exchange.event({"jsonrpc": "2.0", "id": exchange.id, "result": _text(text)}, last=True)
