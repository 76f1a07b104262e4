"""Policies of Python end to end: in real time, on SQLite and on PostgreSQL."""

import asyncio
import datetime
import itertools

import pytest

from pyncette import Pyncette, Retry
from pyncette.backend import backend_repository
from tests.app.harness import seconds


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'tasks.sqlite'}"
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def calls():
    return []


@pytest.fixture
def app(url, calls):
    app = Pyncette(backend_repository, poll_interval=seconds(0.1), defaults="safe", backend_url=url)

    @app.dynamic_task(
        retry=Retry(
            max_attempts=4, initial_backoff=seconds(0.4), max_backoff=seconds(0.8), give_up_on=LookupError
        )
    )
    async def remind(context):
        calls.append((context.task.name, context.attempt, context.scheduled_at, now()))
        match context.args:
            case {"fails": "always"}:
                raise LookupError("no such person")
            case {"fails": times} if context.attempt <= times:
                raise ConnectionError("try again")
            case {"hangs": True}:
                await asyncio.sleep(3600)

    return app


def now():
    return datetime.datetime.now(datetime.UTC)


async def gone(app_context, task, name):
    async with asyncio.timeout(60):
        while await app_context.get_task(task, name) is not None:  # noqa: ASYNC110 - as another process would
            await asyncio.sleep(0.05)


async def test_a_day_of_reminders_in_seconds(app, calls):
    remind = app.tasks["remind"]

    def called(name):
        return [call for call in calls if call[0] == name]

    async with app.create() as app_context:
        run = asyncio.create_task(app_context.run())
        start = now()
        end = start + seconds(5)
        schedule = app_context.schedule_task
        await schedule(remind, "backoff", execute_at=start, args={"fails": 3})
        await schedule(remind, "unknown", execute_at=start, args={"fails": "always"})
        await schedule(
            remind,
            "hangs",
            execute_at=start,
            args={"hangs": True},
            timeout=seconds(0.3),
            retry=Retry(max_attempts=1),
        )
        await schedule(remind, "course", interval=seconds(0.5), not_after=end)
        await schedule(remind, "holiday", interval=seconds(0.5), suspend=True)
        for name in ("backoff", "unknown", "hangs", "course"):
            await gone(app_context, remind, name)
        paused = await app_context.get_task(remind, "holiday")
        assert not called("holiday")
        resumed_at = now()
        await schedule(remind, "holiday", interval=seconds(0.5), not_after=now() + seconds(30), suspend=False)
        async with asyncio.timeout(60):
            while not called("holiday"):  # noqa: ASYNC110 - the worker is in this process
                await asyncio.sleep(0.05)
        app_context.shutdown()
        await run

    assert paused is not None
    assert paused.task.suspend
    assert paused.scheduled_at is None
    assert [attempt for _, attempt, _, _ in called("backoff")] == [1, 2, 3, 4]
    times = [time for _, _, _, time in called("backoff")]
    delays = [(later - sooner).total_seconds() for sooner, later in itertools.pairwise(times)]
    assert all(delay >= least for delay, least in zip(delays, [0.2, 0.4, 0.4], strict=True))
    assert len(called("unknown")) == len(called("hangs")) == 1
    course = [scheduled_at for _, _, scheduled_at, _ in called("course")]
    assert all(later - sooner == seconds(0.5) for sooner, later in itertools.pairwise(course))
    assert end - seconds(0.5) < course[-1] <= end
    assert called("holiday")[0][2] > resumed_at
