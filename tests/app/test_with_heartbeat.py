"""`with_heartbeat` keeps the lease of a handler that says nothing of itself."""

import asyncio

import pytest

from pyncette import ExecutionMode, Pyncette
from pyncette.app.context import runtime_of
from pyncette.core.record import Key, Partition
from pyncette.errors import LeaseLostException, StoreUnavailableError
from pyncette.store.memory import MemoryBackend, MemoryStore
from pyncette.utils import with_heartbeat
from tests.app.harness import at, running, seconds


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
async def test_the_lease_is_kept_for_as_long_as_the_handler_runs(repository, clock, ratio):
    app = Pyncette(repository)
    attempts = []

    @app.task(interval=seconds(10_000), lease_duration=seconds(60))
    @with_heartbeat(lease_remaining_ratio=ratio)
    async def long(context):
        attempts.append(context.attempt)
        await clock.sleep(seconds(1000))

    async with running(app, clock) as app_context:
        await clock.advance(seconds(10_500))
        state = await app_context.get_task(long)
        await clock.advance(seconds(1000))

    assert attempts == [1]
    remaining = (state.locked_until - at(10_500)) / seconds(60)
    assert ratio <= remaining <= 1


async def test_no_heartbeat_comes_after_the_handler_returned(repository, clock):
    app = Pyncette(repository)

    @app.task(interval=seconds(100), lease_duration=seconds(60))
    @with_heartbeat()
    async def short(context):
        pass

    async with running(app, clock) as app_context:
        await clock.advance(seconds(199))
        assert not runtime_of(app_context).heartbeats
        assert (await app_context.get_task(short)).locked_until is None


async def test_what_the_handler_raises_is_what_is_raised(repository, clock):
    app = Pyncette(repository)
    raised = []

    @app.middleware
    async def look(context, go_on):
        try:
            await go_on()
        except ValueError as error:
            raised.append(str(error))

    @app.task(interval=seconds(100))
    @with_heartbeat(cancel_on_lease_lost=True)
    async def wrong(context):
        raise ValueError("no report")

    async with running(app, clock):
        await clock.advance(seconds(100))

    assert raised == ["no report"]


@pytest.mark.parametrize("cancel", [True, False])
async def test_a_handler_that_lost_its_lease_is_cancelled_only_if_that_was_asked_for(
    repository, clock, cancel
):
    app = Pyncette(repository)
    events = []

    @app.middleware
    async def look(context, go_on):
        try:
            await go_on()
        except LeaseLostException as error:
            events.append(f"lost {error.task}")
            raise

    @app.dynamic_task(lease_duration=seconds(60))
    @with_heartbeat(cancel_on_lease_lost=cancel)
    async def long(context):
        try:
            await clock.sleep(seconds(300))
            events.append("done")
        except asyncio.CancelledError:
            events.append("cancelled")
            raise

    async with running(app, clock) as app_context:
        await app_context.schedule_task(long, "ada", execute_at=at(1))
        await clock.advance(seconds(10))
        await app_context.unschedule_task(long, "ada")
        await clock.advance(seconds(500))

    assert events == (["cancelled", "lost long:ada"] if cancel else ["done"])


async def test_a_run_that_is_cancelled_from_outside_is_not_taken_for_one_that_lost_its_lease(
    repository, clock
):
    app = Pyncette(repository)
    events = []

    @app.task(interval=seconds(100))
    @with_heartbeat(cancel_on_lease_lost=True)
    async def long(context):
        try:
            await clock.sleep(seconds(300))
        except BaseException as error:
            events.append(type(error))
            raise

    async with running(app, clock) as app_context:
        await clock.advance(seconds(110))
        app_context.shutdown(grace=seconds(0))

    assert events == [asyncio.CancelledError]


class Flaky(MemoryStore):
    """Does not answer to renewals while *failing* is above 0."""

    failing = 0

    async def renew(self, renewals, now):
        if self.failing:
            self.failing -= 1
            raise StoreUnavailableError("the backend is away")
        return await super().renew(renewals, now)


async def test_a_heartbeat_that_does_not_reach_the_backend_is_an_error_only_once_the_lease_has_run_out(clock):
    store = Flaky(MemoryBackend())
    app = Pyncette(lambda: store)
    heard = []

    @app.task(interval=seconds(10_000), lease_duration=seconds(60))
    async def long(context):
        store.failing = 2
        for _ in range(2):
            await clock.sleep(seconds(45))
            try:
                await context.heartbeat()
                heard.append("held")
            except LeaseLostException:
                heard.append("lost")

    async with running(app, clock):
        await clock.advance(seconds(10_000))
        await clock.advance(seconds(91))

    assert heard[:2] == ["held", "lost"]


async def test_a_backend_that_is_away_for_a_moment_costs_no_lease(clock):
    store = Flaky(MemoryBackend())
    app = Pyncette(lambda: store)
    attempts = []

    @app.task(interval=seconds(10_000), lease_duration=seconds(60))
    @with_heartbeat(cancel_on_lease_lost=True)
    async def long(context):
        attempts.append(context.attempt)
        await clock.sleep(seconds(500))

    async with running(app, clock):
        await clock.advance(seconds(10_010))
        store.failing = 3
        await clock.advance(seconds(1_000))

    assert attempts == [1]


async def test_at_most_once_there_is_nothing_to_renew(repository, clock):
    app = Pyncette(repository)
    ran = []

    @app.dynamic_task(execution_mode=ExecutionMode.AT_MOST_ONCE, lease_duration=seconds(60))
    @with_heartbeat(cancel_on_lease_lost=True)
    async def long(context):
        await clock.sleep(seconds(300))
        ran.append(context.scheduled_at)

    async with running(app, clock) as app_context:
        await app_context.schedule_task(long, "ada", execute_at=at(1))
        await clock.advance(seconds(10))
        await app_context.unschedule_task(long, "ada")
        await clock.advance(seconds(500))

    assert ran == [at(1)]


@pytest.mark.parametrize("mode", [ExecutionMode.AT_LEAST_ONCE, ExecutionMode.AT_MOST_ONCE])
async def test_an_automatic_heartbeat_needs_no_word_of_the_handler(repository, clock, mode):
    app = Pyncette(repository)
    ran = []

    @app.task(
        interval=seconds(10_000), lease_duration=seconds(60), heartbeat="automatic", execution_mode=mode
    )
    async def long(context):
        ran.append(context.attempt)
        await clock.sleep(seconds(1_000))
        ran.append("done")

    async with running(app, clock) as app_context:
        await clock.advance(seconds(12_000))
        (record,) = await runtime_of(app_context).ledger.store.load([Key(Partition("", "long"), "long")])

    assert ran == [1, "done"]
    assert record.state.summary.counts.succeeded == 1
