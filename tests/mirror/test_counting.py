"""Instances, and those that wait for a worker, are counted without being read one by one."""

import pytest

from pyncette.clock import SECOND
from pyncette.core.record import Change, Key, Partition, Record
from pyncette.core.schedule import Interval
from pyncette.core.spec import Policies, Spec
from pyncette.mirror.counting import LATE, instances_of, waiting_in
from pyncette.resources.task import PARTITIONS_MAX
from pyncette.store.memory import MemoryStore

NOW = 1_700_000_000_000_000


class CountingStore(MemoryStore):
    """Remembers up to where it was asked to count."""

    def __init__(self):
        super().__init__()
        self.limits = []

    async def count(self, partition, task, now, longest_lease, limit):
        self.limits.append(limit)
        return await super().count(partition, task, now, longest_lease, limit)


def a_template(partitions=1, **policies):
    spec = Spec(policies=Policies(**policies), partitions=partitions)
    return Record(Key(Partition("realm", "send"), "send"), spec, NOW, NOW, None, NOW, None, 60 * SECOND)


def an_instance(name, number=0, at=NOW):
    key = Key(Partition("realm", "send", number), "send", name)
    return Record(key, Spec(Interval(60 * SECOND)), NOW, NOW, at, NOW, at, 60 * SECOND)


async def fill(store, *records):
    assert all(await store.swap([Change(None, record) for record in records]))


@pytest.fixture
def store():
    return CountingStore()


async def test_the_instances_of_all_partitions_are_counted_together(store):
    await fill(store, *(an_instance(f"{number}", number % 3) for number in range(30)))
    await fill(store, an_instance("later", at=NOW + 1), a_template(3))
    await store.claim({Partition("realm", "send", 1): 4}, "lease", "worker", NOW, NOW)

    found = await instances_of(store, a_template(3), NOW)

    assert (found.total, found.due, found.leased) == (31, 26, 4)


async def test_a_task_without_instances_has_none(store):
    found = await instances_of(store, a_template(), NOW)

    assert (found.total, found.due, found.leased) == (0, 0, 0)


async def test_however_many_partitions_there_are_at_most_twice_the_reported_number_is_read(store):
    await fill(store, *(an_instance(f"{number}", number % 10) for number in range(500)))

    found = await instances_of(store, a_template(10), NOW, counted_max=100)

    assert (found.total, found.due) == (500, 100)
    assert sum(store.limits) <= 2 * 100 + 10


@pytest.mark.parametrize("stored", [-5, 10**6, 10**30])
async def test_no_stored_partition_count_makes_a_count_endless(store, stored):
    found = await instances_of(store, a_template(stored), NOW)

    assert found.total == 0
    assert len(store.limits) <= PARTITIONS_MAX


@pytest.mark.parametrize("seconds", [0, 9, 10, 45, 300, 10 * 24 * 3600])
@pytest.mark.parametrize("known", [0, 10, 60, 24 * 3600])
async def test_how_long_instances_wait_is_asked_once_where_others_have_waited_as_long(store, seconds, known):
    await fill(store, an_instance("ada", at=NOW - seconds * SECOND), an_instance("bob", at=NOW))
    exact = max((step for step in LATE if step <= seconds * SECOND), default=0)

    found = await waiting_in(store, Partition("realm", "send"), "send", NOW, known * SECOND)

    assert found == (2, exact if exact > known * SECOND else 0)
    if known and not found[1]:
        assert len(store.limits) <= 2
