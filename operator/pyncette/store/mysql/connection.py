"""Connections to MySQL and MariaDB, and what their errors mean to the store."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, NoReturn

import asyncmy.errors
from asyncmy.connection import Connection

from pyncette.errors import ConfigurationError, SchemaError, StoreRefusedError, StoreUnavailableError
from pyncette.store.answers import LimitedLoop, is_too_large, too_large
from pyncette.store.cancellation import reraise_lost_cancellation
from pyncette.store.mysql.address import Address
from pyncette.store.mysql.statements import LIMIT_MARIADB, LIMIT_MYSQL, SESSION
from pyncette.store.sql.connections import (
    CLOSE_SECONDS,
    Connections,
    RetryableError,
    keep_alive,
)

UTF8_BYTES_MAX: Final = 4

PACKET_BYTES_SPARE: Final = 4096
"""More than the protocol adds to a script."""

FOUND_ROWS: Final = 1 << 1
"""An update counts the rows that it found, also those that it did not change."""

OLDEST_MYSQL: Final = (8, 0)
OLDEST_MARIADB: Final = (10, 6)
"""The oldest servers that support all statements."""

ROLLED_BACK: Final = frozenset({1205, 1213, 1020, 3101})
"""A lock timeout, a deadlock, or a conflict with another node of a cluster."""

NO_ENTRY: Final = frozenset({1045, 1251, 1698, 1130, 1862, 3118, 3159, 3955, 4151})
"""A wrong user, password or host, a locked account, or one that requires TLS."""

NO_DATABASE: Final = frozenset({1044, 1049})
"""The database is missing, or this user has no access to it; the server may not tell which."""

NO_RIGHT: Final = frozenset({1142, 1143, 1227, 1370})

OTHER_SCHEMA: Final = frozenset({1054, 1146, 1932})

OUTAGE: Final = frozenset({
    1021, 1037, 1038, 1041, 1114, 3032,  # out of disk or memory
    1040, 1129, 1203, 1226,  # too many connections
    1047, 1053, 1077, 1079, 1080, 1105, 1152, 1158, 1159, 1160, 1161, 1184, 1927, 3169,  # shutdown, broken connection
    1290, 1792, 1836, 3100,  # read-only: a replica, or a former primary
    1317, 1969, 3024,  # ended by an operator or by the time limit
})  # fmt: skip
"""Errors about the server's state, which may pass."""

BINLOG_FORMAT: Final = 1665

CLIENT_ERRORS: Final = range(2000, 3000)
"""Numbers that the driver itself gives, for connections that are closed or were never made."""

CLEAR_TEXT_PLUGINS: Final = ("mysql_clear_password", "dialog")
"""Authentication plugins with which the driver sends the password itself to any server that requests it."""

MISSING_PACKAGE: Final = "package is required"
"""A part of the driver's message if it needs a package that is not installed."""


class Result(NamedTuple):
    """The result of one statement of a script."""

    found: int
    """The number of rows that it found to change."""
    rows: Sequence[Any]


async def connect_within_limits(**options: Any) -> Connection:
    """Return a new connection, which is closed once an answer is too large."""
    connection = Connection(**options)  # type: ignore[no-untyped-call]
    # It asks this loop for transports. There is no option for it.
    connection._loop = LimitedLoop(connection.loop)  # type: ignore[attr-defined]  # noqa: SLF001
    await connection.connect()
    return connection


class MysqlConnections(Connections[Connection, str]):
    """
    A pool of connections to the server at *address*.

    Each connection uses the address that *current_address* returns by then, if it is given: the same server and
    database, with the credentials that are valid now. See `Connections`.
    """

    _driver_errors = (asyncmy.errors.MySQLError, OSError, TimeoutError, EOFError)

    # The server closes connections that were idle for long, and what stands in between may forget them.
    _reuses_old = False

    def __init__(
        self,
        address: Address,
        on_lost: Callable[[], None] = lambda: None,
        *,
        current_address: Callable[[], Address] | None = None,
        connect: Callable[..., Awaitable[Connection]] = connect_within_limits,
        **limits: float,
    ) -> None:
        super().__init__(str(address), on_lost, **limits)
        self._address = current_address or (lambda: address)
        self._connect_driver = connect
        self.packet_bytes_max = 0
        """The size of the largest script that the server takes; 0 until the first connection."""

    async def fetch(self, script: Sequence[str], seconds: float | None = None) -> list[Result]:
        """
        Send the statements of *script* at once, and return the result of each.

        A statement that fails ends the script, and rolls back a transaction that it is in. Raises as `rows` does.
        """
        with reraise_lost_cancellation():
            results: list[Result] = await self._exchange(";".join(script), seconds)
            return results

    async def rows(self, query: str) -> Sequence[Any]:
        (result,) = await self.fetch([query])
        return result.rows

    async def run_script(self, script: str, seconds: float) -> None:
        await self.fetch([script], seconds)

    def is_too_long(self, script: Sequence[str]) -> bool:
        """Return whether the server would refuse *script* as one packet, as far as its limit is known."""
        room = self.packet_bytes_max - PACKET_BYTES_SPARE
        if not self.packet_bytes_max or sum(map(len, script)) * UTF8_BYTES_MAX <= room:
            return False
        return sum(len(statement.encode()) + 1 for statement in script) > room

    async def _open(self) -> Connection:
        address = self._address()
        if address.ssl_mode != "preferred":
            return await self._open_at(address)
        try:
            return await self._open_at(address._replace(ssl_mode="required"))
        except self._driver_errors as error:
            if not isinstance(error.__cause__, ssl.SSLError):
                raise
            return await self._open_at(address._replace(ssl_mode="disabled"))

    async def _open_at(self, address: Address) -> Connection:
        try:
            connection = await self._connect_driver(
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
                ssl=_ssl_context(address),
                auth_plugin_map={} if address.knows_server else _refusing(self.place),
            )
            try:
                await self._set_up(connection)
            except BaseException:
                connection.close()
                raise
        except RuntimeError as error:
            if MISSING_PACKAGE in str(error):
                # The server's authentication method needs it.
                raise ConfigurationError(f"{self.place}: {error}") from error
            # The driver raises it if the connection breaks before it is set up.
            raise translate_error(error, self.place) from error
        return connection

    async def _set_up(self, connection: Connection) -> None:
        is_mariadb = _check_version(connection.get_server_info(), self.place)
        limit = LIMIT_MARIADB if is_mariadb else LIMIT_MYSQL
        *_, result = await _execute(connection, f"{SESSION.format(limit=limit)}; SELECT @@max_allowed_packet")
        ((self.packet_bytes_max,),) = result.rows
        keep_alive(connection)

    async def _run(self, connection: Connection, request: str, seconds: float) -> list[Result]:
        async with asyncio.timeout(seconds):
            return await _execute(connection, request)

    async def _close(self, connection: Connection) -> None:
        async with asyncio.timeout(CLOSE_SECONDS):
            await connection.ensure_closed()

    @staticmethod
    def _terminate(connection: Connection) -> None:
        connection.close()

    @staticmethod
    def _is_broken(connection: Connection) -> bool:
        # The driver notices that the other end hung up, but has no public name for it.
        return not connection.connected or bool(getattr(connection, "_stream_broken", False))

    async def _is_reusable_after(self, error: BaseException, connection: Connection) -> bool:
        number = _number(error)
        return (
            bool(number)
            and number not in OUTAGE
            and not self._is_broken(connection)
            and await self._roll_back(connection)
        )

    async def _roll_back(self, connection: Connection) -> bool:
        """Leave the transaction that a failed script may have begun. Return whether the server did it in time."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await _execute(connection, "ROLLBACK")
        except self._driver_errors:
            return False
        except BaseException:
            connection.close()
            raise
        return True

    def _translate(self, error: BaseException) -> Exception:
        return translate_error(error, self.place)


async def _execute(connection: Connection, script: str) -> list[Result]:
    connection.loop.answer.begin()
    cursor = connection.cursor()
    found = await cursor.execute(script)
    results = [Result(found, await cursor.fetchall() if cursor.description else ())]
    while await cursor.nextset():
        results.append(
            Result(connection.affected_rows(), await cursor.fetchall() if cursor.description else ())
        )
    return results


def translate_error(error: BaseException, place: str) -> Exception:
    """Return the error of the store that the driver's *error* stands for, as one sentence without a password."""
    if is_too_large(error):
        return too_large(place)
    number, message = _number(error), _message_of(error)
    if number in ROLLED_BACK:
        return RetryableError(message)
    if number in NO_ENTRY:
        return StoreRefusedError(
            f"{place}: authentication failed: {message}. Check the user and the password"
        )
    if number in NO_DATABASE:
        return StoreRefusedError(
            f"{place}: database not found for this user: {message}. Create it, or grant access to it"
        )
    if number in NO_RIGHT:
        return StoreRefusedError(f"{place}: permission denied: {message}. Grant the right to this user")
    if number in OTHER_SCHEMA:
        return SchemaError(f"The tables in {place} are missing, or do not match this release: {message}")
    if number == BINLOG_FORMAT:
        return StoreRefusedError(
            f"{place} writes statements to its binary log: set binlog_format to ROW or MIXED"
        )
    if isinstance(error, ssl.SSLCertVerificationError) or isinstance(
        error.__cause__, ssl.SSLCertVerificationError
    ):
        return StoreRefusedError(f"{place}: the certificate is not trusted: {message}")
    if number and number not in OUTAGE:
        return StoreRefusedError(f"{place} refused: {message}")
    return StoreUnavailableError(f"{place} does not answer: {message}")


def _number(error: BaseException) -> int:
    """Return the server's number of *error*; 0 if it does not come from the server."""
    if (
        not isinstance(error, asyncmy.errors.MySQLError)
        or not error.args
        or not isinstance(error.args[0], int)
    ):
        return 0
    number: int = error.args[0]
    return 0 if number in CLIENT_ERRORS else number


def _message_of(error: BaseException) -> str:
    is_drivers = isinstance(error, asyncmy.errors.MySQLError) and error.args
    message = str(error.args[-1]) if is_drivers else str(error)
    return " ".join(message.split()) or type(error).__name__


def _refusing(place: str) -> dict[str, Callable[[Connection], NoReturn]]:
    """Return plugins for the driver that take the place of those which would send the password itself."""
    return {name: partial(_refuse_plugin, place, name) for name in CLEAR_TEXT_PLUGINS}


def _refuse_plugin(place: str, name: str, _: Connection) -> NoReturn:
    raise StoreRefusedError(
        f"{place} asks for the password in clear text ({name}), which is sent by verified TLS alone: "
        "write ?ssl-mode=verify-identity, or give the user another authentication plugin"
    )


def _check_version(server_info: str, place: str) -> bool:
    """Return whether *server_info* is that of MariaDB. Raises StoreRefusedError if the server is too old."""
    is_mariadb = "mariadb" in server_info.lower()
    # MariaDB prefixes its version with one that ancient replicas understood.
    numbers = re.findall(r"\d+", server_info.removeprefix("5.5.5-"))
    version = tuple(map(int, numbers[:2]))
    name, oldest = ("MariaDB", OLDEST_MARIADB) if is_mariadb else ("MySQL", OLDEST_MYSQL)
    if version < oldest:
        raise StoreRefusedError(f"{place} is older than {name} {'.'.join(map(str, oldest))}")
    return is_mariadb


def _ssl_context(address: Address) -> ssl.SSLContext | None:
    """Return the TLS settings of *address*, or None without TLS. Raises ConfigurationError."""
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
