"""What a host program sees, whose formatter shows the message alone: each line names its task, instance and attempt."""

import asyncio
import io
import logging
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from pyncette import ExecutionMode, FailureMode, Pyncette
from pyncette.core.record import Key, Partition, replace
from pyncette.core.spec import Exhaustion, Overlap, Retry
from pyncette.errors import DoNotRetry, RetryAfter
from pyncette.store.memory import MemoryBackend, MemoryStore
from pyncette.utils import with_heartbeat
from pyncette.worker import loop_watch
from tests.app.harness import at, running, seconds

NOT_BY_ITS_WORKER = "the handler was cancelled, but not by its worker"
ADA = "task=remind instance=ada attempt=1"


@contextmanager
def host_program():
    """The logging of a program that called `logging.basicConfig(level=logging.INFO)`."""
    stream = io.StringIO()
    root = logging.getLogger()
    before = root.handlers[:], root.level
    root.handlers[:] = []
    try:
        logging.basicConfig(level=logging.INFO, stream=stream)
        yield lambda: [line for line in stream.getvalue().splitlines() if ":pyncette." in line]
    finally:
        root.handlers[:], root.level = before


async def nothing(context): ...


def with_policies(task, **policies):
    """Give *task* policies that only a resource can give it."""
    task._cached_policies = replace(task._policies, **policies)


async def lines_of(app, remind, clock, *, after=1.0, during=None):
    with host_program() as lines:
        async with running(app, clock) as app_context:
            await app_context.schedule_task(remind, "ada", execute_at=at(1))
            await clock.advance(seconds(after))
            if during is not None:
                await during(app_context)
        return lines()


def app_with(handler, **options):
    app = Pyncette()
    return app, app.dynamic_task(name="remind", **options)(handler)


FAILURES = [
    (
        RuntimeError("no mail server"),
        f"ERROR:pyncette.worker.run:the handler failed: RuntimeError: no mail server {ADA}",
    ),
    (RuntimeError("a\nb"), rf"ERROR:pyncette.worker.run:the handler failed: RuntimeError: a\nb {ADA}"),
    (
        DoNotRetry("bounced"),
        f"ERROR:pyncette.worker.run:the handler failed and must not be retried: DoNotRetry: bounced {ADA}",
    ),
    (
        RetryAfter(timedelta(minutes=5)),
        f"WARNING:pyncette.worker.run:the handler asked for a retry in 0:05:00: RetryAfter: retry after 0:05:00 {ADA}",
    ),
    (
        asyncio.CancelledError(),
        f"ERROR:pyncette.worker.run:the handler failed: CancelledError: {NOT_BY_ITS_WORKER} {ADA}",
    ),
]


@pytest.mark.parametrize(("error", "line"), FAILURES, ids=[type(error).__name__ for error, _ in FAILURES])
async def test_a_failed_handler(clock, error, line):
    async def remind(context):
        raise error

    assert line in await lines_of(*app_with(remind), clock)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, "INFO:pyncette.worker.endings:the next attempt follows when the lease expires"),
        (
            {"failure_mode": FailureMode.UNLOCK},
            "INFO:pyncette.worker.endings:the next attempt follows in 1 s",
        ),
        (
            {"failure_mode": FailureMode.COMMIT},
            "INFO:pyncette.worker.endings:the occurrence failed, and is not retried",
        ),
        (
            {"execution_mode": ExecutionMode.AT_MOST_ONCE},
            "INFO:pyncette.worker.endings:the occurrence failed, and is not retried",
        ),
    ],
)
async def test_what_follows_a_failed_attempt(clock, options, line):
    async def remind(context):
        raise ValueError

    assert f"{line} {ADA}" in await lines_of(*app_with(remind, **options), clock)


@pytest.mark.parametrize(
    ("policy", "line"),
    [
        (Exhaustion.DEAD_LETTER, "WARNING:pyncette.worker.endings:the occurrence was dead-lettered"),
        (
            Exhaustion.SUSPEND,
            "WARNING:pyncette.worker.endings:the schedule is suspended, since no attempt succeeded",
        ),
    ],
)
async def test_an_occurrence_without_attempts_left(clock, policy, line):
    async def remind(context):
        raise ValueError

    app, task = app_with(remind)
    with_policies(task, retry=Retry(max_attempts=1), exhausted=policy)

    assert f"{line} {ADA}" in await lines_of(app, task, clock)


async def test_a_run_that_took_too_long(clock):
    async def remind(context):
        await clock.sleep(timedelta(minutes=1))

    app, task = app_with(remind)
    with_policies(task, active_deadline=5_000_000)

    assert (
        "ERROR:pyncette.worker.endings:the run timed out: the run took longer than its active deadline of 5 s "
        f"{ADA}"
    ) in await lines_of(app, task, clock, after=10)


async def test_a_run_that_the_next_occurrence_replaces(clock):
    async def report(context):
        await clock.sleep(timedelta(hours=1))

    app = Pyncette()
    task = app.task(interval=seconds(60), heartbeat="automatic")(report)
    with_policies(task, overlap=Overlap.REPLACE)

    with host_program() as lines:
        async with running(app, clock):
            await clock.advance(seconds(130))

    assert (
        "INFO:pyncette.worker.endings:the run was replaced: the next occurrence was due task=report attempt=1"
        in lines()
    )


async def test_a_run_that_a_stopping_worker_cancels(clock):
    async def remind(context):
        await clock.sleep(timedelta(hours=1))

    assert (
        f"INFO:pyncette.worker.endings:the run was cancelled: the worker stopped before the run ended {ADA}"
    ) in await lines_of(*app_with(remind), clock)


async def test_a_run_that_loses_its_lease(clock):
    @with_heartbeat()
    async def remind(context):
        await clock.sleep(seconds(50))

    app, task = app_with(remind)

    async def remove(app_context):
        await app_context.unschedule_task(task, "ada")
        await clock.advance(seconds(60))

    lines = await lines_of(app, task, clock, during=remove)

    assert f"WARNING:pyncette.utils:the lease was lost while the handler runs {ADA}" in lines
    assert f"WARNING:pyncette.worker.run:the run ended after its lease was lost {ADA}" in lines


async def test_a_record_that_cannot_be_read(clock):
    backend = MemoryBackend()
    app = Pyncette(lambda: MemoryStore(backend))
    task = app.dynamic_task(name="remind")(nothing)

    async def poison(app_context):
        await app_context.schedule_task(task, "eve", execute_at=at(20))
        backend.poison(Key(Partition("", "remind"), "remind", "eve"))
        await app_context.list_tasks(task)

    lines = await lines_of(app, task, clock, during=poison)

    (line, *_) = (line for line in lines if "cannot be read" in line)
    assert line.startswith(
        "ERROR:pyncette.store.codec:skipped a record that cannot be read task=remind instance=eve error="
    )


async def test_a_schedule_that_is_over(clock):
    app = Pyncette()

    @app.task(schedule="0 0 1 1 * 0 2020-2029")
    async def old(context):
        pass

    with host_program() as lines:
        async with running(app, clock):
            pass

    (line,) = (line for line in lines() if "a task has no further due time" in line)
    assert line.endswith(" task=old")


async def test_a_handler_that_blocks_the_event_loop(tmp_path, monkeypatch):
    monkeypatch.setattr(loop_watch, "BLOCKED_AFTER_SECONDS", 0.2)
    app = Pyncette(sqlite_database=str(tmp_path / "x.sqlite"))

    @app.dynamic_task(heartbeat="automatic", lease_duration=seconds(30))
    async def remind(context):
        time.sleep(3)  # noqa: ASYNC251 - the point of this test
        context.app_context.shutdown()

    with host_program() as lines:
        async with app.create() as app_context:
            await app_context.schedule_task(remind, "ada", execute_at=datetime.now(UTC))
            async with asyncio.timeout(20):
                await app_context.run()

    line = f"WARNING:pyncette.worker.loop_watch:a handler blocks the event loop; all other handlers wait {ADA} at={__file__}:"
    assert any(shown.startswith(line) for shown in lines())
