"""Runs an app at pretended time on the backend that it names, for the length of a test."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from pyncette.app.application import Pyncette
from pyncette.app.context import PyncetteContext
from pyncette.store.base import Store
from pyncette.testing.clock import SETTLE_SECONDS, VirtualClock


class World:
    """An app that runs, and the time that it believes in."""

    def __init__(self, app: Pyncette, context: PyncetteContext, clock: VirtualClock) -> None:
        self.app = app
        self.context = context
        """What `app.create()` yields: for `schedule_task`, `get_task` and the like."""
        self.clock = clock

    @property
    def now(self) -> datetime.datetime:
        """The pretended time, in UTC."""
        return self.clock.utc

    async def advance(self, delay: datetime.timedelta | None = None, **units: float) -> None:
        """
        Let time pass: a timedelta, or its units (`advance(days=2, hours=3)`).

        Returns once all that became due on the way has run, in the order of its due times, and is written.
        Raises UnsettledError if a handler waits for real time; let it await `world.sleep()`.
        """
        await self.clock.advance(delay if delay is not None else datetime.timedelta(**units))

    async def advance_to(self, at: datetime.datetime) -> None:
        """Let time pass until *at*, which needs a time zone and must not be in the past."""
        await self.clock.advance_to(at)

    async def poll(self) -> None:
        """Let one `poll_interval` of the app pass: the step after which a released occurrence is tried again."""
        await self.clock.advance(self.app.poll_interval)

    async def settle(self) -> None:
        """Let everything run that is due by now, without letting time pass."""
        await self.clock.settle()

    async def sleep(self, delay: datetime.timedelta | None = None, **units: float) -> None:
        """Wait in pretended time: what a handler under test awaits to take long."""
        await self.clock.sleep(delay if delay is not None else datetime.timedelta(**units))


@asynccontextmanager
async def running(
    app: Pyncette,
    start: datetime.datetime | None = None,
    *,
    new_store: Callable[[], Store] | None = None,
    settle_seconds: float = SETTLE_SECONDS,
) -> AsyncIterator[World]:
    """
    Run *app* at pretended time, from *start* (2024-01-01T00:00Z if none), until the block ends.

    Input and output are real, so the backend is the one that the app names: `:memory:` by default, or any other; or
    what *new_store* opens. Only the time is pretended, by which things are due and leases end. Handlers that still run at the end are
    cancelled, and errors that ended the app are raised. Errors of handlers are not: look at `get_task`, or at what they did.
    What is due at one instant may take *settle_seconds* of real time, all together: more for thousands of handlers that do real work.

    ```python
    async with running(app, datetime(2024, 3, 30, tzinfo=UTC)) as world:
        await world.context.schedule_task(remind, "ada", schedule="30 2 * * *", timezone="Europe/Dublin")
        await world.advance(days=2)
    ```
    """
    clock = VirtualClock(start, settle_seconds)
    options: dict[str, Any] = {} if new_store is None else {"new_store": new_store}
    async with app.create(clock=clock, **options) as context:
        run = asyncio.create_task(context.run())
        world = World(app, context, clock)
        try:
            await _settled_or_ended(clock, run)
            yield world
        finally:
            context.shutdown(grace=datetime.timedelta(0))
            await run


async def _settled_or_ended(clock: VirtualClock, run: asyncio.Task[None]) -> None:
    """An app that ends at once (a fixture raised) is not waited for until the clock gives up on it."""
    settling = asyncio.ensure_future(clock.settle())
    await asyncio.wait({settling, run}, return_when=asyncio.FIRST_COMPLETED)
    if run.done():
        settling.cancel()
        run.result()
    await settling
