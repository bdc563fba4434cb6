"""A library: an MCP server of revision 2026-07-28, without sessions.

python -m samples.library --port 9001
"""

import struct
import zlib
from collections import Counter
from typing import Annotated

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import Context, Elicit, Image, MCPServer, Resolve
from mcp.server.mcpserver.exceptions import ResourceNotFoundError, ToolError
from mcp_types import (
    Completion,
    CompletionArgument,
    CompletionContext,
    PromptReference,
    ResourceTemplateReference,
    ToolAnnotations,
)
from pydantic import BaseModel, Field
from starlette.types import ASGIApp

from samples.serving import OneEra, run


class Book(BaseModel):
    id: str
    title: str
    author: str
    year: int
    shelf: str
    copies: int = Field(description="Copies on the shelf now.")


class Loan(BaseModel):
    book: str
    reader: str


class LibraryCard(BaseModel):
    reader: str = Field(description="The name on the library card.")


BOOKS = {
    book.id: book
    for book in (
        Book(id="frankenstein", title="Frankenstein", author="Mary Shelley", year=1818, shelf="novels", copies=2),
        Book(id="emma", title="Emma", author="Jane Austen", year=1815, shelf="novels", copies=1),
        Book(id="notes-on-the-engine", title="Notes on the Analytical Engine", author="Ada Lovelace", year=1843,
             shelf="science", copies=1),
        Book(id="on-the-origin", title="On the Origin of Species", author="Charles Darwin", year=1859,
             shelf="science", copies=3),
    )
}  # fmt: skip
loans: list[Loan] = []
calls: Counter[str] = Counter()
"""Tool calls by name; a call in two rounds counts twice, and lends once."""


async def count_calls(ctx: ServerRequestContext[None], call_next: CallNext) -> HandlerResult:
    if ctx.method == "tools/call" and ctx.params:
        calls[str(ctx.params.get("name"))] += 1
    return await call_next(ctx)


server = MCPServer(
    "library",
    title="Town library",
    version="1.0",
    instructions="Find books with find_books; borrow_book asks for the library card.",
    log_level="WARNING",
    middleware=[count_calls],
)
READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)


def book_of(book_id: str) -> Book:
    if book_id not in BOOKS:
        raise ToolError(f"There is no book {book_id!r}. find_books lists the ids.")
    return BOOKS[book_id]


@server.tool(annotations=READS)
def find_books(query: str = "") -> list[Book]:
    """Find books by a part of their title or author; without a query, all of them."""
    wanted = query.casefold()
    return [book for book in BOOKS.values() if wanted in f"{book.title} {book.author}".casefold()]


def ask_for_card() -> Elicit[LibraryCard]:
    return Elicit("Whose library card shall be used?", LibraryCard)


@server.tool(annotations=ToolAnnotations(destructive_hint=False))
def borrow_book(book_id: str, card: Annotated[LibraryCard, Resolve(ask_for_card)]) -> Loan:
    """Borrow a book. The reader is asked for the name on the card: the first round ends with InputRequiredResult."""
    book = book_of(book_id)
    if book.copies == 0:
        raise ToolError(f"All copies of {book.title} are lent.")
    book.copies -= 1
    loans.append(Loan(book=book_id, reader=card.reader))
    return loans[-1]


@server.tool(annotations=READS)
async def take_inventory(context: Context[None]) -> dict[str, int]:
    """Count the copies on each shelf, book by book, with progress."""
    shelves: Counter[str] = Counter()
    for number, book in enumerate(BOOKS.values(), start=1):
        shelves[book.shelf] += book.copies
        await context.report_progress(number, len(BOOKS), book.title)
    return dict(shelves)


@server.tool(annotations=READS)
def cover(book_id: str) -> list[str | Image]:
    """The cover of a book, an image of one colour."""
    book = book_of(book_id)
    return [f"{book.title}, bound in cloth", Image(data=plain_png(zlib.crc32(book.id.encode())), format="png")]


@server.tool(annotations=READS)
def call_counts() -> dict[str, int]:
    """How often each tool was called since the start."""
    return dict(calls)


@server.resource("library://opening-hours", mime_type="text/plain")
def opening_hours() -> str:
    """When the library is open."""
    return "Tuesday to Saturday, 10 to 18 o'clock"


@server.resource("library://loans", mime_type="application/json")
def open_loans() -> list[Loan]:
    """Who has borrowed what."""
    return loans


@server.resource("library://books/{book_id}", mime_type="application/json")
def book_card(book_id: str) -> Book:
    """The catalogue card of one book."""
    if book_id not in BOOKS:
        raise ResourceNotFoundError(f"There is no book {book_id!r}")
    return BOOKS[book_id]


@server.prompt()
def recommend(shelf: str) -> str:
    """Ask for a recommendation from a shelf."""
    titles = ", ".join(book.title for book in BOOKS.values() if book.shelf == shelf)
    return f"These books stand on the shelf {shelf!r}: {titles}. Recommend one of them to me, in two sentences."


@server.completion()  # type: ignore[no-untyped-call, untyped-decorator]
async def complete(
    reference: PromptReference | ResourceTemplateReference, argument: CompletionArgument, _: CompletionContext | None
) -> Completion:
    known = {book.shelf for book in BOOKS.values()} if isinstance(reference, PromptReference) else set(BOOKS)
    return Completion(values=sorted(value for value in known if value.startswith(argument.value)))


def plain_png(colour: int, side: int = 32) -> bytes:
    """A square of the colour in the low 24 bits."""
    row = b"\0" + (colour & 0xFFFFFF).to_bytes(3, "big") * side
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(row * side)))
    written = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in (*chunks, (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def build() -> ASGIApp:
    return OneEra(server.streamable_http_app(), modern=True)


if __name__ == "__main__":
    run(build())
