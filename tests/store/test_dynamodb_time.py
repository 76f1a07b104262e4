"""The time of a server that says it in whole seconds."""

from email.utils import formatdate

import pytest

from pyncette.clock import SECOND
from pyncette.store.dynamodb.server_time import DateClock

T0 = 1_700_000_000 * SECOND


class World:
    """A server, and a process that asks it; both clocks can be moved."""

    def __init__(self, ahead: float = 0.0) -> None:
        self.monotonic = 0
        self.own = T0
        self.ahead = int(ahead * SECOND)
        self.clock = DateClock(time_ns=lambda: self.own * 1000, monotonic_ns=lambda: self.monotonic * 1000)

    def pass_(self, seconds: float) -> None:
        self.monotonic += int(seconds * SECOND)
        self.own += int(seconds * SECOND)

    def ask(self, trip: float = 0.004) -> None:
        asked_at = self.clock.monotonic()
        self.pass_(trip / 2)
        date = formatdate((self.own + self.ahead) // SECOND, usegmt=True)
        self.pass_(trip / 2)
        self.clock.observe(date, asked_at, self.clock.monotonic())

    @property
    def error(self) -> float:
        """Of what is told, in seconds."""
        return (self.clock.now() - self.own - self.ahead) / SECOND


def test_as_long_as_the_server_does_not_contradict_the_own_clock_is_believed():
    world = World(ahead=0.0004)
    told = []

    for _ in range(1000):
        world.pass_(0.0371)
        world.ask()
        told.append(world.clock.now() - world.own)

    assert set(told) == {0}


@pytest.mark.parametrize("ahead", [-86_400.0, -30.0, -1.3, -0.4, 0.4, 1.3, 30.0, 86_400.0])
def test_a_clock_that_differs_is_known_to_the_second_at_once_and_to_milliseconds_soon(ahead):
    world = World(ahead)

    world.ask()
    assert abs(world.error) <= 1.01
    for _ in range(200):
        world.pass_(0.0371)
        world.ask()

    assert abs(world.error) < 0.05


def test_a_step_of_the_server_is_followed():
    world = World()
    for _ in range(50):
        world.pass_(0.0371)
        world.ask()

    world.ahead = 3600 * SECOND
    world.ask()

    assert abs(world.error) <= 1.01


def test_clocks_that_run_apart_do_not_look_like_a_step():
    world = World(ahead=30)
    for _ in range(2000):
        world.pass_(0.5)
        world.ahead += 20  # 40 in a million
        world.ask()
        assert abs(world.error) < 1.01

    assert abs(world.error) < 0.1


@pytest.mark.parametrize("date", [None, "", "yesterday", "Tue, 99 Foo 2020"])
def test_an_answer_without_a_date_tells_nothing(date):
    world = World(ahead=30)

    world.clock.observe(date, 0, 1)

    assert world.clock.now() == world.own
