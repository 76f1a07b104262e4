"""The errors and warnings of this library."""

from __future__ import annotations

import datetime
from typing import Any

from pyncette.clock import LONGEST, MICROSECOND


class PyncetteException(Exception):  # noqa: N818 - the name is the public API of 1.x
    """The base class of all errors of this library."""


class LeaseLostException(PyncetteException):
    """A run lost its lease: the lease expired and was taken over, or the instance was removed."""

    def __init__(self, task: Any) -> None:
        super().__init__(f"Lease on the task {task} was lost.")
        self.task = task


class TaskLockedException(PyncetteException):
    """An instance is running, so it cannot be changed without force. *locked_until* is the end of its lease."""

    def __init__(self, task: Any, locked_until: datetime.datetime | None = None) -> None:
        until = f" Task is locked until {locked_until}." if locked_until else ""
        super().__init__(
            f"Cannot update task {task} while it is locked.{until} Use force=True to override, "
            "or wait for its run to end."
        )
        self.task = task
        self.locked_until = locked_until


class InvalidArgumentsError(PyncetteException, ValueError):
    """
    Arguments do not fit the type hints of the handler.

    What is scheduled with them is refused. If they are stored already, the attempt fails: another version of the handler
    may accept them.
    """


class StopRequested(PyncetteException):
    """Raised by the context of a plain function once its run should stop: it was cancelled, or its worker has ended."""


class DoNotRetry(PyncetteException):
    """Raised by a handler to fail the occurrence without further attempts."""


class RetryAfter(PyncetteException):
    """Raised by a handler to retry the occurrence after *delay*, instead of the backoff of its policy."""

    def __init__(self, delay: datetime.timedelta, message: str = "") -> None:
        if not 0 <= delay / datetime.timedelta(microseconds=MICROSECOND) <= LONGEST:
            raise ValueError(f"the delay of RetryAfter must be from zero to a century, not {delay}")
        super().__init__(message or f"retry after {delay}")
        self.delay = delay


class LooseKeywordWarning(UserWarning):
    """A keyword that is like an option is passed to the handler as an argument, as in Pyncette 1.x."""


class ConfigurationError(PyncetteException, ValueError):
    """A setting is unknown, missing or invalid. The message has the setting and a fix."""


class StoreError(PyncetteException):
    """An error of the backend. The message never contains a password."""


class StoreUnavailableError(StoreError):
    """The backend did not answer in time. The request may or may not have been executed; it can be retried."""


class StoreRefusedError(StoreError):
    """The backend refused the request permanently: wrong password, permission denied, or missing database."""


class SchemaError(StoreError):
    """The version of the tables is not supported by this program. The message has the command that fixes it."""


class ContentionError(StoreError):
    """A write gave up after repeated conflicts with other processes on one record."""
