"""Which realms the operator looks at: all that hold something of its cluster, and not for ever those that did."""

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from pyncette.clock import SECOND
from pyncette.controller.cluster.api import ObjectName
from pyncette.controller.metrics import Backlog
from pyncette.controller.reconcile.mirrored import Mirrored
from pyncette.controller.reconcile.realms import RETIREMENT
from pyncette.coordination.members import Member, Membership
from pyncette.core.record import RESERVED_REALMS, Change, Key, Owner, Partition, State, inert_record, replace
from pyncette.core.schedule import Interval
from pyncette.core.spec import Policies, Spec
from pyncette.ledger.ledger import Ledger
from pyncette.store.base import Renewal
from pyncette.store.memory import MemoryBackend, MemoryStore
from pyncette.testing import VirtualClock

CLUSTER = "east"
HOURLY = Interval(3600 * SECOND)
POOL = ObjectName("shop", "default")
REALM = f"{CLUSTER}/shop/default"
BACKEND = SimpleNamespace(store_name="default")
TASK = Key(Partition(REALM, "remind"), "reminders")
INSTANCE = Key(Partition(REALM, "remind"), "reminders", "ada")


class SlowStore(MemoryStore):
    """A store that neither loads nor writes anything until it is told to."""

    def __init__(self, backend):
        super().__init__(backend)
        self.is_asked = asyncio.Event()
        self.goes_on = asyncio.Event()

    async def load(self, keys):
        self.is_asked.set()
        await self.goes_on.wait()
        return await super().load(keys)

    async def swap(self, changes):
        self.is_asked.set()
        await self.goes_on.wait()
        return await super().swap(changes)


class LastingStore(MemoryStore):
    """A store that goes on naming partitions of which the last record is gone, as it may."""

    def __init__(self, backend):
        super().__init__(backend)
        self._named = set()

    async def swap(self, changes):
        self._named |= {change.after.key.partition for change in changes if change.after}
        return await super().swap(changes)

    async def partitions(self, realm):
        named = {partition for partition in self._named if partition.realm == realm}
        return sorted({*named, *await super().partitions(realm)})


class Bench:
    """A backend on which the realm of a pool was opened, and whose look at it an operator repeats."""

    def __init__(self, store=MemoryStore):
        self.clock = VirtualClock(datetime(2030, 1, 1, tzinfo=UTC))
        self.backend = MemoryBackend(self.clock.now)
        self.store = store(self.backend)
        self.ledger = Ledger(self.store, self.clock)
        self.mirrored = Mirrored(CLUSTER)

    async def open(self):
        await self.mirrored.realms.register(BACKEND.store_name, self.ledger, REALM)

    async def scan(self, *pools, after=0):
        await self.clock.advance(timedelta(microseconds=after))
        await self.mirrored.scan(BACKEND, self.ledger, pools)

    async def scans(self, *pools):
        """Scan often, for longer than a realm stays that is empty."""
        for _ in range(5):
            await self.scan(*pools, after=RETIREMENT // 3)

    async def write(self, key=INSTANCE):
        record = inert_record(key, Spec(), self.clock.now())
        state = State(owner=Owner("uid", 1, "hash"))
        await self.store.swap([Change(None, replace(record, state=state))])

    async def remove(self, key=INSTANCE):
        (record,) = await self.store.load([key])
        await self.store.swap([Change(record, None)])

    async def registered(self):
        registry = await self.store.partitions(f"{RESERVED_REALMS}pools/{CLUSTER}")
        return [
            partition.handler for partition in registry if await self.store.scan(partition, None, None, 1)
        ]


@pytest.fixture(params=[MemoryStore, LastingStore])
async def bench(request):
    bench = Bench(request.param)
    await bench.scan(POOL)
    await bench.open()
    return bench


async def test_a_realm_is_no_longer_scanned_long_after_its_pool_and_all_in_it_are_gone(bench):
    await bench.scan()
    await bench.scan(after=RETIREMENT - 1)
    assert await bench.registered() == [REALM]

    await bench.scan(after=1)
    assert await bench.registered() == []


async def test_a_retired_realm_is_registered_like_a_new_one(bench):
    await bench.scans()
    assert await bench.registered() == []

    await bench.open()

    assert await bench.registered() == [REALM]


async def test_a_realm_whose_pool_is_there_stays_however_empty_it_is(bench):
    await bench.scans(POOL)

    assert await bench.registered() == [REALM]


async def test_a_realm_stays_in_which_something_is_left_even_if_it_is_no_task_of_the_cluster(bench):
    await bench.write()

    await bench.scans()

    assert await bench.registered() == [REALM]


async def test_a_realm_stays_in_which_a_worker_runs(bench):
    membership = Membership(REALM, Member("alice"), bench.clock)
    running = asyncio.create_task(membership.run(bench.store))
    await bench.clock.settle()

    await bench.scans()

    assert await bench.registered() == [REALM]
    membership.leave()
    await running


async def test_it_counts_again_when_something_was_there_meanwhile(bench):
    await bench.scan()
    await bench.write()
    await bench.scan(after=RETIREMENT // 2)
    await bench.remove()

    await bench.scan(after=RETIREMENT // 2)
    assert await bench.registered() == [REALM]
    await bench.scan(after=RETIREMENT - 1)
    assert await bench.registered() == [REALM]
    await bench.scan(after=1)
    assert await bench.registered() == []


async def test_a_realm_into_which_is_about_to_be_written_stays(bench):
    await bench.scan()
    await bench.open()

    await bench.scan(after=RETIREMENT)

    assert await bench.registered() == [REALM]


async def test_a_realm_that_is_registered_while_it_is_retired_stays_registered(bench):
    store = SlowStore(bench.backend)
    await bench.scan()
    await bench.clock.advance(timedelta(microseconds=RETIREMENT))

    scanning = asyncio.create_task(bench.mirrored.scan(BACKEND, Ledger(store, bench.clock)))
    await store.is_asked.wait()
    opening = asyncio.create_task(bench.open())
    await asyncio.sleep(0)
    store.goes_on.set()
    await asyncio.gather(scanning, opening)

    assert await bench.registered() == [REALM]


async def test_a_realm_that_is_written_to_while_its_retirement_waits_stays(bench):
    store = SlowStore(bench.backend)
    await bench.scan()
    await bench.clock.advance(timedelta(microseconds=RETIREMENT))

    other = f"{CLUSTER}/shop/other"
    opening = asyncio.create_task(
        bench.mirrored.realms.register(BACKEND.store_name, Ledger(store, bench.clock), other)
    )
    await store.is_asked.wait()
    scanning = asyncio.create_task(bench.mirrored.scan(BACKEND, bench.ledger))
    await asyncio.sleep(0.01)  # nothing else is there for it to wait for
    await bench.open()
    store.goes_on.set()
    await asyncio.gather(scanning, opening)

    assert await bench.registered() == [REALM, other]


async def test_what_another_operator_writes_there_just_then_is_found_again_by_its_next_look(bench):
    other = Mirrored(CLUSTER)
    await bench.scans(POOL)
    await other.scan(BACKEND, bench.ledger)
    await bench.scans()
    assert await bench.registered() == []

    await other.realms.register(BACKEND.store_name, bench.ledger, REALM)
    await bench.write(TASK)
    assert await bench.registered() == []
    await other.scan(BACKEND, bench.ledger, [POOL])

    assert await bench.registered() == [REALM]


# --- What waits ------------------------------------------------------------------------------------------------------


class Waiting:
    """A pool whose records are due, and an operator that looks at it; *unable* are tasks that cannot run."""

    def __init__(self, unable=(), pools=(POOL,)):
        self.clock = VirtualClock(datetime(2030, 1, 1, tzinfo=UTC))
        self.store = MemoryStore(MemoryBackend(self.clock.now))
        self.ledger = Ledger(self.store, self.clock)
        self.mirrored = Mirrored(CLUSTER, lambda task: task.name not in unable)
        self.pools = pools

    async def write(self, name, handler="remind", due=0, instance="", schedule=HOURLY, **spec):
        key = Key(Partition(REALM, handler), name, instance)
        record = inert_record(key, Spec(schedule, **spec), self.clock.now())
        at = None if due is None else self.clock.now() + due
        state = State(owner=None if instance else Owner("uid", 1, "hash", name=name))
        await self.store.swap([Change(None, replace(record, due_at=at, claimable_at=at, state=state))])

    @asynccontextmanager
    async def worker(self, *handlers):
        membership = Membership(REALM, Member("alice", handlers=handlers), self.clock)
        running = asyncio.create_task(membership.run(self.store))
        await self.clock.settle()
        yield
        membership.leave()
        await running

    async def claim(self, limit=1, handler="remind"):
        now = self.clock.now()
        for record in (
            await self.store.claim({Partition(REALM, handler): limit}, "l", "alice", now, now)
        ).records:
            await self.store.renew([Renewal(record.key, "l", 3600 * SECOND)], now)

    async def backlogs(self, after=0):
        await self.clock.advance(timedelta(seconds=after))
        return dict((await self.mirrored.scan(BACKEND, self.ledger, self.pools)).backlogs)


async def test_the_backlog_of_a_pool_is_what_is_due_and_how_long_the_oldest_has_been():
    waiting = Waiting()
    await waiting.write("one", due=0)
    await waiting.write("two", due=20 * SECOND)
    await waiting.write("later", due=3600 * SECOND)

    assert await waiting.backlogs(after=50) == {POOL: Backlog(2, 50.0)}


async def test_a_pool_without_a_backlog_says_so():
    assert await Waiting().backlogs() == {POOL: Backlog(0, 0.0)}


async def test_a_task_that_cannot_run_is_not_late():
    waiting = Waiting(unable=["mistyped"])
    await waiting.write("mistyped")
    await waiting.write("good", due=20 * SECOND)

    assert await waiting.backlogs(after=50) == {POOL: Backlog(1, 30.0)}


async def test_a_task_whose_handler_no_worker_has_is_not_late_and_without_workers_all_are():
    waiting = Waiting()
    await waiting.write("mistyped", handler="rimend")
    await waiting.write("good", due=20 * SECOND)
    assert await waiting.backlogs(after=50) == {POOL: Backlog(2, 50.0)}

    async with waiting.worker("remind"):
        assert await waiting.backlogs() == {POOL: Backlog(1, 30.0)}


async def test_tasks_of_a_pool_that_is_gone_or_was_never_there_are_not_late():
    waiting = Waiting(pools=())
    await waiting.write("orphan")
    await waiting.mirrored.realms.register(BACKEND.store_name, waiting.ledger, REALM)

    assert await waiting.backlogs(after=50) == {}
    assert waiting.mirrored.pool(BACKEND.store_name, POOL).due == 0


async def test_instances_of_a_template_that_wait_are_counted_and_how_long_is_measured_in_steps():
    waiting = Waiting()
    await waiting.write("remind", due=None, schedule=None, partitions=1)
    for number in range(3):
        await waiting.write("remind", instance=f"u{number}", due=number * 100 * SECOND)
    await waiting.write("remind", instance="later", due=3600 * SECOND)

    assert await waiting.backlogs(after=150) == {POOL: Backlog(2, 120.0)}
    assert await waiting.backlogs(after=5) == {POOL: Backlog(2, 120.0 + 5)}  # not counted anew so soon
    assert await waiting.backlogs(after=145) == {POOL: Backlog(3, 300.0)}


async def test_instances_that_run_do_not_wait():
    waiting = Waiting()
    await waiting.write("remind", due=None, schedule=None, partitions=1)
    for number in range(3):
        await waiting.write("remind", instance=f"u{number}", due=number * 100 * SECOND)
    await waiting.clock.advance(timedelta(seconds=250))
    await waiting.claim()

    assert await waiting.backlogs() == {POOL: Backlog(2, 120.0)}


async def test_instances_of_a_template_that_is_suspended_do_not_wait():
    waiting = Waiting()
    await waiting.write("remind", due=None, schedule=None, partitions=1, policies=Policies(suspend=True))
    await waiting.write("remind", instance="ada")

    assert await waiting.backlogs(after=50) == {POOL: Backlog(0, 0.0)}
