"""Ask the client for input in whichever way its revision has for it.

Up to 2025-11-25 a server sends a request on the stream of the call and waits for the answer. From 2026-07-28 on it
ends the round with an `InputRequiredResult` and the client calls again. A tool or prompt here is written once, as if
it could always wait: `Round.ask` sends requests in the first case and leaves by `InputNeededError` in the second.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import anyio
import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

Context = ServerRequestContext[Any, Any]
Answer = types.CreateMessageResult | types.CreateMessageResultWithTools | types.ListRootsResult | types.ElicitResult


@dataclass(frozen=True)
class Question:
    """One thing to ask, the type its answer has, and the capability that a client must have declared for it."""

    request: types.InputRequest
    answer: type[types.CreateMessageResult] | type[types.ListRootsResult] | type[types.ElicitResult]
    needs: types.ClientCapabilities


def form(message: str, properties: dict[str, Any], required: list[str] | None = None) -> Question:
    """A form for the user; `properties` are the restricted JSON Schemas that elicitation allows."""
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    return Question(
        types.ElicitRequest(params=types.ElicitRequestFormParams(message=message, requested_schema=schema)),
        types.ElicitResult,
        types.ClientCapabilities(elicitation=types.ElicitationCapability()),
    )


def sampling(prompt: str, max_tokens: int = 100) -> Question:
    message = types.SamplingMessage(role="user", content=types.TextContent(text=prompt))
    return Question(
        types.CreateMessageRequest(
            params=types.CreateMessageRequestParams(messages=[message], max_tokens=max_tokens),
        ),
        types.CreateMessageResult,
        types.ClientCapabilities(sampling=types.SamplingCapability()),
    )


def roots() -> Question:
    return Question(
        types.ListRootsRequest(),
        types.ListRootsResult,
        types.ClientCapabilities(roots=types.RootsCapability()),
    )


class InputNeededError(Exception):
    """Ends a round of a 2026-07-28 call; `result` goes to the client in place of the call's own result."""

    def __init__(self, result: types.InputRequiredResult) -> None:
        super().__init__("the client's input is needed")
        self.result = result


class Round:
    """One request of a call: its context, the answers that came with it, and those kept from earlier rounds.

    The request state is the JSON object of all answers so far. It is plain here because `RequestStateBoundary` opens
    and seals it on the way in and out, which is also what refuses a state that was tampered with.
    """

    def __init__(self, context: Context, params: types.InputResponseRequestParams) -> None:
        self.context = context
        self.modern = context.protocol_version in MODERN_PROTOCOL_VERSIONS
        self._responses = dict(params.input_responses or {})
        self._kept: dict[str, Any] | None = json.loads(params.request_state) if params.request_state else None

    def declares(self, question: Question) -> bool:
        return self.context.session.check_client_capability(question.needs)

    async def ask(self, questions: Mapping[str, Question], *, sealed: bool = False) -> dict[str, Answer]:
        """Put all `questions` at once and return their answers by the same keys.

        `sealed` makes a 2026-07-28 round carry request state even if nothing needs to be kept, and accepts answers
        only together with that state.
        """
        for question in questions.values():
            self._insist_on_capability(question)
        if self.modern:
            return self._answers_or_leave(questions, sealed=sealed)
        return await self._send(questions)

    def _insist_on_capability(self, question: Question) -> None:
        if self.declares(question):
            return
        needed = question.needs.model_dump(by_alias=True, mode="json", exclude_none=True)
        if self.modern:
            raise MCPError(
                types.MISSING_REQUIRED_CLIENT_CAPABILITY,
                "Missing required client capability",
                {"requiredCapabilities": needed},
            )
        raise MCPError(types.INVALID_REQUEST, f"The client did not declare {', '.join(needed)}")

    def _answers_or_leave(self, questions: Mapping[str, Question], *, sealed: bool) -> dict[str, Answer]:
        kept = dict(self._kept or {})
        trusted = not sealed or self._kept is not None
        answers: dict[str, Answer] = {}
        for key, question in questions.items():
            response = self._responses.get(key)
            if key in kept:
                answers[key] = question.answer.model_validate(kept[key])
            elif trusted and isinstance(response, question.answer):
                answers[key] = response
                kept[key] = response.model_dump(by_alias=True, mode="json", exclude_none=True)
        if len(answers) == len(questions):
            self._kept = kept
            return answers
        raise InputNeededError(
            types.InputRequiredResult(
                input_requests={key: question.request for key, question in questions.items() if key not in answers},
                request_state=json.dumps(kept) if sealed or kept else None,
            )
        )

    async def _send(self, questions: Mapping[str, Question]) -> dict[str, Answer]:
        answers: dict[str, Answer] = {}
        refusals: list[MCPError] = []

        async def put(key: str, question: Question) -> None:
            try:
                answers[key] = await self.context.session.send_request(
                    question.request,
                    question.answer,
                    metadata=ServerMessageMetadata(related_request_id=self.context.request_id),
                )
            except MCPError as error:
                refusals.append(error)

        async with anyio.create_task_group() as group:
            for key, question in questions.items():
                group.start_soon(put, key, question)
        if refusals:
            raise refusals[0]
        return {key: answers[key] for key in questions}


def words(answer: Answer) -> str:
    """An answer in one line of text, for tools that repeat what they were told."""
    if isinstance(answer, types.ElicitResult):
        return f"action={answer.action}, content={json.dumps(answer.content or {})}"
    if isinstance(answer, types.ListRootsResult):
        return ", ".join(str(root.uri) for root in answer.roots) or "no roots"
    content = answer.content
    return content.text if isinstance(content, types.TextContent) else f"a {type(content).__name__}"
