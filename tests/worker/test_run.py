"""What is promised of one run, from its claim until its handler has ended in whatever way."""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest

from pyncette.clock import SECOND
from pyncette.core import rules
from pyncette.core.record import replace
from pyncette.core.runs import DRAINED, RETURNED, UNSTARTED, Ended, Ending, HeldRun
from pyncette.core.spec import Policies
from pyncette.errors import DoNotRetry
from pyncette.worker.completions import Completions
from pyncette.worker.occurrence import Occurrence
from pyncette.worker.run import Runs
from tests.worker.bench import Bench, Registered

LEASE = 10 * SECOND


@pytest.fixture
def handler() -> Registered:
    return Registered("h", Policies(lease=LEASE))


@pytest.fixture
async def held(handler: Registered) -> HeldRun:
    return await _claimed(Bench(handler), handler)


@pytest.fixture
def bench(handler: Registered) -> Bench:
    return Bench(handler)


@pytest.fixture
def completions(bench: Bench) -> Completions:
    return bench.completions()


@pytest.fixture
def runs(bench: Bench, completions: Completions) -> Runs:
    return Runs(bench.clock, completions, bench.signals(), 100, _renewed, _unchanged)


async def test_a_run_whose_lease_has_expired_is_released_without_a_call_of_its_handler(
    runs: Runs, completions: Completions, bench: Bench, handler: Registered, held: HeldRun
) -> None:
    a_lease_ago = bench.clock.monotonic() - LEASE  # the process stood still since

    runs.start(held, handler, lease_until=a_lease_ago + LEASE, at=bench.clock.now())
    await runs.ended()

    assert handler.calls == []
    assert _ended(completions) == UNSTARTED  # if others hold it by now, that is not written


async def test_a_run_that_is_cancelled_before_its_handler_was_called_is_released(
    runs: Runs, completions: Completions, bench: Bench, handler: Registered, held: HeldRun
) -> None:
    runs.start(held, handler, lease_until=bench.clock.monotonic() + LEASE, at=bench.clock.now())

    runs.cancel_all(Ending.DRAINED)
    async with asyncio.timeout(5):
        await runs.ended()

    assert handler.calls == []
    assert len(completions) == 1


class Foreign(BaseException):
    """What a library ends its own tasks with, as trio does."""


@pytest.mark.parametrize("error", [GeneratorExit(), SystemExit(3), Foreign("away")])
async def test_whatever_a_handler_raises_is_a_failure_and_frees_its_slot(
    runs: Runs,
    completions: Completions,
    bench: Bench,
    handler: Registered,
    held: HeldRun,
    error: BaseException,
) -> None:
    handler._call = _raising(error)

    runs.start(held, handler, bench.clock.monotonic() + LEASE, bench.clock.now())
    async with asyncio.timeout(5):
        await runs.ended()

    assert runs.free == 100
    assert _ended(completions).ending is Ending.RAISED
    assert _ended(completions).message.startswith(type(error).__name__)


def test_what_means_the_process_is_accounted_for_and_raised_again() -> None:
    handler = Registered("h", Policies(lease=LEASE), _raising(KeyboardInterrupt()))
    bench = Bench(handler)
    completions = bench.completions()
    runs = Runs(bench.clock, completions, bench.signals(), 100, _renewed, _unchanged)

    async def main() -> None:
        held = await _claimed(bench, handler)
        runs.start(held, handler, bench.clock.monotonic() + LEASE, bench.clock.now())
        await runs.ended()

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())

    assert runs.free == 100
    assert _ended(completions).ending is Ending.RAISED


@pytest.mark.parametrize("policies", [Policies(lease=LEASE), Policies(lease=LEASE, active_deadline=LEASE)])
async def test_a_run_that_has_ended_leaves_nothing_to_the_garbage_collector(policies: Policies) -> None:
    handler = Registered("h", policies)
    bench = Bench(handler)
    runs = Runs(bench.clock, bench.completions(), bench.signals(), 100, _renewed, _unchanged)
    held = await _claimed(bench, handler)

    with garbage() as found:
        runs.start(held, handler, bench.clock.monotonic() + LEASE, bench.clock.now())
        await runs.ended()
        assert len(handler.calls) == 1
        handler.calls.clear()

    assert [one for one in found if isinstance(one, Occurrence)] == []


async def test_a_worker_that_runs_nothing_watches_no_lease(
    runs: Runs, bench: Bench, handler: Registered, held: HeldRun
) -> None:
    runs.start(held, handler, bench.clock.monotonic() + LEASE, bench.clock.now())
    await runs.ended()

    await bench.advance(LEASE / SECOND)

    assert bench.clock._next_timer() is None


@contextmanager
def garbage() -> Iterator[list[object]]:
    """Fill a list, in the end, with what only the collector could have freed."""
    found: list[object] = []
    gc.collect()
    gc.disable()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found += gc.garbage
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


OVERDUE = Ended(Ending.RAISED, "the run took longer than its active deadline of 1 s")
REPLACED = Ended(Ending.REPLACED, "the next occurrence was due")


@pytest.mark.parametrize(
    ("cancelled", "answer", "ended"),
    [
        (Ending.DRAINED, asyncio.CancelledError(), DRAINED),
        (Ending.DRAINED, OSError("the connection was closed"), DRAINED),
        (Ending.DRAINED, DoNotRetry("cancelled"), DRAINED),
        (Ending.DRAINED, None, RETURNED),
        (Ending.RAISED, OSError("the connection was closed"), OVERDUE),
        (Ending.RAISED, None, OVERDUE),
        (Ending.REPLACED, OSError("the connection was closed"), REPLACED),
        (Ending.REPLACED, None, REPLACED),
    ],
)
async def test_how_a_run_ended_that_was_cancelled_does_not_depend_on_what_its_handler_makes_of_that(
    runs: Runs,
    completions: Completions,
    bench: Bench,
    handler: Registered,
    held: HeldRun,
    cancelled: Ending,
    answer: BaseException | None,
    ended: Ended,
) -> None:
    begun = asyncio.Event()

    async def call(_: Occurrence) -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if answer is not None:
                raise answer from None

    handler._call = call
    held = replace(held, policies=Policies(lease=LEASE, active_deadline=1 * SECOND))
    runs.start(held, handler, bench.clock.monotonic() + LEASE, bench.clock.now())
    await begun.wait()

    runs.cancel_all(cancelled)
    await runs.ended()

    assert _ended(completions) == ended


async def _claimed(bench: Bench, handler: Registered) -> HeldRun:
    """An occurrence that is claimed at the beginning of simulated time."""
    await bench.once(handler, 0, "a")
    now = bench.clock.now()
    claimed = await bench.store.claim({handler.partitions[0]: 1}, "lease", "w1", now, now)
    held = rules.begin(claimed.records[0], handler.policies, now).run
    assert held is not None
    return held


async def _renewed(_: Occurrence) -> bool:
    return True


async def _unchanged(_: Occurrence) -> None:
    """Nobody edits anything."""


def _raising(error: BaseException) -> Callable[[Occurrence], Awaitable[None]]:
    async def call(_: Occurrence) -> None:
        raise error

    return call


def _ended(completions: Completions) -> Ended:
    """How the one run ended whose result waits to be written."""
    (settling,) = completions._waiting
    return settling.ended
