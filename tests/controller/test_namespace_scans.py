"""Each namespace of a backend has its own scan interval, so a large one does not delay the others."""

import asyncio
from itertools import pairwise
from random import Random
from types import SimpleNamespace

import pytest

from pyncette.controller.cluster.api import TASKS, ObjectName
from pyncette.controller.intervals import DEFAULT
from pyncette.controller.reconcile.namespace_scans import SCANS_AT_ONCE, NamespaceScans
from pyncette.core.accounting import Verdict, with_verdict
from pyncette.core.record import Outcome, replace
from tests.controller.fake_api import pool, task
from tests.controller.scene import EIGHT
from tests.controller.world import World
from tests.simulation.loop import SECOND, SimulatedLoop


class Bench:
    """The scans of a backend, which take as long as a test says."""

    def __init__(self, **seconds):
        self.loop = SimulatedLoop(Random(1))
        self.seconds = seconds
        self.began = []
        self.at_once = set()
        self.most_at_once = 0
        self.fails = None
        self.whole_seconds = 0.0
        self.backend = SimpleNamespace(ledger=object(), is_alias=False, name="first", message_of=str)
        self.scans = NamespaceScans(self.backend, self._scan, lambda: self.seconds, DEFAULT)
        self.loop.spawn("operator", self.scans.run)

    async def _scan(self, namespace):
        assert namespace not in self.at_once, "two scans of one namespace at a time"
        self.began.append((namespace, self.loop.time()))
        self.at_once.add(namespace)
        self.most_at_once = max(self.most_at_once, len(self.at_once))
        try:
            await asyncio.sleep(self._seconds_of(namespace))
            if self.fails is not None:
                raise self.fails
        finally:
            self.at_once.discard(namespace)
        return self._seconds_of(namespace)

    def _seconds_of(self, namespace):
        return self.whole_seconds if namespace is None else self.seconds.get(namespace, 0.0)

    def run_until(self, second):
        self.loop.run_until(int(second * SECOND))
        assert self.loop.failures == []

    def times(self, namespace):
        return [at for scanned, at in self.began if scanned == namespace]


@pytest.fixture
def bench_of():
    made = []

    def make(**seconds):
        made.append(Bench(**seconds))
        return made[-1]

    yield make
    for bench in made:
        bench.loop.close()


def gaps(times):
    return [later - earlier for earlier, later in pairwise(times)]


def test_everything_is_scanned_first_and_then_each_namespace_by_itself(bench_of):
    bench = bench_of(a=0.0, b=0.0)

    bench.run_until(3)

    assert [namespace for namespace, _ in bench.began] == [None, "a", "b"]


def test_a_namespace_whose_scan_takes_long_is_scanned_rarely_and_delays_no_other(bench_of):
    bench = bench_of(a=10.0, b=0.01)

    bench.run_until(1000)

    assert min(gaps(bench.times("a"))) >= DEFAULT.scan_share * 10
    assert max(gaps(bench.times("b"))) <= 3 * DEFAULT.scan


def test_scans_of_all_namespaces_take_no_more_than_their_share_of_the_time(bench_of):
    bench = bench_of(**{f"team-{number}": 0.1 for number in range(100)})

    bench.run_until(1000)

    busy = 0.1 * (len(bench.began) - 1)
    assert busy <= 1.2 * 1000 / DEFAULT.scan_share
    assert bench.most_at_once <= SCANS_AT_ONCE


def test_a_deleted_namespace_is_no_longer_scanned(bench_of):
    bench = bench_of(a=0.0, b=0.0)
    bench.run_until(10)

    del bench.seconds["a"]
    bench.run_until(100)

    assert max(bench.times("a")) <= 12
    assert max(bench.times("b")) >= 95


def test_a_backend_that_holds_nothing_is_scanned_until_the_first_record_is_found(bench_of):
    bench = bench_of()
    bench.run_until(10)
    before = len(bench.times(None))

    bench.seconds["a"] = 0.0
    bench.run_until(20)

    assert before > 3
    assert bench.times("a")
    assert len(bench.times(None)) <= before + 1


def test_a_scan_of_everything_that_takes_long_is_rare(bench_of):
    bench = bench_of()
    bench.whole_seconds = 5.0

    bench.run_until(200)

    assert 1 < len(bench.times(None)) <= 2 + 200 / (5.0 * DEFAULT.scan_share)


def test_a_failure_is_tried_again_and_logged_once_for_all_namespaces(bench_of, caplog):
    bench = bench_of(**{f"team-{number}": 0.0 for number in range(4)})
    bench.run_until(3)
    bench.fails = ValueError("poisoned")

    bench.run_until(4.5)
    assert caplog.text.count("could not scan a backend") == 1

    bench.fails = None
    bench.run_until(20)
    assert len(bench.times("team-0")) > 3


def test_a_backend_that_returns_is_scanned_as_a_whole(bench_of):
    bench = bench_of(a=0.0)
    bench.run_until(10)

    bench.loop.at(bench.loop.now + SECOND // 2, bench.scans.restart)
    bench.run_until(11)

    assert bench.times(None) == [0, pytest.approx(10.5)]


def test_nothing_is_scanned_while_the_backend_is_unavailable(bench_of):
    bench = bench_of(a=0.0)
    bench.run_until(10)
    before = len(bench.began)

    bench.backend.ledger = None
    bench.run_until(60)

    assert len(bench.began) == before


def test_a_write_of_a_worker_shows_soon_although_another_team_has_many_records_on_the_backend():
    world = World("first")
    for namespace in "ab":
        world.api.create(
            pool(namespace=namespace, external=True, image=None, module=None, backendRef={"name": "first"})
        )
    for number in range(100):
        world.api.create(task(f"task-{number}", "a", handler=f"handler_{number}"))
    world.api.create(task("report", "b"))
    world.start()
    world.run(30)
    world.backends["first"].seconds = 0.1
    world.run(120)

    record = world.record("report")
    now = EIGHT + world.loop.now
    verdict = Verdict(Outcome.SUCCEEDED, now, now, now, 1, "worker-1", "")
    state = replace(record.state, summary=with_verdict(record.state.summary, verdict))
    world.backends["first"].memory.shelf(record.key.partition).put(
        replace(record, version=record.version + 1, state=state)
    )
    world.run(6)

    status = world.api.stored(TASKS, ObjectName("b", "report"))["status"]
    world.close()
    assert status["runCounts"]["succeeded"] == 1
