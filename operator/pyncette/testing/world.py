"""Runs an app in simulated time, for tests: in memory, unless another backend is asked for."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Literal

from pyncette.app.application import Pyncette
from pyncette.app.context import PyncetteContext
from pyncette.store.base import Store
from pyncette.store.memory import MemoryStore
from pyncette.testing.clock import SETTLE_SECONDS, UnsettledError, VirtualClock


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
    backend: Literal["memory", "app"] | Callable[[], Store] = "memory",
    settle_seconds: float = SETTLE_SECONDS,
) -> AsyncIterator[World]:
    """
    Run *app* in simulated time, from *start* (by default 2024-01-01T00:00Z), until the block ends.

    The records are in memory, and are gone at the end. With `backend="app"` they are in the database that the app names:
    its schedules run, for all the simulated time, and stay changed. A *backend* may also be a factory of stores.

    Input and output of handlers are real. Only the time is simulated, for due times and leases. All that is due at one
    instant may take *settle_seconds* of real time: raise it for thousands of handlers that do real work.

    At the end, running handlers are cancelled, and an error of the app is raised. Errors of handlers are not raised: check
    `get_task`, or the effects of the handlers.

    ```python
    async with running(app, datetime(2024, 3, 30, tzinfo=UTC)) as world:
        await world.context.schedule_task(remind, "ada", schedule="30 2 * * *", timezone="Europe/Dublin")
        await world.advance(days=2)
    ```
    """
    clock = VirtualClock(start, settle_seconds)
    async with app.create(clock=clock, new_store=_new_store(app, backend)) as context:
        run = asyncio.create_task(context.run())
        world = World(app, context, clock)
        try:
            await _settled_or_ended(clock, run)
        except UnsettledError:
            run.cancel()  # its fixtures may never be set up
            await asyncio.wait({run})
            raise
        try:
            yield world
        finally:
            context.shutdown(grace=datetime.timedelta(0))
            await run


def _new_store(app: Pyncette, backend: object) -> Callable[[], Store]:
    if backend == "memory":
        return MemoryStore
    if backend == "app":
        return app.new_store
    if callable(backend):
        return backend
    raise ValueError(f'backend must be "memory", "app" or a factory of stores, not {backend!r}')


async def _settled_or_ended(clock: VirtualClock, run: asyncio.Task[None]) -> None:
    """Wait until *clock* is settled or *run* has ended: an app may fail at its start."""
    settling = asyncio.ensure_future(clock.settle())
    await asyncio.wait({settling, run}, return_when=asyncio.FIRST_COMPLETED)
    if run.done():
        settling.cancel()
        run.result()
    await settling
