"""What an operator can set: every wrong value names its field and the fix, and no value is taken for another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gateway import settings as configuration
from gateway.errors import ConfigurationError
from gateway.settings import Settings, check_bind, is_loopback, json_schema, load, parse, secret

URL = "http://127.0.0.1:9001/mcp"


def server(slug: str = "one", **fields: Any) -> dict[str, Any]:
    return {"slug": slug, "versions": [{"url": URL}], **fields}


def version(**fields: Any) -> dict[str, Any]:
    return {"servers": [{"slug": "one", "versions": [fields]}]}


def refusal(document: Any) -> str:
    with pytest.raises(ConfigurationError) as refused:
        parse(document, source="F")
    text = str(refused.value)
    assert text.startswith("F: ")
    assert "\n" not in text
    return text.removeprefix("F: ")


def test_nothing_set_is_a_gateway_without_servers_that_requires_a_key() -> None:
    settings = parse({})
    assert settings == Settings() == load(None)
    assert settings.gateway.authentication.mode == "required"
    assert settings.servers == ()


WRONG: list[tuple[dict[str, Any], str]] = [
    # Each wrong document, and how its refusal begins: the field, then what it should be.
    ({"gatway": {}}, "gatway: unknown key"),
    ({"gateway": {"prot": 1}}, "gateway.prot: unknown key"),
    ({"gateway": 5}, "gateway: "),
    ({"gateway": {"mode": "prod"}}, "gateway.mode: Input should be 'development' or 'production'"),
    ({"gateway": {"authentication": {"mode": "none"}}}, "gateway.authentication.mode: Input should be 'required'"),
    ({"gateway": {"max_body_bytes": 10}}, "gateway.max_body_bytes: Input should be greater than or equal to 1024"),
    ({"gateway": {"page_size": 0}}, "gateway.page_size: Input should be greater than or equal to 1"),
    ({"gateway": {"page_size": 10_001}}, "gateway.page_size: Input should be less than or equal to 10000"),
    ({"gateway": {"list_cache_bytes": -1}}, "gateway.list_cache_bytes: "),
    ({"gateway": {"session_idle": 59}}, "gateway.session_idle: "),
    ({"gateway": {"keep_alive": 0}}, "gateway.keep_alive: Input should be greater than 0"),
    ({"gateway": {"stream_grace": -0.1}}, "gateway.stream_grace: "),
    ({"gateway": {"refresh": 0}}, "gateway.refresh: "),
    ({"gateway": {"refresh": "often"}}, "gateway.refresh: Input should be a valid number"),
    ({"gateway": {"keep_alive": float("nan")}}, "gateway.keep_alive: "),
    ({"gateway": {"keep_alive": float("inf")}}, "gateway.keep_alive: "),
    ({"gateway": {"public_url": "mcp.example.com"}}, "gateway.public_url: "),
    ({"gateway": {"public_url": "ftp://mcp.example.com"}}, "gateway.public_url: "),
    ({"gateway": {"allowed_origins": ["inspector.example"]}}, "gateway.allowed_origins"),
    ({"gateway": {"allowed_hosts": ["https://mcp.example.com"]}}, "gateway.allowed_hosts"),
    ({"servers": {}}, "servers: "),
    ({"servers": [{"versions": [{"url": URL}]}]}, "servers.0.slug: Field required"),
    ({"servers": [server("One")]}, "servers.0.slug: must be 1 to 12 of a-z and 0-9, the first a letter"),
    ({"servers": [server("1one")]}, "servers.0.slug: must be 1 to 12"),
    ({"servers": [server("a_b")]}, "servers.0.slug: must be 1 to 12"),
    ({"servers": [server("one\n")]}, "servers.0.slug: must be 1 to 12"),
    ({"servers": [server("abcdefghijklm")]}, "servers.0.slug: must be 1 to 12"),
    ({"servers": [server("one"), server("one")]}, "document: slug used twice: one"),
    ({"servers": [server(versions=[])]}, "servers.0.versions: "),
    ({"servers": [server(versions=[{"url": URL}, {"url": URL}])]}, "servers.0: versions must differ"),
    ({"servers": [server(deadline=0)]}, "servers.0.deadline: "),
    ({"servers": [server(deadline=3601)]}, "servers.0.deadline: "),
    ({"servers": [server(concurrency=0)]}, "servers.0.concurrency: "),
    ({"servers": [server(max_event_bytes=1)]}, "servers.0.max_event_bytes: "),
    ({"servers": [server(allow={"elicitation": True})]}, "servers.0.allow.elicitation: unknown key"),
    ({"servers": [server(tools={"t": {"price": -1}})]}, "servers.0.tools.t.price: "),
    ({"servers": [server(tools={"t": {"cost": 1}})]}, "servers.0.tools.t.cost: unknown key"),
    (version(), "servers.0.versions.0: give exactly one of url and command"),
    (version(url=URL, command=["x"]), "servers.0.versions.0: give exactly one of url and command"),
    (version(url=URL, env={"A": "b"}), "servers.0.versions.0: env and cwd go with command only"),
    (version(url=URL, cwd="/"), "servers.0.versions.0: env and cwd go with command only"),
    (version(url="localhost:9001"), "servers.0.versions.0.url: must be http(s)://host[:port]/path"),
    (version(url="file:///etc/passwd"), "servers.0.versions.0.url: must be http(s)"),
    (version(url="http:///mcp"), "servers.0.versions.0.url: must be http(s)"),
    (version(url="http://me:hunter2@h/mcp"), "servers.0.versions.0.url: must be http(s)"),
    (version(url="http://h:99999/mcp"), "servers.0.versions.0.url: "),
    (version(url="http://[::1/mcp"), "servers.0.versions.0.url: "),
    (version(url="http://h/a b"), "servers.0.versions.0.url: "),
    (version(url=URL, transport="stdio"), "servers.0.versions.0.transport: Input should be 'auto'"),
    (version(url=URL, protocol="2025-11-26"), "servers.0.versions.0.protocol: Input should be 'auto'"),
    (version(url=URL, credentials={"strategy": "passthrough"}), "servers.0.versions.0.credentials.strategy: "),
    (version(url=URL, version=""), "servers.0.versions.0.version: "),
    (version(url=URL, version="a b"), "servers.0.versions.0.version: "),
    (version(command=[]), "servers.0.versions.0.command: "),
]


@pytest.mark.parametrize(("document", "begins"), WRONG, ids=[begins for _, begins in WRONG])
def test_a_wrong_value_is_refused_by_its_field_and_without_repeating_it(document: Any, begins: str) -> None:
    text = refusal(document)
    assert text.startswith(begins)
    assert "hunter2" not in text


def test_hosts_and_origins_are_taken_as_requests_name_them() -> None:
    hosts, origins = ["gw.example.com", "gw.example.com:443", "[::1]:8642"], ["https://a.example", "app://b:1"]
    section = parse({"gateway": {"allowed_hosts": hosts, "allowed_origins": origins}}).gateway
    assert (list(section.allowed_hosts), list(section.allowed_origins)) == (hosts, origins)


def test_every_wrong_field_is_named_at_once() -> None:
    text = refusal({"gateway": {"page_size": 0, "keep_alive": 0}, "servers": [server("X")]})
    assert all(field in text for field in ("gateway.page_size: ", "gateway.keep_alive: ", "servers.0.slug: "))


@pytest.mark.parametrize("document", [None, [], 5, "gateway", True, [{"slug": "one"}]])
def test_a_document_that_is_no_mapping_is_refused(document: Any) -> None:
    assert "must be a mapping" in refusal(document)


# --- files


def test_a_file_is_read_as_yaml_and_named_in_every_refusal(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump({"servers": [server()]}))
    assert load(path).servers[0].slug == "one"
    for text, expected in (
        ("servers: [", "is not YAML"),
        ("\x00", "is not YAML"),
        ("- one", "must be a mapping"),
        ("[]", "must be a mapping"),
        ("x: 1", "unknown key"),
        ("!!python/object/apply:os.getcwd []", "is not YAML"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigurationError) as refused:
            load(path)
        assert str(refused.value).startswith(f"{path}: ")
        assert expected in str(refused.value)


CLIENT_FILES: list[tuple[Any, str]] = [
    ([], "mcpServers: must be a mapping"),
    ({"a": 5}, "mcpServers.a: must be a mapping"),
    ({"a": {}}, "mcpServers.a: give exactly one of url and command"),
    ({"a": {"url": URL, "command": "x"}}, "mcpServers.a: give exactly one of url and command"),
    ({"a": {"url": URL, "headers": {"Authorization": "hunter2"}}}, "mcpServers.a.headers: static headers are not"),
    ({"a": {"command": "x", "args": "hunter2"}}, "mcpServers.a.args: must be a list"),
    ({"a": {"command": "x", "args": [5]}}, "servers.0.versions.0.command.1: "),
    ({"1": {"url": URL}}, "mcpServers.1: the name has no letter"),
    ({"Git Hub": {"url": URL}, "git-hub": {"url": URL}}, "mcpServers.git-hub: the name is too much like Git Hub"),
]


@pytest.mark.parametrize(("entries", "begins"), CLIENT_FILES, ids=[begins for _, begins in CLIENT_FILES])
def test_what_is_wrong_in_a_clients_file_is_named_as_that_file_has_it(entries: Any, begins: str) -> None:
    text = refusal({"mcpServers": entries})
    assert text.startswith(begins)
    assert "hunter2" not in text


def test_a_clients_file_is_a_configuration(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    entries = {
        "My GitHub Server": {"url": URL, "type": "http"},
        "old": {"url": URL, "type": "sse"},
        "files": {"command": "npx", "args": ["-y", "thing"], "env": {"A": "b"}, "cwd": "/data"},
        "bare": {"command": "run", "args": None, "env": None},
    }
    path.write_text(json.dumps({"mcpServers": entries}))
    github, old, files, bare = load(path).servers
    assert (github.slug, github.versions[0].url, github.versions[0].transport) == ("mygithubserv", URL, "auto")
    assert old.versions[0].transport == "sse"
    assert files.versions[0].command == ("npx", "-y", "thing")
    assert (files.versions[0].env, files.versions[0].cwd) == ({"A": "b"}, "/data")
    assert (bare.versions[0].command, bare.versions[0].env) == (("run",), {})


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("# nothing yet\n")
    assert load(path) == Settings()


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(ConfigurationError, match="cannot be read"):
            load(path)


def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ConfigurationError, match="is not YAML"):
        load(path)


# --- bind, environment, schema


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.8.9.10"])
def test_loopback_is_what_only_this_machine_reaches(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com", "", "localhost.evil.example"])
def test_everything_else_is_not_loopback(host: str) -> None:
    assert not is_loopback(host)


def bound(document: Any, host: str = "127.0.0.1") -> str:
    with pytest.raises(ConfigurationError) as refused:
        check_bind(parse(document), host)
    return str(refused.value)


def test_anonymous_access_is_refused_off_loopback_with_the_fix() -> None:
    open_door = {"gateway": {"authentication": {"mode": "anonymous"}}}
    check_bind(parse(open_door), "127.0.0.1")
    text = bound(open_door, "0.0.0.0")
    assert text.startswith("gateway.authentication.mode: ")
    assert "`required`" in text
    check_bind(parse({}), "0.0.0.0")


def test_a_command_is_refused_with_the_line_that_runs_it() -> None:
    text = bound(version(command=["npx", "-y", "some server"]))
    assert text.startswith("servers.one.versions.1.command: ")
    assert "mcp-gateway wrap --port P -- npx -y 'some server'" in text


def test_servers_of_the_file_are_refused_in_production() -> None:
    check_bind(parse({"gateway": {"mode": "production"}}), "127.0.0.1")
    check_bind(parse({"servers": [server()]}), "127.0.0.1")
    assert bound({"gateway": {"mode": "production"}, "servers": [server()]}).startswith("servers: ")


@pytest.mark.parametrize(("value", "found"), [({}, None), ({"MCP_GATEWAY_X": ""}, None), ({"MCP_GATEWAY_X": "y"}, "y")])
def test_a_secret_comes_from_the_environment_and_an_empty_one_is_none(value: dict[str, str], found: str | None) -> None:
    assert secret("X", value) == found
    assert secret("Y", value) is None


def test_the_published_schema_is_that_of_the_settings() -> None:
    published = Path(__file__).parents[2] / "docs" / "gateway.schema.json"
    assert published.read_text() == json_schema() + "\n"


def test_the_published_schema_knows_every_section_and_takes_no_other_key() -> None:
    schema = json.loads(json_schema())
    sections = [schema, *schema["$defs"].values()]
    assert all(section["additionalProperties"] is False for section in sections if "properties" in section)
    assert set(schema["properties"]) == {"gateway", "servers"}


TEXTS = st.dictionaries(st.sampled_from(["gateway", "servers", "mcpServers", "x"]), st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(
        st.sampled_from(["url", "command", "args", "env", "slug", "versions", "type", "cwd", "headers", "a"]), inner
    ),
    max_leaves=6,
))  # fmt: skip


@given(TEXTS)
def test_any_document_is_settings_or_a_refusal_and_never_a_crash(document: dict[str, Any]) -> None:
    try:
        found = parse(document)
    except ConfigurationError:
        return
    assert isinstance(found, Settings)


def test_settings_cannot_be_changed_once_they_are_read() -> None:
    for each in (configuration.Settings, configuration.GatewaySection, configuration.ServerSection):
        assert each.model_config.get("frozen") is True
