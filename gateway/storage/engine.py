"""Connections to Postgres: one dialect, asyncpg under SQLAlchemy Core.

Whatever keeps Postgres from answering becomes `StorageUnavailable` here; what an operator must mend becomes
`ConfigurationError`; any other database error is a fault of ours and passes as it is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import asyncpg
from sqlalchemy import event, exc
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from gateway.errors import ConfigurationError, StorageUnavailable

SETTING = "MCP_GATEWAY_DATABASE_URL"

_SCHEMES = ("postgresql://", "postgres://", "postgresql+asyncpg://")
_CONNECT_SECONDS = 3.0
# Classes and codes of SQLSTATE (PostgreSQL documentation, appendix A) that mean "not now".
_NOT_NOW = ("08", "53", "57P", "25006", "57014", "55P03", "40001", "40P01")
_WRONG_SETTING = ("28", "3D000")
_NO_TABLE = "42P01"


class Database:
    """A pool of connections to one Postgres.

    The URL is libpq's: `postgresql://` or `postgres://`, a Unix socket as `?host=/folder`, `sslmode` and its kin.
    Connecting happens at first use. A statement that takes longer than `command_timeout` seconds is given up.
    """

    def __init__(self, url: str, *, pool_size: int = 10, command_timeout: float | None = 10.0) -> None:
        scheme = next((scheme for scheme in _SCHEMES if url.startswith(scheme)), None)
        if scheme is None:
            raise ConfigurationError(
                f"{SETTING}: is no PostgreSQL URL; write postgresql://user:password@host:5432/database"
            )
        self._dsn = "postgresql://" + url.removeprefix(scheme)
        self._command_timeout = command_timeout
        self._engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=self._connect,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=5.0,
        )
        self._autocommit = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        event.listen(self._engine.sync_engine, "checkout", _refuse_closed)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """A transaction: committed at the end, rolled back by an exception. Raises StorageUnavailable."""
        with _translated():
            async with self._engine.begin() as connection:
                yield connection

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncConnection]:
        """A connection on which every statement is its own transaction. Raises StorageUnavailable."""
        with _translated():
            async with self._autocommit.connect() as connection:
                yield connection

    async def connect_apart(self) -> asyncpg.Connection:
        """A connection outside the pool, to be closed by the caller. Raises StorageUnavailable."""
        with _translated():
            return await self._connect()

    async def dispose(self) -> None:
        """Closes the pool."""
        await self._engine.dispose()

    async def _connect(self) -> asyncpg.Connection:
        try:
            return await asyncpg.connect(
                self._dsn,
                timeout=_CONNECT_SECONDS,
                command_timeout=self._command_timeout,
                server_settings={"application_name": "mcp-gateway"},
            )
        except (ValueError, asyncpg.ClientConfigurationError) as error:
            # The URL's own words may repeat the password, so they are not passed on.
            raise ConfigurationError(
                f"{SETTING}: cannot be understood ({type(error).__name__}); "
                "write postgresql://user:password@host:5432/database, special characters percent-encoded"
            ) from None


def _refuse_closed(dbapi_connection: Any, _record: Any, _proxy: Any) -> None:
    # After a restart of Postgres the pool is full of connections whose end has been seen already. The pool answers
    # this by connecting anew, so that a restart costs no caller an error and no look-up a round trip.
    if dbapi_connection.driver_connection.is_closed():
        raise exc.DisconnectionError("closed by the server")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (OSError, TimeoutError, exc.TimeoutError) as error:
        raise StorageUnavailable(f"Postgres does not answer ({type(error).__name__}).") from error
    except exc.DBAPIError as error:
        _raise_for(error, error.orig or error, closed=error.connection_invalidated)
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        _raise_for(error, error, closed=isinstance(error, asyncpg.InterfaceError))


def _raise_for(error: Exception, cause: BaseException, *, closed: bool) -> None:
    code = str(getattr(cause, "sqlstate", None) or "")
    if closed or code.startswith(_NOT_NOW) or isinstance(cause.__cause__, (OSError, asyncpg.InterfaceError)):
        raise StorageUnavailable(f"Postgres does not answer ({code or type(cause).__name__}).") from error
    if code.startswith(_WRONG_SETTING):
        raise ConfigurationError(
            f"{SETTING}: Postgres refuses the user, the password or the database ({code}); correct the URL"
        ) from error
    if code == _NO_TABLE:
        raise ConfigurationError(
            f"{SETTING}: the database lacks the gateway's tables; run `mcp-gateway db upgrade`"
        ) from error
    raise error
