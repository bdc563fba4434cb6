"""The request path: what each method of a client becomes, from its parameters to its result.

edge        decoded, classified, authenticated -> Caller
dispatch    name resolved in the caller's view -> Call
pipeline    recorded, decided, permitted -> upstream -> decided again, recorded
dispatch    result for the client's revision
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from catalogue.live import Catalogue
from catalogue.model import Item, Kind, Server
from catalogue.snapshot import Snapshot, View
from gateway.bridge import capabilities, federation, results
from gateway.bridge.lists import Lists, Page
from gateway.bridge.request_state import RequestStates
from gateway.bridge.watching import Watching
from gateway.calls import Answer, Call, Caller, Method, Outlet, Round, new_id
from gateway.errors import GatewayError, InvalidParams, UnknownMethod, UnknownName, UnknownResource, UpstreamRefused
from gateway.policy.authorization import unless_hidden
from gateway.policy.pipeline import CallPermit, Pipeline
from gateway.upstream.pool import Pool


class Dispatch:
    """Holds nothing of a request; every method may run on any replica."""

    def __init__(
        self, catalogue: Catalogue, pipeline: Pipeline, upstreams: Pool, lists: Lists, states: RequestStates
    ) -> None:
        self._catalogue = catalogue
        self._pipeline = pipeline
        self._upstreams = upstreams
        self._lists = lists
        self._states = states

    # --- calls

    async def call_tool(self, caller: Caller, params: Mapping[str, Any], outlet: Outlet) -> bytes:
        """`tools/call`. Returns the JSON text of the result."""
        name = _text(params, "name")
        item = self.view(caller).tool(name) or (await self._settled(caller)).tool(name)
        if item is None:
            raise UnknownName("tool")
        return await self._enforce(_named(caller, Method.TOOLS_CALL, item, params), params, outlet)

    async def get_prompt(self, caller: Caller, params: Mapping[str, Any], outlet: Outlet) -> bytes:
        """`prompts/get`. Returns the JSON text of the result."""
        name = _text(params, "name")
        item = self.view(caller).prompt(name) or (await self._settled(caller)).prompt(name)
        if item is None:
            raise UnknownName("prompt")
        return await self._enforce(_named(caller, Method.PROMPTS_GET, item, params), params, outlet)

    async def read_resource(self, caller: Caller, params: Mapping[str, Any], outlet: Outlet) -> bytes:
        """`resources/read`. Returns the JSON text of the result."""
        await self._settled(caller)
        call = self.resource_call(caller, Method.RESOURCES_READ, params)
        return await self._enforce(call, params, outlet)

    async def complete(self, caller: Caller, params: Mapping[str, Any], outlet: Outlet) -> bytes:
        """`completion/complete`: goes where the prompt or the resource it refers to goes."""
        reference = params.get("ref")
        if not isinstance(reference, dict):
            raise InvalidParams("ref: must be an object")
        view = await self._settled(caller)
        item: Item | None
        if reference.get("type") == "ref/prompt":
            exposed = _text(reference, "name", "ref.name")
            if (item := view.prompt(exposed)) is None:
                raise UnknownName("prompt")
            server, upstream_ref = item.server, {**reference, "name": item.upstream_name}
        elif reference.get("type") == "ref/resource":
            exposed = _text(reference, "uri", "ref.uri")
            if (found := view.resource(exposed)) is None:
                raise UnknownResource(exposed)
            server, item, uri = found
            upstream_ref = {**reference, "uri": uri}
        else:
            raise InvalidParams("ref.type: must be ref/prompt or ref/resource")
        upstream = {"ref": upstream_ref, **{key: params[key] for key in ("argument", "context") if key in params}}
        call = _call(caller, Method.COMPLETE, server, item, exposed, upstream, params)
        return await self._enforce(call, params, outlet)

    async def subscribe(self, caller: Caller, params: Mapping[str, Any], outlet: Outlet, *, on: bool) -> str:
        """`resources/subscribe` and `resources/unsubscribe` of a legacy client; returns the exposed URI."""
        call = self.resource_call(caller, Method.SUBSCRIBE if on else Method.UNSUBSCRIBE, params)
        if not self._upstreams.can_watch(call.server):
            raise unless_hidden(call, UnknownMethod(call.method.value))
        call = self._accepted(call, params)
        await self._pipeline.enforce(call, outlet, self._upstreams.subscribe)
        return call.exposed_name

    def watching(self, outlet: Outlet, updated: Callable[[str, str], None]) -> Watching:
        """A set of watched resources for one client stream."""
        return Watching(self._pipeline, self._upstreams, outlet, updated)

    def resource_call(self, caller: Caller, method: Method, params: Mapping[str, Any]) -> Call:
        """The call that a method on one resource becomes."""
        uri = _text(params, "uri")
        found = self.view(caller).resource(uri)
        if found is None:
            raise UnknownResource(uri)
        server, item, upstream_uri = found
        return _call(caller, method, server, item, uri, {"uri": upstream_uri}, params)

    async def _enforce(self, call: Call, params: Mapping[str, Any], outlet: Outlet) -> bytes:
        call = self._accepted(call, params)
        try:
            answer = await self._pipeline.enforce(call, outlet, self._forward)
        except GatewayError as raised:
            error = raised
            if isinstance(error, UpstreamRefused) and error.code == capabilities.CODE:
                error = capabilities.missing(error, call)
            error.record = call.id
            if isinstance(error, UpstreamRefused) and isinstance(error.data, dict) and "uri" in error.data:
                error.data = {**error.data, "uri": call.exposed_name}  # the client's name for it, not the upstream's
            raise error from raised.__cause__
        if results.is_interim(answer):
            answer = self._interim(answer, call, params)
        return results.for_client(answer, call)

    async def _forward(self, permit: CallPermit, outlet: Outlet) -> Answer:
        """Checked before it is recorded: what the client will not get is no result on record either."""
        return results.checked(await self._upstreams.forward(permit, outlet), permit.call)

    def _accepted(self, call: Call, params: Mapping[str, Any]) -> Call:
        """The call in its round, once what came beside the name is as it must be.

        Raises:
            InvalidParams: it is not, for a name that exists for this caller; else the error of an absent name.
        """
        try:
            _check(call)
            if "requestState" in params or "inputResponses" in params:
                return self._resume(call, params)
        except InvalidParams as error:
            raise unless_hidden(call, error) from None
        return call

    def _resume(self, call: Call, params: Mapping[str, Any]) -> Call:
        responses = params.get("inputResponses")
        if responses is not None and not isinstance(responses, dict):
            raise InvalidParams("inputResponses: must be an object")
        if "requestState" not in params:
            return dataclasses.replace(call, round=Round(input_responses=responses))
        resumed = self._states.open(call, params, params["requestState"])
        return dataclasses.replace(
            call, id=resumed.call_id, round=Round(resumed.round, resumed.inner, input_responses=responses)
        )

    def _interim(self, answer: Answer, call: Call, params: Mapping[str, Any]) -> Answer:
        """The upstream's own state travels inside ours."""
        inner = answer.value.get("requestState")
        sealed = self._states.seal(call, params, inner if isinstance(inner, str) else None)
        return answer.rewritten(lambda value: {**value, "requestState": sealed})

    # --- lists and what else is answered here

    def view(self, caller: Caller) -> View:
        """What the caller's endpoint offers; an unknown endpoint offers nothing."""
        return self.snapshot.view(caller.endpoint) or View(caller.endpoint, (), _NOTHING_LISTED, _NOTHING)

    async def _settled(self, caller: Caller) -> View:
        """The view once every upstream had its chance to publish: just started is not the same as absent."""
        await self._upstreams.settled()
        return self.view(caller)

    @property
    def snapshot(self) -> Snapshot:
        """The catalogue of this moment."""
        return self._catalogue.current

    def exists(self, endpoint: str) -> bool:
        """Is there such an endpoint?"""
        return self.snapshot.view(endpoint) is not None

    async def list_items(self, caller: Caller, kind: Kind, params: Mapping[str, Any]) -> Page:
        """One page of a list, filtered by the predicate that calls ask."""
        await self._upstreams.settled()
        return self._lists.page(self.snapshot, self.view(caller), kind, caller, params.get("cursor"))

    async def introduction(self, caller: Caller) -> federation.Introduction:
        """What the endpoint says of itself: capabilities, instructions, identity."""
        await self._upstreams.settled()
        return federation.introduce(self.view(caller), caller)

    def ttl_ms(self, caller: Caller, kind: Kind | None) -> int:
        """How long the caller may keep a list: the least remaining freshness of its parts."""
        return federation.remaining_ttl(self.view(caller), kind)


_NOTHING_LISTED: Mapping[Kind, tuple[Item, ...]] = dict.fromkeys(Kind, ())
_NOTHING: Mapping[Kind, Mapping[str, Item]] = {kind: {} for kind in Kind}
_NO_ARGUMENTS: dict[str, Any] = {}
_TRACE = ("traceparent", "tracestate")


def _text(params: Mapping[str, Any], name: str, shown: str | None = None) -> str:
    value = params.get(name)
    if not isinstance(value, str):
        raise InvalidParams(f"{shown or name}: must be a string")
    return value


def _check(call: Call) -> None:
    if not isinstance(call.params.get("arguments", _NO_ARGUMENTS), dict):
        raise InvalidParams("arguments: must be an object")
    token: Any = call.progress_token
    if token is not None and (not isinstance(token, str | int) or isinstance(token, bool)):
        raise InvalidParams("_meta.progressToken: must be a string or an integer")


def _named(caller: Caller, method: Method, item: Item, params: Mapping[str, Any]) -> Call:
    """The call of a listed thing with arguments: the upstream gets its own name for it, and the arguments as given."""
    upstream: dict[str, Any] = {"name": item.upstream_name}
    if (arguments := params.get("arguments")) is not None:
        upstream["arguments"] = arguments
    return _call(caller, method, item.server, item, item.exposed_name, upstream, params)


def _call(
    caller: Caller,
    method: Method,
    server: Server,
    item: Item | None,
    exposed_name: str,
    upstream: Mapping[str, Any],
    params: Mapping[str, Any],
) -> Call:
    meta = params.get("_meta")
    token: Any = None
    kept: Mapping[str, Any] = {}
    if isinstance(meta, dict):
        token = meta.get("progressToken")
        kept = {key: meta[key] for key in _TRACE if key in meta}
    return Call(
        id=new_id(),
        caller=caller,
        method=method,
        server=server,
        item=item,
        exposed_name=exposed_name,
        params=upstream,
        meta=kept,
        progress_token=token,
    )
