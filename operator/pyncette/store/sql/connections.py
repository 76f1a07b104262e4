"""Connections to a SQL server: few, opened when needed, closed when the server does not answer."""

from __future__ import annotations

import asyncio
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final, Generic, TypeVar

from pyncette.errors import StoreUnavailableError

CONNECTIONS_MAX: Final = 4
"""A worker claims, completes, starts and answers calls at the same time. More connections would wait for each other."""

CONNECT_SECONDS: Final = 10.0
"""A server that has not accepted a connection by then is down, or too busy to be of use."""

ANSWER_SECONDS: Final = 12.0
"""Sessions limit a statement to ten seconds. A server that has not answered by then is unreachable."""

CLOSE_SECONDS: Final = 2.0
"""How long an orderly close may take."""

IDLE_SECONDS: Final = 60.0
"""A connection that a burst needed is closed once it was unused for this long: servers allow few."""

KEEPALIVE: Final = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""A connection that waits for its server learns within half a minute that the server is gone."""

Connection = TypeVar("Connection")
Query = TypeVar("Query")


class RetryableError(Exception):
    """The server rolled back a statement because of a deadlock or a lock timeout: the same statement may work now."""


class Connections(ABC, Generic[Connection, Query]):
    """
    A pool of at most `CONNECTIONS_MAX` connections to one server.

    *on_lost* is called when a connection breaks: the next one may reach another server, or other tables. A query that
    is not answered within *answer_seconds* fails, and its connection is closed. So is one that was idle for *idle_seconds*.

    One pool serves both drivers. `asyncpg.Pool` would serve one of them, and takes more processor time, since it starts a
    task for each release (docs/dependencies.md has figures). The fault tests also require that a broken connection closes
    the idle ones, and that a statement without an answer does not make the driver connect again to cancel it.
    """

    _driver_errors: ClassVar[tuple[type[BaseException], ...]]
    """What the driver raises for a server that is unreachable or refuses."""

    _reuses_old: ClassVar[bool] = True
    """A connection that was idle for longer than *idle_seconds* may be used, if it is not closed yet."""

    def __init__(
        self,
        place: str,
        on_lost: Callable[[], None],
        connect_seconds: float = CONNECT_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self.place: Final = place
        """The server and the database, as error messages name them: without a password."""
        self._on_lost = on_lost
        self._connect_seconds = connect_seconds
        self._answer_seconds = answer_seconds
        self._idle_seconds = idle_seconds
        self._slots = asyncio.Semaphore(CONNECTIONS_MAX)
        self._idle: list[tuple[Connection, float]] = []
        self._closed = False

    # --- Provided by the backend ---

    @abstractmethod
    async def rows(self, query: Query) -> Sequence[Any]:
        """
        Run one statement, which commits by itself, and return its rows.

        Raises StoreUnavailableError, StoreRefusedError, SchemaError, RetryableError. The connection of a call that was
        cancelled or not answered is closed, since its state is unknown.
        """

    @abstractmethod
    async def run_script(self, script: str, seconds: float) -> None:
        """Run the statements of *script*, separated by semicolons, within *seconds*. Raises as `rows` does."""

    @abstractmethod
    async def _open(self) -> Connection:
        """Connect with the credentials that are valid now, and set up the session. Raises what the driver raises."""

    @abstractmethod
    async def _run(self, connection: Connection, request: Any, seconds: float) -> Any:
        """Run *request* and return the reply. Raises TimeoutError after *seconds*, else what the driver raises."""

    @abstractmethod
    async def _close(self, connection: Connection) -> None:
        """Close *connection* in an orderly way, within `CLOSE_SECONDS`. Raises what the driver raises."""

    @staticmethod
    @abstractmethod
    def _terminate(connection: Connection) -> None:
        """Close *connection* at once."""

    @staticmethod
    @abstractmethod
    def _is_broken(connection: Connection) -> bool:
        """Return whether the other end has closed *connection*."""

    @abstractmethod
    async def _is_reusable_after(self, error: BaseException, connection: Connection) -> bool:
        """Return whether *error* is an answer that leaves *connection* fit for the next query."""

    @abstractmethod
    def _translate(self, error: BaseException) -> Exception:
        """Return the error of the store that the driver's *error* stands for, as one sentence without a password."""

    # --- The pool ---

    async def close(self) -> None:
        """Close all idle connections. A connection in use is closed after its answer."""
        self._closed = True
        closing = [connection for connection, _ in self._idle]
        self._idle.clear()
        for connection in closing:
            await self._close_or_terminate(connection)

    async def _exchange(self, request: Any, seconds: float | None = None) -> Any:
        """Run *request* on a connection of the pool, and return the reply. Raises as `rows` does."""
        seconds = seconds or self._answer_seconds
        async with self._slots:
            connection = await self._acquire()
            try:
                reply = await self._run(connection, request, seconds)
            except Exception as error:
                # A driver may raise anything when its connection is closed while in use.
                if not isinstance(error, self._driver_errors) and not self._is_broken(connection):
                    self._terminate(connection)
                    raise
                await self._release_after(error, connection)
                raise self._translated(error, seconds) from error
            except BaseException:
                self._terminate(connection)
                raise
            self._release(connection)
            return reply

    async def _acquire(self) -> Connection:
        oldest = 0.0 if self._reuses_old else time.monotonic() - self._idle_seconds
        while self._idle:
            connection, used_at = self._idle.pop()
            if self._is_broken(connection):
                self._on_lost()
                self._terminate(connection)
            elif used_at >= oldest:
                return connection
            else:
                await self._close_or_terminate(connection)
        return await self._connect()

    def _release(self, connection: Connection) -> None:
        """Keep *connection* for the next query. The latest used is used next, so those that a burst needed grow old."""
        if self._closed:
            self._terminate(connection)
            return
        now = time.monotonic()
        if self._idle and self._idle[0][1] < now - self._idle_seconds:
            self._terminate(self._idle.pop(0)[0])
        self._idle.append((connection, now))

    async def _release_after(self, error: BaseException, connection: Connection) -> None:
        """Keep *connection* if the server merely refused; else close the idle ones too, which are likely broken."""
        if await self._is_reusable_after(error, connection):
            self._release(connection)
            return
        self._terminate(connection)
        while self._idle:
            self._terminate(self._idle.pop()[0])
        self._on_lost()

    async def _connect(self) -> Connection:
        try:
            async with asyncio.timeout(self._connect_seconds):
                return await self._open()
        except self._driver_errors as error:
            raise self._translated(error, self._connect_seconds) from error

    async def _close_or_terminate(self, connection: Connection) -> None:
        try:
            await self._close(connection)
        except self._driver_errors:
            self._terminate(connection)

    def _translated(self, error: BaseException, seconds: float) -> Exception:
        if isinstance(error, TimeoutError):
            return StoreUnavailableError(f"{self.place} does not answer: timed out after {seconds:g} seconds")
        return self._translate(error)


def keep_alive(connection: object) -> None:
    """
    Have the kernel detect a peer that is gone.

    Neither driver has a setting for it, but both keep their transport in an attribute that can be reached.
    """
    transport = getattr(connection, "_transport", None)
    sock = transport and transport.get_extra_info("socket")
    if sock is None or sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
