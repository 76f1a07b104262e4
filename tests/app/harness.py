"""Runs an app on pretended time, while a test looks on."""

from __future__ import annotations

import asyncio
import datetime
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pyncette import Pyncette, PyncetteContext
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
