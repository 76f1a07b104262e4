"""Connections to PostgreSQL, and what its errors mean to the store."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import asyncpg

from pyncette.errors import ConfigurationError, SchemaError, StoreRefusedError, StoreUnavailableError
from pyncette.store.answers import Answer, LimitedLoop, is_too_large, too_large
from pyncette.store.postgres.url import SYSTEM, VERIFIED
from pyncette.store.sql.connections import CLOSE_SECONDS, Connections, RetryableError, keep_alive
from pyncette.store.tls import parameters_of

if TYPE_CHECKING:
    DriverConnection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    DriverConnection = asyncpg.Connection

Query: TypeAlias = tuple[Any, ...]
"""A statement and its arguments."""

PAYLOADS_MAX: Final = 10_000
"""Notifications that wait to be read. Beyond it the oldest are lost, which a notification may be."""

PAYLOAD_BYTES_MAX: Final = 7_999
"""PostgreSQL refuses longer payloads of a notification."""

OLDEST_VERSION: Final = 13
"""The oldest server that supports all statements."""

URL_FORM: Final = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE"


class Connection(DriverConnection):
    """A connection of the driver that is closed once an answer is too large."""

    __slots__ = ("answer",)

    def __init__(self, protocol: Any, transport: Any, loop: Any, *settings: Any) -> None:
        super().__init__(protocol, transport, loop.loop, *settings)
        self.answer: Final[Answer] = loop.answer


class PostgresConnections(Connections[Connection, Query]):
    """
    A pool of connections to the server at *url*, each set up by the statement *session*.

    Each connection uses the URL that *current_url* returns by then, if it is given: the same server and database, with
    the credentials that are valid now. See `Connections`.
    """

    _driver_errors = (
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,  # also raised for a connection that was closed between two statements
        OSError,
        TimeoutError,
    )

    def __init__(
        self,
        url: str,
        session: str,
        on_lost: Callable[[], None] = lambda: None,
        *,
        current_url: Callable[[], str] | None = None,
        **limits: float,
    ) -> None:
        super().__init__(place_of(url), on_lost, **limits)
        self._url = current_url or (lambda: url)
        self._session = session

    async def rows(self, query: Query) -> list[Any]:
        rows: list[Any] = await self._exchange(query)
        return rows

    async def run_script(self, script: str, seconds: float) -> None:
        async with self._dedicated() as connection:
            try:
                async with asyncio.timeout(seconds):
                    await connection.execute(f"SET statement_timeout = 0; {script}")
            except self._driver_errors as error:
                raise self._translated(error, seconds) from error

    async def listen(self, channel: str) -> AsyncIterator[str]:
        """Yield the payloads of *channel*, from now on. Raises StoreUnavailableError when the connection is lost."""
        payloads: deque[str] = deque(maxlen=PAYLOADS_MAX)
        wake_up = asyncio.Event()

        def receive(*notification: Any) -> None:
            connection.answer.begin()
            if len(notification[-1]) <= PAYLOAD_BYTES_MAX:
                payloads.append(notification[-1])
                wake_up.set()

        async with self._dedicated() as connection:
            connection.add_termination_listener(lambda _: wake_up.set())
            try:
                async with asyncio.timeout(self._answer_seconds):
                    await connection.add_listener(channel, receive)
            except self._driver_errors as error:
                raise self._translated(error, self._answer_seconds) from error
            while not connection.is_closed():
                while payloads:
                    yield payloads.popleft()
                wake_up.clear()
                await wake_up.wait()
        if connection.answer.is_too_large:
            raise too_large(self.place)
        raise StoreUnavailableError(f"{self.place} closed the connection that listened for notifications")

    async def _open(self) -> Connection:
        try:
            url = self._url()
            connection = await asyncpg.connect(
                url,
                ssl=_tls_of(url),
                timeout=self._connect_seconds,
                max_cached_statement_lifetime=0,
                connection_class=Connection,
                loop=LimitedLoop(asyncio.get_running_loop()).as_loop(),
            )
        except OSError:
            raise
        except ValueError:
            # The driver's message may repeat a part of the URL, and so of a password.
            raise ConfigurationError(f"the URL of PostgreSQL is invalid; write {URL_FORM}") from None
        try:
            await connection.execute(self._session)
        except BaseException:
            connection.terminate()
            raise
        if connection.get_server_version().major < OLDEST_VERSION:
            connection.terminate()
            raise StoreRefusedError(f"{self.place} is older than PostgreSQL {OLDEST_VERSION}")
        keep_alive(connection)
        return connection

    async def _run(self, connection: Connection, request: Query, seconds: float) -> list[Any]:
        # A timeout by cancellation would make the driver connect again, to cancel the statement.
        loop = asyncio.get_running_loop()
        watchdog = loop.call_later(seconds, connection.terminate)
        connection.answer.begin()
        try:
            return await connection.fetch(*request)
        except Exception as error:
            if loop.time() >= watchdog.when():
                raise TimeoutError from error
            raise
        finally:
            watchdog.cancel()

    async def _close(self, connection: Connection) -> None:
        await connection.close(timeout=CLOSE_SECONDS)

    @staticmethod
    def _terminate(connection: Connection) -> None:
        connection.terminate()

    @staticmethod
    def _is_broken(connection: Connection) -> bool:
        return connection.is_closed()

    async def _is_reusable_after(self, error: BaseException, connection: Connection) -> bool:
        return (
            isinstance(error, asyncpg.PostgresError) and not _is_outage(error) and not connection.is_closed()
        )

    def _translate(self, error: BaseException) -> Exception:
        return translate_error(error, self.place)

    @contextlib.asynccontextmanager
    async def _dedicated(self) -> AsyncIterator[Connection]:
        """Yield a connection of its own, outside of the pool."""
        connection = await self._connect()
        try:
            yield connection
        finally:
            connection.terminate()


def translate_error(error: BaseException, place: str) -> Exception:
    """Return the error of the store that the driver's *error* stands for, as one sentence without a password."""
    if is_too_large(error):
        return too_large(place)
    if isinstance(error, asyncpg.InterfaceError | asyncpg.PostgresConnectionError) and isinstance(
        error.__cause__, asyncpg.PostgresError
    ):
        return translate_error(error.__cause__, place)  # what the server said before it closed the connection
    message = _message_of(error)
    if isinstance(error, asyncpg.DeadlockDetectedError | asyncpg.SerializationError):
        return RetryableError(message)
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
        return StoreRefusedError(
            f"{place}: authentication failed: {message}. Check the user and the password"
        )
    if isinstance(error, asyncpg.InvalidCatalogNameError):
        return StoreRefusedError(
            f"{place}: database not found: {message}. Create it, or name another one in the URL"
        )
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return StoreRefusedError(f"{place}: permission denied: {message}. Grant the right to this user")
    if isinstance(error, asyncpg.UndefinedTableError | asyncpg.UndefinedColumnError):
        return SchemaError(f"The tables in {place} are missing, or do not match this release: {message}")
    if isinstance(error, ssl.SSLCertVerificationError):
        return StoreRefusedError(f"{place}: the certificate is not trusted: {message}")
    if isinstance(error, asyncpg.PostgresError) and not _is_outage(error):
        return StoreRefusedError(f"{place} refused: {message}")
    return StoreUnavailableError(f"{place} does not answer: {message}")


def place_of(url: str) -> str:
    """Return the server and the database that *url* names, without a password; in doubt neither."""
    match = re.fullmatch(r"postgres(?:ql)?://(?:[^@/?#]*@)?([\w.,:\[\]-]*(?:/[\w-]*)?)(?:\?[^@]*)?", url)
    return f"PostgreSQL at {match[1]}" if match and match[1] else "PostgreSQL"


def _tls_of(url: str) -> ssl.SSLContext | Literal["verify-full"] | None:
    """
    Return the TLS settings of *url*; None: those that the driver reads in it.

    A *url* that trusts the authorities of the system needs a context of its own. The mode that verifies is named to the
    driver as well, so that it holds however the driver reads the *url*.
    """
    given = parameters_of(url)
    if given.get("sslrootcert") != SYSTEM:
        return VERIFIED if given.get("sslmode") == VERIFIED else None
    context = ssl.create_default_context()
    if certificate := given.get("sslcert"):
        context.load_cert_chain(certificate, given.get("sslkey"), lambda: given.get("sslpassword", ""))
    return context


def _is_outage(error: asyncpg.PostgresError) -> bool:
    """
    Return whether *error* is about the server's state, and may pass.

    08 is the connection, 53 a lack of memory, disk or connections, 57 an operator (shutdown, start, a cancelled
    statement), 58 the system below, 55P03 a lock, 25006 a read-only server: a standby, or a former primary.
    """
    state = error.sqlstate or ""
    return state[:2] in {"08", "53", "57", "58", "XX"} or state in {"55P03", "25006"}


def _message_of(error: BaseException) -> str:
    if isinstance(error, asyncpg.PostgresError):
        return str(error.args[0]) if error.args else type(error).__name__
    return str(error) or type(error).__name__
