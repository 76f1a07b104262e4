"""The permits of a declared task go with its limit, and with the task."""

import asyncio

import pytest

from pyncette import Pyncette
from pyncette.app.context import runtime_of
from pyncette.coordination.permit_records import permit_partition
from tests.app.harness import running, seconds


def an_app(repository, limit, *, name="report"):
    app = Pyncette(repository)
    app.task(name=name, interval=seconds(10), max_concurrent_runs=limit)(_run)
    return app


async def _run(context):
    await asyncio.sleep(0)


async def permits(context, name="report"):
    return await runtime_of(context).ledger.store.scan(permit_partition("", name, name), None, None, 100)


async def test_a_limit_that_was_removed_leaves_no_permits(repository, clock):
    async with running(an_app(repository, 5), clock) as context:
        await clock.advance(seconds(15))
        assert len(await permits(context)) == 5

    async with an_app(repository, None).create(clock=clock) as context:
        assert await permits(context) == []


async def test_a_task_is_removed_with_its_permits(repository, clock):
    app = an_app(repository, 5)
    async with running(app, clock) as context:
        await clock.advance(seconds(15))

        await context.unschedule_task(app.tasks["report"])
        await clock.advance(seconds(60))

        assert await permits(context) == []


@pytest.mark.parametrize("limit", [3, 5])
async def test_a_limit_that_stays_or_was_lowered_keeps_as_many(repository, clock, limit):
    async with running(an_app(repository, 5), clock):
        await clock.advance(seconds(15))

    async with running(an_app(repository, limit), clock) as context:
        await clock.advance(seconds(15))
        assert len(await permits(context)) == limit
