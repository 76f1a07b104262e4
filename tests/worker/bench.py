"""A worker on a workbench: simulated time, records in memory, and handlers that remember what they were called for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from pyncette.clock import SECOND, Instant
from pyncette.coordination.assignment import PartitionAssignment
from pyncette.coordination.members import Member, Membership
from pyncette.core import edits
from pyncette.core.record import Change, Key, Partition, Record
from pyncette.core.schedule import Interval, Once, Schedule
from pyncette.core.spec import Policies, Spec
from pyncette.errors import DoNotRetry
from pyncette.ledger.ledger import Ledger, Ruling
from pyncette.store.base import Store
from pyncette.store.memory import MemoryBackend, MemoryStore
from pyncette.testing import VirtualClock
from pyncette.worker.backend_health import BackendHealth
from pyncette.worker.completions import Completions
from pyncette.worker.occurrence import Occurrence
from pyncette.worker.partitions import Partitions
from pyncette.worker.run import Runs
from pyncette.worker.service import Worker, WorkerSettings
from pyncette.worker.signals import Signals
from pyncette.worker.turns import Turns

START = datetime(2024, 1, 1, tzinfo=UTC)
SECONDS = timedelta(seconds=1)

Handler = Callable[[Occurrence], Awaitable[None]]


class Registered:
    """A handler, and the calls that it had."""

    def __init__(
        self,
        handler: str,
        policies: Policies,
        call: Handler | None = None,
        concurrency_limit: int | None = None,
        numbers: int = 1,
    ) -> None:
        self.handler = handler
        self.policies = policies
        self.concurrency_limit = concurrency_limit
        self.partitions: Sequence[Partition] = tuple(
            Partition("", handler, number) for number in range(numbers)
        )
        self.shared_among = 0
        self.calls: list[Occurrence] = []
        self.running = 0
        self.most_at_once = 0
        self._call = call

    def retries(self, error: BaseException) -> bool:
        return not isinstance(error, DoNotRetry)

    async def run(self, occurrence: Occurrence) -> None:
        self.calls.append(occurrence)
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        try:
            if self._call is not None:
                await self._call(occurrence)
        finally:
            self.running -= 1

    @property
    def scheduled(self) -> list[int]:
        """The due times of its calls, in seconds since the start."""
        return [seconds(occurrence.held.scheduled_at) for occurrence in self.calls]

    def key(self, instance: str = "", number: int = 0) -> Key:
        return Key(self.partitions[number], self.handler, instance)


class Bench:
    """One backend and one clock, for any number of workers."""

    def __init__(self, *handlers: Registered, clock: VirtualClock | None = None) -> None:
        self.clock = clock or VirtualClock(START)
        self.backend = MemoryBackend(self.clock.now)
        self.store: Store = MemoryStore(self.backend)
        self.ledger = Ledger(self.store, self.clock)
        self.handlers = handlers

    async def declare(
        self, handler: Registered, schedule: Schedule, instance: str = "", number: int = 0
    ) -> Key:
        """Put an instance into the store, with its handler's policies."""
        key = handler.key(instance, number)
        spec = Spec(schedule, policies=handler.policies)

        def rule(record: Record | None, now: Instant) -> Ruling:
            after = edits.created(key, spec, handler.policies, now)
            return Ruling(Change(record, after))

        await self.ledger.apply({key: rule})
        return key

    async def edit(
        self, key: Key, schedule: Schedule | None = None, policies: Policies | None = None
    ) -> None:
        """Let another schedule or other policies be in force from now on."""

        def rule(record: Record | None, now: Instant) -> Ruling:
            assert record is not None
            spec = record.spec
            spec = Spec(schedule or spec.schedule, spec.args, policies or spec.policies)
            assert spec.policies is not None
            return Ruling(Change(record, edits.edited(record, spec, spec.policies, now)))

        await self.ledger.apply({key: rule})

    async def force(self, key: Key, schedule: Schedule) -> None:
        """Overwrite an instance by force, even while it runs."""

        def rule(record: Record | None, now: Instant) -> Ruling:
            assert record is not None
            assert record.spec.policies is not None
            spec = Spec(schedule, record.spec.args, record.spec.policies)
            return Ruling(Change(record, edits.overwritten(record, spec, record.spec.policies, now)))

        await self.ledger.apply({key: rule})

    async def every(self, handler: Registered, interval: float, instance: str = "") -> Key:
        return await self.declare(handler, Interval(int(interval * SECOND)), instance)

    async def once(self, handler: Registered, after: float, instance: str, number: int = 0) -> Key:
        return await self.declare(handler, Once(self.clock.now() + int(after * SECOND)), instance, number)

    async def record(self, key: Key) -> Record:
        (record,) = await self.store.load([key])
        assert record is not None, f"no record of {key}"
        return record

    def signals(self) -> Signals:
        """Signals between the parts of a worker, for tests of one part."""
        return Signals(self.clock, Turns(SECOND), Partitions(self.handlers))

    def completions(self, ledger: Ledger | None = None, signals: Signals | None = None) -> Completions:
        """The completions of a worker that has no other part."""
        return Completions(ledger or self.ledger, signals or self.signals(), BackendHealth())

    def runs(self) -> Runs:
        """The runs of a worker that has no other part: none yet."""

        async def renew(_: Occurrence) -> bool:
            return True

        async def reload(_: Occurrence) -> None: ...

        return Runs(self.clock, self.completions(), self.signals(), 100, renew, reload)

    @asynccontextmanager
    async def worker(
        self, store: Store | None = None, holder: str = "w1", *, assignment: bool = False, **settings: Any
    ) -> AsyncIterator[Worker]:
        """A worker that runs for the length of the block, and then drains without grace; it *assignment* what is shared out."""
        ledger = self.ledger if store is None else Ledger(store, self.clock)
        handlers = tuple(handler.handler for handler in self.handlers)
        member = Membership("", Member(holder, handlers), self.clock)
        worker = Worker(
            ledger=ledger,
            clock=self.clock,
            registrations=self.handlers,
            settings=WorkerSettings(holder, **settings),
            membership=member if assignment else None,
            assignment=PartitionAssignment(ledger.store, self.clock, "", holder) if assignment else None,
        )
        running = asyncio.create_task(worker.run())
        self.clock.join(worker)
        try:
            yield worker
        finally:
            self.clock.leave(worker)
            worker.drain(0)
            await asyncio.gather(running, return_exceptions=True)

    async def advance(self, by: float) -> None:
        await self.clock.advance(by * SECONDS)

    async def sleep(self, seconds: float) -> None:
        """What a handler does that takes long."""
        await self.clock.sleep(seconds * SECONDS)


def seconds(at: Instant | None) -> int:
    """Return *at* in seconds since the start."""
    assert at is not None
    return round((at - int(START.timestamp()) * SECOND) / SECOND)


def remember(starts: list[int], bench: Bench):
    async def call(_: Occurrence) -> None:
        starts.append(bench.clock.now())

    return call


async def until(condition, seconds_max: float = 10) -> None:
    """Wait in real time for what happens in real time."""
    deadline = time.monotonic() + seconds_max
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)
