"""The ledger decides by the store's current time, which it reads again if the last reading is old."""

import asyncio

import pytest

from pyncette.clock import SECOND, STALE_AFTER, SystemClock
from pyncette.core import edits
from pyncette.core.record import Change, Key, Partition, Record
from pyncette.core.schedule import Interval
from pyncette.core.spec import Policies, Spec
from pyncette.errors import StoreUnavailableError
from pyncette.ledger.ledger import Ledger, Ruling
from pyncette.store.memory import MemoryBackend, MemoryStore

HERE = Partition("", "remind")
EACH_MINUTE = Interval(60 * SECOND)


class Away:
    """A ledger of a process whose last reading is old, and a backend whose time has stepped since."""

    def __init__(self) -> None:
        self.uptime = 0
        self.backend_now = 5_000 * SECOND
        self.clock = SystemClock(
            time_ns=lambda: self.backend_now * 1000, monotonic_ns=lambda: self.uptime * 1000
        )
        self.clock.observe(self.backend_now, 0, 0)
        self.store = SlowlyAsked(MemoryBackend(lambda: self.backend_now))
        self.ledger = Ledger(self.store, self.clock)

    def be_away(self, seconds: int, stepped: int = 0) -> None:
        self.uptime += seconds * SECOND
        self.backend_now += (seconds + stepped) * SECOND


class SlowlyAsked(MemoryStore):
    """A store that records requests for its time, and answers them once it may."""

    def __init__(self, backend: MemoryBackend) -> None:
        super().__init__(backend)
        self.readings = 0
        self.answers = asyncio.Event()
        self.answers.set()
        self.error: StoreUnavailableError | None = None

    async def now(self):
        self.readings += 1
        await self.answers.wait()
        if self.error is not None:
            raise self.error
        return await super().now()


@pytest.fixture
def away() -> Away:
    return Away()


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize("stepped", [-900, 900])
async def test_a_process_that_was_idle_decides_by_the_backends_current_time(away, stepped):
    key = Key(HERE, "remind", "ada")
    ruled_at = []

    def rule(record: Record | None, now: int) -> Ruling:
        ruled_at.append(now)
        return Ruling(Change(None, edits.created(key, Spec(EACH_MINUTE), Policies(), now)))

    away.be_away(3600, stepped)
    await away.ledger.apply({key: rule})

    assert ruled_at == [away.backend_now]
    assert away.store.readings == 1


async def test_a_process_with_a_recent_reading_does_not_read_the_backends_time(away):
    away.be_away(STALE_AFTER // SECOND, stepped=1)

    assert await away.ledger.now() == away.backend_now - SECOND
    assert away.store.readings == 0


async def test_a_process_without_a_reading_reads_the_backends_time_first(away):
    node = SystemClock(time_ns=lambda: 9_000 * SECOND * 1000, monotonic_ns=lambda: 0)

    assert await Ledger(away.store, node).now() == away.backend_now


async def test_concurrent_decisions_read_the_backends_time_once(away):
    away.be_away(10)
    away.store.answers.clear()
    asking = [asyncio.create_task(away.ledger.now()) for _ in range(100)]
    await turn()

    away.store.answers.set()

    assert set(await asyncio.gather(*asking)) == {away.backend_now}
    assert away.store.readings == 1


async def test_all_who_wait_take_an_answer_that_was_too_slow_to_be_fresh(away):
    away.be_away(10)
    away.store.answers.clear()
    reading = [asyncio.create_task(away.ledger.now()) for _ in range(8)]
    await turn()
    away.be_away(2 * STALE_AFTER // SECOND)
    away.store.answers.set()

    await asyncio.gather(*reading)

    assert away.store.readings == 1


async def test_if_the_caller_that_reads_the_time_is_cancelled_another_reads_it(away):
    away.be_away(10)
    away.store.answers.clear()
    first, *others = [asyncio.create_task(away.ledger.now()) for _ in range(3)]
    await turn()

    first.cancel()
    await turn()
    away.store.answers.set()

    assert set(await asyncio.gather(*others)) == {away.backend_now}
    assert first.cancelled()
    assert away.store.readings == 2


async def test_the_cancellation_of_a_waiting_caller_does_not_affect_others(away):
    away.be_away(10)
    away.store.answers.clear()
    first, second, third = [asyncio.create_task(away.ledger.now()) for _ in range(3)]
    await turn()

    second.cancel()
    await turn()
    away.store.answers.set()

    assert await asyncio.gather(first, third) == [away.backend_now] * 2
    assert away.store.readings == 1


async def test_without_the_backends_time_nothing_is_decided_and_the_next_caller_tries_again(away):
    away.be_away(10)
    away.store.answers.clear()
    away.store.error = StoreUnavailableError("away")
    asking = [asyncio.create_task(away.ledger.now()) for _ in range(3)]
    await turn()
    away.store.answers.set()

    failed = await asyncio.gather(*asking, return_exceptions=True)
    away.store.error = None

    assert [str(error) for error in failed] == ["away"] * 3
    assert away.store.readings == 1
    assert await away.ledger.now() == away.backend_now
