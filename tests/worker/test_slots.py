"""A worker claims what it has slots for, and a backlog of one task does not keep others from them."""

import asyncio

from pyncette.clock import MILLISECOND, SECOND
from pyncette.core.schedule import Interval
from pyncette.core.spec import Missed, Mode, Policies
from pyncette.store.base import Notification
from pyncette.store.memory import MemoryStore
from pyncette.testing import VirtualClock
from tests.worker.bench import START, Bench, Registered, remember, until


async def test_no_more_is_claimed_than_there_are_free_slots() -> None:
    bench = Bench()
    handler = Registered("h", Policies(), call=lambda _: bench.sleep(10))
    bench.handlers = (handler,)
    for number in range(10):
        await bench.once(handler, 1, f"i{number}")

    async with bench.worker(slots=3):
        await bench.advance(2)
        leased = [
            record for record in await bench.store.scan(handler.partitions[0], "h", None, 100) if record.lease
        ]
        assert len(leased) == 3
        await bench.advance(60)

    assert handler.most_at_once == 3
    assert len(handler.calls) == 10


async def test_a_backlog_of_one_task_does_not_keep_another_from_a_slot() -> None:
    bench = Bench()
    backlog = Registered("backlog", Policies(), call=lambda _: bench.sleep(1))
    other = Registered("other", Policies())
    bench.handlers = (backlog, other)
    for number in range(200):
        await bench.once(backlog, 1, f"i{number}")
    await bench.once(other, 5.5, "a")
    starts: list[int] = []
    other._call = remember(starts, bench)

    async with bench.worker(slots=10):
        await bench.advance(10)

    assert starts[0] <= bench.clock.now() - 3.5 * SECOND  # due at 5.5 s, and a slot is free each second


class Remote(MemoryStore):
    """A backend that takes its time over a claim: what was started before it has ended by then."""

    async def claim(self, *args, **kwargs):
        for _ in range(10):
            await asyncio.sleep(0)
        return await super().claim(*args, **kwargs)


async def test_a_backlog_of_handlers_that_take_no_time_does_not_keep_another_task_from_a_slot() -> None:
    clock = Elapsing(START)
    bench = Bench(clock=clock)
    backlog = Registered("backlog", Policies(), call=lambda _: clock.elapse(MILLISECOND // 10))
    other = Registered("other", Policies(), numbers=3)
    bench.handlers = (backlog, other)
    for number in range(5_000):
        await bench.once(backlog, 1, f"i{number}")
    due = [1.1, 1.2, 1.25]
    for number, after in enumerate(due):
        await bench.once(other, after, "a", number)
    starts: list[int] = []
    other._call = remember(starts, bench)
    began_at = clock.now()

    async with bench.worker(Remote(bench.backend), poll_interval=3600 * SECOND):
        await bench.advance(10)

    assert len(backlog.calls) == 5_000
    for start, after in zip(starts, due, strict=True):
        assert 0 <= (start - began_at) / SECOND - after < 0.1


async def test_a_backlog_does_not_wait_for_those_that_always_have_something_due() -> None:
    clock = Elapsing(START)
    bench = Bench(clock=clock)
    backlog = Registered("backlog", Policies(), call=lambda _: clock.elapse(MILLISECOND))
    busy = Registered(
        "busy", Policies(missed=Missed.ALL), call=lambda _: clock.elapse(MILLISECOND), numbers=4
    )
    bench.handlers = (busy, backlog)
    for number in range(4):
        await bench.declare(busy, Interval(2 * MILLISECOND), "a", number)
    for number in range(100):
        await bench.once(backlog, 1, f"i{number}")

    async with bench.worker(Remote(bench.backend), slots=4, poll_interval=3600 * SECOND):
        moving = asyncio.create_task(bench.advance(1))
        await until(lambda: len(backlog.calls) == 100)
        moving.cancel()


async def test_a_backlog_of_one_task_does_not_make_a_worker_forget_when_another_is_due() -> None:
    busy, quiet = Registered("busy", Policies()), Registered("quiet", Policies())
    bench = Bench(busy, quiet)
    for number in range(20):
        await bench.once(busy, 1, f"i{number}")
    await bench.once(quiet, 5, "a")

    async with bench.worker(batch_size=4, poll_interval=3600 * SECOND):
        await bench.advance(10)

    assert len(busy.calls) == 20
    assert quiet.scheduled == [5]


async def test_a_backlog_goes_on_as_soon_as_a_slot_is_free_however_many_partitions_are_quiet() -> None:
    bench = Bench()
    busy = Registered("busy", Policies(), call=lambda _: bench.sleep(1))
    bench.handlers = (busy, Registered("quiet", Policies(), numbers=4))
    for number in range(20):
        await bench.once(busy, 1, f"i{number}")

    async with bench.worker(slots=1, poll_interval=3600 * SECOND):
        await bench.advance(30)

    assert len(busy.calls) == 20


async def test_a_limit_of_a_handler_holds_even_with_free_slots() -> None:
    bench = Bench()
    handler = Registered("h", Policies(), call=lambda _: bench.sleep(1), concurrency_limit=2)
    bench.handlers = (handler,)
    for number in range(6):
        await bench.once(handler, 1, f"i{number}")

    async with bench.worker(slots=100):
        await bench.advance(10)

    assert handler.most_at_once == 2
    assert len(handler.calls) == 6


async def test_a_limit_of_a_handler_holds_while_starts_are_written() -> None:
    bench = Bench()
    at_most_once = Policies(mode=Mode.AT_MOST_ONCE)
    handler = Registered("h", at_most_once, call=lambda _: bench.sleep(1), concurrency_limit=2)
    bench.handlers = (handler,)
    for number in range(6):
        await bench.once(handler, 1, f"i{number}")

    async with bench.worker(slots=100):
        await bench.advance(10)

    assert handler.most_at_once == 2
    assert len(handler.calls) == 6


async def test_a_limit_of_a_handler_holds_over_all_its_partitions() -> None:
    bench = Bench()
    handler = Registered("h", Policies(), call=lambda _: bench.sleep(1), concurrency_limit=2, numbers=8)
    bench.handlers = (handler,)
    for number in range(16):
        await bench.once(handler, 1, f"i{number}", number % 8)

    async with bench.worker(slots=100):
        await bench.advance(10)

    assert handler.most_at_once == 2
    assert len(handler.calls) == 16


async def test_a_partition_that_needs_nothing_of_a_limit_leaves_it_to_the_next() -> None:
    bench = Bench()
    handler = Registered("h", Policies(), concurrency_limit=1, numbers=8)
    bench.handlers = (handler,)
    await bench.once(handler, 5, "a", 6)

    async with bench.worker(slots=100, poll_interval=3600 * SECOND):
        await bench.advance(20)

    assert handler.scheduled == [5]


async def test_more_partitions_than_slots_are_all_polled() -> None:
    handler = Registered("h", Policies(), numbers=20)
    bench = Bench(handler)
    for number in range(20):
        await bench.once(handler, 1, f"i{number}", number)

    async with bench.worker(slots=3):
        await bench.advance(2)

    assert len(handler.calls) == 20


async def test_a_disabled_partition_is_not_claimed_from_until_it_is_enabled() -> None:
    handler = Registered("h", Policies())
    bench = Bench(handler)
    partitions, handler.partitions = handler.partitions, ()
    handler.partitions = partitions
    await bench.once(handler, 1, "a")
    handler.partitions = ()

    async with bench.worker() as worker:
        await bench.advance(10)
        assert handler.calls == []
        handler.partitions = partitions
        worker.poll_soon()
        await bench.advance(1)

    assert len(handler.calls) == 1


async def test_a_worker_without_a_slot_hints_at_what_is_due_to_those_that_have_one() -> None:
    bench = Bench()
    handler = Registered("h", Policies(), call=lambda _: bench.sleep(1000))
    bench.handlers = (handler,)
    listener = MemoryStore(bench.backend)
    heard: list[Notification] = []

    async def listen() -> None:
        async for notification in listener.notified():
            heard.append(notification)  # noqa: PERF401 - it never ends

    listening = asyncio.create_task(listen())
    await bench.once(handler, 1, "a")
    await bench.once(handler, 2, "b")
    async with bench.worker(slots=1):
        await bench.advance(3)
        heard.clear()
        await until(lambda: heard != [])
    listening.cancel()

    assert heard[0].partition == handler.partitions[0]


class Elapsing(VirtualClock):
    """Simulated time that handlers can let pass by what they do."""

    async def elapse(self, by: int) -> None:
        self._now += by
