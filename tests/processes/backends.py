"""What these tests do to backends behind the back of the workers."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from urllib.parse import urlsplit

LOCK_SECONDS = 2
"""Longer than workers hold the lock of SQLite that are awake."""


def can_be_written(backend: str, seconds: float = LOCK_SECONDS) -> bool:
    """Whether no other process keeps all others from writing for *seconds*; only on SQLite one can."""
    if not backend.startswith("sqlite:"):
        return True
    try:
        with write_lock(backend, seconds):
            return True
    except sqlite3.OperationalError:
        return False


@contextmanager
def write_lock(backend: str, seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Keep everybody else from writing to a SQLite file; sqlite3.OperationalError if somebody does for *seconds*."""
    with closing(sqlite3.connect(file_of(backend), timeout=seconds, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")


def file_of(backend: str) -> str:
    """Return the path in the URL of a SQLite file."""
    return urlsplit(backend).path[1:]
