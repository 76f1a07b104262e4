"""What the clock of a process promises about the backend's time, also when that steps."""

import asyncio
import functools
import time
from random import Random

import pytest

from pyncette import clock as module
from pyncette.clock import (
    LONG_LEASE,
    MILLISECOND,
    RECHECK_SECONDS,
    SECOND,
    STALE_AFTER,
    UNAWARE_MAX,
    SystemClock,
    synchronize,
)
from tests.simulation.loop import SimulatedLoop

LEASE = 60 * SECOND


class Machine:
    """A machine, and a backend that is asked in no time. Times are seconds."""

    def __init__(self) -> None:
        self.uptime = 1_000
        self.backend = 5_000
        self.clock = SystemClock(
            LEASE,
            LEASE,
            time_ns=lambda: self.backend * SECOND * 1000,
            monotonic_ns=lambda: self.uptime * SECOND * 1000,
        )
        self.ask()

    def ask(self) -> None:
        self.clock.observe(self.backend * SECOND, self.clock.monotonic(), self.clock.monotonic())

    def pass_time(self, seconds: int) -> None:
        self.uptime += seconds
        self.backend += seconds

    def step(self, seconds: int) -> None:
        self.backend += seconds
        self.ask()

    @property
    def now(self) -> int:
        return self.clock.now() // SECOND

    @property
    def expired_at(self) -> int:
        return self.clock.expired_at() // SECOND


def test_it_follows_the_backend_and_not_the_machine():
    machine = Machine()

    machine.backend += 5
    machine.ask()

    assert machine.now == 5_005


@pytest.mark.parametrize("off", [1, -1], ids=["asked late", "read late"])
def test_a_delayed_answer_moves_it_by_what_is_certain_and_not_by_half_of_the_delay(off):
    """The process stood still for 6 s, before or after the backend read its time; its clock was wrong by a millisecond."""
    machine = Machine()
    asked_at = machine.clock.monotonic()
    backend_now = machine.backend * SECOND
    machine.pass_time(6)
    if off > 0:
        backend_now = machine.backend * SECOND

    machine.clock.observe(backend_now + off * MILLISECOND, asked_at, machine.clock.monotonic())

    assert machine.clock.now() == machine.backend * SECOND + off * MILLISECOND


def test_the_clock_may_go_back_until_the_backend_has_answered():
    uptime = 0
    clock = SystemClock(LEASE, LEASE, time_ns=lambda: 5_900 * SECOND * 1000, monotonic_ns=lambda: uptime)
    assert clock.now() == 5_900 * SECOND

    clock.observe(5_000 * SECOND, 0, 0)

    assert clock.now() == 5_000 * SECOND
    uptime = 7 * SECOND * 1000
    assert clock.now() == 5_007 * SECOND


def test_the_clock_never_goes_back_once_the_backend_has_answered():
    machine = Machine()
    before = machine.now

    machine.step(-60)

    assert machine.now == before


def test_it_is_stale_before_the_first_answer_and_five_seconds_after_each_request():
    uptime = 0
    clock = SystemClock(time_ns=lambda: 0, monotonic_ns=lambda: uptime * 1000)
    assert clock.is_stale()

    clock.observe(0, asked_at=SECOND, answered_at=2 * SECOND)

    uptime = SECOND + STALE_AFTER
    assert not clock.is_stale()
    uptime += 1
    assert clock.is_stale()


def test_a_late_answer_does_not_make_the_last_reading_older():
    machine = Machine()
    now = machine.clock.monotonic()

    machine.clock.observe(4_000 * SECOND, now - 1_000 * SECOND, now - 1_000 * SECOND)

    assert not machine.clock.is_stale()


async def test_it_is_synchronized_by_one_request():
    machine = Machine()
    machine.pass_time(3_600)
    machine.backend += 7

    async def backend_now():
        return machine.backend * SECOND

    await synchronize(machine.clock, backend_now)

    assert (machine.now, machine.clock.is_stale()) == (machine.backend, False)


@pytest.mark.parametrize(("behind", "took", "lag"), [(0, 1, 0), (16, 1, 0), (17, 1, 17), (-50, 1, 0)])
def test_a_request_lags_by_a_step_of_the_backends_time_but_not_by_a_slow_answer(behind, took, lag):
    clock = Machine().clock

    found = clock.lag(
        5_000 * SECOND, (5_000 + behind) * SECOND, asked_at=10 * SECOND, answered_at=(10 + took) * SECOND
    )

    assert found == lag * SECOND


def test_after_a_step_forward_leases_of_the_time_before_live_for_a_full_lease_after_all_have_heard_of_it():
    machine = Machine()

    machine.step(60)

    assert (machine.now, machine.expired_at) == (5_060, 5_000)
    machine.pass_time(69)
    assert (machine.now, machine.expired_at) == (5_129, 5_069)
    machine.pass_time(1)
    assert (machine.now, machine.expired_at) == (5_130, 5_130)


def test_a_step_is_felt_for_as_long_as_the_longest_lease_that_was_heard_of():
    machine = Machine()
    machine.clock.expect_lease(3600 * SECOND)

    machine.step(60)

    machine.pass_time(3600)
    assert machine.expired_at == machine.now - 60
    machine.pass_time(10)
    assert machine.expired_at == machine.now


def test_what_is_a_step_is_told_by_the_shortest_lease_that_was_heard_of():
    machine = Machine()
    machine.clock.expect_lease(10 * SECOND)

    machine.step(3)

    assert machine.expired_at == machine.now - 3


def test_who_has_heard_of_no_lease_expects_those_that_resources_may_have():
    uptime = 0
    clock = SystemClock(time_ns=lambda: 0, monotonic_ns=lambda: uptime)
    clock.observe(0, 0, 0)

    clock.observe(SECOND, 0, 0)

    assert (clock.now(), clock.expired_at()) == (SECOND, 0)
    uptime = (UNAWARE_MAX + LONG_LEASE) * 1000
    assert clock.expired_at() == clock.now()


def test_after_a_step_back_it_stands_still_but_judges_leases_by_the_backends_time():
    machine = Machine()
    assert machine.now == 5_000

    machine.step(-60)

    assert (machine.now, machine.expired_at) == (5_000, 4_940)
    machine.pass_time(59)
    assert (machine.now, machine.expired_at) == (5_000, 4_999)
    machine.pass_time(2)
    assert (machine.now, machine.expired_at) == (5_001, 5_001)


def test_a_step_there_and_back_takes_no_lease_of_either_time():
    machine = Machine()

    machine.step(60)
    assert machine.now == 5_060
    machine.pass_time(1)
    machine.step(-60)

    assert (machine.now, machine.expired_at) == (5_060, 5_001)


def test_two_steps_forward_take_no_lease_of_the_time_before_both():
    machine = Machine()

    machine.step(60)
    machine.pass_time(1)
    machine.step(60)

    assert (machine.now, machine.expired_at) == (5_121, 5_001)


async def test_while_it_stands_still_a_wait_lasts_until_it_goes_on():
    clock = SystemClock(LEASE, LEASE)
    now = clock.now()
    clock.observe(now - 50 * MILLISECOND, clock.monotonic(), clock.monotonic())

    was_set = await clock.wait(asyncio.Event(), now + MILLISECOND)

    assert not was_set
    assert clock.now() >= now + MILLISECOND


async def test_a_wait_does_not_end_early_although_the_timers_of_the_loop_do():
    clock = SystemClock(LEASE, LEASE, monotonic_ns=lambda: time.monotonic_ns() // 2)
    until = clock.now() + 10 * MILLISECOND

    was_set = await clock.wait(asyncio.Event(), until)

    assert not was_set
    assert clock.now() >= until


async def test_while_it_stands_still_a_duration_is_as_long_as_ever():
    clock = SystemClock(LEASE, LEASE)
    clock.observe(clock.now() - 3600 * SECOND, clock.monotonic(), clock.monotonic())
    rung = asyncio.Event()

    clock.call_later(10 * MILLISECOND, rung.set)

    assert not await clock.wait_for(asyncio.Event(), 10 * MILLISECOND)
    async with asyncio.timeout(1):
        await rung.wait()


async def test_a_wait_ends_with_its_event():
    clock = SystemClock(LEASE, LEASE)
    event = asyncio.Event()
    asyncio.get_running_loop().call_later(0.01, event.set)

    assert await clock.wait(event, clock.now() + 3600 * SECOND)
    assert await clock.wait_for(event, 3600 * SECOND)


# --- Machines that are suspended -------------------------------------------------------------------------------------


class Laptop:
    """A machine that can be suspended: its clock counts that time, and its loop does not. Times are seconds."""

    def __init__(self) -> None:
        self.loop = SimulatedLoop(Random(1))
        self.suspended = 0
        self.clock = SystemClock(
            LEASE,
            LEASE,
            time_ns=lambda: 5_000 * SECOND * 1000,
            monotonic_ns=lambda: (self.loop.now + self.suspended * SECOND) * 1000,
        )
        self.clock.observe(5_000 * SECOND, 0, 0)
        self.rung: list[float] = []

    def ring(self) -> None:
        self.rung.append(self.loop.now / SECOND)

    def begin(self, main) -> None:
        self.loop.spawn("laptop", main)
        self.run(10)

    def run(self, seconds: float) -> None:
        """Let it be awake for that long."""
        self.loop.run_until(self.loop.now + int(seconds * SECOND))
        assert not self.loop.failures, self.loop.failures

    def suspend(self, seconds: int) -> None:
        self.suspended += seconds


@pytest.fixture
def laptop():
    laptop = Laptop()
    yield laptop
    laptop.loop.close()


def waits(laptop):
    async def main():
        assert not await laptop.clock.wait(asyncio.Event(), laptop.clock.now() + LEASE)
        laptop.ring()

    return main


def waits_for(laptop):
    async def main():
        assert not await laptop.clock.wait_for(asyncio.Event(), LEASE)
        laptop.ring()

    return main


def calls_at(laptop):
    async def main():
        laptop.clock.call_at(laptop.clock.now() + LEASE, laptop.ring)

    return main


def calls_later(laptop):
    async def main():
        laptop.clock.call_later(LEASE, laptop.ring)

    return main


ways = pytest.mark.parametrize("way", [waits, waits_for, calls_at, calls_later])


@ways
def test_time_for_which_the_machine_was_suspended_counts(laptop, way):
    laptop.begin(way(laptop))

    laptop.suspend(40)
    laptop.run(LEASE / SECOND)

    assert laptop.rung == [pytest.approx(20, abs=0.001)]


@ways
def test_what_fell_due_while_the_machine_was_suspended_is_done_within_a_second(laptop, way):
    laptop.begin(way(laptop))

    laptop.suspend(3_600)
    laptop.run(RECHECK_SECONDS)

    (rung,) = laptop.rung
    assert 10 < rung <= 10 + RECHECK_SECONDS


@ways
def test_repeated_suspensions_do_not_prolong_a_wait(laptop, way):
    laptop.begin(way(laptop))

    for _ in range(4):
        laptop.suspend(10)
        laptop.run(1)
    laptop.run(LEASE / SECOND)

    assert laptop.rung == [pytest.approx(20, abs=0.001)]


@ways
def test_without_a_suspension_it_takes_its_usual_time(laptop, way):
    laptop.begin(way(laptop))

    laptop.run(LEASE / SECOND)

    assert laptop.rung == [pytest.approx(60, abs=0.001)]


@pytest.mark.parametrize(
    ("way", "rings_at"), [(waits, 20), (calls_at, 20), (waits_for, 60), (calls_later, 60)]
)
def test_a_timer_set_for_an_instant_follows_a_step_of_the_backend_and_one_for_a_delay_does_not(
    laptop, way, rings_at
):
    laptop.begin(way(laptop))

    at = laptop.clock.monotonic()
    laptop.clock.observe(5_000 * SECOND + at + 40 * SECOND, at, at)
    laptop.run(LEASE / SECOND)

    assert laptop.rung == [pytest.approx(rings_at, abs=0.001)]


def test_a_timer_that_was_cancelled_does_not_come_back_with_a_suspension(laptop):
    async def main():
        laptop.clock.call_later(LEASE, laptop.ring)
        laptop.clock.call_later(LEASE // 2, laptop.ring).cancel()

    laptop.begin(main)

    laptop.suspend(40)
    laptop.run(LEASE / SECOND)

    assert len(laptop.rung) == 1


def test_without_timers_nothing_checks_for_suspensions(laptop):
    async def main():
        laptop.clock.call_later(SECOND, laptop.ring)

    laptop.begin(main)

    before = laptop.loop.callbacks
    laptop.run(3_600)

    assert laptop.loop.callbacks == before


def test_a_suspended_machine_finds_its_clock_stale(laptop):
    assert not laptop.clock.is_stale()

    laptop.suspend(6)

    assert laptop.clock.is_stale()


def test_leases_are_measured_by_a_clock_that_counts_suspensions_where_there_is_one():
    assert isinstance(module.monotonic_ns, functools.partial)
    assert module.monotonic_ns.args == (time.CLOCK_BOOTTIME,)
    assert SystemClock().monotonic() == pytest.approx(
        time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000, abs=SECOND
    )
