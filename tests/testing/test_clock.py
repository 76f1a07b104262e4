"""What the virtual clock promises to users' tests."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from pyncette.testing import VirtualClock
from pyncette.testing.clock import UnsettledError

SECOND = timedelta(seconds=1)


async def test_it_stands_still_until_it_is_moved() -> None:
    clock = VirtualClock(datetime(2024, 3, 31, tzinfo=UTC))
    before = clock.now()

    await asyncio.sleep(0.01)

    assert clock.now() == before
    assert clock.utc == datetime(2024, 3, 31, tzinfo=UTC)


async def test_timers_ring_in_their_order_each_at_its_own_time() -> None:
    clock = VirtualClock()
    start = clock.now()
    rung: list[tuple[str, int]] = []
    for name, after in (("b", 20), ("a", 10), ("c", 20)):
        clock.call_at(start + after * 1_000_000, lambda name=name: rung.append((name, clock.now() - start)))

    await clock.advance(30 * SECOND)

    assert rung == [("a", 10_000_000), ("b", 20_000_000), ("c", 20_000_000)]
    assert clock.now() - start == 30_000_000


async def test_a_timer_set_on_the_way_rings_on_the_way() -> None:
    clock = VirtualClock()
    start = clock.now()
    rung: list[int] = []
    clock.call_at(
        start + 10_000_000,
        lambda: clock.call_at(start + 15_000_000, lambda: rung.append(clock.now() - start)),
    )

    await clock.advance(20 * SECOND)

    assert rung == [15_000_000]


async def test_a_cancelled_timer_does_not_ring() -> None:
    clock = VirtualClock()
    rung: list[int] = []
    clock.call_at(clock.now() + 1, lambda: rung.append(1)).cancel()

    await clock.advance(SECOND)

    assert rung == []


async def test_a_wait_ends_at_its_time_or_with_its_event_whichever_comes_first() -> None:
    clock = VirtualClock()
    event = asyncio.Event()
    timed = asyncio.create_task(clock.wait(event, clock.now() + 5_000_000))
    longer = asyncio.create_task(clock.wait(event, clock.now() + 60_000_000))
    await clock.advance(5 * SECOND)
    await asyncio.sleep(0)

    assert timed.done()
    assert not timed.result()
    assert not longer.done()
    event.set()
    assert await longer


async def test_a_move_waits_for_all_participants_before_each_step() -> None:
    class Busy:
        def __init__(self) -> None:
            self.asked = 0

        def is_settled(self, asleep: object) -> bool:
            self.asked += 1
            return self.asked > 5

        def unsettled(self, asleep: object) -> list[str]:
            return ["never"]

    clock = VirtualClock()
    busy = Busy()
    clock.join(busy)

    await clock.advance(SECOND)

    assert busy.asked > 5


async def test_a_move_that_never_settles_is_an_error_with_the_reason() -> None:
    class Endless:
        def is_settled(self, asleep: object) -> bool:
            return False

        def unsettled(self, asleep: object) -> list[str]:
            return ["never"]

    clock = VirtualClock(settle_seconds=0.05)
    clock.join(Endless())

    with pytest.raises(UnsettledError, match=r"(?s)never.*must not wait for real time"):
        await clock.advance(SECOND)


async def test_it_does_not_go_back_and_wants_a_zone() -> None:
    clock = VirtualClock(datetime(2024, 1, 2, tzinfo=UTC))

    with pytest.raises(ValueError, match="cannot go back"):
        await clock.advance(-SECOND)
    with pytest.raises(ValueError, match="cannot go back"):
        await clock.advance_to(datetime(2024, 1, 1, tzinfo=UTC))
    with pytest.raises(ValueError, match="time zone"):
        VirtualClock(datetime(2024, 1, 1))  # noqa: DTZ001 - it is what is refused
