"""What a resource says of a template counts for its instances: policies, suspension, arguments, partitions."""

import asyncio
from random import Random

import msgspec
import pytest

from pyncette import FailureMode, Pyncette
from pyncette.app.context import runtime_of
from pyncette.app.templates import IDLE_READ_SECONDS, Templates
from pyncette.clock import SECOND, SystemClock
from pyncette.core.edits import created, edited, stopped
from pyncette.core.record import Change, Key, Owner, Partition
from pyncette.core.spec import Missed, Policies, Retry, Spec
from pyncette.core.times import instant_of
from pyncette.ledger.ledger import Ledger
from pyncette.store.base import ANSWER_RECORDS_MAX
from pyncette.store.memory import MemoryBackend, MemoryStore
from tests.app.harness import NOON, at, running, seconds
from tests.simulation.loop import SimulatedLoop

KEY = Key(Partition("", "remind"), "remind")


class Resource:
    """A dynamic PyncetteTask as the operator, or `pyncette dev`, keeps it in the backend."""

    def __init__(self, store, clock):
        self._store = store
        self._clock = clock
        self._generation = 0

    async def apply(self, args="{}", partitions=1, **policies):
        self._generation += 1
        owner = Owner("uid", self._generation, "hash")
        policies = Policies(**policies)
        spec = Spec(None, msgspec.Raw(args.encode()), policies, partitions)
        (record,) = await self._store.load([KEY])
        now = instant_of(self._clock.utc)
        after = (
            created(KEY, spec, policies, now, owner=owner)
            if record is None
            else edited(record, spec, policies, now, owner=owner)
        )
        assert await self._store.swap([Change(record, after)]) == [True]

    async def delete(self):
        (record,) = await self._store.load([KEY])
        after = stopped(record, Policies(), instant_of(self._clock.utc))
        assert await self._store.swap([Change(record, after)]) == [True]


@pytest.fixture
async def resource(repository, clock):
    async with repository() as store:
        yield Resource(store, clock)


@pytest.fixture
def ran():
    return []


@pytest.fixture
def app(repository, ran):
    app = Pyncette(repository)

    @app.dynamic_task(failure_mode=FailureMode.COMMIT, drink="tea", cups=1)
    async def remind(context):
        ran.append((context.scheduled_at, context.attempt, context.args))
        if context.args.get("fails"):
            raise ValueError("no")

    return app


async def test_the_policies_of_a_resource_win_over_the_options_of_the_decorator(app, clock, resource, ran):
    await resource.apply(retry=Retry(max_attempts=2, initial=1_000_000, jitter=False))

    async with running(app, clock) as app_context:
        await app_context.schedule_task(app.tasks["remind"], "ada", execute_at=at(10), fails=True)
        await clock.advance(seconds(30))

    assert [(when, attempt) for when, attempt, _ in ran] == [(at(10), 1), (at(10), 2)]


async def test_more_templates_than_one_answer_holds_are_read_in_several():
    class Store(MemoryStore):
        async def load(self, keys):
            sizes.append(len(keys))
            return await super().load(keys)

    app, backend, sizes = Pyncette(), MemoryBackend(), []
    for number in range(ANSWER_RECORDS_MAX + 2):
        app.dynamic_task(name=f"remind{number}")(lambda context: None)
    last = Key(Partition("", f"remind{ANSWER_RECORDS_MAX + 1}"), f"remind{ANSWER_RECORDS_MAX + 1}")
    policies = Policies(max_concurrent=7)
    spec = Spec(None, msgspec.Raw(b"{}"), policies, 1)
    async with Store(backend) as store:
        ledger = Ledger(store, SystemClock())
        assert await store.swap(
            [Change(None, created(last, spec, policies, 0, owner=Owner("uid", 1, "hash")))]
        )
        templates = Templates(ledger, "", app.tasks.values())

        await templates.read()

        assert max(sizes) <= ANSWER_RECORDS_MAX
        assert templates.common(app.tasks[last.task]).policies == policies


async def test_a_suspended_template_runs_no_instance_and_they_go_on_from_its_end(app, clock, resource, ran):
    async with running(app, clock) as app_context:
        await app_context.schedule_task(app.tasks["remind"], "ada", interval=seconds(10))
        await clock.advance(seconds(15))
        await resource.apply(suspend=True)
        await runtime_of(app_context).read_templates()
        await clock.advance(seconds(20))
        await resource.apply()
        await runtime_of(app_context).read_templates()
        await clock.advance(seconds(10))

    assert [when for when, _, _ in ran] == [at(10), at(40)]


async def test_a_suspended_template_holds_instances_with_options_of_their_own_too(app, clock, resource, ran):
    async with running(app, clock) as app_context:
        own = {"failure_mode": FailureMode.UNLOCK}
        await app_context.schedule_task(app.tasks["remind"], "ada", interval=seconds(10), **own)
        await resource.apply(suspend=True)
        await runtime_of(app_context).read_templates()
        await clock.advance(seconds(25))
        await resource.apply()
        await runtime_of(app_context).read_templates()
        await clock.advance(seconds(10))

    assert [when for when, _, _ in ran] == [at(30)]


async def test_the_instances_of_a_resource_that_is_gone_stand_still_until_it_is_back(
    app, clock, resource, ran
):
    await resource.apply()
    async with running(app, clock) as app_context:
        await app_context.schedule_task(app.tasks["remind"], "ada", interval=seconds(10))
        await resource.delete()
        await runtime_of(app_context).read_templates()
        await clock.advance(seconds(25))
        assert ran == []

        await resource.apply()
        await runtime_of(app_context).read_templates()
        await clock.advance(seconds(10))

    assert [when for when, _, _ in ran] == [at(30)]


@pytest.fixture
def simulated():
    """An event loop on which a minute passes at once."""
    loop = SimulatedLoop(Random(1))
    yield loop
    loop.close()


@pytest.mark.parametrize("runs", [True, False], ids=["runs", "only schedules"])
def test_an_app_notices_an_edit_of_a_resource_by_itself(simulated, clock, runs):
    backend = MemoryBackend(lambda: instant_of(NOON) + simulated.now)
    app = Pyncette(lambda: MemoryStore(backend))

    @app.dynamic_task()
    async def remind(context):
        pass

    seen = []

    async def main():
        process_clock = SystemClock(monotonic_ns=lambda: simulated.now * 1000)
        async with app.create(clock=process_clock) as app_context:
            run = asyncio.create_task(app_context.run()) if runs else None
            await Resource(MemoryStore(backend), clock).apply(args='{"sugar": true}')
            for pause in (0.9 * IDLE_READ_SECONDS, 0.2 * IDLE_READ_SECONDS):
                await asyncio.sleep(pause)
                task = await app_context.schedule_task(remind, "ada", interval=seconds(3600))
                seen.append(dict(task.extra_args))
            if run is not None:
                app_context.shutdown()
                await run

    simulated.spawn("app", main)
    simulated.run_until(int(5 * IDLE_READ_SECONDS * SECOND))

    assert not simulated.failures, simulated.failures
    assert seen == [{}, {"sugar": True}]


def test_a_closed_app_no_longer_reads_its_templates(simulated, clock):
    backend = MemoryBackend()
    app = Pyncette(lambda: MemoryStore(backend))

    @app.dynamic_task()
    async def remind(context):
        pass

    async def main():
        async with app.create(clock=SystemClock(monotonic_ns=lambda: simulated.now * 1000)):
            assert len(asyncio.all_tasks()) == 2
        assert asyncio.all_tasks() == {asyncio.current_task()}

    simulated.spawn("app", main)
    simulated.run_until(60 * SECOND)

    assert not simulated.failures, simulated.failures


async def test_new_instances_have_the_arguments_of_the_resource_on_top_of_the_decorators(
    app, clock, resource, ran
):
    await resource.apply(args='{"cups": 2, "sugar": true}')

    async with running(app, clock) as app_context:
        await app_context.schedule_task(app.tasks["remind"], "ada", execute_at=at(10), sugar=False)
        await clock.advance(seconds(30))

    assert [args for _, _, args in ran] == [{"drink": "tea", "cups": 2, "sugar": False}]


async def test_arguments_of_a_template_that_are_none_do_not_keep_its_policies_from_counting(
    app, clock, resource, ran
):
    await resource.apply(args="[1]", suspend=True)

    async with running(app, clock) as app_context:
        await app_context.schedule_task(app.tasks["remind"], "ada", interval=seconds(10))
        await clock.advance(seconds(30))

    assert ran == []


async def test_an_instance_overrides_the_resource_of_its_template_field_by_field(repository, clock, resource):
    app = Pyncette(repository, defaults="safe")

    @app.dynamic_task(timeout=seconds(99))
    async def remind(context):
        pass

    await resource.apply(missed=Missed.SKIP, active_deadline=7 * SECOND)
    async with app.create(clock=clock) as app_context:
        await app_context.schedule_task(remind, "ada", interval=seconds(5))
        await app_context.schedule_task(remind, "bob", interval=seconds(5), on_exhausted="suspend")
        ada, bob = [(await app_context.get_task(remind, name)).task for name in ("ada", "bob")]

    assert (ada.missed, ada.timeout, ada.on_exhausted) == ("skip", seconds(7), "continue")
    assert (bob.missed, bob.timeout, bob.on_exhausted) == ("skip", seconds(7), "suspend")
