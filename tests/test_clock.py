"""What the clock of a process promises about the backend's time, also when that steps."""

import asyncio
import time

from pyncette.clock import LONG_LEASE, MILLISECOND, SECOND, UNAWARE_MAX, SystemClock

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
