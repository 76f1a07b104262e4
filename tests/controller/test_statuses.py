"""Statuses are written the most urgent first, at a bounded rate, and never one that is out of date."""

import asyncio
from random import Random

import pytest

from pyncette.controller.cluster.api import (
    POOLS,
    TASKS,
    ApiUnavailableError,
    ConflictError,
    Reference,
    RefusedError,
)
from pyncette.controller.metrics import Metrics
from pyncette.controller.status.differences import Difference
from pyncette.controller.status.writer import BURST, PAUSE_SECONDS, Statuses, status_manifest
from tests.simulation.loop import SECOND, SimulatedLoop


class Bench:
    """Statuses, and an API server that notes what is written and when."""

    def __init__(self, rate=10.0):
        self.loop = SimulatedLoop(Random(1))
        self.writes = []
        self.told = []
        self.seen = {}
        self.befores = []
        self.again = []
        self.errors = []
        self.seconds = 0.0
        self.rate = rate
        self.statuses = None
        self.loop.spawn("operator", self._main)
        self.run_until(0)

    async def _main(self):
        self.statuses = Statuses(
            self,
            self.rate,
            lambda reference: self.seen.get(reference.name),
            self._written,
            lambda one: self.again.append(one.name),
            Metrics(),
        )
        await self.statuses.run()

    def _written(self, reference, before, _):
        self.told.append(reference.name)
        self.befores.append(before)

    async def apply_status(self, manifest):
        await asyncio.sleep(self.seconds)
        if self.errors:
            raise self.errors.pop(0)
        self.writes.append((manifest["metadata"]["name"], manifest["status"], round(self.loop.time(), 3)))
        return manifest

    def want(self, name, status=1, difference=Difference.OUTCOMES, kind=TASKS, namespace="default"):
        reference = Reference(kind, namespace, name)
        self.loop.at(
            self.now,
            lambda: self.statuses.want(reference, status_manifest(reference, "7", status), difference),
        )
        self.run_until(self.now / SECOND)

    @property
    def now(self):
        return int(self.loop.time() * SECOND)

    def run_until(self, second):
        self.loop.run_until(int(second * SECOND))
        assert self.loop.failures == []

    def names(self):
        return [name for name, _, _ in self.writes]


@pytest.fixture
def bench_of():
    """Makes benches, which are closed after the test."""
    made = []

    def make(rate=10.0):
        made.append(Bench(rate))
        return made[-1]

    yield make
    for bench in made:
        bench.loop.close()


def test_a_status_is_written_at_once_and_told(bench_of):
    bench = bench_of()

    bench.want("a")
    bench.run_until(1)

    assert bench.writes == [("a", 1, 0.0)]
    assert bench.told == ["a"]


def test_what_was_there_before_a_write_is_reported_also_if_the_watch_is_faster_than_the_answer(bench_of):
    bench = bench_of()
    bench.seconds = 2
    bench.seen["a"] = "before"
    bench.want("a")

    bench.loop.at(int(1 * SECOND), lambda: bench.seen.update(a="after"))
    bench.run_until(3)

    assert bench.befores == ["before"]


def test_what_is_written_names_the_version_that_it_was_worked_out_from():
    reference = Reference(TASKS, "default", "a")

    manifest = status_manifest(reference, "7", {"active": 1})

    assert manifest == {
        "apiVersion": "pyncette.dev/v1alpha1",
        "kind": "PyncetteTask",
        "metadata": {"name": "a", "namespace": "default", "resourceVersion": "7"},
        "status": {"active": 1},
    }


def test_all_together_are_no_more_than_the_rate(bench_of):
    bench = bench_of(rate=10)

    for number in range(40):
        bench.want(f"task-{number}")
    bench.run_until(2)

    assert len(bench.writes) == pytest.approx(20, abs=1)


def test_a_quiet_time_is_not_made_up_for_by_a_burst(bench_of):
    bench = bench_of(rate=10)
    bench.run_until(60)

    for number in range(40):
        bench.want(f"task-{number}")
    bench.run_until(61)

    assert len(bench.writes) <= 11


def test_the_most_urgent_go_first_and_those_alike_in_the_order_of_their_arrival(bench_of):
    bench = bench_of(rate=1)
    bench.want("at once")
    for name, difference in (
        ("rest", Difference.REST),
        ("outcome", Difference.OUTCOMES),
        ("condition", Difference.CONDITIONS),
        ("edit", Difference.GENERATION),
        ("later edit", Difference.GENERATION),
    ):
        bench.want(name, difference=difference)

    bench.run_until(10)

    assert bench.names() == ["at once", "edit", "later edit", "condition", "outcome", "rest"]


def test_thousands_of_tasks_whose_pool_is_gone_do_not_keep_others_from_what_they_asked_for(bench_of):
    bench = bench_of(rate=50)
    for number in range(2_000):
        bench.want(f"orphan-{number}", difference=Difference.POOL_GONE)
    bench.want("asked", difference=Difference.REQUESTS)

    bench.run_until(2)

    assert "asked" in bench.names()


def flood(bench, difference, *, tasks, per_second, seconds):
    """Want statuses of *tasks* in the namespace a, so many a second, each about the next one of them."""
    numbers = (number % tasks for number in range(per_second * seconds))
    for nth, number in enumerate(numbers):
        reference = Reference(TASKS, "a", f"a-{number}")
        bench.loop.at(
            bench.now + nth * SECOND // per_second,
            lambda reference=reference, nth=nth: bench.statuses.want(
                reference, status_manifest(reference, "7", nth), difference
            ),
        )


def written_at(bench, name):
    return next((at for written, _, at in bench.writes if written == name), None)


def test_a_namespace_that_edits_without_pause_does_not_keep_a_condition_of_another_from_being_written(
    bench_of,
):
    bench = bench_of(rate=50)
    flood(bench, Difference.GENERATION, tasks=500, per_second=100, seconds=40)
    bench.run_until(20)

    bench.want("b", difference=Difference.CONDITIONS, namespace="b")
    bench.run_until(40)

    assert written_at(bench, "b") == pytest.approx(20, abs=0.1)


def test_a_namespace_that_edits_without_pause_delays_an_edit_of_another_by_a_write_or_two(bench_of):
    bench = bench_of(rate=50)
    flood(bench, Difference.GENERATION, tasks=500, per_second=100, seconds=40)
    bench.run_until(20)

    bench.want("b", difference=Difference.GENERATION, namespace="b")
    bench.run_until(40)

    assert written_at(bench, "b") == pytest.approx(20, abs=0.1)


def test_a_namespace_whose_many_tasks_lost_their_pool_does_not_delay_what_others_see(bench_of):
    bench = bench_of(rate=50)
    for number in range(2_000):
        bench.want(f"orphan-{number}", difference=Difference.POOL_GONE, namespace="a")

    bench.want("b", difference=Difference.OUTCOMES, namespace="b")
    bench.run_until(1)

    assert written_at(bench, "b") == pytest.approx(0, abs=0.1)


def test_a_namespace_with_thousands_of_statuses_waits_longer_between_two_of_a_resource_and_others_do_not(
    bench_of,
):
    bench = bench_of(rate=10)
    for number in range(2_000):
        bench.want(f"a-{number}", namespace="a")
    bench.want("b", namespace="b")

    pauses = [bench.statuses.pause_seconds(namespace) for namespace in ("a", "b", "quiet")]

    assert pauses == [pytest.approx(200, abs=1), PAUSE_SECONDS, PAUSE_SECONDS]


def test_an_edit_comes_first_however_many_namespaces_wait(bench_of):
    bench = bench_of(rate=10)
    for number in range(500):
        bench.want(f"task-{number}", difference=Difference.REST, namespace=f"team-{number}")

    bench.want("edited", difference=Difference.GENERATION, namespace="b")
    bench.run_until(1)

    assert "edited" in bench.names()


def test_of_several_statuses_that_wait_the_latest_is_written_and_as_soon_as_the_most_urgent(bench_of):
    bench = bench_of(rate=1)
    bench.want("at once")
    bench.want("other", difference=Difference.CONDITIONS)
    bench.want("a", 1, Difference.GENERATION)
    bench.want("a", 2, Difference.REST)

    bench.run_until(10)

    assert [(name, status) for name, status, _ in bench.writes] == [("at once", 1), ("a", 2), ("other", 1)]


def test_after_its_first_writes_a_resource_waits(bench_of):
    bench = bench_of(rate=100)

    for status in range(BURST + 3):
        bench.want("a", status)
        bench.run_until(status + 1)
    bench.run_until(200)

    statuses = [status for _, status, _ in bench.writes]
    assert statuses == [*range(BURST), BURST + 2]
    assert bench.writes[-1][2] == pytest.approx(PAUSE_SECONDS, abs=1)


def test_a_new_generation_does_not_wait(bench_of):
    bench = bench_of(rate=100)
    for status in range(BURST + 1):
        bench.want("a", status)
        bench.run_until(status + 1)

    bench.want("a", "edited", Difference.GENERATION)
    bench.run_until(10)

    assert bench.writes[-1][:2] == ("a", "edited")


def test_conditions_of_a_pool_do_not_wait_since_all_its_tasks_and_whoever_applied_it_do(bench_of):
    bench = bench_of()
    for status in range(BURST + 2):
        bench.want("pool", status, Difference.CONDITIONS, POOLS)
        bench.run_until(status + 1)

    bench.want("pool", "later", Difference.OUTCOMES, POOLS)
    bench.run_until(BURST + 5)

    assert [status for _, status, _ in bench.writes] == list(range(BURST + 2))


def test_one_that_is_dropped_is_not_written(bench_of):
    bench = bench_of(rate=1)
    bench.want("at once")
    bench.want("a")

    bench.statuses.drop(Reference(TASKS, "default", "a"))
    bench.run_until(10)

    assert bench.names() == ["at once"]


def test_a_status_that_is_out_of_date_is_worked_out_again(bench_of):
    bench = bench_of()
    bench.errors = [ConflictError("changed")]

    bench.want("a")
    bench.run_until(1)

    assert (bench.again, bench.writes, bench.told) == (["a"], [], [])


def test_one_that_the_api_server_did_not_take_is_written_later_unless_there_is_a_newer_one(bench_of):
    bench = bench_of()
    bench.errors = [ApiUnavailableError("away"), ApiUnavailableError("away")]

    bench.want("a", 1)
    bench.want("b", 1)
    bench.run_until(0.5)
    bench.want("b", 2)
    bench.run_until(10)

    assert sorted((name, status) for name, status, _ in bench.writes) == [("a", 1), ("b", 2)]


def test_one_that_is_refused_is_not_tried_again(bench_of, caplog):
    bench = bench_of()
    bench.errors = [RefusedError("status.active: must be at least 0")]

    bench.want("a")
    bench.run_until(100)

    assert bench.writes == []
    assert "the API server refused a status" in caplog.text


def test_no_two_writes_of_one_resource_overtake_each_other(bench_of):
    bench = bench_of(rate=100)
    bench.seconds = 0.5

    bench.want("a", 1)
    bench.run_until(0.2)
    bench.want("a", 2)
    bench.run_until(3)

    assert [(status, at) for _, status, at in bench.writes] == [(1, 0.5), (2, 1.0)]
