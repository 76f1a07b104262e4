"""Events are created at a limited rate, and no namespace drops or delays those of another."""

from random import Random

import pytest

from pyncette.controller.cluster.api import ConflictError, RefusedError
from pyncette.controller.status.event_queue import PER_SECOND, WAITING_MAX, EventQueue
from tests.simulation.loop import SECOND, SimulatedLoop


class Bench:
    """A queue of Events, and an API server that notes which are created and when."""

    def __init__(self):
        self.loop = SimulatedLoop(Random(1))
        self.queue = EventQueue(self)
        self.created = []
        self.errors = []
        self.loop.spawn("operator", self.queue.run)

    async def create_event(self, namespace, event):
        if self.errors:
            raise self.errors.pop(0)
        self.created.append((event["metadata"]["name"], namespace, self.loop.time()))

    def add(self, name, namespace="default"):
        self.queue.add({"metadata": {"name": name, "namespace": namespace}, "reason": "Stalled"})

    def run_until(self, second):
        self.loop.run_until(int(second * SECOND))
        assert self.loop.failures == []

    def at(self, name):
        return next((at for created, _, at in self.created if created == name), None)


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.loop.close()


def test_events_are_created_in_their_order_at_a_limited_rate(bench):
    for number in range(30):
        bench.add(f"event-{number}")

    bench.run_until(1.95)

    assert [name for name, _, _ in bench.created] == [f"event-{number}" for number in range(20)]
    assert bench.at("event-1") == pytest.approx(1 / PER_SECOND)


def test_an_event_that_comes_later_is_created_at_once(bench):
    bench.run_until(60)

    bench.add("late")
    bench.run_until(61)

    assert bench.at("late") == pytest.approx(60)


def test_a_flood_in_one_namespace_neither_drops_nor_delays_an_event_of_another(bench):
    bench.add("b-before", "b")
    for number in range(WAITING_MAX + 500):
        bench.add(f"a-{number}", "a")
    bench.run_until(10)

    bench.add("b-after", "b")
    bench.run_until(11)

    assert bench.at("b-before") <= 2 / PER_SECOND
    assert bench.at("b-after") <= 10 + 2 / PER_SECOND


def test_the_latest_events_of_a_flood_are_kept(bench):
    for number in range(WAITING_MAX + 500):
        bench.add(f"a-{number}", "a")

    bench.run_until((WAITING_MAX + 500) / PER_SECOND)

    assert len(bench.created) == WAITING_MAX
    assert bench.created[-1][0] == f"a-{WAITING_MAX + 499}"


def test_equal_events_are_created_once(bench):
    bench.add("same")
    bench.add("same")

    bench.run_until(5)

    assert len(bench.created) == 1


def test_a_refused_event_delays_no_other(bench):
    bench.errors = [ConflictError("exists"), RefusedError("no")]
    for name in ("exists", "refused", "good"):
        bench.add(name)

    bench.run_until(1)

    assert [name for name, _, _ in bench.created] == ["good"]
