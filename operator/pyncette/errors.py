"""Everything this library raises on purpose, named for what happened and carrying the facts."""

from __future__ import annotations

import datetime
from typing import Any

from pyncette.clock import LONGEST, MICROSECOND


class PyncetteException(Exception):  # noqa: N818 - the name is the public API of 1.x
    """Root of all errors raised on purpose."""


class LeaseLostException(PyncetteException):
    """The lease of a running instance is gone: it expired and was taken over, or the instance was removed."""

    def __init__(self, task: Any) -> None:
        super().__init__(f"Lease on the task {task} was lost.")
        self.task = task


class TaskLockedException(PyncetteException):
    """The instance is running, so it cannot be changed without force; *locked_until* says when its lease ends."""

    def __init__(self, task: Any, locked_until: datetime.datetime | None = None) -> None:
        until = f" Task is locked until {locked_until}." if locked_until else ""
        super().__init__(
            f"Cannot update task {task} while it is locked.{until} Use force=True to override, "
            "or wait for its run to end."
        )
        self.task = task
        self.locked_until = locked_until


class DoNotRetry(PyncetteException):
    """Raised by a handler: this occurrence has failed for good, whatever attempts are left."""


class RetryAfter(PyncetteException):
    """Raised by a handler: try this occurrence again after *delay*, instead of the backoff of its policy."""

    def __init__(self, delay: datetime.timedelta, message: str = "") -> None:
        if not 0 <= delay / datetime.timedelta(microseconds=MICROSECOND) <= LONGEST:
            raise ValueError(
                f"RetryAfter needs a delay that is not negative, and at most a century, not {delay}"
            )
        super().__init__(message or f"retry after {delay}")
        self.delay = delay


class ConfigurationError(PyncetteException, ValueError):
    """A setting is unknown, missing or out of range; the message says which, and what to write instead."""


class StoreError(PyncetteException):
    """Something about the backend; the message never holds a password."""


class StoreUnavailableError(StoreError):
    """The backend did not answer, or not in time. Nothing is known about what was asked of it; ask again."""


class StoreRefusedError(StoreError):
    """The backend answered, and said no for good: wrong password, missing right, missing database."""


class SchemaError(StoreError):
    """The tables are of a version that this program cannot work with; the message says which command mends it."""


class ContentionError(StoreError):
    """A write lost every race to other processes, for longer than load can explain."""
