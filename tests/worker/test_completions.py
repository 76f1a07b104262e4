"""What happens to results while the backend is away."""

import asyncio

import pytest

from pyncette.clock import SECOND
from pyncette.core import edits, rules
from pyncette.core.record import Change, Key, replace
from pyncette.core.runs import RETURNED, UNSTARTED, Completion
from pyncette.core.schedule import Once
from pyncette.core.spec import Mode, Overlap, Policies, Spec
from pyncette.errors import StoreRefusedError
from pyncette.ledger.ledger import Ledger
from pyncette.ledger.starts import PendingStart
from pyncette.store.memory import MemoryStore
from pyncette.worker.partitions import Partitions
from pyncette.worker.signals import Signals
from pyncette.worker.turns import Turns
from tests.worker.bench import Bench, Registered


async def test_two_results_for_one_record_that_waited_together_are_written_one_after_the_other():
    handler = Registered("h", Policies())
    bench = Bench(handler)
    key = await bench.every(handler, 60)
    completions = bench.completions()
    await bench.advance(60)
    completions.put(await _claimed_and_returned(bench, handler, "first"))
    await bench.advance(60)
    completions.put(await _claimed_and_returned(bench, handler, "second"))

    writing = asyncio.create_task(completions.run())
    await completions.emptied()
    writing.cancel()

    record = await bench.record(key)
    assert record.lease is None
    assert record.state.summary.counts.succeeded == 1


async def test_two_releases_that_restore_one_instance_are_written_one_after_the_other():
    """Each is the one-off of an instance that was scheduled again as soon as the one before it had started."""
    policies = Policies(mode=Mode.AT_MOST_ONCE, overlap=Overlap.ALLOW)
    handler = Registered("h", policies)
    bench = Bench(handler)
    ledger = Batched(bench.store, bench.clock)
    completions = bench.completions(ledger)
    for lease_id in ("first", "second"):
        now = bench.clock.now()
        key = Key(handler.partitions[0], "h", "a")
        record = edits.created(key, Spec(Once(now)), policies, now - SECOND)
        assert await bench.store.swap([Change(None, record)]) == [True]
        (claimed,) = (await bench.store.claim({key.partition: 1}, lease_id, "w1", now, now)).records
        plan = rules.begin(claimed, policies, now)
        start = PendingStart(plan, policies, bench.clock.monotonic() + claimed.lease_length)
        ((held,),) = [list(decided.values()) async for decided in ledger.start([start])]
        completions.put(rules.settle(held, UNSTARTED, now))
        await bench.advance(1)

    writing = asyncio.create_task(completions.run())
    await completions.emptied()
    writing.cancel()

    assert ledger.sizes == [1, 1]


class Batched(Ledger):
    """Notes how many completions each batch has."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.sizes = []

    async def settle(self, completions, *, again=False):
        self.sizes.append(len(completions))
        return await super().settle(completions, again=again)


class Picky(MemoryStore):
    """Refuses, as a whole, each batch with a change of an instance that it cannot write; or with any, while it is closed."""

    def __init__(self, backend, error):
        super().__init__(backend)
        self.error = error
        self.closed = False

    async def swap(self, changes):
        instances = {change.before.key.instance for change in changes if change.before}
        if self.closed or "bad" in instances:
            raise self.error
        return await super().swap(changes)


@pytest.mark.parametrize("error", [StoreRefusedError("out of range"), OverflowError("too large")])
async def test_a_result_that_cannot_be_written_hurts_itself_only(error):
    bench, keys, completions, _ = await _five_results(error)

    async with asyncio.timeout(10):
        writing = asyncio.create_task(completions.run())
        await completions.emptied()
        writing.cancel()

    leases = {key.instance: (await bench.record(key)).lease is not None for key in keys}
    assert leases == {"a": False, "b": False, "bad": True, "c": False, "d": False}


async def test_results_outlive_a_backend_that_refuses_all_of_them_for_a_while():
    bench, keys, completions, store = await _five_results(
        StoreRefusedError("the right to write was taken away")
    )
    store.closed = True

    async with asyncio.timeout(10):
        writing = asyncio.create_task(completions.run())
        await asyncio.sleep(0.2)
        kept = len(completions)
        store.closed = False
        await completions.emptied()
        writing.cancel()

    assert kept == len(keys)
    assert [key.instance for key in keys if (await bench.record(key)).lease is not None] == ["bad"]


class Contested(MemoryStore):
    """Others change each record whose name is among *contested* whenever it is about to be written."""

    contested = frozenset({"hot-0", "hot-1"})

    async def swap(self, changes):
        for change in changes:
            if change.before is not None and change.before.key.instance in self.contested:
                (stored,) = await self.load([change.before.key])
                await super().swap([Change(stored, replace(stored, version=stored.version + 1))])
        return await super().swap(changes)


class Heard(Signals):
    """Sets *event* when a record is reported as claimable."""

    def __init__(self, bench, event):
        super().__init__(bench.clock, Turns(SECOND), Partitions(bench.handlers))
        self._event = event

    def claimable(self, partition, at):
        self._event.set()


class Race:
    """Results of "a", of "hot-0" and "hot-1", whose records others change all the time, and of "z"."""

    def __init__(self, bench, keys, store, results, race_seconds):
        self.bench = bench
        self.keys = keys
        self.store = store
        self.results = results
        self.reported = asyncio.Event()
        ledger = Ledger(store, bench.clock, race_seconds=race_seconds)
        self.completions = bench.completions(ledger, Heard(bench, self.reported))

    @classmethod
    async def begun(cls, race_seconds=30):
        handler = Registered("h", Policies())
        bench = Bench(handler)
        store = Contested(bench.backend)
        keys = [await bench.every(handler, 60, instance) for instance in ("a", "hot-0", "hot-1", "z")]
        await bench.advance(60)
        return cls(bench, keys, store, await _returned(bench, handler), race_seconds)

    async def written(self):
        return [key.instance for key in self.keys if (await self.bench.record(key)).lease is None]


async def test_completions_in_a_batch_with_a_contested_one_are_written_and_reported_at_once():
    race = await Race.begun()
    for result in race.results:
        race.completions.put(result)

    async with asyncio.timeout(10):
        writing = asyncio.create_task(race.completions.run())
        await race.reported.wait()
        assert await race.written() == ["a", "z"]
        assert len(race.completions) == 2
        race.store.contested = frozenset()
        await race.completions.emptied()
        writing.cancel()

    assert await race.written() == ["a", "hot-0", "hot-1", "z"]


async def test_contested_results_do_not_keep_the_writers_from_what_comes_after_them():
    race = await Race.begun()
    _, *contested, last = race.results

    async with asyncio.timeout(10):
        writing = asyncio.create_task(race.completions.run())
        for result in contested:
            race.completions.put(result)
            await asyncio.sleep(0.01)
        race.completions.put(last)
        await race.reported.wait()
        writing.cancel()

    assert await race.written() == ["z"]


async def test_a_result_that_loses_each_race_is_given_up_with_an_error(caplog):
    race = await Race.begun(race_seconds=0.05)
    for result in race.results:
        race.completions.put(result)

    async with asyncio.timeout(10):
        writing = asyncio.create_task(race.completions.run())
        await race.completions.emptied()
        writing.cancel()

    assert await race.written() == ["a", "z"]
    (error, *_) = (record for record in caplog.records if record.levelname == "ERROR")
    assert "completions were not written" in error.message


async def _five_results(error):
    """Five results that wait to be written, one of them such that its store gives *error* for it."""
    handler = Registered("h", Policies())
    bench = Bench(handler)
    store = Picky(bench.backend, error)
    keys = [await bench.every(handler, 60, instance) for instance in ("a", "b", "bad", "c", "d")]
    completions = bench.completions(Ledger(store, bench.clock))
    await bench.advance(60)
    for result in await _returned(bench, handler):
        completions.put(result)
    return bench, keys, completions, store


async def _returned(bench, handler):
    """Claim all that is due, and return what is to be written once each has returned."""
    now = bench.clock.now()
    claimed = await bench.store.claim({handler.partitions[0]: 5}, "lease", "w1", now, now)
    results = []
    for record in claimed.records:
        held = rules.begin(record, handler.policies, now).run
        assert held is not None
        results.append(rules.settle(held, RETURNED, now + SECOND))
    return results


async def _claimed_and_returned(bench: Bench, handler: Registered, lease_id: str) -> Completion:
    now = bench.clock.now()
    claimed = await bench.store.claim({handler.partitions[0]: 1}, lease_id, "w1", now, now)
    held = rules.begin(claimed.records[0], handler.policies, now).run
    assert held is not None
    return rules.settle(held, RETURNED, now + SECOND)
