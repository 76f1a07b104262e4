"""Runs an app in simulated time, for the length of a test."""

from __future__ import annotations

import asyncio
import datetime
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from pyncette import Pyncette, PyncetteContext
from pyncette.task import Task
from pyncette.testing import VirtualClock

NOON = datetime.datetime(2030, 6, 1, 12, tzinfo=datetime.UTC)


def seconds(number: float) -> datetime.timedelta:
    return datetime.timedelta(seconds=number)


def at(number: float) -> datetime.datetime:
    """The instant *number* seconds after noon, when all tests begin."""
    return NOON + seconds(number)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@asynccontextmanager
async def running(app: Pyncette, clock: VirtualClock, **create: Any) -> AsyncIterator[PyncetteContext]:
    """Run *app* until the test is over; what still runs then is cancelled."""
    async with app.create(clock=clock, **create) as app_context:
        run = asyncio.create_task(app_context.run())
        await clock.settle()
        try:
            yield app_context
        finally:
            app_context.shutdown(grace=seconds(0))
            await run


async def schedule_at_once(
    app: Pyncette, task: Task, processes: int, options: Callable[[int], dict[str, Any]]
) -> list[BaseException]:
    """Have that many app contexts schedule one new instance of *task* at once, and again; return the errors."""
    errors: list[BaseException] = []
    async with AsyncExitStack() as stack:
        # One by one, since opening that many DynamoDB clients at once blocks the process for half a minute.
        contexts = [await stack.enter_async_context(app.create()) for _ in range(processes)]
        for _ in range(2):
            answers = await asyncio.gather(
                *(
                    context.schedule_task(task, "ada", **options(number))
                    for number, context in enumerate(contexts)
                ),
                return_exceptions=True,
            )
            errors += [answer for answer in answers if isinstance(answer, BaseException)]
    return errors
