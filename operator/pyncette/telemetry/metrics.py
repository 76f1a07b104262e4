"""Serves what a worker process measures to Prometheus, from a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from prometheus_client import REGISTRY, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from pyncette._version import __version__
from pyncette.errors import ConfigurationError
from pyncette.telemetry.health import all_addresses
from pyncette.worker.service import Figures


class Measured(Protocol):
    """A worker, as an app context shows it."""

    @property
    def figures(self) -> Figures: ...

    @property
    def ready(self) -> bool: ...

    @property
    def stalled_seconds(self) -> float: ...


class WorkerCollector(Collector):
    """Tells how a worker stands whenever somebody asks; *context_of* returns its context, None before it is there."""

    def __init__(self, context_of: Callable[[], Measured | None]) -> None:
        self._context_of = context_of

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("pyncette", "The release of Pyncette that runs", {"version": __version__})
        context = self._context_of()
        if context is None:
            return
        figures = context.figures
        yield _gauge("ready", "Whether it claims, and the backend answers", context.ready)
        yield _gauge("slots", "Handlers that may run at once", figures.slots)
        yield _gauge(
            "slots_used", "Slots of what runs, and of what was claimed and is about to", figures.slots_used
        )
        yield CounterMetricFamily(
            "pyncette_worker_claims", "Occurrences that were claimed", value=figures.claimed
        )
        yield _gauge(
            "backlogged_partitions",
            "Partitions in which more was due than the last look at them could take",
            figures.backlogged,
        )
        yield _gauge(
            "unwritten_results", "Results of runs that the backend has not taken yet", figures.unwritten
        )
        yield _gauge(
            "stalled_seconds",
            "How long the event loop has not turned, to a second",
            context.stalled_seconds,
        )


def _gauge(name: str, meaning: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"pyncette_worker_{name}", meaning, value=float(value))


@contextmanager
def served_metrics(host: str | None, port: int, context_of: Callable[[], Measured | None]) -> Iterator[int]:
    """
    Serve the default registry, and how a worker stands, while this is entered; yield the port.

    On *port* of *host*, or of all addresses; port 0 takes a free one. Raises ConfigurationError if it is taken.
    """
    collector = WorkerCollector(context_of)
    try:
        server, thread = start_http_server(port, host or all_addresses())
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise ConfigurationError(
            f"metrics cannot be served on {host or ''}:{port}: {reason or error}"
        ) from error
    REGISTRY.register(collector)
    try:
        yield server.server_port
    finally:
        REGISTRY.unregister(collector)
        server.shutdown()
        server.server_close()
        thread.join()
