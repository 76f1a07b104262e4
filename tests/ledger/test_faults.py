"""Requests or their replies are lost, or requests arrive after they were given up: a written start runs exactly once."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from itertools import combinations, product

import pytest

from pyncette.core.record import Key
from pyncette.core.runs import HeldRun
from pyncette.core.schedule import Interval
from pyncette.core.spec import Exhaustion, Mode, Overlap, Retry
from pyncette.errors import StoreUnavailableError
from pyncette.ledger.ledger import Ledger
from pyncette.store.memory import MemoryStore
from tests.core.play import nonzero
from tests.ledger.bench import MINUTE, REFUSED, Bench

REQUESTS = range(4)
"""The requests of a start that meets one fault: the write, the read after it, the write, and one more."""

NEVER_IN_TIME = 99

LOST_REQUEST, LOST_REPLY = "lost request", "lost reply"
FAULTS = (LOST_REQUEST, LOST_REPLY, 1, 2, NEVER_IN_TIME)
"""A number: the request arrives that many requests later, long after its sender has given it up."""

Faults = dict[int, str | int]


class FaultyStore(MemoryStore):
    """A store on which each request, counted from 0, may meet a fault."""

    def __init__(self, backend, faults: Faults, before: dict[int, Callable[[], Awaitable[object]]]) -> None:
        super().__init__(backend)
        self.requests = 0
        self._faults = faults
        self._before = before
        self._late: list[tuple[int, Callable[[], Awaitable[object]]]] = []

    async def load(self, keys):
        return await self._meet(lambda: super(FaultyStore, self).load(keys))

    async def swap(self, changes):
        return await self._meet(lambda: super(FaultyStore, self).swap(changes))

    async def arrive(self, number: int = NEVER_IN_TIME * 2) -> None:
        """Carry out requests that arrive before the request *number*: by default, all that are under way."""
        due = [request for at, request in self._late if at <= number]
        self._late = [(at, request) for at, request in self._late if at > number]
        for request in due:
            await request()

    async def _meet(self, request):
        number, self.requests = self.requests, self.requests + 1
        await self.arrive(number)
        if number in self._before:
            await self._before[number]()
        fault = self._faults.get(number)
        if fault is None:
            return await request()
        if fault == LOST_REPLY:
            await request()
        elif isinstance(fault, int):
            self._late.append((number + fault, request))
        raise StoreUnavailableError(f"request {number} met a fault")


class FaultyBench(Bench):
    """A worker whose requests meet faults, and other workers after it."""

    def meet(self, faults: Faults, before: dict[int, Callable[[], Awaitable[object]]]) -> None:
        self.faulty = FaultyStore(self.backend, faults, before)
        self.ledger = Ledger(self.faulty, self.clock)
        self.calls: Counter[tuple[Key, int]] = Counter()

    def called(self, holding: list[HeldRun]) -> list[HeldRun]:
        for held in holding:
            self.calls[held.record.key._replace(occurrence=""), held.scheduled_at] += 1
        return holding

    async def complete(self, holding: list[HeldRun]) -> None:
        ledger = Ledger(self.others, self.clock)
        for held in self.called(holding):
            await ledger.settle([self.completion(held)])

    async def taken_over(self) -> list[HeldRun]:
        """Have another worker claim and begin the remaining records once all leases have ended."""
        return await self.started(self.begun(await self.take_over()), Ledger(self.others, self.clock))


def one_or_two_faults() -> Iterator[Faults]:
    for number, fault in product(REQUESTS, FAULTS):
        yield {number: fault}
    for (first, second), faults in product(combinations(REQUESTS, 2), product(FAULTS, FAULTS)):
        yield dict(zip((first, second), faults, strict=True))


MODES = pytest.mark.parametrize(
    ("mode", "overlap"),
    [
        (Mode.AT_MOST_ONCE, Overlap.FORBID),
        (Mode.AT_MOST_ONCE, Overlap.ALLOW),
        (Mode.AT_LEAST_ONCE, Overlap.ALLOW),
    ],
    ids=lambda value: value.value,
)

SEVERAL_HOURS = Interval(600 * MINUTE)


async def start_under(faults: Faults, mode: Mode, overlap: Overlap, edit_before: int | None) -> None:
    """Start two records while requests meet *faults*, one of them edited before a request; check what has run."""
    bench = FaultyBench()
    records = [
        await bench.declare(name, SEVERAL_HOURS, mode=mode, overlap=overlap, retry=Retry(max_attempts=3))
        for name in ("ada", "bob")
    ]
    edit = bench.edit(records[1].key, keep_failed=1)
    bench.meet(faults, {} if edit_before is None else {edit_before: edit})

    holding = await bench.start(after=600 * MINUTE)
    by_name = Counter(held.record.key.instance for held in holding)
    arrives_late = NEVER_IN_TIME in faults.values()
    if arrives_late and edit_before is None:
        await bench.faulty.arrive()  # while it runs
    await bench.complete(holding)
    await bench.faulty.arrive()
    await bench.complete(await bench.taken_over())

    details = f"{faults}, edited before {edit_before}: {dict(bench.calls)}"
    assert by_name["ada"] == 1, details
    for record in records:
        assert bench.calls[record.key, record.due_at] == 1, details
        left = await bench.load(record.key)
        assert nonzero(left.state.summary.counts) == {"succeeded": 1}, details
        assert left.due_at == record.due_at + 600 * MINUTE, details
    assert len(await bench.all()) == 2, details


@MODES
async def test_a_claimed_record_runs_once_wherever_one_or_two_requests_fail(mode, overlap):
    await asyncio.gather(*(start_under(faults, mode, overlap, None) for faults in one_or_two_faults()))


@MODES
async def test_a_record_edited_meanwhile_runs_once_wherever_a_request_fails(mode, overlap):
    await asyncio.gather(
        *(
            start_under({number: fault}, mode, overlap, edit_before)
            for number, fault, edit_before in product(REQUESTS, FAULTS, range(5))
        )
    )


async def dead_letter_under(faults: Faults, overlap: Overlap) -> None:
    """End a run for good under *faults*, as a worker that retries until it is answered."""
    bench = FaultyBench()
    record = await bench.declare("ada", SEVERAL_HOURS, overlap=overlap, exhausted=Exhaustion.DEAD_LETTER)
    (held,) = await bench.start(after=600 * MINUTE)
    bench.meet(faults, {})
    completion = bench.completion(held, REFUSED)

    written, again = None, False
    while written is None:
        try:
            (written,) = await bench.ledger.settle([completion], again=again)
        except StoreUnavailableError:
            again = True
    await bench.faulty.arrive()

    assert written, faults
    names = [key.occurrence[:5] for key in await bench.keys() if key.instance]
    assert sorted(names) == ["", "dead-"], faults
    left = await bench.load(record.key)
    assert nonzero(left.state.summary.counts) == {"dead_lettered": 1}, faults


@pytest.mark.parametrize("overlap", [Overlap.FORBID, Overlap.ALLOW], ids=lambda value: value.value)
async def test_a_dead_letter_is_written_and_counted_once_wherever_requests_fail(overlap):
    await asyncio.gather(*(dead_letter_under(faults, overlap) for faults in one_or_two_faults()))


async def dead_letter_after_a_takeover_under(faults: Faults, overlap: Overlap) -> None:
    """End a run for good after its lease was lost and the takeover has succeeded."""
    bench = FaultyBench()
    record = await bench.declare("ada", SEVERAL_HOURS, overlap=overlap, exhausted=Exhaustion.DEAD_LETTER)
    (held,) = await bench.start(after=600 * MINUTE)
    completion = bench.completion(held, REFUSED)
    bench.meet(faults, {1: bench_takeover(bench)})

    written, again = None, False
    while written is None:
        try:
            (written,) = await bench.ledger.settle([completion], again=again)
        except StoreUnavailableError:
            again = True
    await bench.faulty.arrive()

    left = await bench.load(record.key)
    counts = nonzero(left.state.summary.counts)
    dead_letters = [key for key in await bench.keys() if key.occurrence.startswith("dead-")]
    assert counts == ({"dead_lettered": 1} if dead_letters else {"succeeded": 1}), faults
    assert len(dead_letters) <= 1, faults


def bench_takeover(bench: FaultyBench) -> Callable[[], Awaitable[object]]:
    async def take_over() -> None:
        await bench.complete(await bench.taken_over())

    return take_over


@pytest.mark.parametrize("overlap", [Overlap.FORBID, Overlap.ALLOW], ids=lambda value: value.value)
async def test_a_lost_lease_never_leaves_both_a_dead_letter_and_a_success(overlap):
    await asyncio.gather(
        *(
            dead_letter_after_a_takeover_under(faults, overlap)
            for faults in one_or_two_faults()
            if 0 in faults  # else it is completed before anybody can take it over
        )
    )
