"""Machines are suspended or paused while the backend's time goes on: no run goes on with an expired lease."""

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import pytest

from pyncette.clock import LONG_LEASE, RECHECK_SECONDS, SECOND, UNAWARE_MAX, SystemClock
from pyncette.core import edits
from pyncette.core.record import Change
from pyncette.core.schedule import Once
from pyncette.core.spec import Policies, Spec
from pyncette.ledger.ledger import Ledger
from pyncette.store.memory import MemoryBackend, MemoryStore
from pyncette.worker.service import Worker, WorkerSettings
from tests.simulation.loop import SimulatedLoop
from tests.worker.bench import Registered

BEGIN = 5_000 * SECOND
LEASE = 15 * SECOND
POLL = 10 * SECOND


class Machine:
    """A worker on a machine, and its backend. Times are seconds since the beginning, by the time of the backend."""

    def __init__(self) -> None:
        self.loop = SimulatedLoop(Random(1))
        self.suspended = 0.0
        """How long the machine was suspended, which its clock counts."""
        self.paused = 0.0
        """How long its hypervisor paused it, which its clock does not count."""
        self.backend = MemoryBackend(lambda: self.backend_now)
        self.store = MemoryStore(self.backend)
        self.clock = SystemClock(monotonic_ns=self._monotonic_ns)
        self.clock.observe(BEGIN, 0, 0)
        self.handler = Registered("h", Policies(lease=LEASE), self._run)
        self.begun: list[float] = []
        self.leases: list[float] = []
        """The rest of each run's lease when it began, by the backend's time."""
        self.cancelled: list[float] = []
        self.worker = Worker(
            ledger=Ledger(self.store, self.clock),
            clock=self.clock,
            registrations=[self.handler],
            settings=WorkerSettings("w1", poll_interval=POLL),
        )

    @property
    def backend_now(self) -> int:
        return BEGIN + self.loop.now + int((self.suspended + self.paused) * SECOND)

    @property
    def now(self) -> float:
        return (self.backend_now - BEGIN) / SECOND

    def _monotonic_ns(self) -> int:
        return self.loop.now * 1000 + int(self.suspended * SECOND) * 1000

    async def _run(self, occurrence) -> None:
        self.begun.append(self.now)
        self.leases.append((occurrence.held.record.lease.expires_at - self.backend_now) / SECOND)
        try:
            await asyncio.sleep(86_400)
        except asyncio.CancelledError:
            self.cancelled.append(self.now)
            raise

    def start(self, due: float) -> None:
        """Start a worker with an occurrence that is *due* at that time."""

        async def main() -> None:
            spec = Spec(Once(BEGIN + int(due * SECOND)))
            record = edits.created(self.handler.key("ada"), spec, self.handler.policies, BEGIN)
            await self.store.swap([Change(None, record)])
            await self.worker.run()

        self.loop.spawn("machine", main)

    def others(self, name: str, act: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Let a process on another machine *act*."""
        self.loop.spawn(name, act)

    def be_awake(self, seconds: float) -> None:
        self.loop.run_until(self.loop.now + int(seconds * SECOND))
        assert not self.loop.failures, self.loop.failures

    def lease_left(self) -> float:
        """Return the rest of its lease, by the backend's time."""
        (record,) = self.backend.shelf(self.handler.partitions[0]).records.values()
        return (record.lease.expires_at - self.backend_now) / SECOND

    async def taken_over(self) -> None:
        claimed = await self.store.claim(
            {self.handler.partitions[0]: 1}, "another", "w2", self.backend_now, self.backend_now
        )
        assert len(claimed.records) == 1


@pytest.fixture
def machine():
    machine = Machine()
    yield machine
    machine.loop.close()


def test_a_run_that_was_taken_over_while_its_machine_was_suspended_is_cancelled_within_a_second(machine):
    machine.start(due=1)
    machine.be_awake(2)
    assert machine.begun == [1]

    machine.suspended += 20
    machine.others("w2", machine.taken_over)
    woken_at = machine.now
    machine.be_awake(RECHECK_SECONDS)

    (cancelled_at,) = machine.cancelled
    assert cancelled_at <= woken_at + RECHECK_SECONDS


def test_a_run_whose_lease_outlives_the_suspension_of_its_machine_keeps_it(machine):
    machine.start(due=1)
    machine.be_awake(2)

    machine.suspended += 12
    machine.be_awake(RECHECK_SECONDS)

    assert machine.cancelled == []
    assert machine.lease_left() > LEASE / SECOND - RECHECK_SECONDS


def test_after_an_unnoticed_pause_no_run_starts_with_a_lease_that_has_expired_by_the_backends_time(
    machine,
):
    machine.start(due=5)
    machine.be_awake(1)

    machine.paused += 3_600
    machine.be_awake(20)

    assert machine.begun
    assert all(left > 0 for left in machine.leases), machine.leases


def test_after_an_unnoticed_pause_leases_are_renewed_by_the_backends_time(machine):
    machine.start(due=1)
    machine.be_awake(2)

    machine.paused += 5
    machine.be_awake(LEASE / SECOND / 2)  # until the renewal after the pause

    assert machine.cancelled == []
    assert machine.lease_left() > LEASE / SECOND - 2


def a_worker_that_died(machine):
    """Return an action of another worker: it claims an occurrence and dies."""

    async def die() -> None:
        due = machine.backend_now
        key = machine.handler.key("bob")
        record = edits.created(key, Spec(Once(due)), machine.handler.policies, due)
        await machine.store.swap([Change(None, record)])
        await machine.store.claim({key.partition: 1}, "dead", "w2", due, due)

    return die


def test_after_a_suspension_a_takeover_from_a_dead_worker_is_immediate(machine):
    machine.start(due=7_200)
    machine.be_awake(1)

    machine.suspended += 3_600
    machine.others("w2", a_worker_that_died(machine))
    machine.be_awake(LEASE / SECOND + POLL / SECOND)

    assert len(machine.begun) == 1


@pytest.mark.parametrize(("paused", "later"), [(100, 100), (3_600, (UNAWARE_MAX + LONG_LEASE) / SECOND)])
def test_after_an_unnoticed_pause_a_takeover_is_late_by_the_pause_and_by_ten_minutes_at_most(
    machine, paused, later
):
    """It cannot tell its own pause from a step of the backend's time, after which leases only look expired."""
    machine.start(due=7_200)
    machine.be_awake(1)

    machine.paused += paused
    machine.others("w2", a_worker_that_died(machine))
    ends_at = machine.now + LEASE / SECOND
    machine.be_awake(later + LEASE / SECOND + 2 * POLL / SECOND)

    (begun_at,) = machine.begun
    assert ends_at + later - LEASE / SECOND < begun_at < ends_at + later + 2 * POLL / SECOND
