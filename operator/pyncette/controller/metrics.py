"""Prometheus metrics of the operator itself and of the tasks that it manages."""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from pyncette.controller.cluster.api import ObjectName

PASS_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""From a pass that finds nothing to do to one that waits for what is away, in seconds."""

NAMESPACES_MAX: Final = 5
"""Maximum number of namespaces in the series of a queue: enough to see which one floods it."""

RESYNC_BUCKETS: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Measure(NamedTuple):
    """One metric: its name without `pyncette_operator_`, what it means, and its labels with their values."""

    name: str
    kind: type[Counter] | type[Gauge] | type[Histogram]
    meaning: str
    labels: Mapping[str, str] = {}
    buckets: tuple[float, ...] = ()

    @property
    def full_name(self) -> str:
        return f"pyncette_operator_{self.name}"

    @property
    def type(self) -> str:
        return self.kind.__name__.lower()


RECONCILE: Final = Measure(
    "reconcile_duration_seconds",
    Histogram,
    "Passes over one object: how many, and how long they took",
    {"kind": "`PyncetteTask` or `PyncetteWorkerPool`"},
    PASS_BUCKETS,
)
RECONCILE_ERRORS: Final = Measure(
    "reconcile_errors_total",
    Counter,
    "Passes that failed, and are repeated",
    {"kind": "as above", "exception_type": "name of the error"},
)
QUEUE: Final = Measure(
    "queue_keys",
    Gauge,
    "Objects that wait for a pass",
    {"state": "`waiting`; `in_progress`; `deferred`: later, or once what they need is back"},
)
WATCH_AGE: Final = Measure(
    "watch_last_event_age_seconds",
    Gauge,
    "Seconds since the last watch event. It grows in a quiet cluster, too: the next resync detects missed events, and fails liveness",
)
RESYNC_AGE: Final = Measure(
    "resync_age_seconds",
    Gauge,
    "Seconds since everything was last listed to the end. Three periods fail liveness, unless the API server is away",
)
RESYNC: Final = Measure(
    "resync_duration_seconds",
    Histogram,
    "Resyncs: how many, and how long they took",
    buckets=RESYNC_BUCKETS,
)
OBJECTS: Final = Measure(
    "objects",
    Gauge,
    "Objects as they were last observed",
    {"kind": "`PyncetteTask`, `PyncetteWorkerPool` or `Deployment`"},
)
STATUS_WRITES: Final = Measure(
    "status_writes_total",
    Counter,
    "Writes of a status",
    {"outcome": "`written`; `conflict`: the object had changed, and is reconciled again; `failed`"},
)
STATUS_WAITING: Final = Measure(
    "status_writes_waiting",
    Gauge,
    "Statuses that wait for their share of `statusWritesPerSecond`",
)
NAMESPACE_WAITING: Final = Measure(
    "namespace_waiting",
    Gauge,
    f"Length of a queue of the operator, by namespace. Each scrape reports the {NAMESPACES_MAX} namespaces with the most. "
    "Namespaces take turns, so a long queue delays that namespace alone",
    {
        "queue": "`reconcile`: objects that wait for a pass; `status`: statuses to be written; `event`: Events to be created",
        "namespace": "name of the namespace",
    },
)
WITHDRAWALS: Final = Measure(
    "withdrawals_total",
    Counter,
    "Records that were stopped since their object is gone; they are removed after the grace",
    {"cause": "`event`: its deletion was seen; `sweep`: it was missed, and found by lists"},
)
HELD_BACK: Final = Measure(
    "withdrawals_held_back",
    Gauge,
    "Withdrawals that were too many at once, and wait for `pyncette sweep --confirm COUNT`. Anything but 0 needs a person",
)
UNWATCHED: Final = Measure(
    "unwatched_records",
    Gauge,
    "Records of namespaces that are no longer watched. They go on running",
)
FOREIGN: Final = Measure(
    "foreign_realms",
    Gauge,
    "Realms in the database of a backend that belong to namespaces that the backend is not open to, counted up to 100. Their records are ignored",
    {"backend": "its name in the settings"},
)
FORBIDDEN: Final = Measure(
    "forbidden_namespaces",
    Gauge,
    "Namespaces of the settings that the operator has no rights in, so they are not watched",
)
BACKEND: Final = Measure(
    "backend_duration_seconds",
    Histogram,
    "Calls of a backend: how many, and how long they took",
    {
        "backend": "its name in the settings",
        "operation": "`ask`: a health check; `look`: a scan of a namespace, or of everything; `mirror`: a write of one task",
    },
    PASS_BUCKETS,
)
BACKEND_ERRORS: Final = Measure(
    "backend_errors_total",
    Counter,
    "Calls of a backend that failed",
    {"backend": "as above", "operation": "as above"},
)
DATABASE_COPIED: Final = Measure(
    "database_copied",
    Gauge,
    "1 if the database of a backend has the identity of another backend's database, so that one of them is a copy. Anything "
    "but 0 needs a person",
    {"backend": "as above"},
)
OVERFULL: Final = Measure(
    "overfull_namespaces",
    Gauge,
    "Namespaces whose records on a backend exceed `recordMebibytesPerNamespace`, or another limit of memory, so that their tasks "
    "are not reconciled. Anything but 0 needs a person",
    {"backend": "as above"},
)
BACKEND_UP: Final = Measure(
    "backend_up",
    Gauge,
    "1 if the backend answered its last health check, else 0",
    {"backend": "as above"},
)
TASKS: Final = Measure(
    "tasks",
    Gauge,
    "Current number of tasks by condition and status",
    {"condition": "`Ready`, `Stalled`, `HandlerResolved` …", "status": "`True`, `False` or `Unknown`"},
)
POOL_LABELS: Final = {
    "namespace": "namespace of the pool",
    "pool": "name of the pool",
    "backend": "as above",
}
DUE: Final = Measure(
    "due",
    Gauge,
    "Backlog of a pool: occurrences that are due and that no worker has claimed, counted up to 10,000. Tasks that cannot run do not count: those that are Stalled, deleted or held back, and those whose handler no running worker of the pool has registered. Instances of dynamic tasks are counted every 10 seconds",
    POOL_LABELS,
)
LATENESS: Final = Measure(
    "lateness_seconds",
    Gauge,
    "Seconds since the oldest occurrence of the backlog was due; 0 without a backlog. For instances of dynamic tasks, rounded down to 10 seconds, half a minute, 1, 2, 5, 10 or 30 minutes, 1, 4 or 24 hours",
    POOL_LABELS,
)

MEASURES: Final = (
    RECONCILE,
    RECONCILE_ERRORS,
    QUEUE,
    WATCH_AGE,
    RESYNC_AGE,
    RESYNC,
    OBJECTS,
    STATUS_WRITES,
    STATUS_WAITING,
    NAMESPACE_WAITING,
    WITHDRAWALS,
    HELD_BACK,
    UNWATCHED,
    FOREIGN,
    FORBIDDEN,
    BACKEND,
    BACKEND_ERRORS,
    BACKEND_UP,
    DATABASE_COPIED,
    OVERFULL,
    TASKS,
    DUE,
    LATENESS,
)
"""
All metrics. No label gets more values with more tasks; `namespace` and `pool` do with more pools. The namespaces of
`NAMESPACE_WAITING` are limited.
"""


class Backlog(NamedTuple):
    """The occurrences of a pool that wait for a worker."""

    due: int = 0
    """How many there are."""
    late_seconds: float = 0.0
    """Since the oldest of them was due."""


class Metrics:
    """
    The metrics of one operator, in a registry of their own: in a test, two operators do not count for each other.

    Callers record events here; values that grow by themselves, such as an age, are read at each scrape, from
    another thread.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.registry = CollectorRegistry()
        self._monotonic = monotonic
        self._made = {
            measure.name: self._make(measure) for measure in MEASURES if measure is not NAMESPACE_WAITING
        }
        self._waiting = _LongestQueues()
        self.registry.register(self._waiting)
        self._resynced_at: float | None = None
        self._pools: dict[str, set[ObjectName]] = {}
        """By backend: the pools that have series."""
        self.gauge(WATCH_AGE).set(math.nan)
        self.gauge(RESYNC_AGE).set_function(lambda: self._age(self._resynced_at))

    def _make(self, measure: Measure) -> Counter | Gauge | Histogram:
        labels = tuple(measure.labels)
        if measure.kind is Histogram:
            return Histogram(
                measure.full_name, measure.meaning, labels, registry=self.registry, buckets=measure.buckets
            )
        return measure.kind(measure.full_name, measure.meaning, labels, registry=self.registry)

    def counter(self, measure: Measure, *labels: str) -> Counter:
        made = self._made[measure.name]
        assert isinstance(made, Counter)
        return made.labels(*labels) if labels else made

    def gauge(self, measure: Measure, *labels: str) -> Gauge:
        made = self._made[measure.name]
        assert isinstance(made, Gauge)
        return made.labels(*labels) if labels else made

    def histogram(self, measure: Measure, *labels: str) -> Histogram:
        made = self._made[measure.name]
        assert isinstance(made, Histogram)
        return made.labels(*labels) if labels else made

    # --- Recorded ------------------------------------------------------------------------------------------------

    def passed(self, kind: str, seconds: float, error: Exception | None) -> None:
        """Record a pass over an object of *kind*."""
        self.histogram(RECONCILE, kind).observe(seconds)
        if error is not None:
            self.counter(RECONCILE_ERRORS, kind, type(error).__name__).inc()

    def resynced(self, seconds: float) -> None:
        """Record a resync that has finished."""
        self.histogram(RESYNC).observe(seconds)
        self._resynced_at = self._monotonic()

    def status_written(self, outcome: str) -> None:
        self.counter(STATUS_WRITES, outcome).inc()

    def withdrew(self, cause: str, records: int = 1) -> None:
        self.counter(WITHDRAWALS, cause).inc(records)

    def count_condition(self, condition: str, status: str, tasks: int) -> None:
        """Set how many tasks have *condition* with *status*; 0 removes the series."""
        if tasks:
            self.gauge(TASKS, condition, status).set(tasks)
        else:
            self.gauge(TASKS).remove(condition, status)

    def set_backlogs(
        self, backend: str, backlogs: Mapping[ObjectName, Backlog], namespace: str | None = None
    ) -> None:
        """Set the backlog of each pool on *backend*, and remove the series of its other pools; with *namespace*, only of that one."""
        reported = self._pools.setdefault(backend, set())
        for pool in {pool for pool in reported if namespace in {None, pool.namespace}} - backlogs.keys():
            self.gauge(DUE).remove(*pool, backend)
            self.gauge(LATENESS).remove(*pool, backend)
            reported.discard(pool)
        reported.update(backlogs)
        for pool, backlog in backlogs.items():
            self.gauge(DUE, *pool, backend).set(backlog.due)
            self.gauge(LATENESS, *pool, backend).set(backlog.late_seconds)

    @contextmanager
    def measured(self, backend: str, operation: str) -> Iterator[None]:
        """Measure a call of *backend* that happens within."""
        began = time.perf_counter()
        try:
            yield
        except Exception:
            self.counter(BACKEND_ERRORS, backend, operation).inc()
            raise
        finally:
            self.histogram(BACKEND, backend, operation).observe(time.perf_counter() - began)

    # --- Read at each scrape -------------------------------------------------------------------------------------

    def report_queue(
        self, waiting: Callable[[], int], in_progress: Callable[[], int], deferred: Callable[[], int]
    ) -> None:
        """Report the lengths of the work queue, read at each scrape."""
        self.gauge(QUEUE, "waiting").set_function(waiting)
        self.gauge(QUEUE, "in_progress").set_function(in_progress)
        self.gauge(QUEUE, "deferred").set_function(deferred)

    def report_queue_by_namespace(self, queue: str, waiting: Callable[[], Mapping[str, int]]) -> None:
        """Report the number of entries of each namespace in *queue*, read at each scrape by another thread."""
        self._waiting.queues[queue] = waiting

    def report_last_delivery(self, last_delivery_at: Callable[[], float | None]) -> None:
        """Report the age of the last delivery of the watch, a monotonic time that is read at each scrape."""
        self.gauge(WATCH_AGE).set_function(lambda: self._age(last_delivery_at()))

    def report_objects(self, kind: str, count: Callable[[], int]) -> None:
        self.gauge(OBJECTS, kind).set_function(count)

    def _age(self, at: float | None) -> float:
        """Return the seconds since then: NaN where it never was, which is neither old nor new."""
        return math.nan if at is None else self._monotonic() - at


class _LongestQueues(Collector):
    """The collector of `NAMESPACE_WAITING`: for each queue, the namespaces with the most entries."""

    def __init__(self) -> None:
        self.queues: dict[str, Callable[[], Mapping[str, int]]] = {}

    def describe(self) -> list[GaugeMetricFamily]:
        return [self._family()]

    def collect(self) -> list[GaugeMetricFamily]:
        family = self._family()
        for queue, waiting in self.queues.items():
            longest = heapq.nlargest(NAMESPACES_MAX, waiting().items(), key=lambda item: item[1])
            for namespace, count in longest:
                family.add_metric((queue, namespace), count)
        return [family]

    @staticmethod
    def _family() -> GaugeMetricFamily:
        return GaugeMetricFamily(
            NAMESPACE_WAITING.full_name, NAMESPACE_WAITING.meaning, labels=tuple(NAMESPACE_WAITING.labels)
        )
