"""Detects a cancellation that a driver has lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator


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
