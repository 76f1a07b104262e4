"""The service's own data, in SQLite: who is to be reminded, of what, and what was sent. Pyncette knows nothing of it."""

from __future__ import annotations

import asyncio
import datetime
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

SCHEMA = """
CREATE TABLE IF NOT EXISTS people (
    id INTEGER PRIMARY KEY,
    address TEXT NOT NULL,
    zone TEXT NOT NULL,
    remind_at TEXT NOT NULL,
    days TEXT NOT NULL,
    weekly_report INTEGER NOT NULL,
    since TEXT NOT NULL,
    left_at TEXT,
    left_because TEXT
);
CREATE INDEX IF NOT EXISTS people_left ON people (left_at) WHERE left_at IS NOT NULL;
CREATE TABLE IF NOT EXISTS habits (id INTEGER PRIMARY KEY, person_id INTEGER NOT NULL, title TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS habits_of_person ON habits (person_id);
CREATE TABLE IF NOT EXISTS check_ins (
    habit_id INTEGER NOT NULL, day TEXT NOT NULL, PRIMARY KEY (habit_id, day)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sent (
    message_id TEXT PRIMARY KEY, person_id INTEGER NOT NULL, scheduled_at TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reports (
    person_id INTEGER NOT NULL, week TEXT NOT NULL, text TEXT NOT NULL, PRIMARY KEY (person_id, week)
) WITHOUT ROWID;
"""
"""Instants are texts in UTC, days are those of the person's own calendar."""

LOCKED_SECONDS_MAX = 30
"""How long a statement waits for another process that writes: workers of one machine may share the file."""

PAGE = 1000
"""People that are read at once, however many there are."""


class Person(NamedTuple):
    """Somebody who wants to be reminded."""

    id: int
    address: str
    zone: str
    """Name of the time zone they live in."""
    remind_at: str
    """HH:MM:SS on their wall."""
    days: str
    """Of their week, as a cron expression has them."""
    weekly_report: bool
    since: datetime.datetime
    """Since when these preferences hold."""


class Habit(NamedTuple):
    """What somebody wants to do each day, and on how many days they did."""

    title: str
    days_done: int


class Database:
    """
    The service's data. One thread does the work, one call after the other, so that the event loop never waits for the disk.

    Each call is a transaction of its own.
    """

    def __init__(self, connection: sqlite3.Connection, thread: ThreadPoolExecutor) -> None:
        self._connection = connection
        self._thread = thread

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path) -> AsyncIterator[Database]:
        """Open the data at *path*, made where missing."""
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="database") as thread:
            connection = await asyncio.get_running_loop().run_in_executor(thread, _connect, path)
            database = cls(connection, thread)
            try:
                yield database
            finally:
                await database.do(sqlite3.Connection.close)

    async def do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Return what *work* makes of the connection."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, self._connection)

    # --- People ------------------------------------------------------------------------------------------------------

    async def person(self, person_id: int) -> Person | None:
        """Return whom to write to; None: nobody of that number wants mail (any more), or can be reached."""
        rows = await self._rows(f"{SELECT_PEOPLE} WHERE id = ? AND left_at IS NULL", person_id)
        return _person(rows[0]) if rows else None

    async def everyone(self) -> AsyncIterator[Person]:
        """Yield all who want mail, by their numbers."""
        after = 0
        while rows := await self._rows(
            f"{SELECT_PEOPLE} WHERE id > ? AND left_at IS NULL ORDER BY id LIMIT ?", after, PAGE
        ):
            for row in rows:
                yield _person(row)
            after = rows[-1][0]

    async def change_preferences(self, people: Iterable[Person]) -> None:
        """Write what *people* prefer."""
        rows = [(p.zone, p.remind_at, p.days, utc(p.since), p.id) for p in people]
        await self._write(
            "UPDATE people SET zone = ?, remind_at = ?, days = ?, since = ? WHERE id = ?", *rows
        )

    async def leave_alone(self, person_id: int, at: datetime.datetime, because: str) -> None:
        """Write nothing to a person any more, from *at* on."""
        row = (utc(at), because, person_id)
        await self._write("UPDATE people SET left_at = ?, left_because = ? WHERE id = ?", row)

    async def left_since(self, at: datetime.datetime) -> list[int]:
        """Return those who are to be left alone since *at* or later."""
        rows = await self._rows("SELECT id FROM people WHERE left_at >= ?", utc(at))
        return [person_id for (person_id,) in rows]

    # --- What they do, and what is done for them ---------------------------------------------------------------------

    async def habits(self, person_id: int, first: datetime.date, last: datetime.date) -> list[Habit]:
        """Return a person's habits, and on how many days from *first* to *last* each was done."""
        rows = await self._rows(
            "SELECT title, (SELECT count(*) FROM check_ins WHERE habit_id = habits.id AND day BETWEEN ? AND ?)"
            " FROM habits WHERE person_id = ? ORDER BY id",
            first.isoformat(), last.isoformat(), person_id,
        )  # fmt: skip
        return [Habit(*row) for row in rows]

    async def was_sent(self, message_id: str) -> bool:
        """Say whether a message is known to have been sent."""
        return bool(await self._rows("SELECT 1 FROM sent WHERE message_id = ?", message_id))

    async def note_sent(self, message_id: str, person_id: int, scheduled_at: datetime.datetime) -> None:
        """Remember that a message was sent."""
        await self._write(
            "INSERT OR IGNORE INTO sent VALUES (?, ?, ?)", (message_id, person_id, utc(scheduled_at))
        )

    async def write_report(self, person_id: int, week: str, text: str) -> None:
        """Write the report of a person's week. A second one of the same week takes the place of the first."""
        await self._write("INSERT OR REPLACE INTO reports VALUES (?, ?, ?)", (person_id, week, text))

    # --- Inside ------------------------------------------------------------------------------------------------------

    async def _rows(self, statement: str, *values: object) -> list[Any]:
        return await self.do(lambda connection: connection.execute(statement, values).fetchall())

    async def _write(self, statement: str, *rows: tuple[object, ...]) -> None:
        def work(connection: sqlite3.Connection) -> None:
            with connection:
                connection.executemany(statement, rows)

        await self.do(work)


SELECT_PEOPLE = "SELECT id, address, zone, remind_at, days, weekly_report, since FROM people"


def utc(at: datetime.datetime) -> str:
    """Return an instant as the tables have it: texts that sort by time."""
    return at.astimezone(datetime.UTC).isoformat(timespec="microseconds")


def _person(row: tuple[int, str, str, str, str, int, str]) -> Person:
    number, address, zone, remind_at, days, weekly_report, since = row
    return Person(
        number, address, zone, remind_at, days, bool(weekly_report), datetime.datetime.fromisoformat(since)
    )


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=LOCKED_SECONDS_MAX)
    connection.execute("PRAGMA journal_mode = WAL")
    # A power cut may take the notes of the last moments; then a retry sends a message again, with the same Message-ID.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.executescript(SCHEMA)
    return connection
