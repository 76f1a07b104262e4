"""Each key has one pass at a time, in its turn, again if it failed, and none too many."""

import asyncio
import logging
from functools import partial
from itertools import pairwise
from random import Random

import pytest

from pyncette.controller.fair_queue import URGENT_IN_A_ROW_MAX
from pyncette.controller.intervals import RETRIES
from pyncette.controller.reconcile.queue import SLOW_SECONDS, Queue, Urgency
from tests.simulation.loop import SECOND, SimulatedLoop


class AwayError(Exception):
    """What is needed does not answer."""


class Bench:
    """A queue, and a reconciler that notes each pass and does what it is told."""

    def __init__(self, *, passes=1, per_namespace=None, quiet_seconds=0, slow_passes=0):
        self.loop = SimulatedLoop(Random(1))
        self.queue = Queue(
            _namespace_of,
            lambda error: "backend" if isinstance(error, AwayError) else None,
            quiet_seconds,
        )
        self.seen = []
        """Keys, and the second in which their passes began."""
        self.pass_seconds = 0.0
        self.fails = {}
        self.again = {}
        self.at_once = {}
        self.most_at_once = 0
        self.finished = []
        self._passes = passes
        self._per_namespace = per_namespace
        self._slow_passes = slow_passes
        self.loop.spawn("operator", self._main)

    async def _main(self):
        await self.queue.run(
            self._reconcile,
            self._passes,
            lambda *told: self.finished.append(told),
            passes_per_namespace=self._per_namespace,
            slow_passes=self._slow_passes,
        )

    async def _reconcile(self, key):
        assert key not in self.at_once, "two passes of one key at a time"
        self.at_once[key] = True
        self.most_at_once = max(self.most_at_once, len(self.at_once))
        self.seen.append((key, self.loop.time()))
        try:
            await asyncio.sleep(self.pass_seconds)
            error = self.fails.get(key, self.fails.get("*"))
            if error is not None:
                raise error
            return self.again.pop(key, None)
        finally:
            del self.at_once[key]

    def at(self, second, what):
        self.loop.at(int(second * SECOND), what)

    def run_until(self, second):
        self.loop.run_until(int(second * SECOND))
        assert self.loop.failures == []

    @property
    def keys(self):
        return [key for key, _ in self.seen]

    def times(self, key):
        return [at for seen, at in self.seen if seen == key]


def _namespace_of(key):
    return str(key).rpartition("/")[0]


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.loop.close()


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.CRITICAL)


def test_keys_come_in_the_order_of_their_arrival(bench):
    bench.at(1, lambda: [bench.queue.add(key) for key in "cab"])

    bench.run_until(2)

    assert bench.keys == ["c", "a", "b"]


def test_a_waiting_key_has_one_pass(bench):
    bench.at(1, lambda: [bench.queue.add("a") for _ in range(1000)])

    bench.run_until(2)

    assert bench.keys == ["a"]
    assert len(bench.queue) == 0


def test_a_burst_during_a_pass_costs_one_pass_more(bench):
    bench.pass_seconds = 1.0
    bench.at(1, lambda: bench.queue.add("a"))
    for tenth in range(1, 10):
        bench.at(1 + tenth / 10, lambda: bench.queue.add("a"))

    bench.run_until(10)

    assert bench.times("a") == [1, 2]


@pytest.fixture
def debounced():
    bench = Bench(quiet_seconds=0.5)
    yield bench
    bench.loop.close()


def test_a_debounced_burst_that_outlasts_a_pass_costs_one_more_pass(debounced):
    for hundredth in range(130):
        debounced.at(1 + hundredth / 100, lambda: debounced.queue.add("a"))

    debounced.run_until(10)

    assert debounced.times("a") == [1, pytest.approx(2.29 + 0.5)]


def test_a_burst_that_never_ends_is_reconciled_all_the_same(debounced):
    for tenth in range(100):
        debounced.at(1 + tenth / 10, lambda: debounced.queue.add("a"))

    debounced.run_until(8)

    assert debounced.times("a") == [1, 3, 5, 7]


def test_a_timer_that_is_early_by_less_than_the_clock_shows_is_not_set_again_and_again():
    bench = Bench(quiet_seconds=1 / 3)
    for at in (1, 1.1, 1.2):
        bench.at(at, lambda: bench.queue.add("a"))

    bench.run_until(10)
    bench.loop.close()

    assert bench.times("a") == [1, pytest.approx(1.2 + 1 / 3, abs=1e-5)]


def test_a_pass_during_the_rest_begins_another(debounced):
    debounced.again["a"] = 0.2
    for at in (1, 1.1):
        debounced.at(at, lambda: debounced.queue.add("a"))
    debounced.at(1.15, debounced.again.clear)
    debounced.at(1.65, lambda: debounced.queue.add("a"))

    debounced.run_until(10)

    assert debounced.times("a") == [1, 1.2, 2.15]


def test_a_debounced_key_waits_for_its_turn_so_the_queue_is_not_idle(debounced):
    idle = []
    debounced.at(1, lambda: debounced.queue.add("a"))
    debounced.at(1.1, lambda: debounced.queue.add("a"))
    for second in (1.05, 1.2, 1.7):
        debounced.at(second, lambda: idle.append((len(debounced.queue), debounced.queue._idle.is_set())))

    debounced.run_until(10)

    assert idle == [(0, True), (1, False), (0, True)]


def test_a_key_whose_quiet_period_ended_or_that_failed_is_not_delayed(debounced):
    debounced.at(1, lambda: debounced.queue.add("a"))
    debounced.at(1.5, lambda: debounced.queue.add("a"))
    debounced.at(3, lambda: [debounced.fails.update(b=ValueError()), debounced.queue.add("b")])
    debounced.at(3.05, lambda: [debounced.fails.clear(), debounced.queue.add("b")])

    debounced.run_until(3.2)

    assert debounced.times("a") == [1, 1.5]
    assert debounced.times("b") == [3, 3.05]


def test_a_pass_during_the_quiet_period_covers_the_changes_that_were_held(debounced):
    debounced.again["a"] = 0.2
    debounced.at(1, lambda: debounced.queue.add("a"))
    debounced.at(1.1, lambda: debounced.queue.add("a"))

    debounced.run_until(10)

    assert debounced.times("a") == [1, 1.2]


def test_quiet_periods_that_ended_are_dropped(debounced):
    for number in range(100):
        debounced.at(1 + number / 100, lambda number=number: debounced.queue.add(number))
    debounced.at(5, lambda: debounced.queue.add("last"))
    debounced.at(9, lambda: debounced.queue.add("last"))

    debounced.run_until(10)

    assert debounced.queue.debounced < 51


def test_one_key_has_one_pass_at_a_time_and_several_keys_have_several():
    bench = Bench(passes=3)
    bench.pass_seconds = 1.0
    for tenth in range(30):
        bench.at(1 + tenth / 10, lambda: [bench.queue.add(key) for key in "abcde"])

    bench.run_until(20)
    bench.loop.close()

    assert bench.most_at_once == 3
    assert {*bench.keys} == {*"abcde"}


def test_what_is_new_comes_before_a_resync(bench):
    bench.pass_seconds = 0.1
    bench.at(1, lambda: [bench.queue.add(f"old{n}", Urgency.ROUTINE) for n in range(3)])
    bench.at(1.05, lambda: bench.queue.add("new"))

    bench.run_until(3)

    assert bench.keys == ["old0", "new", "old1", "old2"]


def test_a_key_of_a_resync_that_gets_something_new_moves_up(bench):
    bench.pass_seconds = 0.1
    bench.at(1, lambda: [bench.queue.add(key, Urgency.ROUTINE) for key in "abc"])
    bench.at(1.05, lambda: bench.queue.add("c"))

    bench.run_until(3)

    assert bench.keys == ["a", "c", "b"]


def test_a_resync_is_not_starved_by_a_flood_of_new_things(bench):
    bench.at(1, lambda: bench.queue.add("old", Urgency.ROUTINE))
    bench.at(1, lambda: [bench.queue.add(n) for n in range(1000)])

    bench.run_until(2)

    assert bench.keys.index("old") == URGENT_IN_A_ROW_MAX


def test_a_flood_in_one_namespace_delays_an_edit_in_another_by_one_pass(bench):
    bench.pass_seconds = 0.1
    bench.at(1, lambda: [bench.queue.add(f"a/{number}") for number in range(1000)])
    bench.at(2.05, lambda: bench.queue.add("b/edited"))

    bench.run_until(3)

    assert bench.times("b/edited") == [pytest.approx(2.1, abs=0.11)]


def test_a_flood_of_changes_in_one_namespace_does_not_delay_a_resync_in_another(bench):
    bench.pass_seconds = 0.1
    bench.at(1, lambda: [bench.queue.add(f"a/{number}") for number in range(1000)])
    bench.at(2.05, lambda: bench.queue.add("b/listed", Urgency.ROUTINE))

    bench.run_until(3)

    assert bench.times("b/listed") == [pytest.approx(2.2, abs=0.11)]


def test_a_namespace_whose_backend_is_slow_leaves_passes_to_the_others():
    bench = Bench(passes=3, per_namespace=2)
    bench.pass_seconds = 10.0
    bench.at(1, lambda: [bench.queue.add(f"a/{number}") for number in range(100)])
    bench.at(2, lambda: bench.queue.add("b/edited"))

    bench.run_until(60)
    bench.loop.close()

    assert bench.times("b/edited") == [2]
    assert len(bench.seen) == 1 + 2 * 6


def test_namespaces_that_share_a_slow_backend_leave_passes_to_the_others():
    bench = Bench(passes=3, per_namespace=2, slow_passes=10)
    bench.pass_seconds = 60.0
    teams = [f"a{number}" for number in range(4)]
    bench.at(1, lambda: [bench.queue.add(f"{team}/{number}") for team in teams for number in range(100)])
    bench.at(2, lambda: bench.queue.add("b/edited"))

    bench.run_until(50)
    bench.loop.close()

    assert bench.times("b/edited") == [pytest.approx(1 + 2 * SLOW_SECONDS, abs=0.01)]
    assert bench.most_at_once == 2 * len(teams) + 1


def test_slow_passes_are_limited_and_no_more_passes_are_left_after_them():
    bench = Bench(passes=3, per_namespace=20, slow_passes=2)
    bench.pass_seconds = 60.0
    bench.at(1, lambda: [bench.queue.add(f"a/{number}") for number in range(20)])

    bench.run_until(1000)
    most_while_slow, bench.most_at_once = bench.most_at_once, 0
    bench.pass_seconds = 0.1
    bench.at(1001, lambda: [bench.queue.add(f"b/{number}") for number in range(100)])
    bench.run_until(1010)
    bench.loop.close()

    assert (most_while_slow, bench.most_at_once) == (5, 3)
    assert len(bench.seen) == 120


def test_a_key_that_waits_for_a_slow_pass_of_its_namespace_is_taken_after_that():
    bench = Bench(passes=2, per_namespace=1, slow_passes=2)
    bench.pass_seconds = 10.0
    bench.at(1, lambda: [bench.queue.add(f"a/{number}") for number in range(3)])

    bench.run_until(60)
    bench.loop.close()

    assert [at for _, at in bench.seen] == [1, 11, 21]


def test_a_pass_may_ask_for_another_one_later(bench):
    bench.again["a"] = 30.0
    bench.at(1, lambda: bench.queue.add("a"))

    bench.run_until(100)

    assert bench.times("a") == [1, 31]


def test_the_earliest_of_several_later_times_counts(bench):
    bench.at(0, lambda: [bench.queue.add_after("a", seconds) for seconds in (30, 10, 20)])

    bench.run_until(100)

    assert bench.times("a") == [10]


def test_a_pass_takes_the_place_of_a_later_one(bench):
    bench.at(0, lambda: bench.queue.add_after("a", 10))
    bench.at(5, lambda: bench.queue.add("a"))

    bench.run_until(100)

    assert bench.times("a") == [5]


def test_a_later_time_that_comes_during_the_pass_costs_one_pass_more(bench):
    bench.pass_seconds = 2.0
    bench.at(1, lambda: bench.queue.add("a"))
    bench.at(1.5, lambda: bench.queue.add_after("a", 1.0))

    bench.run_until(100)

    assert bench.times("a") == [1, 3]


def test_a_pass_that_fails_is_repeated_ever_less_often(bench):
    bench.fails["a"] = ValueError("odd")
    bench.at(1, lambda: bench.queue.add("a"))

    bench.run_until(1000)

    waits = [later - earlier for earlier, later in pairwise(bench.times("a"))]
    assert len(waits) > 20
    for number, wait in enumerate(waits):
        longest = min(RETRIES.maximum, 0.2 * 2**number)
        assert longest / 2 <= wait <= longest + 0.001


def test_a_success_makes_the_next_failure_the_first_again(bench):
    bench.fails["a"] = ValueError("odd")
    bench.at(1, lambda: bench.queue.add("a"))
    bench.at(100, bench.fails.clear)
    bench.run_until(300)
    before = len(bench.seen)

    bench.fails["a"] = ValueError("odd")
    bench.at(400, lambda: bench.queue.add("a"))
    bench.run_until(401)

    assert len(bench.seen) - before >= 3


def test_a_failing_key_hurts_no_other(bench):
    bench.fails["bad"] = ValueError("odd")
    bench.at(1, lambda: [bench.queue.add(key) for key in ("bad", "good")])

    bench.run_until(2)

    assert bench.keys[:2] == ["bad", "good"]


def test_something_new_does_not_wait_for_the_next_try(bench):
    bench.fails["a"] = ValueError("odd")
    bench.at(1, lambda: bench.queue.add("a"))
    bench.run_until(300)
    bench.fails.clear()

    bench.at(301, lambda: bench.queue.add("a"))
    bench.run_until(800)

    assert bench.seen[-1] == ("a", 301)


def test_a_resync_does_not_hurry_what_fails(bench):
    bench.fails["a"] = ValueError("odd")
    bench.at(1, lambda: bench.queue.add("a"))
    for second in range(2, 600):
        bench.at(second, lambda: bench.queue.add("a", Urgency.ROUTINE))

    bench.run_until(600)

    assert len(bench.seen) < 30


def test_an_outage_is_asked_about_by_one_key_for_all(bench):
    bench.fails["*"] = AwayError()
    bench.at(1, lambda: [bench.queue.add(key) for key in range(1000)])

    bench.run_until(600)

    assert len(bench.seen) < 1000 + 30
    assert bench.queue.deferred == 1000


def test_once_it_is_back_all_that_waited_have_their_pass_soon():
    bench = Bench(passes=10)
    bench.fails["*"] = AwayError()
    bench.at(1, lambda: [bench.queue.add(key) for key in range(1000)])
    bench.run_until(500)
    bench.seen.clear()

    bench.fails.clear()
    bench.run_until(500 + RETRIES.maximum + 1)
    bench.loop.close()

    assert sorted(bench.keys) == list(range(1000))
    assert bench.queue.deferred == 0


def test_any_caller_may_report_that_it_recovered(bench):
    bench.fails["*"] = AwayError()
    bench.at(1, lambda: [bench.queue.add(key) for key in "abc"])
    bench.run_until(300)
    bench.seen.clear()

    bench.fails.clear()
    bench.at(300.5, lambda: bench.queue.recovered("backend"))
    bench.run_until(301)

    assert bench.keys.count("a") == 1
    assert {*bench.keys} == {*"abc"}


def test_one_that_gets_through_without_the_place_does_not_let_all_run_against_it(bench):
    bench.fails["*"] = AwayError()
    bench.at(1, lambda: [bench.queue.add(key) for key in range(1000)])
    bench.run_until(1.05)
    bench.seen.clear()

    bench.fails[0] = None
    bench.fails[1] = None
    bench.run_until(600)

    assert len(bench.seen) < 100


def test_what_asks_may_fail_for_another_reason_and_the_others_are_not_forgotten(bench):
    bench.fails["*"] = AwayError()
    bench.at(1, lambda: [bench.queue.add(key) for key in range(10)])
    bench.run_until(1.05)

    del bench.fails["*"]
    bench.fails[0] = ValueError("odd")
    bench.run_until(100)

    assert {*bench.keys[10:]} == {*range(10)}


def test_something_new_is_tried_although_its_dependency_is_unavailable(bench):
    bench.fails["*"] = AwayError()
    bench.at(1, lambda: [bench.queue.add(key) for key in "ab"])
    bench.run_until(300)
    bench.fails["b"] = None

    bench.at(300.5, lambda: bench.queue.add("b"))
    bench.run_until(301)

    assert ("b", 300.5) in bench.seen


def test_one_outage_does_not_stop_what_does_not_need_the_place(bench):
    bench.fails["a"] = AwayError()
    bench.at(1, lambda: [bench.queue.add(key) for key in "ab"])
    bench.at(100, lambda: bench.queue.add("b"))

    bench.run_until(101)

    assert bench.times("b") == [1, 100]


def test_each_pass_is_reported(bench):
    bench.pass_seconds = 0.5
    bench.fails["b"] = odd = ValueError("odd")
    bench.at(1, lambda: [bench.queue.add(key) for key in "ab"])

    bench.run_until(2)

    assert bench.finished[:2] == [("a", 0.5, None), ("b", 0.5, odd)]


def test_it_is_idle_when_nothing_waits_and_nothing_is_under_way(bench):
    idle_at = []

    async def wait():
        await asyncio.sleep(1)
        bench.queue.add("a")
        await bench.queue.idle()
        idle_at.append(bench.loop.time())

    bench.pass_seconds = 2.0
    bench.loop.spawn("test", wait)
    bench.run_until(10)

    assert idle_at == [3]


def test_a_pass_that_waited_for_something_cancelled_failed_like_any_other(bench):
    bench.fails["a"] = asyncio.CancelledError()
    bench.at(1, lambda: [bench.queue.add(key) for key in "ab"])
    bench.at(2, bench.fails.clear)

    bench.run_until(10)

    assert bench.keys.count("b") == 1
    assert bench.keys.count("a") >= 2
    assert bench.queue.in_progress == 0


def test_nothing_is_kept_of_a_key_whose_pass_succeeded(bench):
    bench.fails["a"] = ValueError("odd")
    bench.at(1, lambda: bench.queue.add("a"))
    bench.run_until(50)
    bench.fails.clear()
    bench.run_until(200)

    held = [value for value in vars(bench.queue).values() if isinstance(value, (dict, set))]
    assert [one for one in held if one] == []


def test_a_random_life_never_forgets_a_key():
    for seed in range(30):
        bench, random = Bench(passes=3), Random(seed)
        bench.pass_seconds = 0.3
        due = {}

        def add(key, bench=bench, due=due):
            bench.queue.add(key)
            due[key] = bench.loop.time()

        for _ in range(200):
            key, error = random.randrange(8), random.choice([None, AwayError(), ValueError("odd")])
            bench.at(random.uniform(0, 60), partial(add, key))
            bench.at(random.uniform(0, 60), partial(bench.fails.__setitem__, key, error))
        bench.at(60, bench.fails.clear)
        bench.run_until(400)
        bench.loop.close()

        assert all(max(bench.times(key)) >= at for key, at in due.items()), seed
        assert (len(bench.queue), bench.queue.in_progress, bench.queue.deferred) == (0, 0, 0), seed
