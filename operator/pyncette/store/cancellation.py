"""Detects a cancellation that a driver has lost, and one that it has not been asked for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from pyncette.errors import PyncetteException


class LeakedCancellationError(PyncetteException):
    """A call waited for something that was cancelled."""


@contextlib.contextmanager
def reraise_lost_cancellation() -> Iterator[None]:
    """
    Raise CancelledError at the end if this task was cancelled inside the block, whatever the block returned or raised.

    Before Python 3.12, `asyncio.wait_for` drops a cancellation that arrives together with its result, and drivers use
    it. A task that is cancelled once, and then awaited, would never end.
    """
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    try:
        yield
    finally:
        if task.cancelling() > before:
            raise asyncio.CancelledError


@contextlib.contextmanager
def leaks_as_errors() -> Iterator[None]:
    """
    Raise LeakedCancellationError in place of a CancelledError, unless this task is being cancelled.

    A driver may wait for something that another call has cancelled. A loop that took that for its own cancellation would
    end, and a task group would not notice.
    """
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise LeakedCancellationError("a call waited for something that was cancelled") from error
