"""One connection to an SQLite database, on a thread that carries out all waiting jobs in one transaction."""

from __future__ import annotations

import asyncio
import os
import random
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final, NamedTuple, TypeVar

from pyncette.core.log_messages import naming_logger
from pyncette.errors import SchemaError, StoreError, StoreRefusedError, StoreUnavailableError

logger = naming_logger(__name__)

MEMORY: Final = ":memory:"

OLDEST_SQLITE: Final = (3, 33, 0)
"""The first version with UPDATE … FROM."""

JOBS_MAX: Final = 64
"""Jobs of one transaction. Large ones take some milliseconds each, and other processes wait for its end."""

BUSY_SECONDS: Final = 5.0
"""How long a transaction waits for those of other processes before the database counts as unavailable."""

BUSY_PAUSE_SECONDS: Final = 0.002
"""
The longest pause before the next attempt. SQLite's own pauses grow to a tenth of a second, and would starve beside a busy
process, which releases the database for moments only.
"""

CHECKPOINT_PAGES: Final = 16000
"""64 MB of log before a checkpoint, so that pages that are written several times are written back once."""

CACHE_KIBIBYTES: Final = 16 * 1024

_UNAVAILABLE: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_CANTOPEN,
    }
)
"""Errors about the state of the system, which may pass."""

_T = TypeVar("_T")


class Session:
    """The connection that a job uses."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def read(self, text: str, parameters: Sequence[Any] = ()) -> bytes:
        """Return the value of a statement with one row and one column, as text in UTF-8."""
        row = self._connection.execute(text, parameters).fetchone()
        return b"null" if row is None else row[0]

    def write(self, text: str, parameters: Sequence[Any] = ()) -> int:
        """Return the number of rows that were written."""
        return self._connection.execute(text, parameters).rowcount


class _Job(NamedTuple):
    work: Callable[[Session], Any]
    writes: bool
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]


class Database:
    """
    The SQLite database at *path*, for one store or several, on one event loop or several.

    A database `:memory:` lives as long as one of the stores is open. A transaction waits up to *busy_seconds* for those of
    other processes.
    """

    def __init__(self, path: str | os.PathLike[str], *, busy_seconds: float = BUSY_SECONDS) -> None:
        self.path = os.fspath(path)
        self.busy_seconds = busy_seconds
        self.is_file = self.path != MEMORY
        self.where = f"the SQLite database {self.path}"
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._users = 0
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Add a user. The first one starts the thread."""
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._jobs = SimpleQueue()
                self._thread = threading.Thread(
                    target=_Worker(self, self._jobs).run, name=f"sqlite {self.path}", daemon=True
                )
                self._thread.start()

    async def close(self) -> None:
        """Remove a user. The last one ends the thread, after its remaining jobs."""
        with self._lock:
            self._users -= 1
            if self._users:
                return
            thread, self._thread = self._thread, None
            self._jobs.put(None)
        assert thread is not None
        await asyncio.to_thread(thread.join)

    async def read(self, work: Callable[[Session], _T]) -> _T:
        """Return the result of *work*, which must not write."""
        return await self._submit(work, writes=False)

    async def write(self, work: Callable[[Session], _T]) -> _T:
        """
        Return the result of *work*, once its writes are on disk. It may run twice, if another job of its transaction fails.

        Raises StoreError.
        """
        return await self._submit(work, writes=True)

    async def _submit(self, work: Callable[[Session], _T], *, writes: bool) -> _T:
        if self._thread is None:
            raise RuntimeError(f"{self.where} is not open: enter its store first")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()
        self._jobs.put(_Job(work, writes, loop, future))
        return await future


class _Worker:
    """The loop of the thread."""

    def __init__(self, database: Database, jobs: SimpleQueue[_Job | None]) -> None:
        self._database = database
        self._jobs = jobs
        self._connection: sqlite3.Connection | None = None
        self._ends = False

    def run(self) -> None:
        try:
            while not self._ends:
                jobs = [job for job in self._waiting() if not job.future.cancelled()]
                _answer(jobs, self._outcomes(jobs))
        finally:
            self._disconnect()

    def _waiting(self) -> list[_Job]:
        jobs: list[_Job] = []
        job = self._jobs.get()
        while True:
            if job is None:
                self._ends = True
                return jobs
            jobs.append(job)
            if len(jobs) == JOBS_MAX:
                return jobs
            try:
                job = self._jobs.get_nowait()
            except Empty:
                return jobs

    def _outcomes(self, jobs: list[_Job]) -> list[Any]:
        """Return the result or the error of each job."""
        try:
            return self._transact(jobs) if jobs else []
        except StoreUnavailableError as error:
            return [error] * len(jobs)
        except Exception as error:  # noqa: BLE001 - any error is handed to the caller
            if len(jobs) == 1:
                return [error]
            # One job is at fault. All were rolled back, so each runs again by itself.
            return [outcome for job in jobs for outcome in self._outcomes([job])]

    def _transact(self, jobs: list[_Job]) -> list[Any]:
        try:
            connection = self._wait_for_lock(self._connected)
            session = Session(connection)
            if not any(job.writes for job in jobs):
                return self._wait_for_lock(lambda: [job.work(session) for job in jobs])
            self._wait_for_lock(lambda: connection.execute("BEGIN IMMEDIATE"))
            results = [job.work(session) for job in jobs]
            connection.execute("COMMIT")
            return results
        except sqlite3.Error as error:
            # SQLite only reports that the database is locked; our message says more.
            raise self._translate(error) from None if _primary(error) == sqlite3.SQLITE_BUSY else error
        finally:
            if self._connection is not None and self._connection.in_transaction:
                self._roll_back(self._connection)

    def _wait_for_lock(self, step: Callable[[], _T]) -> _T:
        """Return the result of *step*, once no other process holds the lock."""
        deadline = time.monotonic() + self._database.busy_seconds
        while True:
            try:
                return step()
            except sqlite3.OperationalError as error:
                if _primary(error) != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                    raise
            time.sleep(random.uniform(0, BUSY_PAUSE_SECONDS))

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        try:
            connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            logger.warning("could not roll back a transaction; reconnecting", extra={"error": str(error)})
            self._disconnect()

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = _connect(self._database)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _translate(self, error: sqlite3.Error) -> StoreError:
        """Return the error of the store for that of the driver, and close a connection that may be broken."""
        where, code = self._database.where, _primary(error)
        if code == sqlite3.SQLITE_BUSY:
            return StoreUnavailableError(
                f"{where} is locked by another process that has been writing for {self._database.busy_seconds:g} seconds"
            )
        if code in _UNAVAILABLE:
            if self._database.is_file:
                self._disconnect()
            return StoreUnavailableError(f"{where} does not answer: {error}")
        if code == sqlite3.SQLITE_ERROR and re.match("no such (table|column|index)", str(error)):
            return SchemaError(f"The tables in {where} are missing, or do not match this release: {error}")
        return StoreRefusedError(f"{where} refused: {error}")


def _answer(jobs: list[_Job], outcomes: list[Any]) -> None:
    """Hand results to the event loops that wait for them, with one call each, since a call wakes a loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
    for job, outcome in zip(jobs, outcomes, strict=True):
        by_loop.setdefault(job.loop, []).append((job.future, outcome))
    for loop, answers in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, answers)
        except RuntimeError:
            logger.debug("dropped a result: the event loop that waited for it is closed")


def _resolve(answers: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, outcome in answers:
        if future.done():
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


def _connect(database: Database) -> sqlite3.Connection:
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise StoreRefusedError(
            f"This Python has SQLite {sqlite3.sqlite_version}, but {'.'.join(map(str, OLDEST_SQLITE))} is required:"
            " use a Python that comes with a newer SQLite"
        )
    try:
        connection = sqlite3.connect(database.path, timeout=0, isolation_level=None, cached_statements=512)
        try:
            _set_up(connection, database.is_file)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        if _primary(error) == sqlite3.SQLITE_BUSY:
            raise
        raise _open_error(database, error) from error
    return connection


def _set_up(connection: sqlite3.Connection, is_file: bool) -> None:
    connection.text_factory = bytes
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIBIBYTES}")
    connection.execute("PRAGMA temp_store = MEMORY")
    if is_file:
        # This first access also finds out whether the file is a database that can be written.
        connection.execute("PRAGMA journal_mode = WAL")
        # The completion of an at-most-once run must survive a power cut.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")


def _open_error(database: Database, error: sqlite3.Error) -> StoreError:
    """Return why a database cannot be opened. SQLite reports the same error for a missing folder and a missing right."""
    path = Path(database.path)
    code = _primary(error)
    if not path.absolute().parent.is_dir():
        return StoreRefusedError(
            f"The folder of {database.where} does not exist: create {path.absolute().parent}"
        )
    if path.is_dir():
        return StoreRefusedError(f"{database.where} is a folder: name a file in it")
    if code == sqlite3.SQLITE_NOTADB:
        return StoreRefusedError(f"{database.where} is not an SQLite database: name another file")
    if code in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}:
        return StoreRefusedError(
            f"{database.where}: permission denied: grant the right to write the file and its folder"
        )
    if code in _UNAVAILABLE:
        return StoreUnavailableError(f"{database.where} does not answer: {error}")
    return StoreRefusedError(f"{database.where} cannot be opened: {error}")


def _primary(error: sqlite3.Error) -> int:
    """Return the primary code of *error*, without the higher bits of extended codes; 0 for none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
