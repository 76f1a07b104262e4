"""A scan of records asks no more of a database than its records and partitions are many."""

from pyncette.controller.reconcile.record_scan import scan_records
from pyncette.core.record import Change, Key, Owner, Partition, State, inert_record, replace
from pyncette.core.spec import Spec
from pyncette.store.memory import MemoryStore

REALM = "east/shop/default"
NOW = 1_700_000_000_000_000
HANDLER = "remind"


class CountingStore(MemoryStore):
    scans = 0

    async def scan(self, partition, task, after, limit):
        self.scans += 1
        return await super().scan(partition, task, after, limit)


def template(name=HANDLER, number=0):
    record = inert_record(Key(Partition(REALM, HANDLER, number), name), Spec(partitions=1), NOW)
    return replace(record, state=State(owner=Owner("uid", 1, "hash", name)))


def instance(number):
    return inert_record(Key(Partition(REALM, HANDLER, number), HANDLER, "ada"), Spec(), NOW)


async def scanned(*records):
    store = CountingStore()
    await store.swap([Change(None, record) for record in records])
    partitions = await store.partitions(REALM)
    found = [
        observed async for observed in scan_records(store, partitions, "default", NOW, lambda rows: True)
    ]
    return {observed.record.key: observed.strays for observed in found}, store.scans


async def test_instances_beyond_the_partitions_of_a_template_are_found():
    strays, _ = await scanned(template(), *map(instance, range(4)))

    assert strays == {template().key: (1, 2, 3)}


async def test_records_that_are_stored_like_templates_cost_no_read_of_all_partitions():
    forged = [template(f"forged-{number}", number % 2) for number in range(20)]

    strays, scans = await scanned(template(), *forged, *map(instance, range(20)))

    assert set(strays.values()) == {(), tuple(range(1, 20))}
    assert scans < 100
