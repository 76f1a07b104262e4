"""The partition count of a template is stored: a different one takes effect while that is safe, else the handler is refused."""

import asyncio
import logging
from contextlib import asynccontextmanager

import pytest

from pyncette import Pyncette
from pyncette.app.context import runtime_of
from pyncette.clock import SystemClock
from pyncette.coordination.members import members
from pyncette.coordination.partition_counts import stray_partitions
from pyncette.core.edits import created, stopped
from pyncette.core.record import Change, Key, Owner, Partition
from pyncette.core.spec import Policies, Spec
from pyncette.core.times import instant_of
from pyncette.errors import ConfigurationError, StoreUnavailableError
from pyncette.postgres import postgres_repository
from pyncette.redis import redis_repository
from pyncette.sqlite import sqlite_repository
from pyncette.store.memory import MemoryBackend, MemoryStore
from tests.app.harness import at, running, seconds

TEMPLATE = Key(Partition("", "spread"), "spread")


def an_app(repository, count, ran=None, **options):
    """An app with a template of *count* partitions (None: a plain one) and a task with a schedule of its own."""
    app = Pyncette(repository, **options)
    ran = [] if ran is None else ran

    async def spread(context):
        ran.append(("spread", context.scheduled_at))

    if count is None:
        app.dynamic_task()(spread)
    else:
        app.partitioned_task(partition_count=count)(spread)

    @app.task(interval=seconds(10))
    async def beat(context):
        ran.append(("beat", context.scheduled_at))

    return app


async def stored_count(context):
    (record,) = await runtime_of(context).ledger.store.load([TEMPLATE])
    return record.spec.partitions


async def mirror(store, now, count, uid="uid"):
    """Create the record of a dynamic PyncetteTask, as an operator does that knows no worker yet."""
    spec = Spec(None, policies=Policies(), partitions=count)
    record = created(TEMPLATE, spec, Policies(), now, owner=Owner(uid, 1, "hash"))
    assert await store.swap([Change(None, record)]) == [True]
    return record


@pytest.mark.parametrize(("before", "after"), [(4, 8), (4, 1), (None, 4), (4, None)])
async def test_another_count_refuses_the_handler_and_the_rest_runs(repository, clock, caplog, before, after):
    """A worker with one such template would not start, whatever else its module had."""
    async with an_app(repository, before).create(clock=clock) as context:
        await context.schedule_task(runtime_of(context).app.tasks["spread"], "ada", interval=seconds(10))
    ran = []
    app = an_app(repository, after, ran)

    async with running(app, clock) as context:
        await clock.advance(seconds(25))

        assert ran == [("beat", at(10)), ("beat", at(20))]
        assert await stored_count(context) == (before or 1)

    declared = "1 partition" if after in {None, 1} else f"{after} partitions"
    (refusal,) = [entry for entry in caplog.records if entry.levelno == logging.WARNING]
    said = refusal.getMessage()
    assert f"The task spread has {declared} here, but its instances are stored in {before or 1}" in said
    assert f"go back to partition_count={before or 1}" in said
    assert "schedule_many of the new one" in said


@pytest.mark.parametrize(("before", "after"), [(4, 8), (4, 1), (None, 4), (4, None)])
async def test_another_count_takes_effect_while_there_is_no_instance(repository, clock, before, after):
    async with an_app(repository, before).create(clock=clock) as context:
        await context.schedule_task(runtime_of(context).app.tasks["spread"], "ada", interval=seconds(10))
        await context.unschedule_task(runtime_of(context).app.tasks["spread"], "ada")
    ran = []
    app = an_app(repository, after, ran)

    async with running(app, clock) as context:
        assert await stored_count(context) == (after or 1)
        for name in ("ada", "bob", "cleo", "dora"):
            await context.schedule_task(app.tasks["spread"], name, execute_at=at(5))
        await clock.advance(seconds(6))

    assert ran == [("spread", at(5))] * 4


async def test_a_count_is_known_from_outcomes_too_and_an_instance_that_finished_does_not_keep_it(
    repository, clock
):
    app = an_app(repository, 4)
    async with running(app, clock) as context:
        for number in range(20):
            await context.schedule_task(app.tasks["spread"], f"u{number}", execute_at=at(1))
        await context.schedule_task(app.tasks["spread"], "last", execute_at=at(30))
        await clock.advance(seconds(10))

    async with an_app(repository, 5).create(clock=clock) as context:
        assert await stored_count(context) == 4
    async with running(an_app(repository, 4), clock):
        await clock.advance(seconds(30))
    async with an_app(repository, 5).create(clock=clock) as context:
        assert await stored_count(context) == 5


async def test_calls_that_need_a_refused_handler_raise_and_touch_no_instance(repository, clock):
    async with an_app(repository, 4).create(clock=clock) as context:
        await context.schedule_task(runtime_of(context).app.tasks["spread"], "ada", interval=seconds(10))
    app = an_app(repository, 8)
    spread = app.tasks["spread"]

    async with app.create(clock=clock) as context:
        for call in (
            lambda: context.schedule_task(spread, "bob", interval=seconds(10)),
            lambda: context.schedule_task(spread, "ada", interval=seconds(10), force=True),
            lambda: context.unschedule_task(spread, "ada"),
            lambda: context.get_task(spread, "ada"),
            lambda: context.list_tasks(spread),
        ):
            with pytest.raises(
                ConfigurationError, match="has 8 partitions here, but its instances are stored in 4"
            ):
                await call()
        for many in (context.schedule_many, context.unschedule_many):
            with pytest.raises(ConfigurationError, match="stored in 4"):
                many(spread, [])
        assert await context.get_task(app.tasks["beat"]) is not None

    async with an_app(repository, 4).create(clock=clock) as context:
        assert await context.get_task(runtime_of(context).app.tasks["spread"], "ada") is not None


async def test_a_process_that_has_not_noticed_a_change_schedules_nothing_by_the_older_count(
    repository, clock
):
    """Else its instances would be in partitions that nobody polls, for as long as it does not read the template again."""
    old = an_app(repository, 8)
    async with old.create(clock=clock) as late, an_app(repository, 1).create(clock=clock) as context:
        assert await stored_count(context) == 1
        with pytest.raises(ConfigurationError, match="has 8 partitions here"):
            await late.schedule_task(old.tasks["spread"], "ada", interval=seconds(10))
        await runtime_of(late).read_templates()
        with pytest.raises(ConfigurationError, match="has 8 partitions here"):
            late.schedule_many(old.tasks["spread"], [("ada", {"interval": seconds(10)})])
        assert (await context.list_tasks(runtime_of(context).app.tasks["spread"])).tasks == []
        store = runtime_of(context).ledger.store
        assert await stray_partitions(store, await store.partitions(""), "spread", 1) == []


async def test_a_refused_handler_is_accepted_without_a_restart_once_nothing_prevents_it(repository, clock):
    """As after its resource was deleted and its instances were removed."""
    old = an_app(repository, 4)
    async with old.create(clock=clock) as before:
        await before.schedule_task(old.tasks["spread"], "ada", interval=seconds(10))
        ran = []
        app = an_app(repository, 1, ran)

        async with running(app, clock) as context:
            await clock.advance(seconds(15))
            await before.unschedule_task(old.tasks["spread"], "ada")
            await runtime_of(context).read_templates()
            await context.schedule_task(app.tasks["spread"], "bob", execute_at=at(18))
            await clock.advance(seconds(5))

    assert ran == [("beat", at(10)), ("spread", at(18)), ("beat", at(20))]


async def test_a_template_that_was_mirrored_with_another_count_before_its_first_worker_is_served(
    repository, clock
):
    """The finding: every worker of the pool ended with an error."""
    async with repository() as store:
        await mirror(store, instant_of(clock.utc), 8)
    ran = []
    app = an_app(repository, None, ran)

    async with running(app, clock) as context:
        await context.schedule_task(app.tasks["spread"], "ada", execute_at=at(5))
        await clock.advance(seconds(12))
        assert await stored_count(context) == 1

    assert ran == [("spread", at(5)), ("beat", at(10))]


async def test_a_template_whose_resource_is_gone_takes_the_count_of_the_module(repository, clock):
    """So that the same name with the right count heals it: the record is kept, stopped, for a day."""
    async with repository() as store:
        record = await mirror(store, instant_of(clock.utc), 8)
        await store.swap([Change(record, stopped(record, Policies(), instant_of(clock.utc)))])

    async with an_app(repository, None).create(clock=clock) as context:
        (record,) = await runtime_of(context).ledger.store.load([TEMPLATE])

    assert record.spec.partitions == 1
    assert record.state.withdrawn_at is not None
    assert record.state.owner == Owner("uid", 1, "hash")


class Interrupted(MemoryStore):
    """Calls *meanwhile* once, just before a swap changes a template."""

    def __init__(self, backend, meanwhile=None):
        super().__init__(backend)
        self.meanwhile = meanwhile

    async def swap(self, changes):
        if self.meanwhile is not None and any(
            change.before is not None and change.before.key == TEMPLATE for change in changes
        ):
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile()
        return await super().swap(changes)


async def test_an_instance_that_is_written_during_the_change_keeps_the_count_as_it_was(clock):
    backend = MemoryBackend()
    old = an_app(lambda: MemoryStore(backend), 4)
    async with old.create(clock=clock) as before:

        async def late():
            await before.schedule_task(old.tasks["spread"], "ada", interval=seconds(10))

        store = Interrupted(backend, late)
        async with an_app(lambda: store, 1).create(clock=clock) as context:
            assert store.meanwhile is None
            assert await stored_count(context) == 4
            with pytest.raises(ConfigurationError, match="stored in 4"):
                await context.list_tasks(runtime_of(context).app.tasks["spread"])
        assert await before.get_task(old.tasks["spread"], "ada") is not None


class Unanswered(Interrupted):
    """Loses the reply to the first swap that changes a template, too."""

    async def swap(self, changes):
        is_first = self.meanwhile is not None
        made = await super().swap(changes)
        if is_first and self.meanwhile is None:
            raise StoreUnavailableError("nothing came in time")
        return made


async def test_an_instance_that_is_written_during_a_change_whose_reply_is_lost_keeps_the_count_too(clock):
    """Else it would run where the new count does not look for it, and a second one of its name beside it."""
    backend = MemoryBackend()
    old, new = an_app(lambda: MemoryStore(backend), 2), an_app(lambda: store, 8)
    name = next(
        name
        for name in map(str, range(100))
        if old.tasks["spread"].partition_of(name) != new.tasks["spread"].partition_of(name)
    )
    async with old.create(clock=clock) as before:

        async def late():
            await before.schedule_task(old.tasks["spread"], name, interval=seconds(10))

        store = Unanswered(backend, late)
        async with new.create(clock=clock) as context:
            assert store.meanwhile is None
            assert await stored_count(context) == 2


async def test_two_workers_that_store_the_same_count_at_once_both_serve_it(clock, caplog):
    backend = MemoryBackend()
    async with an_app(lambda: MemoryStore(backend), 4).create(clock=clock):
        pass

    async def other():
        async with an_app(lambda: MemoryStore(backend), 1).create(clock=clock):
            pass

    store = Interrupted(backend, other)
    async with an_app(lambda: store, 1).create(clock=clock) as context:
        assert store.meanwhile is None
        assert (await context.list_tasks(runtime_of(context).app.tasks["spread"])).tasks == []
    assert [entry for entry in caplog.records if entry.levelno == logging.WARNING] == []


# --- With workers that see each other ---------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgresql", "redis"])
def app_of(request, tmp_path):
    """Makes apps on one backend that several processes could share."""
    if request.param == "sqlite":
        settings = {"sqlite_database": f"{tmp_path}/tasks.db"}
        factory = sqlite_repository
    elif request.param == "redis":
        settings = {"redis_url": request.getfixturevalue("redis_url")}
        factory = redis_repository
    else:
        settings = {"postgres_url": request.getfixturevalue("postgres_url")}
        factory = postgres_repository
    return lambda count, ran=None: an_app(factory, count, ran, **settings)


@asynccontextmanager
async def at_work(app):
    """Run *app* in real time, until the block is left; it is a member when the block begins."""
    async with app.create(clock=SystemClock()) as context, app.new_store() as store:
        known = {member.holder for member in await members(store, "", await store.now())}
        running = asyncio.create_task(context.run())

        async def is_there():
            return bool({member.holder for member in await members(store, "", await store.now())} - known)

        await eventually(is_there, True)
        try:
            yield context
        finally:
            context.shutdown()
            await running


async def told(context):
    """The number of partitions, and what is refused, as each member says."""
    store = runtime_of(context).ledger.store
    return sorted(
        (member.partitions, member.refused) for member in await members(store, "", await store.now())
    )


async def eventually(what, expected):
    async with asyncio.timeout(20):
        while True:
            if await what() == expected:
                return
            await asyncio.sleep(0.02)


async def test_a_rollout_with_another_count_breaks_neither_the_old_workers_nor_the_new_ones(app_of):
    """The old ones serve the handler until the last of them is gone; then the new ones do, without a restart."""
    one, eight = (("spread", 1),), (("spread", 8),)
    old, new = app_of(1), app_of(8)

    async with at_work(old) as before, at_work(new) as after:
        await eventually(lambda: told(after), [(one, ()), (eight, ("spread",))])
        assert await stored_count(after) == 1
        with pytest.raises(ConfigurationError, match="once no worker with another count runs"):
            await after.list_tasks(new.tasks["spread"])

        before.shutdown()
        await eventually(lambda: told(after), [(eight, ())])
        assert await stored_count(after) == 8
        await after.schedule_task(new.tasks["spread"], "ada", interval=seconds(1000))
        assert await after.get_task(new.tasks["spread"], "ada") is not None


async def test_instances_keep_the_count_in_a_rollout_and_the_old_workers_run_them(app_of):
    one, eight = (("spread", 1),), (("spread", 8),)
    ran = []
    old, new = app_of(1, ran), app_of(8)

    async with at_work(old) as before, at_work(new) as after:
        await before.schedule_task(old.tasks["spread"], "ada", interval=seconds(0.1))
        await eventually(lambda: told(after), [(one, ()), (eight, ("spread",))])
        await before.get_task(old.tasks["spread"], "ada")
        ran.clear()

        async def has_run():
            return bool(ran)

        await eventually(has_run, True)
        assert await stored_count(after) == 1


async def test_instances_of_an_older_count_in_unpolled_partitions_are_reported(memory, clock, caplog):
    """They were written in the moment of a change: nobody polls their partition, so somebody has to be told."""
    async with an_app(memory, 1).create(clock=clock) as context:
        key = Key(Partition("", "spread", 5), "spread", "ada")
        await runtime_of(context).ledger.create([created(key, Spec(), Policies(), instant_of(clock.utc))])

    async with an_app(memory, 1).create(clock=clock):
        pass

    (warning,) = [entry for entry in caplog.records if entry.levelno == logging.WARNING]
    assert warning.getMessage().startswith("instances do not run: ")
    assert warning.getMessage().endswith(" task=spread")
    assert warning.stray_partitions == [5]
