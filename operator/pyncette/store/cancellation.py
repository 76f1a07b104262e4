"""Hears a cancellation that a driver has lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """
    Raise CancelledError at the end, if this task was cancelled inside, whatever else came of it.

    Before Python 3.12, `asyncio.wait_for` drops a cancellation that comes at the same time as its result, and drivers
    wait by it. Who is cancelled once and waited for would never end.
    """
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    try:
        yield
    finally:
        if task.cancelling() > before:
            raise asyncio.CancelledError
