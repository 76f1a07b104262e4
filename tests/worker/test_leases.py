"""The promises about leases that are about to expire: before a start, and at their very end."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from pyncette.clock import SECOND, Instant, SystemClock
from pyncette.coordination.permit_records import PERMITS_REALM
from pyncette.core import edits
from pyncette.core.record import Change, Partition
from pyncette.core.schedule import Once
from pyncette.core.spec import Heartbeat, Mode, Overlap, Policies, Spec
from pyncette.errors import StoreUnavailableError
from pyncette.ledger.ledger import Ledger
from pyncette.store.base import Claimed, Renewal, Renewed
from pyncette.store.memory import MemoryStore
from pyncette.store.sqlite.store import SqliteStore
from pyncette.worker.occurrence import Occurrence
from pyncette.worker.service import Worker, WorkerSettings
from tests.worker.bench import Bench, Registered, seconds

LEASE = 9 * SECOND

STARTED = {
    "from a claim": Policies(lease=LEASE),
    "from a claim, with a cooperative heartbeat": Policies(lease=LEASE, heartbeat=Heartbeat.COOPERATIVE),
    "after its start was written": Policies(lease=LEASE, mode=Mode.AT_MOST_ONCE),
    "as a side run": Policies(lease=LEASE, overlap=Overlap.ALLOW),
    "after a wait for a permit": Policies(lease=LEASE, max_concurrent=2),
}


class Tardy(MemoryStore):
    """A backend whose first answer to a successful claim is slow, and whose renewals do what *renewals* says."""

    def __init__(self, bench: Bench, claim_seconds: float, renewals: str = "answered") -> None:
        super().__init__(bench.backend)
        self.bench = bench
        self.claim_seconds = claim_seconds
        self.permit_seconds = 0.0
        self.renewals = renewals
        self.renewed: list[int] = []
        """How many leases each write renewed."""

    async def claim(
        self,
        limits: Mapping[Partition, int],
        lease_id: str,
        holder: str,
        now: Instant,
        expired_at: Instant,
        ahead: int = 0,
    ) -> Claimed:
        claimed = await super().claim(limits, lease_id, holder, now, expired_at, ahead)
        if any(partition.realm == PERMITS_REALM for partition in limits):
            await self._take(self.permit_seconds)
        elif claimed.records:
            delay, self.claim_seconds = self.claim_seconds, 0
            await self._take(delay)
        return claimed

    async def renew(self, renewals: Sequence[Renewal], now: Instant) -> Renewed:
        if self.renewals == "unavailable":
            raise StoreUnavailableError("away")
        if self.renewals == "unanswered":
            await asyncio.Event().wait()
        self.renewed.append(len(renewals))
        return await super().renew(renewals, now)

    async def _take(self, seconds: float) -> None:
        if seconds:
            await self.bench.sleep(seconds)


@pytest.fixture(params=STARTED.values(), ids=STARTED.keys())
def policies(request: pytest.FixtureRequest) -> Policies:
    return request.param


async def test_after_a_slow_claim_two_workers_do_not_run_one_occurrence_at_once(policies: Policies) -> None:
    bench, handler = _a_bench(policies, seconds=2)
    key = await bench.once(handler, 1, "a")

    async with _unwaited(bench, Tardy(bench, claim_seconds=8.9)):
        await bench.advance(2)
        async with bench.worker(MemoryStore(bench.backend), holder="w2"):
            await bench.advance(30)

    assert len(handler.calls) == 1
    assert handler.calls[0].held.attempt == 1
    assert await bench.store.load([key]) == [None]


async def test_a_handler_starts_with_at_least_a_third_of_its_lease_left(policies: Policies) -> None:
    bench, handler = _a_bench(policies)
    await bench.once(handler, 1, "a")

    async with _unwaited(bench, Tardy(bench, claim_seconds=6.5)):
        await bench.advance(10)

    ((_, remaining),) = handler.starts
    assert remaining >= LEASE // 3


async def test_a_handler_does_not_start_on_a_short_lease_that_cannot_be_renewed(policies: Policies) -> None:
    bench, handler = _a_bench(policies)
    key = await bench.once(handler, 1, "a")
    before = await bench.record(key)

    async with _unwaited(bench, Tardy(bench, claim_seconds=6.5, renewals="unavailable"), slots=1) as worker:
        await bench.advance(2)
        worker.drain()
        await bench.advance(8)

    assert handler.calls == []
    (after,) = [record for record in await _records(bench, handler) if record.claimable_at is not None]
    assert (after.due_at, after.attempt, after.lease) == (before.due_at, 0, None)
    assert after.state.summary == before.state.summary
    assert after.state.started is None or not after.state.started.at_most_once
    assert after.claimable_at <= bench.clock.now()


async def test_an_occurrence_that_was_not_started_runs_under_a_new_lease(policies: Policies) -> None:
    bench, handler = _a_bench(policies)
    await bench.once(handler, 1, "a")

    async with _unwaited(bench, Tardy(bench, claim_seconds=6.5, renewals="unavailable")):
        await bench.advance(20)

    ((_, remaining),) = handler.starts
    assert remaining >= LEASE // 3
    assert handler.calls[0].held.attempt == 1


async def test_a_renewal_before_a_start_may_take_half_of_the_remaining_lease(
    policies: Policies,
) -> None:
    bench, handler = _a_bench(policies)
    await bench.once(handler, 1, "a")

    async with _unwaited(bench, Tardy(bench, claim_seconds=7, renewals="unanswered")):
        await bench.advance(20)

    ((started_at, remaining),) = handler.starts
    assert 1 + 7 + 1 <= seconds(started_at) <= 1 + 9
    assert remaining >= LEASE // 3
    assert handler.calls[0].held.attempt == 1


class Failing(Tardy):
    """A backend that is away after the first write that follows a slow claim."""

    is_away = False

    async def swap(self, changes: Sequence[Change]) -> list[bool]:
        self._answer()
        self.is_away = True
        return await super().swap(changes)

    async def claim(self, *args: Any, **options: Any) -> Claimed:
        self._answer()
        return await super().claim(*args, **options)

    def _answer(self) -> None:
        if self.is_away:
            raise StoreUnavailableError("it is away")


async def test_at_most_once_a_claim_that_is_too_slow_for_its_lease_loses_no_occurrence() -> None:
    bench, handler = _a_bench(Policies(mode=Mode.AT_MOST_ONCE, lease=LEASE), seconds=2)
    await bench.once(handler, 1, "a")

    async with _unwaited(bench, Failing(bench, claim_seconds=8.5, renewals="unavailable")):
        await bench.advance(10)
        async with bench.worker(MemoryStore(bench.backend), holder="w2"):
            await bench.advance(30)

    assert [occurrence.held.attempt for occurrence in handler.calls] == [1]


async def test_a_run_that_waits_for_its_time_is_renewed_before_it_starts() -> None:
    bench, handler = _a_bench(Policies(lease=LEASE))
    for after in (4, 7.5):  # claimed together, half of the time ahead before the first
        await bench.once(handler, after, f"a{after}")

    async with bench.worker(Tardy(bench, 0, renewals="unavailable"), ahead=8 * SECOND):
        await bench.advance(20)

    assert [remaining >= LEASE // 3 for _, remaining in handler.starts] == [True, True]
    assert [occurrence.held.attempt for occurrence in handler.calls] == [1, 1]


async def test_records_claimed_together_are_renewed_in_one_write() -> None:
    bench, handler = _a_bench(Policies(lease=LEASE))
    for instance in "abcde":
        await bench.once(handler, 1, instance)
    store = Tardy(bench, claim_seconds=6.5)

    async with _unwaited(bench, store):
        await bench.advance(10)

    assert len(handler.calls) == 5
    assert store.renewed == [5]


async def test_a_start_costs_no_renewal_while_two_thirds_of_the_lease_are_left(policies: Policies) -> None:
    bench, handler = _a_bench(policies)
    await bench.once(handler, 1, "a")
    store = Tardy(bench, claim_seconds=3)

    async with _unwaited(bench, store):
        await bench.advance(10)

    assert len(handler.calls) == 1
    assert store.renewed == []


async def test_concurrent_heartbeats_are_one_write_and_all_are_notified_of_its_failure() -> None:
    failed: list[str] = []

    async def call(occurrence: Occurrence) -> None:
        try:
            await occurrence.heartbeat()
        except StoreUnavailableError:
            failed.append(occurrence.held.record.key.instance)

    handler = Registered("h", Policies(lease=LEASE, heartbeat=Heartbeat.COOPERATIVE), call)
    bench = Bench(handler)
    for instance in "abc":
        await bench.once(handler, 1, instance)
        await bench.once(handler, 2, instance * 2)
    store = Tardy(bench, 0)

    async with bench.worker(store):
        await bench.advance(1)
        store.renewals = "unavailable"
        await bench.advance(1)

    assert store.renewed == [3]
    assert sorted(failed) == ["aa", "bb", "cc"]


async def test_a_run_is_cancelled_at_the_very_end_of_its_lease() -> None:
    cancelled: list[tuple[str, int]] = []
    bench = Bench()

    async def call(occurrence: Occurrence) -> None:
        try:
            await bench.sleep(100)
        except asyncio.CancelledError:
            cancelled.append((occurrence.held.record.key.instance, seconds(bench.clock.now())))
            raise

    handler = Registered("h", Policies(lease=LEASE), call)
    bench.handlers = (handler,)
    await bench.once(handler, 1, "a")
    await bench.once(handler, 6, "b")  # not a multiple of a sixth of a lease after the first

    async with bench.worker(Tardy(bench, 0, renewals="unavailable")):
        await bench.advance(16)

        assert cancelled == [("a", 10), ("b", 15)]


async def test_a_lease_does_not_count_from_later_than_its_stamp() -> None:
    ends: list[tuple[int, int]] = []
    bench = Bench()

    async def call(occurrence: Occurrence) -> None:
        lease = (await bench.record(occurrence.held.record.key)).lease
        assert lease is not None
        ends.append((occurrence.lease_until, lease.expires_at))

    handler = Registered("h", Policies(lease=LEASE, max_concurrent=1), call)
    bench.handlers = (handler,)
    await bench.once(handler, 1, "a")
    store = Tardy(bench, 0)
    store.permit_seconds = 2

    async with _unwaited(bench, store):
        await bench.advance(10)

    ((believed, stamped),) = ends
    assert believed <= stamped


async def test_a_process_that_was_stopped_cancels_its_runs_before_they_continue() -> None:
    steps: list[float] = []
    begun = asyncio.Event()
    clock = SystemClock()

    async def call(occurrence: Occurrence) -> None:
        while occurrence.held.attempt == 1:
            steps.append(occurrence.lease_remaining())
            begun.set()
            await asyncio.sleep(0.5)

    handler = Registered("h", Policies(lease=SECOND), call)
    store = MemoryStore()
    record = edits.created(handler.key("a"), Spec(Once(clock.now())), handler.policies, clock.now())
    await store.swap([Change(None, record)])
    worker = Worker(
        ledger=Ledger(store, clock),
        clock=clock,
        registrations=[handler],
        settings=WorkerSettings("w1"),
    )
    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(20):
        await begun.wait()
        run = handler.calls[0].task
        assert run is not None

        time.sleep(1.1)  # noqa: ASYNC251 - as if the process were stopped
        await asyncio.wait([run])
        worker.drain(0)
        await running

    assert handler.calls[0].lease_lost
    assert 0 not in steps


async def test_two_workers_never_run_one_occurrence_at_once_while_another_program_locks_the_sqlite_file(
    tmp_path: Path,
) -> None:
    """In real time, since the wait for the lock uses up the lease."""
    lease = 3.0
    path = tmp_path / "records.db"

    async def call(_: Occurrence) -> None:
        await asyncio.sleep(1)

    handler = Registered("h", Policies(lease=int(lease * SECOND)), call)
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(SqliteStore(path)) for _ in range(2)]
        clock = SystemClock()
        due = clock.now() + 2 * SECOND
        record = edits.created(handler.key("a"), Spec(Once(due)), handler.policies, clock.now())
        await stores[0].swap([Change(None, record)])
        first, second = (
            Worker(
                ledger=Ledger(store, clock),
                clock=clock,
                registrations=[handler],
                settings=WorkerSettings(holder, poll_interval=60 * SECOND),
                renewal_store=lambda: SqliteStore(path),
            )
            for holder, store in zip(("w1", "w2"), stores, strict=True)
        )
        stack.enter_context(closing(foreign := sqlite3.connect(path, isolation_level=None)))

        running = [asyncio.create_task(first.run())]
        await _until(lambda: first.last_polled_at is not None)
        foreign.execute("BEGIN IMMEDIATE")
        assert clock.now() < due, "the worker took too long to start"
        await asyncio.sleep((due - clock.now()) / SECOND + 0.95 * lease)
        foreign.execute("ROLLBACK")
        await _until(lambda: first.figures.claimed)
        running.append(asyncio.create_task(second.run()))
        await _until(lambda: handler.calls and not (first.running or second.running))
        for worker in (first, second):
            worker.drain(0)
        await asyncio.gather(*running)

    assert len(handler.calls) == 1


# --- What the tests share ---------------------------------------------------------------------------------------------


async def _until(condition: Callable[[], object], seconds_max: float = 30) -> None:
    """Wait in real time until *condition* holds."""
    deadline = time.monotonic() + seconds_max
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.001)


class Starting(Registered):
    """A handler that remembers how its calls began."""

    def __init__(self, bench: Bench, policies: Policies, seconds: float) -> None:
        super().__init__("h", policies)
        self.starts: list[tuple[Instant, int]] = []
        """When, and with how much of its lease left."""
        self._bench = bench
        self._seconds = seconds

    async def run(self, occurrence: Occurrence) -> None:
        self.starts.append((self._bench.clock.now(), occurrence.lease_remaining()))
        await super().run(occurrence)
        if self._seconds:
            await self._bench.sleep(self._seconds)


def _a_bench(policies: Policies, seconds: float = 0) -> tuple[Bench, Starting]:
    bench = Bench()
    handler = Starting(bench, policies, seconds)
    bench.handlers = (handler,)
    return bench, handler


@asynccontextmanager
async def _unwaited(bench: Bench, store: MemoryStore, **settings: Any) -> AsyncIterator[Worker]:
    """A worker that simulated time does not wait for, since its backend takes simulated time."""
    async with bench.worker(store, **settings) as worker:
        bench.clock.leave(worker)
        try:
            yield worker
        finally:
            bench.clock.join(worker)


async def _records(bench: Bench, handler: Registered) -> list[Any]:
    return await bench.store.scan(handler.partitions[0], None, None, 100)
