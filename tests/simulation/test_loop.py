"""The loop under the simulation: time jumps, and each process lives and dies by itself."""

import asyncio
from random import Random

import pytest

from .loop import SECOND, Process, SimulatedLoop, SpinningError


@pytest.fixture
def loop():
    loop = SimulatedLoop(Random(1))
    yield loop
    loop.close()


class Counter:
    """A process that counts seconds, and notes when it did."""

    def __init__(self, loop: SimulatedLoop, name: str) -> None:
        self.counted: list[int] = []
        self._loop = loop
        self.process: Process = loop.spawn(name, self._main)

    async def _main(self) -> None:
        while True:
            await asyncio.sleep(1)
            self.counted.append(self._loop.now // SECOND)


def test_time_jumps_to_the_next_timer(loop):
    counter = Counter(loop, "a")

    loop.run_until(3 * SECOND)

    assert counter.counted == [1, 2, 3]
    assert loop.now == 3 * SECOND


def test_a_frozen_process_goes_on_where_it_stood(loop):
    frozen, other = Counter(loop, "frozen"), Counter(loop, "other")

    loop.run_until(2 * SECOND)
    loop.freeze(frozen.process)
    loop.run_until(5 * SECOND)
    loop.thaw(frozen.process)
    loop.run_until(7 * SECOND)

    assert other.counted == [1, 2, 3, 4, 5, 6, 7]
    assert frozen.counted == [1, 2, 5, 6, 7]


def test_a_killed_process_takes_no_further_step(loop):
    killed, other = Counter(loop, "killed"), Counter(loop, "other")

    loop.run_until(2 * SECOND)
    loop.kill(killed.process)
    loop.run_until(4 * SECOND)

    assert killed.counted == [1, 2]
    assert other.counted == [1, 2, 3, 4]


def test_a_fuse_hits_a_process_between_any_two_of_its_steps(loop):
    steps = []

    async def main():
        for step in range(10):
            steps.append(step)
            await asyncio.sleep(0)

    process = loop.spawn("hit", main)
    process.fuse = (4, lambda: loop.kill(process))

    loop.run_until(SECOND)

    assert 0 < len(steps) < 10


def test_an_unhandled_error_ends_the_run(loop):
    async def main():
        raise ZeroDivisionError

    loop.spawn("broken", main)
    counter = Counter(loop, "other")

    loop.run_until(10 * SECOND)

    assert isinstance(loop.failures[0], ZeroDivisionError)
    assert counter.counted == []


def test_a_process_that_spins_is_found(loop):
    async def main():
        while True:  # noqa: ASYNC110 - it waits for nothing, for ever
            await asyncio.sleep(0)

    loop.spawn("spinning", main)

    with pytest.raises(SpinningError, match="spinning"):
        loop.run_until(SECOND)


def test_time_limits_hold_in_pretended_time(loop):
    ended = []

    async def main():
        try:
            async with asyncio.timeout(5):
                await asyncio.Event().wait()
        except TimeoutError:
            ended.append(loop.now)

    loop.spawn("waiting", main)

    loop.run_until(10 * SECOND)

    assert ended == [5 * SECOND]
