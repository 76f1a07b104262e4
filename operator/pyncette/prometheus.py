"""Counts and times runs, polls and calls of the backend, for Prometheus."""

from __future__ import annotations

import functools
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from pyncette.app.configuration import require_store
from pyncette.app.context import Context, NextFunc, runtime_of
from pyncette.clock import SECOND, Duration, Instant
from pyncette.core.record import Change, Key, Outcome, Partition, Record, Run
from pyncette.core.times import instant_of
from pyncette.store.base import Capabilities, Claimed, Counted, Notification, Renewal, Renewed, Store

try:
    from prometheus_client import Counter, Gauge, Histogram
except ImportError as error:
    raise ImportError(
        "pyncette.prometheus needs prometheus-client: pip install 'pyncette-operator[prometheus]'"
    ) from error

if TYPE_CHECKING:
    from pyncette.app.application import Pyncette

STALENESS_BUCKETS: Final = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 60, 300, 3600)
"""In seconds, from the few milliseconds of an idle worker to the hours of a backlog."""

SEVERAL: Final = "*"
"""The task name of a batched call of the backend for several tasks."""

_MEASURES: Final = "_pyncette_measures"
"""Attribute of a factory whose stores are measured."""

_F = TypeVar("_F", bound=Callable[..., Store])


class Operation:
    """The four metrics of one kind of operation."""

    def __init__(self, name: str, of: str, labels: Sequence[str]) -> None:
        self._total = Counter(f"pyncette_{name}_total", f"Number of {of} that have started", labels)
        self._seconds = Histogram(f"pyncette_{name}_duration_seconds", f"Duration of {of}", labels)
        self._failures = Counter(
            f"pyncette_{name}_failures_total", f"Number of {of} that have failed", (*labels, "exception_type")
        )
        self._in_progress = Gauge(f"pyncette_{name}_in_progress", f"Number of {of} in progress", labels)

    @contextmanager
    def measured(self, *labels: str) -> Iterator[None]:
        """Measure the block."""
        total, seconds, in_progress = self._of(*labels)
        total.inc()
        in_progress.inc()
        began = time.perf_counter()
        try:
            yield
        except BaseException as error:
            self._failures.labels(*labels, type(error).__name__).inc()
            raise
        finally:
            seconds.observe(time.perf_counter() - began)
            in_progress.dec()

    @functools.cache  # noqa: B019 - lives as long as the program; finding a child by its labels costs more than using it
    def _of(self, *labels: str) -> tuple[Counter, Histogram, Gauge]:
        metrics = (self._total, self._seconds, self._in_progress)
        return tuple(metric.labels(*labels) for metric in metrics) if labels else metrics  # type: ignore[return-value]


TASKS: Final = Operation("tasks", "runs", ["task_name"])
TICKS: Final = Operation("ticks", "polls", [])
REPOSITORY_OPS: Final = Operation("repository_ops", "calls of the backend", ["operation", "task_name"])
STALENESS: Final = Histogram(
    "pyncette_tasks_staleness_seconds",
    "Time from the due time of occurrences to their start",
    ["task_name"],
    buckets=STALENESS_BUCKETS,
)
OCCURRENCES: Final = Counter(
    "pyncette_occurrences_total",
    "Number of occurrences that have ended, by outcome",
    ["namespace", "pool", "task_name", "outcome"],
)


def use_prometheus(
    app: Pyncette,
    measure_repository: bool = True,
    measure_ticks: bool = True,
    measure_tasks: bool = True,
) -> None:
    """
    Measure *app* in the default registry of prometheus_client. `pyncette worker --metrics` serves it, or the task module.

    The label of a task is its template, never an instance, so that labels stay few. Repeated calls have no effect.
    *measure_tasks* measures runs, and counts occurrences by outcome.
    """
    if measure_repository and not getattr(app.repository_factory, _MEASURES, False):
        app.repository_factory = with_prometheus_repository(app.repository_factory)
    if measure_ticks and not any(isinstance(listener, _Ticks) for listener in app.listeners):
        app.use_listener(_Ticks())
    if measure_tasks and _measure_run not in app.middlewares:
        app.use_middleware(_measure_run)
        app.outcome_listeners.append(_Occurrences())


def with_prometheus_repository(factory: _F) -> _F:
    """Return a factory of measured stores of *factory*, with the same configuration."""

    @functools.wraps(factory)
    def measured(*args: Any, **configuration: Any) -> Any:
        return MeasuredStore(require_store(factory(*args, **configuration), factory))

    setattr(measured, _MEASURES, True)
    return measured  # type: ignore[return-value]


async def _measure_run(context: Context, next: NextFunc) -> None:  # noqa: A002 - a middleware's second argument
    task = context.task
    name = (task.parent_task or task).name
    if context.attempt <= 1:  # later attempts start after a backoff, which is not lateness
        late = runtime_of(context.app_context).clock.now() - instant_of(context.scheduled_at)
        STALENESS.labels(name).observe(late / SECOND)
    with TASKS.measured(name):
        await next()


class _Ticks:
    """Measures polls."""

    def polling(self) -> AbstractContextManager[None]:
        return TICKS.measured()


class _Occurrences:
    """
    A counter of occurrences, each when its outcome is written.

    All outcomes of a task are exported when the task is registered: a counter that begins at 1 has no increase.
    """

    def __init__(self) -> None:
        self._counters: dict[tuple[str, str], dict[Outcome, Counter]] = {}

    def registered(self, realm: str, task: str) -> None:
        if (realm, task) not in self._counters:
            self._counters[realm, task] = _counters_of(realm, task)

    def lost(self, realm: str, task: str) -> None:
        if self._counters.pop((realm, task), None) is not None:
            for outcome in Outcome:
                OCCURRENCES.remove(*_place_of(realm), task, outcome.value)

    def ended(self, realm: str, task: str, outcome: Outcome, number: int) -> None:
        self.registered(realm, task)
        self._counters[realm, task][outcome].inc(number)


def _counters_of(realm: str, task: str) -> dict[Outcome, Counter]:
    """Return the counters of *task* by outcome; their labels name the pool of the *realm*, if it has one."""
    return {outcome: OCCURRENCES.labels(*_place_of(realm), task, outcome.value) for outcome in Outcome}


def _place_of(realm: str) -> tuple[str, str]:
    """Return the namespace and the name of the pool of *realm*; empty if it is not the realm of a pool."""
    _, _, place = realm.partition("/")
    namespace, _, pool = place.partition("/")
    return (namespace, pool) if namespace and pool else ("", "")


class MeasuredStore:
    """A store that measures the calls of *store*."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def capabilities(self) -> Capabilities:
        return self._store.capabilities

    async def __aenter__(self) -> Self:
        await self._store.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._store.__aexit__(kind, error, trace)

    async def load(self, keys: Sequence[Key]) -> list[Record | None]:
        with REPOSITORY_OPS.measured("load", _only(key.task for key in keys)):
            return await self._store.load(keys)

    async def swap(self, changes: Sequence[Change]) -> list[bool]:
        with REPOSITORY_OPS.measured("swap", _only(_task_of(change) for change in changes)):
            return await self._store.swap(changes)

    async def claim(
        self,
        limits: Mapping[Partition, int],
        lease_id: str,
        holder: str,
        now: Instant,
        expired_at: Instant,
        ahead: Duration = 0,
    ) -> Claimed:
        with REPOSITORY_OPS.measured("claim", _only(partition.handler for partition in limits)):
            return await self._store.claim(limits, lease_id, holder, now, expired_at, ahead)

    async def renew(self, renewals: Sequence[Renewal], now: Instant) -> Renewed:
        with REPOSITORY_OPS.measured("renew", _only(renewal.key.task for renewal in renewals)):
            return await self._store.renew(renewals, now)

    async def scan(
        self, partition: Partition, task: str | None, after: Key | None, limit: int
    ) -> list[Record]:
        with REPOSITORY_OPS.measured("scan", task or partition.handler):
            return await self._store.scan(partition, task, after, limit)

    async def count(
        self, partition: Partition, task: str | None, now: Instant, longest_lease: Duration, limit: int
    ) -> Counted:
        with REPOSITORY_OPS.measured("count", task or partition.handler):
            return await self._store.count(partition, task, now, longest_lease, limit)

    async def partitions(self, realm: str) -> list[Partition]:
        with REPOSITORY_OPS.measured("partitions", SEVERAL):
            return await self._store.partitions(realm)

    async def history(self, key: Key) -> list[Run]:
        with REPOSITORY_OPS.measured("history", key.task):
            return await self._store.history(key)

    async def now(self) -> Instant:
        with REPOSITORY_OPS.measured("now", SEVERAL):
            return await self._store.now()

    async def notify(self, notifications: Sequence[Notification]) -> None:
        with REPOSITORY_OPS.measured(
            "notify", _only(notification.partition.handler for notification in notifications)
        ):
            await self._store.notify(notifications)

    def notified(self) -> AsyncIterator[Notification]:
        return self._store.notified()


def _task_of(change: Change) -> str:
    record = change.before or change.after
    assert record is not None
    return record.key.task


def _only(names: Iterable[str]) -> str:
    """Return the only name in *names*, or `SEVERAL`."""
    (first, *others) = {*names} or {SEVERAL}
    return SEVERAL if others else first
