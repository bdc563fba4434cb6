"""The request path: from the parameters of a client to a call, and from an answer to the client's result."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
import pytest

from catalogue.model import Facts, Kind, Server
from gateway.calls import Caller, Method
from gateway.edge.replies import for_error
from gateway.errors import (
    Denied,
    GatewayError,
    InvalidParams,
    MissingCapability,
    UnknownMethod,
    UnknownName,
    UnknownResource,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamTimeout,
)
from tests.support.calls import LEGACY, MODERN, NOBODY, ONE, TWO, MemoryOutlet, caller, definition, tool
from tests.support.worlds import World

OFFERED = definition(
    tool("echo"),
    prompts=[{"name": "ask"}],
    resources=[{"uri": "file:///a", "name": "a"}],
    templates=[{"uriTemplate": "file:///{x}", "name": "x"}],
)
FILE = "one+file:///a"
OUTLET = MemoryOutlet()


@pytest.fixture
def world() -> World:
    return World((ONE, OFFERED))


Ask = Callable[[World, Caller, dict[str, Any]], Awaitable[Any]]


async def listen(world: World, asking: Caller, params: dict[str, Any]) -> Any:
    watching = world.dispatch.watching(OUTLET, lambda subscribed, uri: None)
    honoured = await watching.add([world.dispatch.resource_call(asking, Method.LISTEN, params)])
    await watching.close()
    return honoured


# How each method is asked for: parameters as the client of the federated endpoint gives them, and what goes upstream.
ASKED: dict[Method, tuple[Ask, dict[str, Any], dict[str, Any]]] = {
    Method.TOOLS_CALL: (
        lambda world, asking, params: world.dispatch.call_tool(asking, params, OUTLET),
        {"name": "one__echo", "arguments": {"a": 1}},
        {"name": "echo", "arguments": {"a": 1}},
    ),
    Method.PROMPTS_GET: (
        lambda world, asking, params: world.dispatch.get_prompt(asking, params, OUTLET),
        {"name": "one__ask", "arguments": {"a": "1"}},
        {"name": "ask", "arguments": {"a": "1"}},
    ),
    Method.RESOURCES_READ: (
        lambda world, asking, params: world.dispatch.read_resource(asking, params, OUTLET),
        {"uri": FILE},
        {"uri": "file:///a"},
    ),
    Method.COMPLETE: (
        lambda world, asking, params: world.dispatch.complete(asking, params, OUTLET),
        {"ref": {"type": "ref/prompt", "name": "one__ask"}, "argument": {"name": "a", "value": ""}, "context": {}},
        {"ref": {"type": "ref/prompt", "name": "ask"}, "argument": {"name": "a", "value": ""}, "context": {}},
    ),
    Method.SUBSCRIBE: (
        lambda world, asking, params: world.dispatch.subscribe(asking, params, OUTLET, on=True),
        {"uri": FILE},
        {"uri": "file:///a"},
    ),
    Method.UNSUBSCRIBE: (
        lambda world, asking, params: world.dispatch.subscribe(asking, params, OUTLET, on=False),
        {"uri": FILE},
        {"uri": "file:///a"},
    ),
    Method.LISTEN: (listen, {"uri": FILE}, {"uri": "file:///a"}),
}
EVERY_METHOD = pytest.mark.parametrize("method", list(Method))


async def ask(world: World, method: Method, asking: Caller | None = None, **more: Any) -> Any:
    how, params, _ = ASKED[method]
    return await how(world, asking or caller(), {**params, **more})


@EVERY_METHOD
async def test_every_method_goes_upstream_as_a_recorded_call_in_the_upstreams_own_words(
    world: World, method: Method
) -> None:
    await ask(world, method)
    (permit,) = world.pool.permits
    assert permit.call.method is method
    assert permit.call.server is ONE
    assert permit.call.params == ASKED[method][2]
    assert [line[0] for line in world.recorder.lines] == ["opened", "closed"]
    assert world.recorder.calls == [permit.call]


@EVERY_METHOD
async def test_a_hidden_name_is_recorded_as_denied_and_the_upstream_sees_nothing(world: World, method: Method) -> None:
    if method is Method.LISTEN:
        assert await ask(world, method, caller(NOBODY)) == []
    else:
        with pytest.raises(Denied) as refusal:
            await ask(world, method, caller(NOBODY))
        assert refusal.value.answered_as is not None
    assert world.pool.permits == []
    assert world.recorder.lines[-1][2:] == ("denied", "authorization:hidden")


async def answered(world: World, method: Method, asking: Caller) -> Any:
    """What the client gets: the bytes of its reply."""
    try:
        return await ask(world, method, asking)
    except GatewayError as error:
        reply = for_error(error, method=method.value, revision=asking.revision, modern=asking.revision == MODERN)
        return reply.status, reply.headers, reply.body("id")


@EVERY_METHOD
@pytest.mark.parametrize("revision", [MODERN, LEGACY, "2025-06-18"])
@pytest.mark.parametrize("capabilities", [{"resources": {"subscribe": True}}, {}])
async def test_no_answer_tells_hidden_from_absent(method: Method, revision: str, capabilities: dict[str, Any]) -> None:
    offered = definition(
        tool("echo"),
        prompts=[{"name": "ask"}],
        resources=[{"uri": "file:///a", "name": "a"}],
        capabilities=capabilities,
    )
    hidden = await answered(World((ONE, offered)), method, caller(NOBODY, revision=revision))
    absent: Any = []
    if method is not Method.LISTEN:
        absent = await answered(World((TWO, definition())), method, caller(NOBODY, revision=revision))
    assert hidden == absent


@pytest.mark.parametrize("method", [Method.TOOLS_CALL, Method.PROMPTS_GET, Method.RESOURCES_READ, Method.COMPLETE])
async def test_an_absent_name_is_no_call_and_has_no_record(method: Method) -> None:
    world = World((TWO, definition()))
    with pytest.raises((UnknownName, UnknownResource)):
        await ask(world, method)
    assert world.recorder.lines == []


async def test_a_missing_scope_is_named_and_nothing_runs() -> None:
    stated = Server("one", "1", ONE.url, facts={"echo": Facts(scopes=frozenset({"write"}))})
    world = World((stated, OFFERED))
    with pytest.raises(Denied) as refusal:
        await ask(world, Method.TOOLS_CALL)
    assert "write" in str(vars(refusal.value.answered_as)["missing"])
    assert world.pool.permits == []


async def test_on_a_servers_own_endpoint_names_are_its_own(world: World) -> None:
    await world.dispatch.call_tool(caller(endpoint="one"), {"name": "echo"}, OUTLET)
    assert world.pool.permits[0].call.params == {"name": "echo"}
    with pytest.raises(UnknownName):
        await world.dispatch.call_tool(caller(endpoint="one"), {"name": "one__echo"}, OUTLET)


async def test_an_endpoint_that_does_not_exist_offers_nothing(world: World) -> None:
    nowhere = caller(endpoint="nobody")
    assert not world.dispatch.exists("nobody")
    assert world.dispatch.exists("one")
    assert world.dispatch.view(nowhere).items[Kind.TOOL] == ()
    with pytest.raises(UnknownName):
        await world.dispatch.call_tool(nowhere, {"name": "echo"}, OUTLET)


WRONG: list[tuple[Method, dict[str, Any], str]] = [
    (Method.TOOLS_CALL, {"name": 5}, "name"),
    (Method.TOOLS_CALL, {"name": None}, "name"),
    (Method.TOOLS_CALL, {"arguments": []}, "arguments"),
    (Method.TOOLS_CALL, {"arguments": "x"}, "arguments"),
    (Method.PROMPTS_GET, {"name": {}}, "name"),
    (Method.PROMPTS_GET, {"arguments": 5}, "arguments"),
    (Method.RESOURCES_READ, {"uri": 5}, "uri"),
    (Method.SUBSCRIBE, {"uri": None}, "uri"),
    (Method.COMPLETE, {"ref": None}, "ref"),
    (Method.COMPLETE, {"ref": {"type": "ref/other"}}, "ref.type"),
    (Method.COMPLETE, {"ref": {"type": "ref/prompt"}}, "ref.name"),
    (Method.COMPLETE, {"ref": {"type": "ref/resource", "uri": 5}}, "ref.uri"),
    (Method.TOOLS_CALL, {"_meta": {"progressToken": True}}, "_meta.progressToken"),
    (Method.TOOLS_CALL, {"_meta": {"progressToken": 1.5}}, "_meta.progressToken"),
    (Method.TOOLS_CALL, {"_meta": {"progressToken": []}}, "_meta.progressToken"),
    (Method.TOOLS_CALL, {"inputResponses": []}, "inputResponses"),
    (Method.TOOLS_CALL, {"requestState": 5}, "requestState"),
    (Method.TOOLS_CALL, {"requestState": "forged"}, "requestState"),
]


@pytest.mark.parametrize(("method", "wrong", "field"), WRONG)
async def test_a_wrong_parameter_is_named_and_nothing_is_recorded(
    world: World, method: Method, wrong: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidParams, match=rf"^{field}: "):
        await ask(world, method, **wrong)
    assert world.recorder.lines == []
    assert world.pool.permits == []


@pytest.mark.parametrize("arguments", [None, {}])
async def test_absent_arguments_stay_absent(world: World, arguments: Any) -> None:
    given: Mapping[str, Any] = {} if arguments is None else {"arguments": arguments}
    await world.dispatch.call_tool(caller(), {"name": "one__echo", **given}, OUTLET)
    await world.dispatch.get_prompt(caller(), {"name": "one__ask", **given}, OUTLET)
    assert [permit.call.params for permit in world.pool.permits] == [
        {"name": "echo", **given},
        {"name": "ask", **given},
    ]


@pytest.mark.parametrize(
    ("meta", "token", "kept"),
    [
        (None, None, {}),
        (5, None, {}),
        ({"progressToken": 0}, 0, {}),
        ({"progressToken": "", "x": 1}, "", {}),
        ({"traceparent": "t", "tracestate": "s", "baggage": "b"}, None, {"traceparent": "t", "tracestate": "s"}),
    ],
)
async def test_of_the_clients_metadata_only_the_trace_and_the_progress_token_travel_on(
    world: World, meta: Any, token: Any, kept: dict[str, Any]
) -> None:
    await ask(world, Method.TOOLS_CALL, _meta=meta)
    call = world.pool.permits[0].call
    assert (call.progress_token, call.meta) == (token, kept)
    assert "_meta" not in call.params


async def test_a_completion_for_a_resource_goes_where_the_resource_is(world: World) -> None:
    params = {"ref": {"type": "ref/resource", "uri": "one+file:///{x}"}, "argument": {"name": "x", "value": "a"}}
    await world.dispatch.complete(caller(), params, OUTLET)
    call = world.pool.permits[0].call
    assert call.params["ref"] == {"type": "ref/resource", "uri": "file:///{x}"}
    assert call.item is not None
    assert call.item.kind is Kind.TEMPLATE
    with pytest.raises(UnknownResource):
        await world.dispatch.complete(caller(), {"ref": {"type": "ref/resource", "uri": "nope:"}}, OUTLET)


async def test_an_upstream_that_keeps_no_subscriptions_is_not_asked_for_any() -> None:
    world = World((ONE, definition(resources=[{"uri": "file:///a", "name": "a"}], capabilities={"resources": {}})))
    with pytest.raises(UnknownMethod):
        await ask(world, Method.SUBSCRIBE)
    assert world.pool.permits == []


async def test_the_result_names_the_record_of_its_call(world: World) -> None:
    world.answers({"content": []})
    result = orjson.loads(await ask(world, Method.TOOLS_CALL))
    assert result["_meta"]["dev.mcp-gateway/record"] == world.recorder.calls[0].id
    assert result["resultType"] == "complete"


@pytest.mark.parametrize("error", [UpstreamTimeout("one", "Late."), UpstreamRefused("one", -32000, "no")])
async def test_an_error_names_the_record_of_its_call(world: World, error: GatewayError) -> None:
    world.fails(error)
    with pytest.raises(type(error)):
        await ask(world, Method.TOOLS_CALL)
    assert error.record == world.recorder.calls[0].id


async def test_a_refusal_names_the_clients_uri_and_not_the_upstreams(world: World) -> None:
    error = UpstreamRefused("one", -32002, "no", {"uri": "file:///a", "more": 1})
    world.fails(error)
    with pytest.raises(UpstreamRefused):
        await ask(world, Method.RESOURCES_READ)
    assert error.data == {"uri": FILE, "more": 1}


async def test_an_upstream_that_needs_a_capability_is_answered_as_the_clients_own_lack_of_it(world: World) -> None:
    world.fails(UpstreamRefused("one", -32021, "no", {"requiredCapabilities": {"sampling": {}}}))
    with pytest.raises(MissingCapability) as refusal:
        await ask(world, Method.TOOLS_CALL)
    assert refusal.value.required == {"sampling": {}}
    assert refusal.value.record == world.recorder.calls[0].id


async def test_a_kind_of_result_that_nobody_asked_for_is_refused(world: World) -> None:
    world.answers({"resultType": "task", "content": []})
    with pytest.raises(UpstreamProtocolError) as refusal:
        await ask(world, Method.TOOLS_CALL)
    assert refusal.value.record == world.recorder.calls[0].id
