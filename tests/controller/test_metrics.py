"""The metrics of the operator, and their names."""

import json
import math

import pytest

from pyncette.controller import metrics
from pyncette.controller.cluster.api import ObjectName
from pyncette.controller.metrics import MEASURES, Backlog, Metrics
from pyncette.controller.reconcile.queue import Queue
from pyncette.controller.status.condition_counts import ConditionCounts
from pyncette.errors import StoreUnavailableError

TASK, OTHER = ObjectName("shop", "report"), ObjectName("shop", "other")


def status_of(**conditions):
    """A status as the API server has it, with these conditions."""
    reported = [{"type": kind, "status": status, "reason": "R"} for kind, status in conditions.items()]
    return json.dumps({"observedGeneration": 1, "conditions": reported}).encode()


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def measured(clock):
    return Metrics(clock)


def value(measured, name, **labels):
    return measured.registry.get_sample_value(f"pyncette_operator_{name}", labels)


def test_passes_are_counted_timed_and_their_errors_named(measured):
    measured.passed("PyncetteTask", 0.5, None)
    measured.passed("PyncetteTask", 1.5, ValueError("odd"))

    assert value(measured, "reconcile_duration_seconds_count", kind="PyncetteTask") == 2
    assert value(measured, "reconcile_duration_seconds_sum", kind="PyncetteTask") == 2
    labels = {"kind": "PyncetteTask", "exception_type": "ValueError"}
    assert value(measured, "reconcile_errors_total", **labels) == 1


async def test_the_queue_is_asked_when_it_is_scraped(measured):
    queue = Queue(lambda key: "shop")
    measured.report_queue(lambda: len(queue), lambda: queue.in_progress, lambda: queue.deferred)
    queue.add("a")
    queue.add_after("b", 60)

    assert value(measured, "queue_keys", state="waiting") == 1
    assert value(measured, "queue_keys", state="in_progress") == 0
    assert value(measured, "queue_keys", state="deferred") == 1


def test_each_queue_reports_only_the_namespaces_with_the_most_entries(measured):
    waiting = {f"team-{number}": number for number in range(1, 100)}
    measured.report_queue_by_namespace("status", lambda: waiting)
    measured.report_queue_by_namespace("event", lambda: {"shop": 3})

    (family,) = (each for each in measured.registry.collect() if each.name.endswith("namespace_waiting"))

    assert len(family.samples) == metrics.NAMESPACES_MAX + 1
    assert value(measured, "namespace_waiting", queue="status", namespace="team-99") == 99
    assert value(measured, "namespace_waiting", queue="status", namespace="team-1") is None
    assert value(measured, "namespace_waiting", queue="event", namespace="shop") == 3


def test_ages_grow_between_scrapes_and_are_not_there_before_the_first_time(measured, clock):
    last = None
    measured.report_last_delivery(lambda: last)
    assert math.isnan(value(measured, "watch_last_event_age_seconds"))
    assert math.isnan(value(measured, "resync_age_seconds"))

    last = clock.now
    measured.resynced(2.0)
    clock.now += 30

    assert value(measured, "watch_last_event_age_seconds") == 30
    assert value(measured, "resync_age_seconds") == 30
    assert value(measured, "resync_duration_seconds_sum") == 2


def test_tasks_are_counted_by_their_conditions_as_soon_as_these_change(measured):
    counts = ConditionCounts(measured.count_condition)

    counts.note(TASK, status_of(Ready="True", Stalled="False"))
    counts.note(OTHER, status_of(Ready="False", Stalled="True"))
    assert value(measured, "tasks", condition="Ready", status="True") == 1
    assert value(measured, "tasks", condition="Stalled", status="True") == 1

    counts.note(OTHER, status_of(Ready="True", Stalled="False"))
    assert value(measured, "tasks", condition="Ready", status="True") == 2
    assert value(measured, "tasks", condition="Stalled", status="True") is None

    counts.note(TASK, None)
    assert value(measured, "tasks", condition="Ready", status="True") == 1


@pytest.mark.parametrize(
    "status", [b"{}", b"[]", b'{"conditions": 1}', b'{"conditions": [{"type": "Ready"}]}', b"null"]
)
def test_a_status_that_cannot_be_read_has_no_conditions(measured, status):
    counts = ConditionCounts(measured.count_condition)
    counts.note(TASK, status_of(Ready="True"))

    counts.note(TASK, status)

    assert not counts.is_true(TASK, "Ready")
    assert value(measured, "tasks", condition="Ready", status="True") is None


def test_the_backlog_of_a_pool_that_is_gone_is_not_reported(measured):
    shop, ops = ObjectName("shop", "default"), ObjectName("ops", "default")
    measured.set_backlogs("a", {shop: Backlog(3, 12.5), ops: Backlog()})
    measured.set_backlogs("b", {shop: Backlog(7, 1.0)})

    measured.set_backlogs("a", {ops: Backlog(1, 2.0)})

    in_ops = {"namespace": "ops", "pool": "default", "backend": "a"}
    assert value(measured, "due", **in_ops) == 1
    assert value(measured, "lateness_seconds", **in_ops) == 2
    assert value(measured, "due", namespace="shop", pool="default", backend="a") is None
    assert value(measured, "lateness_seconds", namespace="shop", pool="default", backend="a") is None
    assert value(measured, "due", namespace="shop", pool="default", backend="b") == 7


def test_calls_of_a_backend_are_timed_and_their_failures_counted(measured):
    with measured.measured("default", "load"):
        pass
    with pytest.raises(StoreUnavailableError), measured.measured("default", "load"):
        raise StoreUnavailableError("away")

    assert value(measured, "backend_duration_seconds_count", backend="default", operation="load") == 2
    assert value(measured, "backend_errors_total", backend="default", operation="load") == 1


def test_status_writes_and_withdrawals_are_counted(measured):
    measured.status_written("written")
    measured.withdrew("sweep", 3)
    measured.gauge(metrics.HELD_BACK).set(5)
    measured.report_objects("PyncetteTask", lambda: 7)

    assert value(measured, "status_writes_total", outcome="written") == 1
    assert value(measured, "withdrawals_total", cause="sweep") == 3
    assert value(measured, "withdrawals_held_back") == 5
    assert value(measured, "objects", kind="PyncetteTask") == 7


def test_two_operators_do_not_count_for_each_other(measured):
    Metrics().passed("PyncetteTask", 1.0, None)

    assert value(measured, "reconcile_duration_seconds_count", kind="PyncetteTask") is None


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.name)
def test_names_follow_the_conventions_of_prometheus(measure):
    assert (measure.type == "counter") == measure.name.endswith("_total")
    assert (measure.type == "histogram") <= measure.name.endswith("_seconds")
    assert bool(measure.buckets) == (measure.type == "histogram")


def test_all_measures_are_in_the_list():
    assert {id(each) for each in MEASURES} == {
        id(each) for each in vars(metrics).values() if isinstance(each, metrics.Measure)
    }
