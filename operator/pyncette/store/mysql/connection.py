"""Connections to MySQL and MariaDB: few, opened when needed, given up when they do not answer; its errors become ours."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import asyncmy
import asyncmy.errors
from asyncmy.connection import Connection

from pyncette.errors import ConfigurationError, SchemaError, StoreRefusedError, StoreUnavailableError
from pyncette.store.cancellation import heard
from pyncette.store.mysql.address import Address
from pyncette.store.mysql.statements import LIMIT_MARIADB, LIMIT_MYSQL, SESSION

CONNECTIONS_MAX: Final = 4
"""A worker claims, completes, starts and answers calls at the same time; more would only wait for each other."""

CONNECT_SECONDS: Final = 10.0
"""A server that has not let us in by then is down, or so busy that it makes no difference."""

ANSWER_SECONDS: Final = 12.0
"""The server ends a statement after ten seconds, see `SESSION`; without an answer by then it is out of reach."""

PART_SECONDS: Final = 2.0
"""How long a goodbye may take."""

IDLE_SECONDS: Final = 60.0
"""A connection that was not needed for this long is closed: servers allow few, and end those that idle for long."""

UTF8_BYTES_MAX: Final = 4

PACKET_BYTES_SPARE: Final = 4096
"""What the protocol adds to a script, and some more."""

FOUND_ROWS: Final = 1 << 1
"""Have an update count what it found, also if nothing about it changed."""

OLDEST_MYSQL: Final = (8, 0)
OLDEST_MARIADB: Final = (10, 6)
"""The oldest servers that have all that the statements use."""

KEEPALIVE: Final = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""A call learns within half a minute that its server is gone, also if nothing says so."""

TRY_AGAIN: Final = frozenset({1205, 1213, 1020, 3101})
"""A lock was waited for too long, two waited for each other, or others of a cluster were faster: it was undone."""

NO_ENTRY: Final = frozenset({1045, 1251, 1698, 1130, 1862, 3118, 3159, 3955, 4151})
"""Wrong user or password, wrong host, an account that is locked, or one that has to come encrypted."""

NO_DATABASE: Final = frozenset({1044, 1049})
"""There is none, or none for this user; the server may not say which."""

NO_RIGHT: Final = frozenset({1142, 1143, 1227, 1370})

OTHER_SCHEMA: Final = frozenset({1054, 1146, 1932})

AWAY: Final = frozenset({
    1021, 1037, 1038, 1041, 1114, 3032,  # no disk, memory or room
    1040, 1129, 1203, 1226,  # too many connections
    1047, 1053, 1077, 1079, 1080, 1105, 1152, 1158, 1159, 1160, 1161, 1184, 1927, 3169,  # stops, or breaks off
    1290, 1792, 1836, 3100,  # only reads: no primary (any more)
    1317, 1969, 3024,  # an operator, or the limit of time
})  # fmt: skip
"""What is about the server's state, and may be gone in a while."""

BINLOG_FORMAT: Final = 1665

_DRIVER_ERRORS: Final = (asyncmy.errors.MySQLError, OSError, TimeoutError, EOFError)

_CLIENT_ERRORS: Final = range(2000, 3000)
"""What the driver itself says, of connections that are not there (any more)."""


MISSING_PACKAGE: Final = "package is required"
"""What the driver says if it needs another one."""


class TryAgainError(Exception):
    """The server undid the script, since others were in its way: the same may work now."""


class Result(NamedTuple):
    """What one statement of a script came to."""

    found: int
    """Rows that it found to change."""
    rows: Sequence[Any]
    """What it returned."""


class Connections:
    """
    At most `CONNECTIONS_MAX` connections; *lost* is called when one broke.

    Each is made to the address that *renewed* returns by then, if it is given: the same place, with other credentials.
    What is not answered within *answer_seconds* is given up, with its connection.
    """

    def __init__(
        self,
        address: Address,
        lost: Callable[[], None] = lambda: None,
        *,
        renewed: Callable[[], Address] | None = None,
        connect_seconds: float = CONNECT_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self._address = renewed or (lambda: address)
        self._lost = lost
        self._connect_seconds = connect_seconds
        self._answer_seconds = answer_seconds
        self._slots = asyncio.Semaphore(CONNECTIONS_MAX)
        self._idle: list[tuple[Connection, float]] = []
        self._closed = False
        self.place: Final = str(address)
        self.packet_bytes_max = 0
        """How long a script may be at most; known once there was a connection."""

    async def fetch(self, script: Sequence[str], seconds: float | None = None) -> list[Result]:
        """
        Run the statements of *script*, sent at once, and return what each came to.

        One that fails ends the script, and undoes a transaction that it is in. Raises StoreUnavailableError,
        StoreRefusedError, SchemaError, TryAgainError. A connection whose state is not known for sure is never used
        again: that of a call that was cancelled, or not answered.
        """
        async with self._slots:
            with heard():
                return await self._fetched(script, seconds or self._answer_seconds)

    async def _fetched(self, script: Sequence[str], patience: float) -> list[Result]:
        connection = await self._take()
        try:
            async with asyncio.timeout(patience):
                results = await _run(connection, ";".join(script))
        except Exception as error:
            # The driver may stumble, in whatever way, over a connection that breaks under its feet.
            if not isinstance(error, _DRIVER_ERRORS) and connection.connected:
                _terminate(connection)
                raise
            await self._after(error, connection)
            if isinstance(error, TimeoutError):
                raise _too_slow(self.place, patience) from error
            raise named(error, self.place) from error
        except BaseException:
            _terminate(connection)
            raise
        self._give_back(connection)
        return results

    def is_too_long(self, script: Sequence[str]) -> bool:
        """Say whether the server would refuse *script* as one packet; as far as is known, which is once it let us in."""
        room = self.packet_bytes_max - PACKET_BYTES_SPARE
        if not self.packet_bytes_max or sum(map(len, script)) * UTF8_BYTES_MAX <= room:
            return False
        return sum(len(statement.encode()) + 1 for statement in script) > room

    async def close(self) -> None:
        """Say goodbye on each connection; one that is still in use goes without, after its answer."""
        self._closed = True
        parting = [connection for connection, _ in self._idle]
        self._idle.clear()
        for connection in parting:
            await _part(connection)

    async def _take(self) -> Connection:
        oldest = time.monotonic() - IDLE_SECONDS
        while self._idle:
            connection, used_at = self._idle.pop()
            if _is_broken(connection):
                self._lost()
                _terminate(connection)
            elif used_at >= oldest:
                return connection
            else:
                await _part(connection)
        return await self._connect()

    def _give_back(self, connection: Connection) -> None:
        """The latest used is the next to be used, so those that a burst needed grow old at the other end."""
        if self._closed:
            _terminate(connection)
            return
        now = time.monotonic()
        if self._idle and self._idle[0][1] < now - IDLE_SECONDS:
            _terminate(self._idle.pop(0)[0])
        self._idle.append((connection, now))

    async def _after(self, error: BaseException, connection: Connection) -> None:
        """Keep the connection if the server merely said no; else expect no more of the others than of this one."""
        number = _number(error)
        if number and number not in AWAY and not _is_broken(connection) and await self._undone(connection):
            self._give_back(connection)
            return
        _terminate(connection)
        while self._idle:
            _terminate(self._idle.pop()[0])
        self._lost()

    async def _undone(self, connection: Connection) -> bool:
        """Leave the transaction that a script may have begun; say whether the connection is fit for the next one."""
        try:
            async with asyncio.timeout(PART_SECONDS):
                await _run(connection, "ROLLBACK")
        except _DRIVER_ERRORS:
            return False
        except BaseException:
            _terminate(connection)
            raise
        return True

    async def _connect(self) -> Connection:
        address = self._address()
        try:
            async with asyncio.timeout(self._connect_seconds):
                connection = await asyncmy.connect(
                    host=address.host,
                    port=address.port,
                    unix_socket=address.socket or None,
                    user=address.user,
                    password=address.password.encode(),
                    database=address.database,
                    charset="utf8mb4",
                    autocommit=True,
                    client_flag=FOUND_ROWS,
                    connect_timeout=self._connect_seconds,
                    ssl=_context(address),
                )
                try:
                    await self._set_up(connection)
                except BaseException:
                    _terminate(connection)
                    raise
        except TimeoutError as error:
            raise _too_slow(self.place, self._connect_seconds) from error
        except _DRIVER_ERRORS as error:
            raise named(error, self.place) from error
        except RuntimeError as error:
            if MISSING_PACKAGE in str(error):
                # For the way in which the server asks for a password.
                raise ConfigurationError(f"{self.place}: {error}") from error
            # So the driver puts it if the connection breaks before it is set up.
            raise named(error, self.place) from error
        return connection

    async def _set_up(self, connection: Connection) -> None:
        is_mariadb = _check_version(connection.get_server_info(), self.place)
        limit = LIMIT_MARIADB if is_mariadb else LIMIT_MYSQL
        *_, told = await _run(connection, f"{SESSION.format(limit=limit)}; SELECT @@max_allowed_packet")
        ((self.packet_bytes_max,),) = told.rows
        _keep_alive(connection)


async def _run(connection: Connection, script: str) -> list[Result]:
    cursor = connection.cursor()
    found = await cursor.execute(script)
    results = [Result(found, await cursor.fetchall() if cursor.description else ())]
    while await cursor.nextset():
        results.append(
            Result(connection.affected_rows(), await cursor.fetchall() if cursor.description else ())
        )
    return results


def named(error: BaseException, place: str) -> Exception:
    """Return what the driver's *error* is to us, as one sentence without a password."""
    number, said = _number(error), _words_of(error)
    if number in TRY_AGAIN:
        return TryAgainError(said)
    if number in NO_ENTRY:
        return StoreRefusedError(f"{place} lets us not in: {said}. Check user and password")
    if number in NO_DATABASE:
        return StoreRefusedError(
            f"{place} has no such database for this user: {said}. Create it, or grant it"
        )
    if number in NO_RIGHT:
        return StoreRefusedError(f"{place} lets this user not do it: {said}. Grant the right")
    if number in OTHER_SCHEMA:
        return SchemaError(f"The tables in {place} are gone, or not as this release knows them: {said}")
    if number == BINLOG_FORMAT:
        return StoreRefusedError(
            f"{place} writes statements to its binary log: set binlog_format to ROW or MIXED"
        )
    if isinstance(error, ssl.SSLCertVerificationError) or isinstance(
        error.__cause__, ssl.SSLCertVerificationError
    ):
        return StoreRefusedError(f"{place} cannot be trusted: {said}")
    if number and number not in AWAY:
        return StoreRefusedError(f"{place} refused: {said}")
    return StoreUnavailableError(f"{place} does not answer: {said}")


def _number(error: BaseException) -> int:
    """Return what number the server gave *error*; 0 if it is not the server's."""
    if (
        not isinstance(error, asyncmy.errors.MySQLError)
        or not error.args
        or not isinstance(error.args[0], int)
    ):
        return 0
    number: int = error.args[0]
    return 0 if number in _CLIENT_ERRORS else number


def _words_of(error: BaseException) -> str:
    said = str(error.args[-1]) if isinstance(error, asyncmy.errors.MySQLError) and error.args else str(error)
    return " ".join(said.split()) or type(error).__name__


def _too_slow(place: str, seconds: float) -> StoreUnavailableError:
    return StoreUnavailableError(f"{place} does not answer: nothing came within {seconds:g} seconds")


def _check_version(said: str, place: str) -> bool:
    """Return whether a server that says this of itself is MariaDB. Raises StoreRefusedError if it is too old."""
    is_mariadb = "mariadb" in said.lower()
    # MariaDB puts a version in front that ancient replicas understood.
    numbers = re.findall(r"\d+", said.removeprefix("5.5.5-"))
    version = tuple(map(int, numbers[:2]))
    name, oldest = ("MariaDB", OLDEST_MARIADB) if is_mariadb else ("MySQL", OLDEST_MYSQL)
    if version < oldest:
        raise StoreRefusedError(f"{place} is older than {name} {'.'.join(map(str, oldest))}")
    return is_mariadb


def _context(address: Address) -> ssl.SSLContext | None:
    """Return how to encrypt, or None. Raises ConfigurationError."""
    if address.ssl_mode == "disabled":
        return None
    try:
        context = ssl.create_default_context(cafile=address.ssl_ca or None)
    except OSError as error:
        raise ConfigurationError(f"ssl-ca cannot be read: {error}") from error
    context.check_hostname = address.ssl_mode == "verify-identity"
    if address.ssl_mode == "required":
        context.verify_mode = ssl.CERT_NONE
    return context


def _is_broken(connection: Connection) -> bool:
    """Say whether the other end has hung up. The driver knows, but has no public word for it."""
    return not connection.connected or bool(getattr(connection, "_stream_broken", False))


def _terminate(connection: Connection) -> None:
    """Close without a goodbye."""
    connection.close()


def _keep_alive(connection: Connection) -> None:
    """Let the kernel notice a peer that is gone. The driver has no setting for it, but does not hide its socket well."""
    transport = getattr(connection, "_transport", None)
    sock = transport and transport.get_extra_info("socket")
    if sock is None or sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    for option, value in KEEPALIVE.items():
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


async def _part(connection: Connection) -> None:
    try:
        async with asyncio.timeout(PART_SECONDS):
            await connection.ensure_closed()
    except _DRIVER_ERRORS:
        _terminate(connection)
