"""The smallest image and sound that decode, and the content blocks that carry them."""

import base64
import struct
import zlib

import mcp_types as types


def _png() -> bytes:
    """One red pixel: signature, header, one filtered scan line, end."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\x00\xff\x00\x00"))
        + chunk(b"IEND", b"")
    )


def _wav() -> bytes:
    """Eight silent samples, 8-bit mono at 8 kHz."""
    samples = b"\x80" * 8
    layout = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 8000, 8000, 1, 8)
    return (
        struct.pack("<4sI4s", b"RIFF", 4 + len(layout) + 8 + len(samples), b"WAVE")
        + layout
        + struct.pack("<4sI", b"data", len(samples))
        + samples
    )


PNG = base64.b64encode(_png()).decode()
WAV = base64.b64encode(_wav()).decode()


def text(words: str) -> types.TextContent:
    return types.TextContent(text=words)


def image() -> types.ImageContent:
    return types.ImageContent(data=PNG, mime_type="image/png")


def audio() -> types.AudioContent:
    return types.AudioContent(data=WAV, mime_type="audio/wav")


def embedded(uri: str, words: str, mime_type: str = "text/plain") -> types.EmbeddedResource:
    return types.EmbeddedResource(resource=types.TextResourceContents(uri=uri, mime_type=mime_type, text=words))
