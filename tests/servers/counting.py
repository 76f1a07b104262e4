"""Counts on the wire what clients ask of a server: each statement by what it is, and how often a client waits for an answer."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from weakref import WeakKeyDictionary

import pytest

from tests.processes.proxy import Link, Proxy

WORDS_TOLD: Final = 120
"""Characters of a statement that identify it."""


VALUE: Final = re.compile(r"'(?:[^'\\]|\\.|'')*'|\b\d+\b", re.DOTALL)
"""What differs between statements that are the same."""


@dataclass
class Traffic:
    """What was asked so far."""

    statements: Counter[str] = field(default_factory=Counter)
    """How often each was sent."""
    round_trips: int = 0
    """How often an answer was waited for."""

    def note(self, statement: str) -> None:
        self.statements[" ".join(VALUE.sub("?", statement).split())[:WORDS_TOLD]] += 1

    def __sub__(self, earlier: Traffic) -> Traffic:
        return Traffic(self.statements - earlier.statements, self.round_trips - earlier.round_trips)

    def copy(self) -> Traffic:
        return Traffic(self.statements.copy(), self.round_trips)

    def __str__(self) -> str:
        lines = [f"{self.round_trips:6} round trips"]
        lines += [f"{number:6} {statement}" for statement, number in self.statements.most_common()]
        return "\n".join(lines)


Protocol = Callable[[asyncio.StreamReader, Traffic], Awaitable[None]]
"""Reads what one client sends, and notes it, until the connection ends."""


class CountingProxy(Proxy):
    """A proxy that changes nothing, and understands what clients send through it."""

    def __init__(self, port: int, protocol: Protocol, host: str = "127.0.0.1") -> None:
        super().__init__(port, host)
        self._protocol = protocol
        self._traffic = Traffic()
        self._readers: WeakKeyDictionary[Link, asyncio.StreamReader] = WeakKeyDictionary()
        self._listening: set[asyncio.Task[None]] = set()

    def traffic(self) -> Traffic:
        """What was asked so far. An answer that has come has been asked for here."""
        return self._call(self._copied())

    def heard(self, link: Link, chunk: bytes) -> None:
        reader = self._readers.get(link)
        if reader is None:
            reader = self._readers[link] = asyncio.StreamReader()
            listening = asyncio.get_running_loop().create_task(self._understand(reader))
            self._listening.add(listening)
            listening.add_done_callback(self._listening.discard)
        reader.feed_data(chunk)

    async def _understand(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            await self._protocol(reader, self._traffic)

    async def _copied(self) -> Traffic:
        return self._traffic.copy()

    async def _close(self) -> None:
        await super()._close()
        for listening in self._listening:
            listening.cancel()
        # What a client sent that is not understood must not pass for nothing sent.
        for outcome in await asyncio.gather(*self._listening, return_exceptions=True):
            if outcome is not None and not isinstance(outcome, asyncio.CancelledError):
                raise outcome


# --- Protocols -------------------------------------------------------------------------------------------------------

CANCEL_SSL_GSS: Final = range(80877102, 80877105)
"""What stands in the place of a version in what a client of PostgreSQL sends before, or instead of, a greeting."""


SETTING_UP: Final = (
    "SELECT current_setting('jit')",
    "WITH RECURSIVE typeinfo_tree",
    "SELECT set_config(",
    "LISTEN ",
)
"""How statements begin that come with a connection, from the driver or from us."""


async def postgres(reader: asyncio.StreamReader, traffic: Traffic) -> None:
    """
    Statements are executions. Who has sent a sync, a flush, or a query by itself, waits for an answer.

    To have a statement prepared is a round trip too, once on each connection.
    """
    while True:
        length = int.from_bytes(await reader.readexactly(4))
        greeting = await reader.readexactly(length - 4)
        if int.from_bytes(greeting[:4]) not in CANCEL_SSL_GSS:
            break
    prepared: dict[bytes, str] = {}
    portals: dict[bytes, str] = {}
    sets_up = False
    while True:
        kind = await reader.readexactly(1)
        length = int.from_bytes(await reader.readexactly(4))
        words = (await reader.readexactly(length - 4)).split(b"\0", 2)
        statement = None
        if kind == b"P":
            prepared[words[0]] = " ".join(words[1].decode().split())
            sets_up = prepared[words[0]].startswith(SETTING_UP)
        elif kind == b"B":
            portals[words[0]] = prepared[words[1]]
        elif kind == b"E":
            statement = portals[words[0]]
        elif kind == b"Q":
            statement = " ".join(words[0].decode().split())
        if statement is not None:
            sets_up = statement.startswith(SETTING_UP)
            if not sets_up:
                traffic.note(statement)
        traffic.round_trips += kind in {b"S", b"H", b"Q"} and not sets_up


COMMAND_QUIT, COMMAND_QUERY, COMMAND_CLOSE = 0x01, 0x03, 0x19


async def mysql(reader: asyncio.StreamReader, traffic: Traffic) -> None:
    """What begins a command has the number 0; what else is sent belongs to the greeting."""
    while True:
        header = await reader.readexactly(4)
        body = await reader.readexactly(int.from_bytes(header[:3], "little"))
        if header[3] or body[0] in {COMMAND_QUIT, COMMAND_CLOSE}:
            continue
        traffic.round_trips += 1
        if body[0] != COMMAND_QUERY:
            traffic.note(f"command {body[0]:#04x}")
            continue
        # Several statements may come in one command, and values stand in their texts.
        statements = VALUE.sub("?", body[1:].decode(errors="replace")).split(";")
        for statement in filter(str.strip, statements):
            traffic.note(statement)


GREETINGS: Final = frozenset({"HELLO", "AUTH", "CLIENT", "SELECT"})
"""Commands of Redis that come with a connection."""


async def redis(reader: asyncio.StreamReader, traffic: Traffic) -> None:
    """Each command is taken to be waited for, also where some are sent together."""
    while True:
        words = []
        for _ in range(int((await reader.readuntil(b"\r\n"))[1:])):
            length = int((await reader.readuntil(b"\r\n"))[1:])
            words.append((await reader.readexactly(length + 2))[:-2])
        command = words[0].decode().upper()
        if command in GREETINGS:
            continue
        # Of a script the name is the hash of its text.
        traffic.note(f"{command} {words[1].decode()}" if command == "EVALSHA" else command)
        traffic.round_trips += 1


async def dynamodb(reader: asyncio.StreamReader, traffic: Traffic) -> None:
    """Each request is a round trip, of one operation."""
    while True:
        _, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        await reader.readexactly(int(headers["content-length"]))
        traffic.note(headers["x-amz-target"].rpartition(".")[2])
        traffic.round_trips += 1


# --- Where there is nothing to listen to -----------------------------------------------------------------------------


@contextlib.contextmanager
def counting_sqlite() -> Iterator[Callable[[], Traffic]]:
    """
    Count what is done on the SQLite connections that are opened inside, by SQLite's own account.

    What stands for a round trip is a transaction, which ends with a wait for the disk. Its first and its last statement
    are not counted as such: what comes at the same time shares them, and the first is tried again while others write.
    """
    traffic = Traffic()
    connect = sqlite3.connect

    def note(statement: str) -> None:
        if statement == "COMMIT":
            traffic.round_trips += 1
        elif not statement.startswith(("BEGIN", "--")):  # the latter is what a trigger does
            traffic.note(statement)

    def connect_and_tell(*args: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*args, **options)
        connection.set_trace_callback(note)
        return connection

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", connect_and_tell)
        yield traffic.copy


SENT: Final = ("eval", "evalsha", "publish", "sadd", "smembers", "ping")
"""Commands of Redis that no script calls: what else a server counts, scripts may have called."""


def commands_of(servers: Sequence[Any]) -> Traffic:
    """What *servers* of Redis have been sent so far, by their own account, each command a round trip."""
    traffic = Traffic()
    for server in servers:
        stats_by_command = server.execute("INFO", "commandstats")
        for name in SENT:
            traffic.statements[name] += stats_by_command.get(f"cmdstat_{name}", {"calls": 0})["calls"]
    traffic.round_trips = traffic.statements.total()
    return traffic


def called_on(server: Any) -> Counter[str]:
    """How often each command of Redis was called on *server* so far: sent, or by a script."""
    stats_by_command = server.execute("INFO", "commandstats")
    return Counter(
        {name.removeprefix("cmdstat_"): stats["calls"] for name, stats in stats_by_command.items()}
    )
