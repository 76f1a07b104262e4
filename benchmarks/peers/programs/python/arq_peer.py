"""arq on uvloop: an asyncio worker, and jobs that are deferred until they are due."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import uvloop
from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker
from measuring import asked, begins, ended

AT_ONCE = 50
"""Calls of `enqueue_job` under way at once; there is no bulk call."""

late: list[float] = []
all_ran = asyncio.Event()
wanted = asked()


async def tick(context: dict[str, Any], due: float) -> None:
    late.append(time.time() - due)
    if len(late) == wanted.number:
        all_ran.set()


async def main() -> None:
    settings = RedisSettings.from_dsn(wanted.place)
    pool = await create_pool(settings)
    due = wanted.due()
    for start in range(0, len(due), AT_ONCE):
        await asyncio.gather(
            *(
                pool.enqueue_job("tick", at, _defer_until=datetime.fromtimestamp(at, UTC))
                for at in due[start : start + AT_ONCE]
            )
        )
    wanted.all_scheduled()
    worker = Worker(
        [tick],
        redis_settings=settings,
        max_jobs=100,
        poll_delay=0.005,
        queue_read_limit=500,
        keep_result=0,
        log_results=False,
        handle_signals=False,
    )
    begins()
    running = asyncio.create_task(worker.async_run())
    await all_ran.wait()
    # A job's task goes on after its handler, until its end is written.
    await asyncio.gather(*worker.tasks.values())
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await worker.close()
    ended(late)


if __name__ == "__main__":
    uvloop.run(main())
