"""APScheduler 3 on uvloop, with its jobs in memory or in PostgreSQL."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

import uvloop
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from measuring import Asked, asked, begins, ended

late: list[float] = []
all_ran = asyncio.Event()
wanted = asked()


async def tick(due: float) -> None:
    late.append(time.time() - due)
    if len(late) == wanted.number:
        all_ran.set()


async def main() -> None:
    # No limit to how late a job may start: the default of a second would skip most of a drain.
    scheduler = AsyncIOScheduler(
        jobstores={"default": jobs_in(wanted)}, job_defaults={"misfire_grace_time": None}, timezone=UTC
    )
    scheduler.start(paused=True)
    for due in wanted.due():
        scheduler.add_job(tick, "date", run_date=datetime.fromtimestamp(due, UTC), args=(due,))
    wanted.all_scheduled()
    begins()
    scheduler.resume()
    await all_ran.wait()
    scheduler.shutdown()
    ended(late)


def jobs_in(wanted: Asked) -> MemoryJobStore | SQLAlchemyJobStore:
    if wanted.place == "memory":
        return MemoryJobStore()
    return SQLAlchemyJobStore(url=wanted.place.replace("postgresql:", "postgresql+psycopg:", 1))


if __name__ == "__main__":
    uvloop.run(main())
