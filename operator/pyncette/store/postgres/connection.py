"""Connections to PostgreSQL: few, opened when needed, given up when they do not answer; its errors become ours."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import asyncpg

from pyncette.errors import ConfigurationError, SchemaError, StoreRefusedError, StoreUnavailableError

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]

CONNECTIONS_MAX: Final = 4
"""A worker claims, completes, starts and answers calls at the same time; more would only wait for each other."""

CONNECT_SECONDS: Final = 10.0
"""A server that has not let us in by then is down, or so busy that it makes no difference."""

ANSWER_SECONDS: Final = 12.0
"""The server ends each statement after ten seconds, see `SESSION`; without an answer by then it is out of reach."""

PART_SECONDS: Final = 2.0
"""How long a goodbye may take."""

IDLE_SECONDS: Final = 60.0
"""A connection that a burst needed is closed when it was not needed again for this long: servers allow few."""

HEARD_MAX: Final = 10_000
"""Payloads that wait to be read; beyond it the oldest are lost, which a notification may be."""

OLDEST_VERSION: Final = 13
"""The oldest server that has all that the statements use."""

KEEPALIVE: Final = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""A connection that only listens learns within half a minute that its server is gone."""

URL_FORM: Final = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE"

_DRIVER_ERRORS: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # also what it says of a connection that was closed between two statements
    OSError,
    TimeoutError,
)


class TryAgainError(Exception):
    """The server undid the statement, since it and another one waited for each other: the same may work now."""


class Connections:
    """
    At most `CONNECTIONS_MAX` connections, each set up by the statement *session*; *lost* is called when one broke.

    Each is made to the URL that *renewed* returns by then, if it is given: the same place, with other credentials.
    What is not answered within *answer_seconds* is given up, with its connection.
    """

    def __init__(
        self,
        url: str,
        session: str,
        lost: Callable[[], None] = lambda: None,
        *,
        renewed: Callable[[], str] | None = None,
        connect_seconds: float = CONNECT_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self._connect_seconds = connect_seconds
        self._answer_seconds = answer_seconds
        self._url = renewed or (lambda: url)
        self._session = session
        self._lost = lost
        self._slots = asyncio.Semaphore(CONNECTIONS_MAX)
        self._idle: list[tuple[Connection, float]] = []
        self._closed = False
        self.place = place_of(url)

    async def fetch(self, statement: str, *arguments: Any) -> list[Any]:
        """
        Run one statement, which commits by itself, and return its rows.

        Raises StoreUnavailableError, StoreRefusedError, SchemaError, TryAgainError. A connection whose state is not
        known for sure is never used again: that of a call that was cancelled, or not answered.
        """
        async with self._slots:
            connection = await self._take()
            loop = asyncio.get_running_loop()
            watchdog = loop.call_later(self._answer_seconds, connection.terminate)
            try:
                rows = await connection.fetch(statement, *arguments)
            except Exception as error:
                # The driver may stumble, in whatever way, over a connection that is terminated under its feet.
                if not isinstance(error, _DRIVER_ERRORS) and not connection.is_closed():
                    connection.terminate()
                    raise
                self._after(error, connection)
                if loop.time() >= watchdog.when():
                    raise _too_slow(self.place, self._answer_seconds) from error
                raise named(error, self.place) from error
            except BaseException:
                connection.terminate()
                raise
            finally:
                watchdog.cancel()
            self._give_back(connection)
            return rows

    async def run_script(self, script: str, seconds: float) -> None:
        """Run statements, separated by semicolons, as one transaction and in one round trip."""
        async with self._own() as connection:
            try:
                async with asyncio.timeout(seconds):
                    await connection.execute(f"SET statement_timeout = 0; {script}")
            except TimeoutError as error:
                raise _too_slow(self.place, seconds) from error
            except _DRIVER_ERRORS as error:
                raise named(error, self.place) from error

    async def listen(self, channel: str) -> AsyncIterator[str]:
        """Yield the payloads of *channel*, from now on. Raises StoreUnavailableError when the connection is lost."""
        heard: deque[str] = deque(maxlen=HEARD_MAX)
        woken = asyncio.Event()

        def hear(*notification: Any) -> None:
            heard.append(notification[-1])
            woken.set()

        async with self._own() as connection:
            connection.add_termination_listener(lambda _: woken.set())
            try:
                async with asyncio.timeout(self._answer_seconds):
                    await connection.add_listener(channel, hear)
            except TimeoutError as error:
                raise _too_slow(self.place, self._answer_seconds) from error
            except _DRIVER_ERRORS as error:
                raise named(error, self.place) from error
            while not connection.is_closed():
                while heard:
                    yield heard.popleft()
                woken.clear()
                await woken.wait()
        raise StoreUnavailableError(f"{self.place} ended the connection that listened")

    async def close(self) -> None:
        """Say goodbye on each connection; one that is still in use goes without, after its answer."""
        self._closed = True
        parting = [connection for connection, _ in self._idle]
        self._idle.clear()
        for connection in parting:
            await _part(connection)

    async def _take(self) -> Connection:
        while self._idle:
            connection, _ = self._idle.pop()
            if not connection.is_closed():
                return connection
            self._lost()
        return await self._connect()

    def _give_back(self, connection: Connection) -> None:
        """The latest used is the next to be used, so those that a burst needed grow old at the other end."""
        if self._closed:
            connection.terminate()
            return
        now = time.monotonic()
        if self._idle and self._idle[0][1] < now - IDLE_SECONDS:
            self._idle.pop(0)[0].terminate()
        self._idle.append((connection, now))

    def _after(self, error: BaseException, connection: Connection) -> None:
        """Keep the connection if the server merely said no; else expect no more of the others than of this one."""
        if isinstance(error, asyncpg.PostgresError) and not _is_away(error) and not connection.is_closed():
            self._give_back(connection)
            return
        connection.terminate()
        while self._idle:
            self._idle.pop()[0].terminate()
        self._lost()

    async def _connect(self) -> Connection:
        try:
            async with asyncio.timeout(self._connect_seconds):
                connection = await asyncpg.connect(
                    self._url(), timeout=self._connect_seconds, max_cached_statement_lifetime=0
                )
                try:
                    await connection.execute(self._session)
                except BaseException:
                    connection.terminate()
                    raise
        except TimeoutError as error:
            raise _too_slow(self.place, self._connect_seconds) from error
        except (asyncpg.PostgresError, OSError) as error:
            raise named(error, self.place) from error
        except ValueError:
            # The driver's own words may repeat a part of the URL, and so of a password.
            raise ConfigurationError(f"the URL of PostgreSQL cannot be used; write {URL_FORM}") from None
        except _DRIVER_ERRORS as error:
            raise named(error, self.place) from error
        if connection.get_server_version().major < OLDEST_VERSION:
            connection.terminate()
            raise StoreRefusedError(f"{self.place} is older than PostgreSQL {OLDEST_VERSION}")
        _keep_alive(connection)
        return connection

    @contextlib.asynccontextmanager
    async def _own(self) -> AsyncIterator[Connection]:
        connection = await self._connect()
        try:
            yield connection
        finally:
            connection.terminate()


def named(error: BaseException, place: str) -> Exception:
    """Return what the driver's *error* is to us, as one sentence without a password."""
    if isinstance(error, asyncpg.InterfaceError | asyncpg.PostgresConnectionError) and isinstance(
        error.__cause__, asyncpg.PostgresError
    ):
        return named(error.__cause__, place)  # what the server said before it hung up
    said = _words_of(error)
    if isinstance(error, asyncpg.DeadlockDetectedError | asyncpg.SerializationError):
        return TryAgainError(said)
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
        return StoreRefusedError(f"{place} lets us not in: {said}. Check the user and the password")
    if isinstance(error, asyncpg.InvalidCatalogNameError):
        return StoreRefusedError(
            f"{place} has no such database: {said}. Create it, or name another one in the URL"
        )
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return StoreRefusedError(f"{place} lets this user not do it: {said}. Grant the right")
    if isinstance(error, asyncpg.UndefinedTableError | asyncpg.UndefinedColumnError):
        return SchemaError(f"The tables in {place} are gone, or not as this release knows them: {said}")
    if isinstance(error, ssl.SSLCertVerificationError):
        return StoreRefusedError(f"{place} cannot be trusted: {said}")
    if isinstance(error, asyncpg.PostgresError) and not _is_away(error):
        return StoreRefusedError(f"{place} refused: {said}")
    return StoreUnavailableError(f"{place} does not answer: {said}")


def _too_slow(place: str, seconds: float) -> StoreUnavailableError:
    return StoreUnavailableError(f"{place} does not answer: nothing came within {seconds:g} seconds")


def place_of(url: str) -> str:
    """Return what may be said of *url*: the server and the database, never a password, in doubt nothing."""
    match = re.fullmatch(r"postgres(?:ql)?://(?:[^@/?#]*@)?([\w.,:\[\]-]*(?:/[\w-]*)?)(?:\?[^@]*)?", url)
    return f"PostgreSQL at {match[1]}" if match and match[1] else "PostgreSQL"


def _is_away(error: asyncpg.PostgresError) -> bool:
    """
    Say whether *error* is about the server's state, and may be gone in a while.

    08 is the connection, 53 a lack of memory, disk or connections, 57 an operator (shutdown, start, a cancelled
    statement), 58 the system below, 55P03 a lock, 25006 a server that only reads: one that is no primary (any more).
    """
    state = error.sqlstate or ""
    return state[:2] in {"08", "53", "57", "58", "XX"} or state in {"55P03", "25006"}


def _words_of(error: BaseException) -> str:
    if isinstance(error, asyncpg.PostgresError):
        return str(error.args[0]) if error.args else type(error).__name__
    return str(error) or type(error).__name__


def _keep_alive(connection: Connection) -> None:
    """Let the kernel notice a peer that is gone. The driver has no setting for it, but does not hide its socket well."""
    transport = getattr(connection, "_transport", None)
    sock = transport and transport.get_extra_info("socket")
    if sock is None or sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


async def _part(connection: Connection) -> None:
    try:
        await connection.close(timeout=PART_SECONDS)
    except _DRIVER_ERRORS:
        connection.terminate()
