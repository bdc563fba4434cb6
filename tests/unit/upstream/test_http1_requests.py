"""What is sent to an upstream, what is never sent, and to whom a connection is made."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import socket
import ssl
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.upstream import http1
from gateway.upstream.http1 import NotConnected, Origin
from tests.support.calls import until
from tests.support.peer import LOOPS, SECONDS, TLS, Side, ask, fetch, ok, origin_of, peer, read, serving


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


# What is sent


async def test_a_request_is_its_line_the_host_the_headers_and_a_body_of_declared_length() -> None:
    async with peer(serving(ok(b""))) as server, origin_of(server) as origin:
        headers = {"accept": "application/json", "mcp-session-id": 'a b;c="d"'}
        for body in (b"{}", b"", None):
            await read(await origin.request("POST" if body is not None else "GET", "/mcp?a=b&c=%20", headers, body))
    lines = (
        b"%s /mcp?a=b&c=%%20 HTTP/1.1\r\nhost: " + server.authority.encode() + b"\r\naccept-encoding: identity\r\n"
        b'accept: application/json\r\nmcp-session-id: a b;c="d"\r\n'
    )
    assert server.requests == [
        lines % b"POST" + b"content-length: 2\r\n\r\n{}",
        lines % b"POST" + b"content-length: 0\r\n\r\n",
        lines % b"GET" + b"\r\n",
    ]


async def test_a_large_body_arrives_whole() -> None:
    body = bytes(range(256)) * 32768
    async with peer(serving(ok(b"thanks"))) as server, origin_of(server) as origin:
        assert await fetch(origin, body) == (200, b"thanks")
        assert server.requests[0].partition(b"\r\n\r\n")[2] == body


async def test_an_answer_given_before_the_body_was_taken_is_an_answer() -> None:
    async def act(side: Side) -> None:
        await side.reader.readuntil(b"\r\n\r\n")
        await side.send(ok(b"too large", b"connection: close", status=b"413 Content Too Large"))
        await side.gone()

    async with peer(act) as server, origin_of(server) as origin:
        assert await fetch(origin, bytes(20_000_000)) == (413, b"too large")
        async with asyncio.timeout(SECONDS):
            await server.sides[0].ended.wait()


FORBIDDEN = [
    "a\r\nx-injected: y",
    "a\nb",
    "a\rb",
    "a\0b",
    "a\x0bb",
    "a\x1bb",
    "a\x7fb",
    "a\tb",
    "caf\xe9",
    "\u010a",
    "\ud800",
]


@pytest.mark.parametrize("text", FORBIDDEN)
async def test_a_header_that_could_be_read_as_more_than_one_is_refused_before_anything_is_sent(text: str) -> None:
    async with peer(serving(ok(b"one"))) as server, origin_of(server) as origin:
        for _ in range(2):  # without a connection, and with an unused one
            for headers in ({"x-value": text}, {f"x-{text}": "name"}):
                with pytest.raises(ValueError, match=r"header|encode"):
                    await origin.request("POST", "/mcp", headers, b"{}")
            with pytest.raises(ValueError, match=r"header|encode"):
                await origin.request("POST", f"/mcp?{text}", {}, b"{}")
            assert await fetch(origin) == (200, b"one")
        assert len(server.sides) == 1
        assert len(server.requests) == 2
        assert len(origin._all) == 1


async def test_a_target_cannot_end_its_line_early() -> None:
    async with peer(serving(ok(b"one"))) as server, origin_of(server) as origin:
        with pytest.raises(ValueError, match="target"):
            await ask(origin, target="/mcp HTTP/1.1 /other")
        assert not server.sides


# To whom


@pytest.mark.parametrize(
    ("url", "authority", "port"),
    [
        ("http://h/mcp", "h", 80),
        ("https://h/mcp", "h", 443),
        ("http://h:8080/mcp", "h:8080", 8080),
        ("http://[::1]/mcp", "[::1]", 80),
        ("http://[::1]:8080/mcp", "[::1]:8080", 8080),
        ("http://user:secret@h:8080/mcp", "h:8080", 8080),
    ],
)
def test_the_host_header_is_the_authority_without_credentials(url: str, authority: str, port: int) -> None:
    origin = Origin(url, TLS)
    assert (origin._authority, origin._port) == (authority, port)


async def test_an_ipv6_address_is_reached_and_named_in_brackets() -> None:
    async with peer(serving(ok(b"six")), host="::1") as server, origin_of(server) as origin:
        assert await fetch(origin) == (200, b"six")
        assert f"host: {server.authority}\r\n".encode() in server.requests[0]
        assert server.authority.startswith("[::1]:")


async def test_where_nobody_listens_nothing_was_sent() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        origin = Origin(f"http://127.0.0.1:{bound.getsockname()[1]}/mcp", TLS)
        with pytest.raises(NotConnected):
            await ask(origin)
        with pytest.raises(NotConnected):
            await ask(Origin(f"http://{'a' * 64}.test/mcp", TLS))  # no name at all


async def test_a_host_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "CONNECT_SECONDS", 0.1)
    with ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):  # its queue is full: what comes now is dropped, as by a host that is gone
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        origin = Origin(f"http://127.0.0.1:{full.getsockname()[1]}/mcp", TLS)
        with pytest.raises(NotConnected):
            await ask(origin)
        assert not origin._all


async def test_cancelling_while_connecting_leaves_nothing_behind() -> None:
    async def silent(side: Side) -> None:
        await side.gone()

    async with peer(silent) as server:
        origin = Origin(server.url.replace("http:", "https:"), TLS)
        task = asyncio.create_task(ask(origin))
        await until(lambda: server.sides)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(SECONDS):
            await server.sides[0].ended.wait()
        assert not origin._all


# TLS


@dataclass(frozen=True)
class Authority:
    """A certificate authority of the test's own, and a server with a certificate of it for `localhost` alone."""

    server: ssl.SSLContext
    trusting: ssl.SSLContext


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    folder: Path = tmp_path_factory.mktemp("tls")
    now = dt.datetime.now(dt.UTC)
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test root")])

    def certificate(name: x509.Name, of: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        made = x509.CertificateBuilder(issuer_name=root_name, subject_name=name, public_key=of.public_key())
        made = made.serial_number(x509.random_serial_number())
        made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(of.public_key()), critical=False)
        made = made.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False
        )
        return made.not_valid_before(now - dt.timedelta(hours=1)).not_valid_after(now + dt.timedelta(1))

    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
    )
    signs = x509.KeyUsage(digital_signature=False, key_cert_sign=True, crl_sign=True, decipher_only=False, **usage)
    root = certificate(root_name, root_key).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    signed_root = root.add_extension(signs, critical=True).sign(root_key, hashes.SHA256())
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("::1"))])
    leaf = certificate(x509.Name([]), key).add_extension(names, critical=True).sign(root_key, hashes.SHA256())
    chain, secret, trusted = folder / "chain.pem", folder / "key.pem", folder / "root.pem"
    chain.write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    trusted.write_bytes(signed_root.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(chain, secret)
    return Authority(server, ssl.create_default_context(cafile=str(trusted)))


async def test_a_trusted_server_is_spoken_to_over_one_connection(authority: Authority) -> None:
    async with (
        peer(serving(ok(b"one")), tls=authority.server) as server,
        origin_of(server, authority.trusting, name="localhost") as origin,
    ):
        for _ in range(3):
            assert await fetch(origin) == (200, b"one")
        assert len(server.sides) == 1
        origin.close()
        async with asyncio.timeout(SECONDS):
            await server.sides[0].ended.wait()


async def test_a_body_without_a_length_ends_with_the_connection_over_tls_too(authority: Authority) -> None:
    async def act(side: Side) -> None:
        await side.request()
        await side.send(b"HTTP/1.1 200 OK\r\n\r\n" + b"to the end" * 10_000)

    async with (
        peer(act, tls=authority.server) as server,
        origin_of(server, authority.trusting, name="localhost") as origin,
    ):
        assert await fetch(origin) == (200, b"to the end" * 10_000)


@pytest.mark.parametrize("wrong", ["name", "authority"])
async def test_a_server_that_cannot_prove_its_name_is_told_nothing(authority: Authority, wrong: str) -> None:
    trusting = ssl.create_default_context() if wrong == "authority" else authority.trusting
    name = "127.0.0.1" if wrong == "name" else "localhost"
    async with peer(serving(ok(b"one")), tls=authority.server) as server:
        origin = Origin(server.url.replace("http:", "https:").replace("127.0.0.1", name), trusting)
        with pytest.raises(NotConnected):
            await ask(origin)
        assert server.requests == []
        assert not origin._all


async def test_a_handshake_that_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "CONNECT_SECONDS", 0.1)

    async def silent(side: Side) -> None:
        await side.gone()

    async with peer(silent) as server:
        with pytest.raises(NotConnected):
            await ask(Origin(server.url.replace("http:", "https:"), TLS))
        async with asyncio.timeout(SECONDS):
            await server.sides[0].ended.wait()
