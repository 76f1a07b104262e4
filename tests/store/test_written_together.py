"""On every backend, what the ledger writes together is written whole or not at all."""

import pytest

from pyncette.clock import SECOND
from pyncette.core import edits, rules
from pyncette.core.record import Change, Key, Partition, replace
from pyncette.core.runs import UNSTARTED, Ended, Ending
from pyncette.core.schedule import Interval
from pyncette.core.spec import Exhaustion, Mode, Overlap, Policies, Spec
from pyncette.ledger.ledger import Ledger
from pyncette.ledger.starts import PendingStart
from pyncette.store.backend import read_backend
from pyncette.testing import VirtualClock
from tests.core.play import nonzero

HERE = Partition("", "send")
REFUSED = Ended(Ending.REFUSED, "DoNotRetry: never")


@pytest.fixture(
    params=[
        "sqlite",
        "postgres",
        "mariadb",
        "redis",
        "redis_cluster",
        pytest.param("dynamodb", marks=pytest.mark.xdist_group("dynamodb")),
    ]
)
async def store(request, tmp_path):
    name = request.param
    url = f"sqlite:///{tmp_path}/tasks.sqlite" if name == "sqlite" else request.getfixturevalue(f"{name}_url")
    async with read_backend(url).new_store() as store:
        yield store


async def held_on(store, clock, overlap, **more):
    """Declare a task with history and dead letters, and hold its first occurrence; return it and its schedule's key."""
    policies = Policies(
        overlap=overlap, exhausted=Exhaustion.DEAD_LETTER, keep_successful=3, keep_failed=3, **more
    )
    key = Key(HERE, "report", "ada")
    spec = Spec(Interval(600 * SECOND), policies=policies)
    record = edits.created(key, spec, policies, clock.now() - 600 * SECOND)
    assert await store.swap([Change(None, record)]) == [True]
    (starting,) = await claimed_on(store, clock)
    (decided,) = [decided async for decided in Ledger(store, clock).start([starting])]
    return decided[0], key


async def claimed_on(store, clock):
    """Claim all that is due, and decide how to start it."""
    now = clock.now()
    claimed = await store.claim({HERE: 10}, f"lease-{now}", "me", now, now)
    return [
        PendingStart(
            rules.begin(record, record.spec.policies, now),
            record.spec.policies,
            clock.monotonic() + record.lease_length,
        )
        for record in claimed.records
    ]


OVERLAPS = pytest.mark.parametrize(
    "overlap", [Overlap.FORBID, Overlap.ALLOW], ids=lambda overlap: overlap.value
)


@OVERLAPS
async def test_a_dead_letter_is_written_with_the_completion_that_counts_it(store, overlap):
    clock = VirtualClock()
    held, key = await held_on(store, clock, overlap)
    completion = rules.settle(held, REFUSED, clock.now())

    assert await Ledger(store, clock).settle([completion]) == [True]

    records = {record.key.occurrence[:5]: record for record in await store.scan(HERE, None, None, 10)}
    assert sorted(records) == ["", "dead-"]
    assert nonzero(records[""].state.summary.counts) == {"dead_lettered": 1}
    assert [run.outcome.value for run in await store.history(key)] == ["deadLettered"]


@OVERLAPS
async def test_a_dead_letter_is_not_written_without_its_completion(store, overlap):
    clock = VirtualClock()
    held, key = await held_on(store, clock, overlap)
    completion = rules.settle(held, REFUSED, clock.now())
    (stored,) = await store.load([held.record.key])
    taken = replace(stored, version=stored.version + 1, lease=stored.lease._replace(id="another"))
    assert await store.swap([Change(stored, taken)]) == [True]

    assert await Ledger(store, clock).settle([completion]) == [False]

    assert {record.key for record in await store.scan(HERE, None, None, 10)} == {key, held.record.key}


@OVERLAPS
async def test_an_existing_dead_letter_does_not_keep_its_schedule_from_moving_on(store, overlap):
    clock = VirtualClock()
    held, key = await held_on(store, clock, overlap)
    completion = rules.settle(held, REFUSED, clock.now())
    assert await store.swap([Change(None, completion.created)]) == [True]

    assert await Ledger(store, clock).settle([completion]) == [True]

    (left,) = await store.load([key])
    assert nonzero(left.state.summary.counts) == {"dead_lettered": 1}
    assert (left.lease, left.due_at) == (None, held.scheduled_at + 600 * SECOND)


@pytest.mark.parametrize("edited", [False, True], ids=["unchanged", "edited"])
async def test_a_released_side_run_is_started_together_with_the_check_of_its_schedule(store, edited):
    clock = VirtualClock()
    held, key = await held_on(store, clock, Overlap.ALLOW, mode=Mode.AT_MOST_ONCE)
    assert await Ledger(store, clock).settle([rules.settle(held, UNSTARTED, clock.now())]) == [True]
    (starting,) = await claimed_on(store, clock)
    (parent,) = await store.load([key])
    plan = rules.with_parent(starting.plan, parent, clock.now())
    if edited:
        policies = parent.spec.policies
        spec = replace(parent.spec, schedule=Interval(300 * SECOND))
        after = edits.edited(parent, spec, policies, clock.now())
        assert await store.swap([Change(parent, after)]) == [True]

    made = await store.swap([change._replace(group=1) for change in plan.changes])

    assert made == [not edited, not edited]
    (side_run,) = await store.load([held.record.key])
    assert (side_run.state.started is None) == edited
