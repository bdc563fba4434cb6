"""On the federated endpoint, says from which server a log message or a question to the user comes."""

from __future__ import annotations

import dataclasses
from typing import Any

from gateway.calls import Answer, Call, Message, MessageKind
from gateway.policy.decision import ALLOW, Decision, Rewrite


class Attribution:
    """A result stage: prefixes `logger` of log messages and `message` of elicitations with the server's slug."""

    name = "attribution"

    async def on_message(self, call: Call, message: Message) -> Decision[Message]:
        """The result itself is left alone: who called the tool knows its name."""
        if not call.federated or message.kind is MessageKind.RESULT:
            return ALLOW
        slug = call.server.slug
        value = message.answer.value
        if message.method == "notifications/message":
            logger = value.get("logger")
            named = f"{slug}/{logger}" if isinstance(logger, str) else slug
            return _rewritten(message, {**value, "logger": named})
        if message.method == "elicitation/create" and isinstance(text := value.get("message"), str):
            return _rewritten(message, {**value, "message": f"[{slug}] {text}"})
        return ALLOW


def _rewritten(message: Message, params: dict[str, Any]) -> Decision[Message]:
    return Rewrite(dataclasses.replace(message, answer=Answer(params)))
