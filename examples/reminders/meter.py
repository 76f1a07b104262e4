"""Counts what is sent, how fast, and how late: what one sees while the demonstration runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from examples.reminders.tasks import remind
from pyncette import Context
from pyncette.errors import DoNotRetry
from pyncette.model import NextFunc

LINE_SECONDS = 1.0


class Meter:
    """A middleware that counts the reminders, and takes the time."""

    def __init__(self) -> None:
        self.sent = 0
        self.refused = 0
        self.retries = 0
        self.started_late: list[float] = []
        """Seconds from when each was due until its handler was called for the first time."""
        self.sent_late: list[float] = []
        """Seconds from when it was due until the mail server had it, of those that it took at the first time."""
        self.awaited: set[str] = set()
        """Names of the instances that `over` waits for."""
        self.over = asyncio.Event()

    async def measure(self, context: Context, run: NextFunc) -> None:
        if context.task.parent_task is not remind:
            await run()
            return
        if context.attempt == 1:
            self.started_late.append(_late(context))
        try:
            await run()
        except DoNotRetry:
            self.refused += 1
            self._done(context.task.name)
            raise
        except Exception:
            self.retries += 1
            raise
        self.sent += 1
        if context.attempt == 1:
            self.sent_late.append(_late(context))
        self._done(context.task.name)

    @asynccontextmanager
    async def shown(self, clock: Callable[[], datetime]) -> AsyncIterator[None]:
        """Print a line each second in which something was sent."""
        lines = asyncio.create_task(self._show(clock))
        try:
            yield
        finally:
            lines.cancel()

    def summary(self) -> str:
        """Say how late it was; of real time alone."""
        return (
            f"{self.sent:,} messages sent. From when one was due until its handler started: {_quantiles(self.started_late)};\n"
            f"until the mail server had it: {_quantiles(self.sent_late)}"
        )

    async def _show(self, clock: Callable[[], datetime]) -> None:
        sent, at = self.sent, time.monotonic()
        while True:
            await asyncio.sleep(LINE_SECONDS)
            before, sent = sent, self.sent
            since, at = at, time.monotonic()
            if sent > before:
                print(
                    f"  {clock():%H:%M:%S} UTC  {sent:>7,} sent  {(sent - before) / (at - since):>5,.0f}/s"
                    f"  {self.retries:>5,} to be retried  {self.refused:>4,} refused",
                    flush=True,
                )

    def _done(self, name: str) -> None:
        if name in self.awaited:
            self.awaited.remove(name)
            if not self.awaited:
                self.over.set()


def _late(context: Context) -> float:
    return (datetime.now(UTC) - context.scheduled_at).total_seconds()


def _quantiles(seconds: Sequence[float]) -> str:
    if not seconds:
        return "none was"
    ordered = sorted(seconds)
    half, most = ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]
    return f"half within {half * 1000:,.0f} ms, 99 % within {most * 1000:,.0f} ms"
