"""What `pyncette.testing.running` promises to users, on every backend."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from pyncette import Context, FailureMode, Pyncette, PyncetteContext
from pyncette.errors import StoreUnavailableError
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

    async with running(app, START, backend="app") as world:
        await world.advance(days=3)

    assert ran == ["2024-03-30T02:30:00+00:00", "2024-03-31T02:30:00+01:00", "2024-04-01T02:30:00+01:00"]


async def test_a_week_of_minutes_is_run_one_by_one(new_app: NewApp) -> None:
    app = new_app()
    ran: list[datetime] = []

    @app.task(interval=timedelta(hours=1))
    async def hourly(context: Context) -> None:
        ran.append(context.scheduled_at)

    async with running(app, START, backend="app") as world:
        await world.advance(days=7)
        assert world.now == START + timedelta(days=7)

    assert ran == [START + timedelta(hours=hour) for hour in range(1, 7 * 24 + 1)]


async def test_time_stands_still_between_moves(new_app: NewApp) -> None:
    app = new_app()
    ran: list[datetime] = []

    @app.dynamic_task()
    async def once(context: Context) -> None:
        ran.append(context.scheduled_at)

    async with running(app, START, backend="app") as world:
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

    async with running(app, START, backend="app") as world:
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

    async with running(app, START, backend="app") as world:
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

    async with running(app, START, backend="app") as world:
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

    async with running(app, START, backend="app") as world:
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
        async with running(app, START, backend="app"):
            pass


async def test_the_error_of_a_move_that_does_not_end_names_what_still_runs() -> None:
    app = Pyncette()

    @app.dynamic_task(failure_mode=FailureMode.UNLOCK)
    async def remind(context: Context) -> None:
        if context.attempt == 1:
            raise ValueError
        await asyncio.sleep(3600)

    @app.task(interval=timedelta(hours=2), heartbeat="automatic")
    async def asleep(context: Context) -> None:
        await world.sleep(days=1)

    async with running(app, START, settle_seconds=0.2) as world:
        await world.context.schedule_task(remind, "ada", execute_at=START + timedelta(hours=3))
        with pytest.raises(UnsettledError) as raised:
            await world.advance(hours=4)

    first, run, advice = str(raised.value).splitlines()
    assert first == "not settled after 0.2 s of real time, at 2024-03-30T03:00:01+00:00:"
    assert run.strip() == "task=remind instance=ada attempt=2 runs since 2024-03-30T03:00:01+00:00"
    assert "await world.sleep()" in advice


async def test_a_fixture_that_waits_for_real_time_is_named_as_the_reason() -> None:
    app = Pyncette()

    @app.fixture()
    async def slow(app_context: PyncetteContext):
        await asyncio.sleep(3600)
        yield

    with pytest.raises(UnsettledError, match="the fixtures are not set up yet"):
        async with asyncio.timeout(20), running(app, START, settle_seconds=0.2):
            pass


async def test_an_app_is_tested_in_memory_and_its_own_database_is_left_alone(tmp_path: Path) -> None:
    database = tmp_path / "precious.sqlite"
    app = Pyncette(sqlite_repository, sqlite_database=str(database))
    ran: list[datetime] = []

    @app.dynamic_task(schedule="0 * * * *")
    async def remind(context: Context) -> None:
        ran.append(context.scheduled_at)

    for _ in range(2):
        async with running(app, START) as world:
            assert await world.context.get_task(remind, "ada") is None
            await world.context.schedule_task(remind, "ada")
            await world.advance(hours=3)

    assert len(ran) == 6
    assert not database.exists()


async def test_no_server_is_connected_to_unless_that_is_asked_for() -> None:
    app = Pyncette(postgres_repository, postgres_url="postgresql://nobody@127.0.0.1:1/nothing")

    async with running(app, START) as world:
        await world.advance(days=1)
    with pytest.raises(StoreUnavailableError):
        async with running(app, START, backend="app"):
            pass


async def test_a_factory_of_stores_can_be_the_backend(tmp_path: Path) -> None:
    app = Pyncette()
    own = partial(sqlite_repository, sqlite_database=str(tmp_path / "kept.sqlite"))

    @app.dynamic_task()
    async def remind(context: Context) -> None: ...

    for scheduled in (False, True):
        async with running(app, START, backend=own) as world:
            assert (await world.context.get_task(remind, "ada") is not None) == scheduled
            await world.context.schedule_task(remind, "ada", schedule="0 8 * * *")


async def test_another_word_for_the_backend_is_refused() -> None:
    with pytest.raises(ValueError, match='"memory", "app" or a factory of stores, not \'sqlite\''):
        async with running(Pyncette(), START, backend="sqlite"):
            pass
