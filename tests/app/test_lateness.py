"""How late a run starts if its record is edited, locked, overwritten or counted at the moment it falls due."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
import pytest

from pyncette import Context, ExecutionMode, Pyncette, PyncetteContext
from pyncette.store.backend import read_backend
from tests.servers.mysql import connect as connect_to_mysql

SOON: Final = 2.0
"""Seconds that a busy machine may add: far fewer than the ten seconds, or the minute, after which a worker polls anyway."""

MINUTE = datetime.timedelta(minutes=1)


class Timed:
    """An app, and how late its runs began, in seconds."""

    def __init__(self, url: str, poll_interval: datetime.timedelta = MINUTE, **options: Any) -> None:
        self.app = Pyncette(poll_interval=poll_interval)
        self.late: list[float] = []
        self.begun = asyncio.Event()
        self.end = asyncio.Event()
        self.lasts = 0.0
        self._new_store = read_backend(url).new_store

        @self.app.dynamic_task(lease_duration=MINUTE, **options)
        async def tick(context: Context) -> None:
            self.late.append((now() - context.scheduled_at).total_seconds())
            self.begun.set()
            await (self.end.wait() if context.args.get("waits") else asyncio.sleep(self.lasts))

        self.tick = tick

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[PyncetteContext]:
        """A process that only schedules."""
        async with self.app.create(new_store=self._new_store) as context:
            yield context

    @asynccontextmanager
    async def working(self) -> AsyncIterator[PyncetteContext]:
        """A worker, on connections of its own."""
        async with self.opened() as context:
            running = asyncio.create_task(context.run())
            try:
                yield context
            finally:
                self.end.set()
                context.shutdown()
                await running

    async def all_begun(self, number: int) -> None:
        async with asyncio.timeout(30):
            while len(self.late) < number:  # noqa: ASYNC110 - each run is one of several that are waited for
                await asyncio.sleep(0.01)


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def seconds(number: float) -> datetime.timedelta:
    return datetime.timedelta(seconds=number)


# --- Overwritten while it runs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["postgres_url", "redis_url"])
async def test_an_overwritten_running_instance_starts_at_once_on_an_idle_worker_that_is_notified(
    request: pytest.FixtureRequest, backend: str
) -> None:
    timed = Timed(request.getfixturevalue(backend))
    async with timed.working(), timed.opened() as editor:
        await editor.schedule_task(timed.tick, "a", execute_at=now(), waits=True)
        await timed.begun.wait()
        timed.begun.clear()
        async with timed.working():
            await asyncio.sleep(0.5)  # so that it has polled, and sleeps

            await editor.schedule_task(timed.tick, "a", execute_at=now(), waits=True, force=True)
            await timed.all_begun(2)

    assert max(timed.late[1:]) < SOON


@pytest.mark.parametrize("backend", ["sqlite", "mariadb_url"])
async def test_an_overwritten_running_instance_starts_at_once_on_the_worker_that_overwrites_it(
    request: pytest.FixtureRequest, tmp_path: Any, backend: str
) -> None:
    url = f"sqlite:///{tmp_path}/a.db" if backend == "sqlite" else request.getfixturevalue(backend)
    timed = Timed(url)
    async with timed.working() as context:
        await context.schedule_task(timed.tick, "a", execute_at=now(), waits=True)
        await timed.begun.wait()

        await context.schedule_task(timed.tick, "a", execute_at=now(), waits=True, force=True)
        await timed.all_begun(2)

    assert max(timed.late) < SOON


@pytest.mark.parametrize("backend", ["sqlite", "mariadb_url"])
async def test_without_notifications_an_overwritten_instance_starts_at_the_next_poll_of_an_idle_worker(
    request: pytest.FixtureRequest, tmp_path: Any, backend: str
) -> None:
    url = f"sqlite:///{tmp_path}/a.db" if backend == "sqlite" else request.getfixturevalue(backend)
    timed = Timed(url, poll_interval=seconds(0.5))
    async with timed.working(), timed.opened() as editor:
        await editor.schedule_task(timed.tick, "a", execute_at=now(), waits=True)
        await timed.begun.wait()

        await editor.schedule_task(timed.tick, "a", execute_at=now(), waits=True, force=True)
        await timed.all_begun(2)

    assert max(timed.late) < 0.5 + SOON


# --- Locked as it falls due --------------------------------------------------------------------------------------------

LOCK: Final = 0.5


@asynccontextmanager
async def locked_on_postgres(url: str) -> AsyncIterator[None]:
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.fetch("SELECT FROM pyncette_tasks FOR UPDATE")
            yield
    finally:
        await connection.close()


@asynccontextmanager
async def locked_on_mysql(url: str) -> AsyncIterator[None]:
    connection = await connect_to_mysql(url)
    try:
        cursor = connection.cursor()
        await cursor.execute("BEGIN")
        await cursor.execute("SELECT id FROM pyncette_tasks FOR UPDATE")
        yield
        await cursor.execute("ROLLBACK")
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("backend", "locked"), [("postgres_url", locked_on_postgres), ("mariadb_url", locked_on_mysql)]
)
async def test_a_record_that_is_locked_when_it_falls_due_starts_once_the_lock_is_gone(
    request: pytest.FixtureRequest, backend: str, locked: Any
) -> None:
    url = request.getfixturevalue(backend)
    timed = Timed(url)
    async with timed.working() as context:
        await context.schedule_task(timed.tick, "a", execute_at=now() + seconds(1))
        await asyncio.sleep(0.8)

        async with locked(url):
            await asyncio.sleep(LOCK)
            assert timed.late == []
        await timed.all_begun(1)

    assert timed.late[0] < LOCK - 0.2 + SOON


async def slow_down(url: str, updates: str) -> None:
    """Make the server as slow in *updates* of records as a very busy one, with the records locked."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(
            f"""
            CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql
            AS $$ BEGIN PERFORM pg_sleep({LOCK}); RETURN NEW; END $$;
            CREATE TRIGGER slowly BEFORE UPDATE ON pyncette_tasks FOR EACH ROW WHEN ({updates}) EXECUTE FUNCTION slowly();
            """
        )
    finally:
        await connection.close()


async def test_a_record_that_is_written_when_it_falls_due_starts_once_the_write_is_done(
    postgres_url: str,
) -> None:
    timed = Timed(postgres_url)
    async with timed.working(), timed.opened() as editor:
        await slow_down(postgres_url, "NEW.spec IS DISTINCT FROM OLD.spec")
        at = now() + seconds(1)
        await editor.schedule_task(timed.tick, "a", execute_at=at)
        await asyncio.sleep(0.8)

        await editor.schedule_task(timed.tick, "a", execute_at=at, saved="again")
        assert now() > at
        await timed.all_begun(1)

    assert timed.late[0] < LOCK - 0.2 + SOON


async def test_a_run_that_ends_as_its_schedule_falls_due_again_delays_nothing(postgres_url: str) -> None:
    """A side run is counted in the record of its schedule, which the next claim is for."""
    timed = Timed(postgres_url, execution_mode=ExecutionMode.AT_MOST_ONCE)
    timed.lasts = 1.8
    async with timed.working() as context:
        await slow_down(
            postgres_url, "NEW.state IS DISTINCT FROM OLD.state AND NEW.claimable_at = OLD.claimable_at"
        )
        await context.schedule_task(timed.tick, "a", interval=seconds(2))
        await timed.all_begun(3)

    assert max(timed.late) < LOCK - 0.2 + SOON
