"""What is measured, under which names and labels."""

import asyncio

import pytest
from prometheus_client import REGISTRY

from pyncette import FailureMode, Pyncette
from pyncette.app.context import runtime_of
from pyncette.core.record import Change, Key, Outcome, Partition, inert_record
from pyncette.core.spec import Spec
from pyncette.errors import StoreUnavailableError
from pyncette.prometheus import use_prometheus, with_prometheus_repository
from pyncette.store.memory import MemoryBackend, MemoryStore
from pyncette.worker import stored_tasks
from tests.app.harness import at, running, seconds


def measured(name, **labels):
    return REGISTRY.get_sample_value(f"pyncette_{name}", labels)


NO_OUTCOMES = {outcome.value: 0 for outcome in Outcome}


def outcomes(name, namespace="", pool=""):
    """The occurrences of a task that were counted, by outcome; None for a series that is not there."""
    labels = {"namespace": namespace, "pool": pool, "task_name": name}
    return {outcome: measured("occurrences_total", **labels, outcome=outcome) for outcome in NO_OUTCOMES}


@pytest.fixture
def names(request):
    """Names of tasks that no other test has, since metrics last as long as the program."""
    name = request.node.name.replace("[", "_").replace("]", "")
    return f"{name}_a", f"{name}_b"


async def test_runs_are_counted_and_timed_by_the_name_of_their_template(memory, clock, names):
    good, bad = names
    app = Pyncette(memory)
    use_prometheus(app)
    in_progress = []

    @app.dynamic_task(name=good)
    async def work(context):
        in_progress.append(measured("tasks_in_progress", task_name=good))

    @app.task(name=bad, interval=seconds(10), failure_mode=FailureMode.COMMIT)
    async def fail(context):
        raise LookupError("no report")

    async with running(app, clock) as app_context:
        for number in range(5):
            await app_context.schedule_task(work, f"u{number}", execute_at=at(1))
        await clock.advance(seconds(20))

    assert measured("tasks_total", task_name=good) == 5
    assert measured("tasks_duration_seconds_count", task_name=good) == 5
    assert max(in_progress) >= 1
    assert measured("tasks_in_progress", task_name=good) == 0
    assert measured("tasks_failures_total", task_name=good, exception_type="LookupError") is None
    assert measured("tasks_total", task_name=bad) == 2
    assert measured("tasks_failures_total", task_name=bad, exception_type="LookupError") == 2
    assert measured("tasks_total", task_name="u1") is None


async def test_staleness_is_the_start_minus_the_scheduled_time(memory, clock, names):
    name, _ = names
    app = Pyncette(memory)
    use_prometheus(app)

    @app.dynamic_task(name=name)
    async def work(context):
        pass

    async with running(app, clock) as app_context:
        await app_context.schedule_task(work, "late", execute_at=at(-90))
        await app_context.schedule_task(work, "on time", execute_at=at(5))
        await clock.advance(seconds(10))

    assert measured("tasks_staleness_seconds_count", task_name=name) == 2
    assert measured("tasks_staleness_seconds_sum", task_name=name) == 90


async def test_a_second_attempt_is_not_late(memory, clock, names):
    name, _ = names
    app = Pyncette(memory, poll_interval=seconds(30))
    use_prometheus(app)

    @app.task(name=name, interval=seconds(1000), failure_mode=FailureMode.UNLOCK)
    async def work(context):
        if context.attempt < 3:
            raise LookupError("not yet")

    async with running(app, clock):
        await clock.advance(seconds(1100))

    assert measured("tasks_total", task_name=name) == 3
    assert measured("tasks_staleness_seconds_count", task_name=name) == 1
    assert outcomes(name) == NO_OUTCOMES | {"succeeded": 1}


async def test_all_outcomes_of_a_task_are_exported_before_it_first_runs(memory, clock, names):
    static, template = names
    app = Pyncette(memory)
    use_prometheus(app)
    app.task(name=static, interval=seconds(1000))(_nothing)
    app.dynamic_task(name=template)(_nothing)

    async with app.create(clock=clock, realm="east/shop/default"):
        pass

    assert outcomes(static, namespace="shop", pool="default") == NO_OUTCOMES
    assert outcomes(template, namespace="shop", pool="default") == NO_OUTCOMES


async def test_occurrences_are_counted_by_outcome_and_not_by_attempt(memory, clock, names):
    bad, template = names
    app = Pyncette(memory)
    use_prometheus(app)
    use_prometheus(app)

    @app.task(name=bad, interval=seconds(10), failure_mode=FailureMode.COMMIT)
    async def fail(context):
        raise LookupError("no report")

    work = app.dynamic_task(name=template)(_nothing)

    async with running(app, clock) as app_context:
        for number in range(3):
            await app_context.schedule_task(work, f"once {number}", execute_at=at(1))
        await app_context.schedule_task(work, "often", interval=seconds(5))
        await clock.advance(seconds(20))

    assert outcomes(bad) == NO_OUTCOMES | {"failed": 2}
    assert outcomes(template) == NO_OUTCOMES | {"succeeded": 3 + 4}


async def test_a_run_that_is_withdrawn_in_this_process_is_counted_here(memory, clock, names):
    name, _ = names
    app = Pyncette(memory)
    use_prometheus(app)

    @app.dynamic_task(name=name, lease_duration=seconds(60))
    async def work(context):
        await clock.sleep(seconds(30))

    async with running(app, clock) as app_context:
        await app_context.schedule_task(work, "ada", execute_at=at(1))
        await clock.advance(seconds(5))
        await app_context.unschedule_task(work, "ada")
        await clock.advance(seconds(60))

    assert outcomes(name) == NO_OUTCOMES | {"withdrawn": 1}


async def test_tasks_of_resources_are_found_before_they_first_run(names):
    handler, name = names
    backend = MemoryBackend()
    app = Pyncette(lambda: MemoryStore(backend))
    use_prometheus(app)
    app.handler(name=handler)(_nothing)
    partition = Partition("east/shop/default", handler)
    store = MemoryStore(backend)
    for key in (
        Key(partition, name),
        Key(partition, name, "ada"),
        Key(partition, name, "", "run-1"),
        Key(partition, f"{name}_too"),
    ):
        await store.swap([Change(None, inert_record(key, Spec(), 1))])

    async with app.create(realm="east/shop/default") as app_context:
        run = asyncio.create_task(app_context.run())
        async with asyncio.timeout(10):
            while outcomes(f"{name}_too", namespace="shop", pool="default") != NO_OUTCOMES:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        app_context.shutdown()
        await run

    assert outcomes(name, namespace="shop", pool="default") == NO_OUTCOMES
    assert outcomes("ada", namespace="shop", pool="default") == dict.fromkeys(NO_OUTCOMES)


async def test_tasks_of_resources_that_are_gone_keep_no_series(names, monkeypatch):
    """Else each task that ever was would take the memory of eight, in each worker until it ends."""
    handler, name = names
    monkeypatch.setattr(stored_tasks, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(stored_tasks, "PAUSE_SHARE", 0)
    backend = MemoryBackend()
    app = Pyncette(lambda: MemoryStore(backend))
    use_prometheus(app)
    app.handler(name=handler)(_nothing)
    declared = app.task(name=f"{name}_declared", interval=seconds(1000))(_nothing)
    store = MemoryStore(backend)
    gone, stays = (
        inert_record(Key(Partition("east/shop/default", handler), one), Spec(), 1)
        for one in (name, f"{name}_b")
    )
    place = {"namespace": "shop", "pool": "default"}

    async def becomes(expected):
        async with asyncio.timeout(10):
            while outcomes(name, **place) != expected:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async with app.create(realm="east/shop/default") as app_context:
        run = asyncio.create_task(app_context.run())
        for _ in range(2):
            await store.swap([Change(None, gone), Change(None, stays)])
            await becomes(NO_OUTCOMES)
            await app_context.unschedule_task(declared)
            await store.swap([Change(gone, None)])
            await becomes(dict.fromkeys(NO_OUTCOMES))
        app_context.shutdown()
        await run

    assert outcomes(f"{name}_b", **place) == NO_OUTCOMES
    assert outcomes(f"{name}_declared", **place) == NO_OUTCOMES


@pytest.mark.parametrize("realm", ["", "mine", "east/shop", "//", "east//default"])
async def test_a_realm_that_belongs_to_no_pool_gives_empty_labels(memory, clock, names, realm):
    app = Pyncette(memory)
    use_prometheus(app)
    app.task(name=names[0], interval=seconds(1000))(_nothing)

    async with app.create(clock=clock, realm=realm):
        pass

    assert outcomes(names[0]) == NO_OUTCOMES


async def test_polls_are_counted_and_timed_with_those_that_fail(clock):
    in_progress = []

    class Watched(MemoryStore):
        async def claim(self, *arguments):
            in_progress.append(measured("ticks_in_progress"))
            if len(in_progress) == 2:
                raise StoreUnavailableError("the backend is away")
            return await super().claim(*arguments)

    store = Watched(MemoryBackend())
    app = Pyncette(lambda: store)
    use_prometheus(app)
    app.task(name="t", interval=seconds(10))(_nothing)
    before = measured("ticks_total") or 0
    failed = measured("ticks_failures_total", exception_type="StoreUnavailableError") or 0

    async with running(app, clock):
        await clock.advance(seconds(30))

    assert measured("ticks_total") == before + len(in_progress)
    assert measured("ticks_duration_seconds_count") == measured("ticks_total")
    assert measured("ticks_failures_total", exception_type="StoreUnavailableError") == failed + 1
    assert set(in_progress) == {1}
    assert measured("ticks_in_progress") == 0


async def test_calls_of_the_backend_are_counted_by_operation_and_task(memory, clock, names):
    one, other = names
    app = Pyncette(memory)
    use_prometheus(app)
    app.task(name=one, interval=seconds(10))(_nothing)
    several = measured("repository_ops_total", operation="load", task_name="*") or 0

    async with running(app, clock) as app_context:
        await clock.advance(seconds(30))
        await app_context.get_task(app.tasks[one])

    assert measured("repository_ops_total", operation="claim", task_name=one) >= 3
    assert measured("repository_ops_total", operation="swap", task_name=one) >= 3
    assert measured("repository_ops_total", operation="load", task_name=one) >= 1
    assert measured("repository_ops_duration_seconds_count", operation="claim", task_name=one) >= 3
    assert measured("repository_ops_in_progress", operation="claim", task_name=one) == 0

    app = Pyncette(memory)
    use_prometheus(app)
    for name in (one, other):
        app.task(name=name, interval=seconds(10))(_nothing)
    async with running(app, clock):
        pass

    assert measured("repository_ops_total", operation="load", task_name="*") > several


async def test_a_call_of_the_backend_that_fails_is_counted_by_what_was_raised(memory, clock, names):
    app = Pyncette(with_prometheus_repository(memory))
    task = app.task(name=names[0], interval=seconds(10))(_nothing)

    async with app.create(clock=clock) as app_context:
        runtime_of(app_context).ledger.store._store.load = None
        with pytest.raises(TypeError):
            await app_context.get_task(task)

    failures = measured(
        "repository_ops_failures_total", operation="load", task_name=names[0], exception_type="TypeError"
    )
    assert failures == 1


@pytest.mark.parametrize("what", ["measure_repository", "measure_ticks", "measure_tasks"])
async def test_what_is_not_to_be_measured_is_not(memory, clock, names, what):
    name, _ = names
    app = Pyncette(memory)
    use_prometheus(app, **{what: False})
    app.task(name=name, interval=seconds(10))(_nothing)
    ticks = measured("ticks_total") or 0

    async with running(app, clock):
        await clock.advance(seconds(10))

    counted = {
        "measure_repository": measured("repository_ops_total", operation="claim", task_name=name) is not None,
        "measure_ticks": (measured("ticks_total") or 0) > ticks,
        "measure_tasks": measured("tasks_total", task_name=name) is not None,
    }
    assert (outcomes(name) != dict.fromkeys(NO_OUTCOMES)) == counted["measure_tasks"]
    assert [key for key, seen in counted.items() if not seen] == [what]


async def test_a_measured_repository_takes_the_configuration_of_the_one_it_measures(memory, clock):
    @with_prometheus_repository
    def coloured(*, colour="red"):
        return memory()

    async with Pyncette(coloured, colour="blue").create(clock=clock) as app_context:
        assert runtime_of(app_context).ledger.store.capabilities.name == "memory"


async def _nothing(context):
    del context
