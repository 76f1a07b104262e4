"""Any number of instances at once: streamed, in batches, with a result for each."""

import asyncio

import pytest

from pyncette import Pyncette
from pyncette.app.context import runtime_of
from pyncette.core.record import Change, replace
from pyncette.errors import ContentionError, StoreUnavailableError, TaskLockedException
from pyncette.store.memory import MemoryBackend, MemoryStore
from tests.app.harness import at, running, seconds


class CountingStore(MemoryStore):
    """Counts calls, waits a turn of the loop in each as a real backend would, and fails when it is told to."""

    def __init__(self, backend):
        super().__init__(backend)
        self.calls = []
        self.down = False

    async def load(self, keys):
        self.calls.append("load")
        return await super().load(keys)

    async def swap(self, changes):
        self.calls.append("swap")
        await asyncio.sleep(0)
        if self.down:
            raise StoreUnavailableError("the backend is away")
        return await super().swap(changes)


@pytest.fixture
def store():
    return CountingStore(MemoryBackend())


@pytest.fixture
def app(store, clock):
    app = Pyncette(lambda: store)

    @app.partitioned_task(partition_count=3)
    async def remind(context):
        await clock.sleep(seconds(100))

    return app


@pytest.fixture
def task(app):
    return app.tasks["remind"]


def items(number, **options):
    return [(f"user-{index}", {"interval": seconds(10), "user": index} | options) for index in range(number)]


async def everything(results):
    return [result async for result in results]


@pytest.mark.parametrize("number", [0, 1, 499, 500, 501, 3_000])
async def test_each_item_has_a_result_in_the_order_of_the_items(app, clock, task, number):
    async with app.create(clock=clock) as app_context:
        results = await everything(app_context.schedule_many(task, items(number)))

        assert [result.name for result in results] == [f"user-{index}" for index in range(number)]
        assert all(result.error is None for result in results)
        assert [result.task.name for result in results] == [f"user-{index}" for index in range(number)]
        assert len((await app_context.list_tasks(task, limit=10_000)).tasks) == number


async def test_new_instances_take_one_round_trip_a_batch_and_none_to_look(app, clock, task, store):
    async with app.create(clock=clock) as app_context:
        store.calls.clear()
        await everything(app_context.schedule_many(task, items(2_000)))

    assert store.calls == ["swap"] * 4


async def test_items_may_come_from_an_asynchronous_source_and_are_not_held_all_at_once(app, clock, task):
    taken = 0

    async def source():
        nonlocal taken
        for item in items(10_000):
            taken += 1
            yield item

    async with app.create(clock=clock) as app_context:
        results = app_context.schedule_many(task, source())
        await anext(results)
        assert taken <= 5 * 500  # four batches are being written, and one is put together
        await results.aclose()


async def test_nothing_is_done_until_the_results_are_asked_for(app, clock, task):
    async with app.create(clock=clock) as app_context:
        app_context.schedule_many(task, items(10))

        assert (await app_context.list_tasks(task)).tasks == []


async def test_an_invalid_item_affects_no_other(app, clock, task):
    wrong = [
        ("no-schedule", {}),
        ("", {"interval": seconds(1)}),
        ("bad-cron", {"schedule": "never"}),
        ("bad-args", {"interval": seconds(1), "user": object()}),
    ]
    async with app.create(clock=clock) as app_context:
        results = await everything(
            app_context.schedule_many(task, [*items(3), *wrong, ("last", {"execute_at": at(5)})])
        )

        assert [result.name for result in results if result.error is None] == [
            "user-0",
            "user-1",
            "user-2",
            "last",
        ]
        assert all(isinstance(result.error, ValueError) and result.task is None for result in results[3:7])


async def test_what_exists_is_updated_by_the_rules_of_schedule_task(app, clock, task):
    async with running(app, clock) as app_context:
        await app_context.schedule_task(task, "user-0", interval=seconds(5), user="old")
        await app_context.schedule_task(task, "user-1", execute_at=at(0), user="old")
        await clock.advance(seconds(1))  # user-1 runs

        first, second, third = await everything(app_context.schedule_many(task, items(3)))
        kept = await app_context.get_task(task, "user-0")
        (forced,) = await everything(
            app_context.schedule_many(task, [("user-1", {"interval": seconds(10)})], force=True)
        )

    assert (first.error, third.error) == (None, None)
    assert (kept.scheduled_at, kept.task.extra_args) == (at(5), {"user": 0})
    assert isinstance(second.error, TaskLockedException)
    assert second.error.locked_until == at(60)
    assert forced.error is None


async def test_a_name_that_comes_twice_ends_as_the_later_one_has_it(app, clock, task):
    twice = [*items(700), ("user-0", {"interval": seconds(3), "user": "again"})]
    async with app.create(clock=clock) as app_context:
        results = await everything(app_context.schedule_many(task, twice))
        state = await app_context.get_task(task, "user-0")

    assert len(results) == 701
    assert all(result.error is None for result in results)
    assert (state.scheduled_at, state.task.extra_args) == (at(3), {"user": "again"})


async def test_a_backend_that_goes_away_is_the_error_of_the_items_that_it_swallowed(app, clock, task, store):
    async with app.create(clock=clock) as app_context:
        results = []
        async for result in app_context.schedule_many(task, items(5_000)):
            results.append(result)
            store.down = len(results) > 1_000

    assert len(results) == 5_000
    assert {type(result.error) for result in results} == {type(None), StoreUnavailableError}
    assert results[0].error is None
    assert isinstance(results[-1].error, StoreUnavailableError)


async def test_many_can_be_removed_whether_they_exist_or_not(app, clock, task):
    async with app.create(clock=clock) as app_context:
        await everything(app_context.schedule_many(task, items(1_200)))
        names = [f"user-{index}" for index in range(1_000)] + ["nobody", ""]
        results = await everything(app_context.unschedule_many(task, names))
        left = await app_context.list_tasks(task, limit=1_000)

    assert [result.name for result in results] == names
    assert [result.error is None for result in results] == [True] * 1_001 + [False]
    assert {state.task.name for state in left.tasks} == {f"user-{index}" for index in range(1_000, 1_200)}


async def test_only_templates_have_many_instances(memory, clock):
    app = Pyncette(memory)
    static = app.task(name="static", interval=seconds(1))(print)
    async with app.create(clock=clock) as app_context:
        for call in (app_context.schedule_many, app_context.unschedule_many):
            with pytest.raises(ValueError, match="Cannot instantiate a non-dynamic task"):
                call(static, [])


class ContestedStore(MemoryStore):
    """Others change each record whose name is among *contested* whenever it is about to be written."""

    def __init__(self, backend):
        super().__init__(backend)
        self.contested = ()
        self.written = []
        self.fails_after_writing = False

    async def swap(self, changes):
        for change in changes:
            if change.before is not None and change.before.key.instance in self.contested:
                (stored,) = await super().load([change.before.key])
                await super().swap([Change(stored, replace(stored, version=stored.version + 1))])
        made = await super().swap(changes)
        self.written += [
            change.after.key.instance
            for change, ok in zip(changes, made, strict=True)
            if ok and change.after is not None
        ]
        return made

    async def load(self, keys):
        if self.written and self.fails_after_writing:
            raise StoreUnavailableError("the backend went away")
        return await super().load(keys)


async def scheduled_beside_contested(app, clock, task, store, *contested, backend_goes_away=False):
    """Schedule what is there already, all at once, while others change *contested*; return what became of it."""
    async with app.create(clock=clock, new_store=lambda: store) as app_context:
        runtime_of(app_context).ledger.race_seconds = 0.02
        await everything(app_context.schedule_many(task, items(4)))
        store.written.clear()
        store.contested, store.fails_after_writing = contested, backend_goes_away
        again = [(name, {"execute_at": at(0)}) for name, _ in items(4)]
        return await everything(app_context.schedule_many(task, again))


async def test_what_was_scheduled_is_not_scheduled_again_because_its_neighbours_cannot_be(app, clock, task):
    store = ContestedStore(MemoryBackend())

    results = await scheduled_beside_contested(app, clock, task, store, "user-0", "user-2")

    assert store.written == ["user-1", "user-3"]
    assert [type(result.error) for result in results] == [
        ContentionError,
        type(None),
        ContentionError,
        type(None),
    ]


async def test_items_that_were_scheduled_before_an_outage_are_reported_as_scheduled(app, clock, task):
    store = ContestedStore(MemoryBackend())

    results = await scheduled_beside_contested(app, clock, task, store, "user-0", backend_goes_away=True)

    assert store.written == ["user-1", "user-2", "user-3"]
    assert [type(result.error) for result in results] == [StoreUnavailableError, *[type(None)] * 3]
