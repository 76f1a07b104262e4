"""A task module as it was written for Pyncette 1.x: it uses nothing but names of its public API."""

import datetime
import logging
import os
from collections.abc import AsyncIterator

from pyncette import Context, ExecutionMode, FailureMode, Pyncette, PyncetteContext
from pyncette.errors import LeaseLostException, PyncetteException, TaskLockedException
from pyncette.executor import DefaultExecutor
from pyncette.healthcheck import use_healthcheck_server
from pyncette.model import (
    ContinuationToken,
    FixtureFunc,
    Lease,
    ListTasksResponse,
    MiddlewareFunc,
    NextFunc,
    PartitionSelector,
    ResultType,
    TaskFunc,
    TaskState,
)
from pyncette.prometheus import use_prometheus, with_prometheus_repository
from pyncette.sqlite import sqlite_repository
from pyncette.task import PartitionedTask, Task
from pyncette.utils import with_heartbeat

logger = logging.getLogger(__name__)

__all__ = [
    "ContinuationToken",
    "FixtureFunc",
    "Lease",
    "MiddlewareFunc",
    "PartitionedTask",
    "PyncetteException",
]
__all__ += ["PartitionSelector", "ResultType", "TaskFunc"]

events: list[str] = []


def note(event: str) -> None:
    events.append(event)
    print(event, flush=True)


app = Pyncette(
    repository_factory=with_prometheus_repository(sqlite_repository),
    executor_cls=DefaultExecutor,
    poll_interval=datetime.timedelta(seconds=1),
    concurrency_limit=50,
    batch_size=20,
    sqlite_database=os.environ.get("DATABASE", ":memory:"),
    sqlite_table_name="old_tasks",
)

use_prometheus(app, measure_repository=False, measure_ticks=True, measure_tasks=True)


# --- Fixtures and middlewares --------------------------------------------------------------------------------------------


@app.fixture()
async def greeter(app_context: PyncetteContext) -> AsyncIterator[str]:
    note("greeter up")
    yield "hello"
    note("greeter down")


async def make_counter(app_context: PyncetteContext) -> AsyncIterator[list[int]]:
    app_context.add_to_context("release", "1.0")
    note("counter up")
    yield []
    note("counter down")


app.use_fixture("counter", make_counter)


@app.middleware
async def count_runs(context: Context, next: NextFunc) -> None:  # noqa: A002 - as in the documentation of 1.x
    context.counter.append(1)
    await next()


async def keep_errors(context: Context, next: NextFunc) -> None:  # noqa: A002 - likewise
    try:
        await next()
    except Exception as error:
        note(f"{context.task.name} raised {type(error).__name__}")
        raise


app.use_middleware(keep_errors)


# --- Tasks with a schedule of their own ----------------------------------------------------------------------------------


@app.task(interval=datetime.timedelta(seconds=10), audience="everybody")
async def every_ten_seconds(context: Context) -> None:
    note(f"{context.greeter} {context.args['audience']}, release {context.release}")


@app.task(name="noon", schedule="0 12 * * *", timezone="America/New_York", fast_forward=True)
@app.task(name="seconds", schedule="* * * * * */30")
async def on_cron(context: Context) -> None:
    note(f"{context.task.name} at {context.scheduled_at.isoformat()}")


@app.task(interval=datetime.timedelta(minutes=7), failure_mode=FailureMode.UNLOCK)
async def fails_and_unlocks(context: Context) -> None:
    context.counter.append(1000)
    if sum(1 for number in context.counter if number == 1000) % 2:
        raise ValueError("try again")
    note("fails_and_unlocks returned")


@app.task(interval=datetime.timedelta(minutes=11), failure_mode=FailureMode.COMMIT)
async def fails_and_commits(context: Context) -> None:
    raise LookupError("never mind")


@app.task(
    interval=datetime.timedelta(minutes=13),
    failure_mode=FailureMode.NONE,
    lease_duration=datetime.timedelta(seconds=20),
)
async def fails_and_waits(context: Context) -> None:
    raise KeyError("when the lease expires")


@app.task(interval=datetime.timedelta(minutes=17), execution_mode=ExecutionMode.AT_MOST_ONCE)
async def at_most_once(context: Context) -> None:
    await context.heartbeat()
    note("at_most_once")


@app.task(interval=datetime.timedelta(minutes=19), enabled=False)
async def switched_off(context: Context) -> None:
    note("must not run")


# --- Dynamic and partitioned tasks ---------------------------------------------------------------------------------------


@app.dynamic_task(lease_duration=datetime.timedelta(seconds=30))
async def remind(context: Context) -> None:
    try:
        await context.heartbeat()
    except LeaseLostException as lost:
        note(f"lost {lost.task.name}")
        raise
    note(f"remind {context.task.name} of {context.args['what']}")


def by_length(partition_count: int, task_id: str) -> int:
    return len(task_id) % partition_count


@app.partitioned_task(partition_count=4, partition_selector=by_length)
@with_heartbeat(lease_remaining_ratio=0.5, cancel_on_lease_lost=True)
async def spread(context: Context) -> None:
    note(f"spread {context.task.name}")


@app.partitioned_task(partition_count=32, enabled_partitions=list(range(32)))
async def spread_by_hash(context: Context) -> None:
    note(f"spread_by_hash {context.task.name}")


async def schedule_some(app_context: PyncetteContext) -> None:
    task: Task = await app_context.schedule_task(
        remind, "ada", interval=datetime.timedelta(seconds=15), what="tea"
    )
    logger.info("scheduled %s", task.name)
    await app_context.schedule_task(
        remind, "bob", schedule="*/5 * * * *", timezone="Europe/Dublin", what="a walk"
    )
    for number in range(5):
        await app_context.schedule_task(
            spread, "x" * (number + 1), interval=datetime.timedelta(seconds=45), number=number
        )
        await app_context.schedule_task(
            spread_by_hash, f"user-{number}", interval=datetime.timedelta(seconds=45)
        )


async def instances(app_context: PyncetteContext, task: Task) -> dict[str, TaskState]:
    found: dict[str, TaskState] = {}
    response: ListTasksResponse = await app_context.list_tasks(task, limit=2)
    while True:
        found |= {state.task.name: state for state in response.tasks}
        if response.continuation_token is None:
            return found
        response = await app_context.list_tasks(task, limit=2, continuation_token=response.continuation_token)


async def reschedule(app_context: PyncetteContext, name: str, what: str) -> bool:
    try:
        await app_context.schedule_task(remind, name, interval=datetime.timedelta(hours=1), what=what)
    except TaskLockedException as locked:
        note(f"{locked.task.name} is locked")
        return False
    return True


# --- Health --------------------------------------------------------------------------------------------------------------


async def is_healthy(app_context: PyncetteContext) -> bool:
    age = datetime.datetime.now(tz=datetime.UTC) - app_context.last_tick
    return age < datetime.timedelta(seconds=10)


if "HEALTH_PORT" in os.environ:
    use_healthcheck_server(app, port=int(os.environ["HEALTH_PORT"]), bind_address="127.0.0.1")
    use_healthcheck_server(
        app,
        port=int(os.environ["OTHER_HEALTH_PORT"]),
        bind_address="127.0.0.1",
        healthcheck_handler=is_healthy,
    )


if __name__ == "__main__":
    app.main()
