"""Runs the stages and makes the permits: the only road from a call to an upstream."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum

import structlog

from catalogue.model import Item
from gateway.calls import Answer, Call, Message, MessageKind, Outcome, Outlet
from gateway.errors import Denied, GatewayError, UpstreamError
from gateway.policy.decision import Allow, Deny
from gateway.policy.stage import Recorder, RequestStage, ResultStage

log = structlog.get_logger()


class CallPermit:
    """Evidence that a call passed the request stages. Made here and nowhere else."""

    __slots__ = ("call",)

    def __init__(self, call: Call) -> None:
        self.call = call

    def with_headers_of(self, current: Item) -> CallPermit:
        """The same call with the header map of a newer listing of its tool; what was decided on stays as it was."""
        if self.call.item is None:
            return self
        item = dataclasses.replace(self.call.item, header_map=current.header_map)
        return CallPermit(dataclasses.replace(self.call, item=item))


class PipelineReason(StrEnum):
    """Why the pipeline itself refuses."""

    STAGE_FAILED = "stage_failed"


Forward = Callable[[CallPermit, Outlet], Awaitable[Answer]]

_STAGE_FAILED = Deny(PipelineReason.STAGE_FAILED, "The gateway could not check this request and refused it.")


class Screened:
    """The client's side of a call as the upstream layer sees it: every message passes the result stages first."""

    __slots__ = ("_call", "_outlet", "_pipeline")

    def __init__(self, pipeline: Pipeline, call: Call, outlet: Outlet) -> None:
        self._pipeline = pipeline
        self._call = call
        self._outlet = outlet

    async def send(self, message: Message) -> None:
        """Raises Denied when a stage refuses the message: the call ends there."""
        await self._outlet.send(await self._pipeline.release(self._call, message))

    def opened(self) -> None:
        """Passed on: it carries nothing."""
        self._outlet.opened()


class Pipeline:
    """Two ordered lists and a recorder; see `standard.py` for which."""

    def __init__(
        self, request_stages: Sequence[RequestStage], result_stages: Sequence[ResultStage], recorder: Recorder
    ) -> None:
        self.request_stages = tuple(request_stages)
        self.result_stages = tuple(result_stages)
        self._recorder = recorder

    async def enforce(self, call: Call, outlet: Outlet, forward: Forward) -> Answer:
        """Record, admit, forward, release, record. The answer leaves only after `closed` has returned.

        Raises:
            Denied: a stage refused the call or a message; the upstream saw nothing if it was a request stage.
            UpstreamError: the upstream did not do its part.
        """
        await self._recorder.opened(call)
        outcome, detail = Outcome.CANCELLED, ""
        try:
            permit = await self._admit(call)
            answer = await forward(permit, Screened(self, permit.call, outlet))
            message = await self.release(permit.call, Message(MessageKind.RESULT, "", answer))
            outcome = _outcome(message.answer)
        except Denied as denied:
            outcome, detail = Outcome.DENIED, f"{denied.stage}:{denied.reason}"
            raise
        except UpstreamError as error:
            outcome, detail = Outcome.FAILED, error.reason
            raise
        except GatewayError as error:
            outcome, detail = Outcome.FAILED, type(error).__name__
            raise
        except Exception:
            outcome, detail = Outcome.FAILED, "internal"
            raise
        else:
            return message.answer
        finally:
            await self._recorder.closed(call, outcome, detail)

    async def _admit(self, call: Call) -> CallPermit:
        for stage in self.request_stages:
            try:
                decision = await stage.on_request(call)
            except Exception:  # a stage that fails denies
                log.exception("stage_failed", stage=stage.name, call=call.id)
                decision = _STAGE_FAILED
            if isinstance(decision, Deny):
                raise _refusal(stage.name, decision)
            if not isinstance(decision, Allow):
                call = decision.value
        return CallPermit(call)

    async def release(self, call: Call, message: Message) -> Message:
        """Runs the result stages over one message of the stream."""
        for stage in self.result_stages:
            try:
                decision = await stage.on_message(call, message)
            except Exception:  # a stage that fails denies
                log.exception("stage_failed", stage=stage.name, call=call.id)
                decision = _STAGE_FAILED
            if isinstance(decision, Deny):
                raise _refusal(stage.name, decision)
            if not isinstance(decision, Allow):
                message = decision.value
        return message


def _refusal(stage: str, deny: Deny) -> Denied:
    denied = Denied(stage, deny.reason, deny.sentence, deny.retry_after_ms)
    denied.answered_as = deny.answered_as
    return denied


def _outcome(answer: Answer) -> Outcome:
    value = answer.value
    if value.get("isError") is True:
        return Outcome.TOOL_ERROR
    return Outcome.INPUT_REQUIRED if value.get("resultType") == "input_required" else Outcome.RESULT
