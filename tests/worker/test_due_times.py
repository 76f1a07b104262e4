"""A worker starts what is due at its time, and is woken for what was not due when it last polled."""

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise

import pytest

from pyncette.clock import SECOND
from pyncette.core.record import Key
from pyncette.core.schedule import Once
from pyncette.core.spec import Missed, Mode, Overlap, Policies
from pyncette.ledger.ledger import Ledger
from pyncette.store.base import Notification
from pyncette.store.memory import MemoryStore
from pyncette.worker.occurrence import Occurrence
from tests.worker.bench import Bench, Registered, remember, seconds, until


async def test_an_occurrence_starts_at_its_due_time_and_not_at_the_next_poll() -> None:
    handler = Registered("h", Policies())
    bench = Bench(handler)
    starts: list[int] = []
    handler._call = remember(starts, bench)
    await bench.once(handler, 7.25, "a")

    async with bench.worker(poll_interval=60 * SECOND):
        await bench.advance(20)

    assert [round((at - starts[0]) / 1000) for at in starts] == [0]
    assert starts[0] == bench.clock.now() - int(12.75 * SECOND)


@pytest.mark.parametrize(
    "policies",
    [Policies(), Policies(mode=Mode.AT_MOST_ONCE), Policies(overlap=Overlap.ALLOW)],
    ids=["at_least_once", "at_most_once", "allow"],
)
async def test_what_is_claimed_ahead_starts_when_it_is_due_and_not_before(policies: Policies) -> None:
    started: list[int] = []

    async def call(_: Occurrence) -> None:
        started.append(bench.clock.now())

    handler = Registered("h", policies, call)
    bench = Bench(handler)
    await bench.every(handler, 30)
    async with bench.worker(ahead=SECOND) as worker:
        await bench.advance(29.9)
        assert (len(worker.running), len(started)) == (1, 0)
        await bench.advance(35.1)

    assert handler.scheduled == [30, 60]
    assert started == [occurrence.held.scheduled_at for occurrence in handler.calls]


async def test_an_interval_shorter_than_the_time_ahead_misses_nothing() -> None:
    handler = Registered("h", Policies(missed=Missed.LATEST))
    bench = Bench(handler)
    key = await bench.every(handler, 0.25)
    async with bench.worker(ahead=SECOND):
        await bench.advance(10)

    assert len(handler.calls) == 40
    assert (await bench.record(key)).state.summary.counts.missed == 0


async def test_what_falls_due_in_a_row_is_claimed_together() -> None:
    class Counting(MemoryStore):
        claims = 0

        async def claim(self, *arguments):
            self.claims += 1
            return await super().claim(*arguments)

    handler = Registered("h", Policies())
    bench = Bench(handler)
    store = Counting(bench.backend)
    for number in range(100):
        await bench.once(handler, 10 + number / 100, f"{number:03}")
    async with bench.worker(store, ahead=SECOND):
        await bench.advance(20)

    assert [occurrence.held.record.key.instance for occurrence in handler.calls] == [
        f"{number:03}" for number in range(100)
    ]
    assert store.claims < 10


async def test_a_drain_gives_back_what_only_waits_for_its_time() -> None:
    handler = Registered("h", Policies())
    bench = Bench(handler)
    key = await bench.once(handler, 10, "a")
    before = await bench.record(key)
    async with bench.worker(ahead=SECOND):
        await bench.advance(9.5)
        assert (await bench.record(key)).lease is not None

    after = await bench.record(key)
    assert handler.calls == []
    assert (after.lease, after.attempt, after.began_at) == (None, 0, None)
    assert after.claimable_at == before.claimable_at


async def test_a_week_of_an_hourly_task_runs_in_order() -> None:
    handler = Registered("h", Policies())
    bench = Bench(handler)
    await bench.every(handler, 3600)

    async with bench.worker():
        await bench.advance(7 * 86400)

    assert handler.scheduled == [3600 * hour for hour in range(1, 7 * 24 + 1)]


async def test_an_instance_declared_while_the_worker_sleeps_wakes_it() -> None:
    handler = Registered("h", Policies())
    bench = Bench(handler)

    async with bench.worker(poll_interval=3600 * SECOND):
        await bench.advance(100)
        await bench.once(handler, 5, "a")
        await bench.advance(5)

    assert handler.scheduled == [105]


async def test_what_another_process_notifies_of_wakes_a_worker_that_sleeps() -> None:
    handler = Registered("h", Policies())
    bench = Bench(handler)
    elsewhere = MemoryStore(bench.backend)

    async with bench.worker(poll_interval=3600 * SECOND) as worker:
        await bench.advance(100)
        other = Bench(handler)
        other.clock, other.store, other.ledger = bench.clock, elsewhere, Ledger(elsewhere, bench.clock)
        await other.once(handler, 5, "a")
        await until(lambda: not worker.is_settled() or handler.calls == [])
        await bench.advance(5)

    assert handler.scheduled == [105]


@pytest.mark.parametrize("idle", [0, 1], ids=["the_worker_that_runs_it", "an_idle_worker_beside_it"])
async def test_an_overwritten_running_instance_starts_when_it_is_due(idle: int) -> None:
    starts: list[tuple[str, int]] = []

    async def call(occurrence: Occurrence) -> None:
        lease = occurrence.held.record.lease
        assert lease is not None
        starts.append((lease.holder, seconds(bench.clock.now())))
        await bench.sleep(30)

    handler = Registered("h", Policies(lease=60 * SECOND), call)
    bench = Bench(handler)
    key = await bench.once(handler, 10, "a")

    async with bench.worker(slots=2 - idle):
        await bench.advance(10)
        async with bench.worker(MemoryStore(bench.backend), "idle") if idle else nullcontext():
            await bench.advance(3)
            await bench.force(key, Once(bench.clock.now() + 2 * SECOND))
            await bench.advance(3)

            assert starts == [("w1", 10), (["w1", "idle"][idle], 15)]


class PassingOver(MemoryStore):
    """Skips some records, as if they were locked, for a number of claims, and records when those came."""

    def __init__(self, bench: Bench, locked: Sequence[Key], claims: int) -> None:
        super().__init__(bench.backend)
        self.polled_at: list[float] = []
        self._locked = locked
        self._left = claims

    async def claim(self, limits, lease_id, holder, now, expired_at, ahead=0):
        due = [
            record
            for record in await self.load([key for key in self._locked if limits.get(key.partition)])
            if record is not None and record.claimable_at <= now + ahead
        ]
        if not due or not self._left:
            return await super().claim(limits, lease_id, holder, now, expired_at, ahead)
        self._left -= 1
        self.polled_at.append(asyncio.get_running_loop().time())
        shelf = self.backend.shelf(due[0].key.partition)
        for record in due:
            shelf.remove(record.key)
        claimed = await super().claim(limits, lease_id, holder, now, expired_at, ahead)
        for record in due:
            shelf.put(record)
        return claimed._replace(next_claimable_at=now)

    @property
    def pauses(self) -> list[float]:
        return [later - sooner for sooner, later in pairwise(self.polled_at)]


async def test_a_worker_polls_again_for_a_locked_due_record_after_a_pause_that_doubles() -> None:
    handler = Registered("h", Policies())
    bench = Bench(handler)
    store = PassingOver(bench, [await bench.once(handler, 5, "a")], 6)

    async with bench.worker(store, poll_interval=3600 * SECOND):
        await bench.advance(5)

        assert handler.scheduled == [5]
    assert all(
        pause >= least for pause, least in zip(store.pauses, [0.01, 0.02, 0.04, 0.08, 0.08], strict=True)
    )


async def test_a_locked_record_holds_up_no_other() -> None:
    handler = Registered("h", Policies())
    bench = Bench(handler)
    key = await bench.once(handler, 5, "a")
    for name in "bcd":
        await bench.once(handler, 5, name)
    store = PassingOver(bench, [key], 3)

    async with bench.worker(store, poll_interval=3600 * SECOND):
        await bench.advance(5)

    assert [occurrence.held.record.key.instance for occurrence in handler.calls] == ["b", "c", "d", "a"]
    assert len(store.polled_at) == 3


async def test_a_lock_in_one_partition_is_not_forgotten_after_empty_polls_of_others() -> None:
    handler = Registered("h", Policies(), numbers=4)
    bench = Bench(handler)
    store = PassingOver(bench, [await bench.once(handler, 5, "a", number=2)], 4)

    async with bench.worker(store, slots=1, poll_interval=3600 * SECOND):
        await bench.advance(5)

        assert handler.scheduled == [5]
    assert all(pause >= least for pause, least in zip(store.pauses, [0.01, 0.02, 0.04], strict=True))


async def test_a_worker_that_stops_hands_over_a_due_record_that_was_locked() -> None:
    handler = Registered("h", Policies())
    bench = Bench(handler)
    store = PassingOver(bench, [await bench.once(handler, 5, "a")], 10**6)
    heard: list[Notification] = []

    async def listen() -> None:
        async for notification in bench.store.notified():
            heard.append(notification)  # noqa: PERF401 - it never ends

    listening = asyncio.create_task(listen())
    async with bench.worker(store):
        moving = asyncio.create_task(bench.advance(5))
        await until(lambda: len(store.polled_at) > 1)
        moving.cancel()
    await asyncio.sleep(0)
    listening.cancel()

    assert [notification.at for notification in heard] == [bench.clock.now()]


async def test_a_wait_for_the_next_due_time_counts_as_a_poll() -> None:
    handler = Registered("h", Policies())
    bench = Bench(handler)
    await bench.once(handler, 3600, "a")

    async with bench.worker() as worker:
        assert worker.last_polled_at is None
        await bench.advance(1800)

        assert worker.last_polled_at == bench.clock.now()
