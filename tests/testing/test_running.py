"""What `pyncette.testing.running` promises to users, on every backend."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pyncette import Context, FailureMode, Pyncette, PyncetteContext
from pyncette.postgres import postgres_repository
from pyncette.sqlite import sqlite_repository
from pyncette.testing import UnsettledError, running

START = datetime(2024, 3, 30, tzinfo=UTC)

NewApp = Callable[..., Pyncette]


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def new_app(request: pytest.FixtureRequest, tmp_path: Path) -> NewApp:
    """Makes apps on one backend."""
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
        return lambda **options: Pyncette(postgres_repository, postgres_url=url, **options)
    database = ":memory:" if request.param == "memory" else str(tmp_path / "test.sqlite")
    return lambda **options: Pyncette(sqlite_repository, sqlite_database=database, **options)


async def test_days_ahead_pass_at_once_and_in_order(new_app: NewApp) -> None:
    app = new_app()
    ran: list[str] = []

    @app.task(schedule="30 2 * * *", timezone="Europe/Dublin")
    async def nightly(context: Context) -> None:
        ran.append(context.scheduled_at.isoformat())

    async with running(app, START) as world:
        await world.advance(days=3)

    assert ran == ["2024-03-30T02:30:00+00:00", "2024-03-31T02:30:00+01:00", "2024-04-01T02:30:00+01:00"]


async def test_a_week_of_minutes_is_run_one_by_one(new_app: NewApp) -> None:
    app = new_app()
    ran: list[datetime] = []

    @app.task(interval=timedelta(hours=1))
    async def hourly(context: Context) -> None:
        ran.append(context.scheduled_at)

    async with running(app, START) as world:
        await world.advance(days=7)
        assert world.now == START + timedelta(days=7)

    assert ran == [START + timedelta(hours=hour) for hour in range(1, 7 * 24 + 1)]


async def test_time_stands_still_between_moves(new_app: NewApp) -> None:
    app = new_app()
    ran: list[datetime] = []

    @app.dynamic_task()
    async def once(context: Context) -> None:
        ran.append(context.scheduled_at)

    async with running(app, START) as world:
        await world.context.schedule_task(once, "a", execute_at=START + timedelta(seconds=1))
        await world.settle()
        assert ran == []
        await world.advance(seconds=1)
        assert len(ran) == 1
        assert await world.context.get_task(once, "a") is None


async def test_an_overwritten_instance_starts_while_its_old_handler_still_runs(
    new_app: NewApp,
) -> None:
    app = new_app()
    began: list[datetime] = []
    ended: list[datetime] = []

    @app.dynamic_task(lease_duration=timedelta(hours=1))
    async def slow(_: Context) -> None:
        began.append(world.now)
        await world.sleep(minutes=10)
        ended.append(world.now)

    async with running(app, START) as world:
        minute = timedelta(minutes=1)
        await world.context.schedule_task(slow, "a", execute_at=START + minute)
        await world.advance(minutes=2)
        await world.context.schedule_task(slow, "a", execute_at=START + 3 * minute, force=True)
        await world.advance(minutes=1)
        assert began == [START + minute, START + 3 * minute]
        assert ended == []
        await world.advance(minutes=10)

    assert ended[-1] == START + 13 * minute


async def test_a_poll_is_the_step_after_which_a_released_occurrence_is_tried_again(new_app: NewApp) -> None:
    app = new_app(poll_interval=timedelta(seconds=5))
    attempts: list[int] = []

    @app.task(interval=timedelta(hours=1), failure_mode=FailureMode.UNLOCK)
    async def flaky(context: Context) -> None:
        attempts.append(context.attempt)
        if context.attempt < 3:
            raise ValueError("not yet")

    async with running(app, START) as world:
        await world.advance(hours=1)
        assert attempts == [1]
        await world.poll()
        assert attempts == [1, 2]
        await world.poll()
        await world.poll()

    assert attempts == [1, 2, 3]


async def test_a_handler_may_take_long_in_simulated_time(new_app: NewApp) -> None:
    app = new_app()
    ended: list[datetime] = []

    @app.task(interval=timedelta(hours=1), heartbeat="automatic")
    async def long(context: Context) -> None:
        await context.world.sleep(minutes=20)
        ended.append(context.world.now)

    async with running(app, START) as world:
        world.context.add_to_context("world", world)
        await world.advance(minutes=79)
        assert ended == []
        await world.advance(minutes=1)

    assert ended == [START + timedelta(minutes=80)]


async def test_a_task_that_is_enabled_on_the_way_runs_what_is_due_by_then(new_app: NewApp) -> None:
    app = new_app()
    ran: list[datetime] = []

    @app.task(interval=timedelta(hours=1), enabled=False)
    async def paused(context: Context) -> None:
        ran.append(context.scheduled_at)

    async with running(app, START) as world:
        await world.advance(hours=2)
        assert ran == []
        paused.enabled = True
        await world.settle()
        assert ran == [START + timedelta(hours=1), START + timedelta(hours=2)]
        paused.enabled = False
        await world.advance(hours=2)

    assert len(ran) == 2


async def test_a_fixture_that_raises_ends_the_block_with_its_error(new_app: NewApp) -> None:
    app = new_app()

    @app.fixture()
    async def broken(app_context: PyncetteContext):
        raise ValueError("no such thing")
        yield

    with pytest.raises(ValueError, match="no such thing"):
        async with running(app, START):
            pass


async def test_a_handler_that_waits_for_real_time_is_an_error_after_the_settle_time() -> None:
    app = Pyncette()

    @app.task(interval=timedelta(hours=1))
    async def real(context: Context) -> None:
        await asyncio.sleep(3600)

    async with running(app, START, settle_seconds=0.2) as world:
        with pytest.raises(UnsettledError, match=r"after 0\.2 s: .* sleep"):
            await world.advance(hours=2)
