"""On the federated endpoint, resource URIs in what upstreams send become URIs that the gateway can read."""

from __future__ import annotations

import dataclasses

from catalogue import uris
from gateway.calls import Call, Message
from gateway.policy.decision import ALLOW, Decision, Rewrite


class UriRewriting:
    """A result stage. On a server's own endpoint nothing is renamed, so nothing is done."""

    name = "uri_rewriting"

    async def on_message(self, call: Call, message: Message) -> Decision[Message]:
        """Rewrites resource links, embedded resources and read contents."""
        if not call.federated:
            return ALLOW
        _, changed = uris.rewrite_result(message.answer.value, call.server.slug)
        if not changed:
            return ALLOW
        answer = message.answer.rewritten(lambda value: uris.rewrite_result(value, call.server.slug)[0])
        return Rewrite(dataclasses.replace(message, answer=answer))
