"""Runs an app in simulated time on its backend, for tests."""

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
    """A running app and its simulated time."""

    def __init__(self, app: Pyncette, context: PyncetteContext, clock: VirtualClock) -> None:
        self.app = app
        self.context = context
        """The app context, as from `app.create()`: for `schedule_task`, `get_task` and so on."""
        self.clock = clock

    @property
    def now(self) -> datetime.datetime:
        """The simulated time, in UTC."""
        return self.clock.utc

    async def advance(self, delay: datetime.timedelta | None = None, **units: float) -> None:
        """
        Let time pass: a timedelta, or its units (`advance(days=2, hours=3)`).

        Return when all that became due on the way has run, in the order of due times, and is written. Raises
        UnsettledError if a handler waits for real time; use `world.sleep()` instead.
        """
        await self.clock.advance(delay if delay is not None else datetime.timedelta(**units))

    async def advance_to(self, at: datetime.datetime) -> None:
        """Let time pass until *at*, which needs a time zone and must not be in the past."""
        await self.clock.advance_to(at)

    async def poll(self) -> None:
        """Let one `poll_interval` of the app pass: the step after which a released occurrence is tried again."""
        await self.clock.advance(self.app.poll_interval)

    async def settle(self) -> None:
        """Let all that is due now run, without letting time pass."""
        await self.clock.settle()

    async def sleep(self, delay: datetime.timedelta | None = None, **units: float) -> None:
        """Wait in simulated time. Handlers under test use it to take time."""
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
    Run *app* in simulated time, from *start* (by default 2024-01-01T00:00Z), until the block ends.

    Input and output are real: the backend is that of the app (`:memory:` by default), or of *new_store*. Only the time is
    simulated, for due times and leases. All that is due at one instant may take *settle_seconds* of real time: raise it for
    thousands of handlers that do real work.

    At the end, running handlers are cancelled, and an error of the app is raised. Errors of handlers are not raised: check
    `get_task`, or the effects of the handlers.

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
    """Wait until *clock* is settled or *run* has ended: an app may fail at its start."""
    settling = asyncio.ensure_future(clock.settle())
    await asyncio.wait({settling, run}, return_when=asyncio.FIRST_COMPLETED)
    if run.done():
        settling.cancel()
        run.result()
    await settling
