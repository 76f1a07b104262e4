"""Records that are claimable sooner than others expect are announced."""

import asyncio

import pytest

from pyncette.clock import SECOND
from pyncette.core import edits
from pyncette.core.record import Change, Key, Record, replace
from pyncette.core.runs import DRAINED, UNSTARTED
from pyncette.core.schedule import Interval, Once
from pyncette.core.spec import Mode, Overlap
from pyncette.ledger.announcements import ANNOUNCED_AHEAD
from pyncette.ledger.ledger import Ruling
from pyncette.testing import VirtualClock
from pyncette.worker.poller import SAFETY_POLL
from tests.ledger.bench import HERE, MINUTE, START, Bench, due_at


def overwritten(schedule):
    """Return a rule that overwrites the record, as with force."""

    def rule(record: Record | None, now: int) -> Ruling:
        spec = replace(record.spec, schedule=schedule)
        return Ruling(Change(record, edits.overwritten(record, spec, spec.policies, now)))

    return rule


async def test_only_what_is_claimable_sooner_than_before_is_announced(bench):
    record = await bench.declare()

    await bench.ledger.apply({record.key: due_at(record.claimable_at + 1)})
    await bench.ledger.apply({record.key: due_at(record.claimable_at + 1)})
    assert bench.woken == []
    await bench.ledger.apply({record.key: due_at(record.claimable_at - 1)})

    assert bench.woken == [(HERE, record.claimable_at - 1)]


async def test_an_overwritten_running_record_is_announced_since_its_lease_is_gone(bench):
    record = await bench.declare()
    await bench.start()
    heard = await bench.listen()

    await bench.ledger.apply({record.key: overwritten(Once(bench.now + SECOND))})

    assert bench.woken == [(HERE, bench.now + SECOND)]
    assert await heard() == [bench.now + SECOND]


async def test_an_edit_of_a_running_record_is_not_announced_since_no_other_worker_can_claim_it(bench):
    record = await bench.declare()
    await bench.start()

    await bench.ledger.apply({record.key: due_at(record.claimable_at - 1)})

    assert bench.woken == []


async def test_a_record_that_loses_its_lease_is_announced_even_if_it_is_due_later_than_before(bench):
    record = await bench.declare(lease=MINUTE)
    await bench.start()

    await bench.ledger.apply({record.key: overwritten(Once(bench.now + 2 * MINUTE))})

    assert bench.woken == [(HERE, bench.now + 2 * MINUTE)]


class RealTime(VirtualClock):
    """Simulated time that claims to pass as fast as real time."""

    def latest_after(self, delay):
        return self.now() + delay


@pytest.mark.parametrize(
    ("clock", "after", "is_notified"),
    [
        (RealTime, ANNOUNCED_AHEAD, True),
        (RealTime, ANNOUNCED_AHEAD + 1, False),
        (VirtualClock, 365 * 24 * 60 * MINUTE, True),
    ],
)
async def test_other_processes_are_notified_only_of_records_claimable_before_they_poll_anyway(
    clock, after, is_notified
):
    bench = Bench(clock=clock(START))
    at = bench.now + after
    heard = await bench.listen()

    await bench.ledger.create([replace(await bench.declare(), key=Key(HERE, "new"), claimable_at=at)])

    assert bench.woken == [(HERE, at)]
    assert await heard() == ([at] if is_notified else [])


def test_records_that_are_not_announced_are_claimable_after_the_next_poll_of_each_worker():
    assert ANNOUNCED_AHEAD >= 2 * SAFETY_POLL


async def test_of_many_in_a_partition_the_soonest_is_announced_once(bench):
    records = [await bench.declare(name) for name in "abc"]
    listening = asyncio.create_task(anext(bench.others.notified()))
    await asyncio.sleep(0)

    await bench.ledger.apply({record.key: due_at(100 - at) for at, record in enumerate(records)})

    assert bench.woken == [(HERE, 98)]
    assert (await asyncio.wait_for(listening, 1)).at == 98


async def test_an_ordinary_completion_is_not_announced(bench):
    await bench.declare()
    (held,) = await bench.start()

    assert await bench.settle(held)

    assert bench.woken == []


@pytest.mark.parametrize("policies", [{"mode": Mode.AT_MOST_ONCE}, {"overlap": Overlap.ALLOW}])
async def test_an_ordinary_start_is_not_announced(bench, policies):
    await bench.declare(**policies)

    assert len(await bench.start()) == 1

    assert bench.woken == []


@pytest.mark.parametrize("policies", [{"mode": Mode.AT_MOST_ONCE}, {"overlap": Overlap.ALLOW}])
async def test_a_claim_that_an_edit_took_back_is_announced_with_the_time_of_that_edit(bench, policies):
    record = await bench.declare(**policies)
    bench.store.before_swaps = [bench.edit(record.key, schedule=Interval(2 * MINUTE))]

    await bench.start()

    assert bench.woken == [(HERE, (await bench.load(record.key)).claimable_at)]


async def test_a_completion_on_top_of_an_edit_is_announced(bench):
    record = await bench.declare()
    (held,) = await bench.start()
    bench.store.before_swaps = [bench.edit(record.key, schedule=Interval(10 * MINUTE))]
    bench.woken.clear()

    await bench.settle(held)

    assert bench.woken == [(HERE, bench.now + 10 * MINUTE)]


@pytest.mark.parametrize("ended", [DRAINED, UNSTARTED])
async def test_what_a_drain_gives_back_is_announced_at_once(bench, ended):
    await bench.declare()
    (held,) = await bench.start()

    assert await bench.settle(held, ended)

    assert [at for _, at in bench.woken] == [bench.now]
