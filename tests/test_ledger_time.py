"""The ledger decides by the time that the store has now: it asks for it where the process has not heard of it for a while."""

import asyncio

import pytest

from pyncette.clock import SECOND, STALE_AFTER, SystemClock
from pyncette.core import wishes
from pyncette.core.record import Change, Key, Partition, Record
from pyncette.core.schedule import Interval
from pyncette.core.spec import Policies, Spec
from pyncette.errors import StoreUnavailableError
from pyncette.ledger import Ledger, Ruling
from pyncette.store.memory import MemoryBackend, MemoryStore

HERE = Partition("", "remind")
EACH_MINUTE = Interval(60 * SECOND)


class Away:
    """A ledger of a process that has not heard of the backend for a while, whose time has gone another way since."""

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
    """A store that takes note of who asks for its time, and answers once it is let."""

    def __init__(self, backend: MemoryBackend) -> None:
        super().__init__(backend)
        self.asked = 0
        self.answers = asyncio.Event()
        self.answers.set()
        self.error: StoreUnavailableError | None = None

    async def now(self):
        self.asked += 1
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
async def test_a_process_that_was_idle_decides_by_the_time_that_the_backend_has_now(away, stepped):
    key = Key(HERE, "remind", "ada")
    ruled_at = []

    def rule(record: Record | None, now: int) -> Ruling:
        ruled_at.append(now)
        return Ruling(Change(None, wishes.created(key, Spec(EACH_MINUTE), Policies(), now)))

    away.be_away(3600, stepped)
    await away.ledger.apply({key: rule})

    assert ruled_at == [away.backend_now]
    assert away.store.asked == 1


async def test_a_process_that_hears_of_the_backend_anyway_does_not_ask_it_for_its_time(away):
    away.be_away(STALE_AFTER // SECOND, stepped=1)

    assert await away.ledger.now() == away.backend_now - SECOND
    assert away.store.asked == 0


async def test_a_process_that_never_heard_of_the_backend_asks_it_first(away):
    node = SystemClock(time_ns=lambda: 9_000 * SECOND * 1000, monotonic_ns=lambda: 0)

    assert await Ledger(away.store, node).now() == away.backend_now


async def test_those_that_decide_at_once_ask_the_backend_for_its_time_once(away):
    away.be_away(10)
    away.store.answers.clear()
    asking = [asyncio.create_task(away.ledger.now()) for _ in range(100)]
    await turn()

    away.store.answers.set()

    assert set(await asyncio.gather(*asking)) == {away.backend_now}
    assert away.store.asked == 1


async def test_an_answer_that_takes_so_long_that_it_is_stale_is_the_answer_of_all_who_wait_for_it(away):
    away.be_away(10)
    away.store.answers.clear()
    asking = [asyncio.create_task(away.ledger.now()) for _ in range(8)]
    await turn()
    away.be_away(2 * STALE_AFTER // SECOND)
    away.store.answers.set()

    await asyncio.gather(*asking)

    assert away.store.asked == 1


async def test_one_who_asks_for_all_and_is_cancelled_leaves_the_question_to_another(away):
    away.be_away(10)
    away.store.answers.clear()
    first, *others = [asyncio.create_task(away.ledger.now()) for _ in range(3)]
    await turn()

    first.cancel()
    await turn()
    away.store.answers.set()

    assert set(await asyncio.gather(*others)) == {away.backend_now}
    assert first.cancelled()
    assert away.store.asked == 2


async def test_one_who_waits_for_the_answer_and_is_cancelled_disturbs_no_other(away):
    away.be_away(10)
    away.store.answers.clear()
    first, second, third = [asyncio.create_task(away.ledger.now()) for _ in range(3)]
    await turn()

    second.cancel()
    await turn()
    away.store.answers.set()

    assert await asyncio.gather(first, third) == [away.backend_now] * 2
    assert away.store.asked == 1


async def test_if_the_backend_does_not_tell_its_time_nothing_is_decided_and_the_next_one_asks_again(away):
    away.be_away(10)
    away.store.answers.clear()
    away.store.error = StoreUnavailableError("away")
    asking = [asyncio.create_task(away.ledger.now()) for _ in range(3)]
    await turn()
    away.store.answers.set()

    failed = await asyncio.gather(*asking, return_exceptions=True)
    away.store.error = None

    assert [str(error) for error in failed] == ["away"] * 3
    assert away.store.asked == 1
    assert await away.ledger.now() == away.backend_now
