"""Serves the metrics of a worker, or of the operator, to Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Protocol

from prometheus_client import REGISTRY, CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from pyncette._version import __version__
from pyncette.telemetry.certificate import ServerCertificate
from pyncette.telemetry.http import HttpServer, Request, Response
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
    """A collector of the state of a worker. *context_of* returns the app context of the worker, None before it starts."""

    def __init__(self, context_of: Callable[[], Measured | None]) -> None:
        self._context_of = context_of

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("pyncette", "The version of Pyncette", {"version": __version__})
        context = self._context_of()
        if context is None:
            return
        figures = context.figures
        yield _gauge("ready", "1 while the worker claims and the backend answers", context.ready)
        yield _gauge("slots", "Handlers that can run at the same time", figures.slots)
        yield _gauge(
            "slots_used",
            "Slots taken by runs, and by claimed occurrences that are about to run",
            figures.slots_used,
        )
        yield CounterMetricFamily("pyncette_worker_claims", "Claimed occurrences", value=figures.claimed)
        yield _gauge(
            "backlogged_partitions",
            "Partitions in which more was due than the last poll could take",
            figures.backlogged,
        )
        yield _gauge(
            "unwritten_results", "Results of runs that are not written to the backend yet", figures.unwritten
        )
        yield _gauge(
            "stalled_seconds",
            "Seconds since the event loop last ran, to within a second",
            context.stalled_seconds,
        )


def _gauge(name: str, meaning: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"pyncette_worker_{name}", meaning, value=float(value))


Guard = Callable[[Request], Response | None]
"""Returns the answer to a request that may not read the metrics; None: it may."""


class MetricsServer(HttpServer):
    """An HTTP server of the metrics in *registry*, for requests that the *guard* lets through."""

    def __init__(
        self,
        host: str | None,
        port: int,
        registry: CollectorRegistry,
        guard: Guard | None = None,
        certificate: ServerCertificate | None = None,
    ) -> None:
        app = make_wsgi_app(registry)

        def answer(request: Request) -> Response:
            refusal = None if guard is None else guard(request)
            if refusal is not None:
                return refusal
            status, headers = HTTPStatus.OK, []

            def start_response(line: str, named: list[tuple[str, str]], *_: Any) -> None:
                nonlocal status, headers
                status, headers = HTTPStatus(int(line.partition(" ")[0])), named

            body = b"".join(app(_environment(request), start_response))
            return Response(status, body, headers)

        super().__init__("metrics", host, port, answer, certificate)


def _environment(request: Request) -> dict[str, str]:
    """Return what the WSGI application of prometheus_client reads of a request."""
    return {
        "REQUEST_METHOD": "GET" if request.method == "HEAD" else request.method,
        "PATH_INFO": request.path,
        "QUERY_STRING": request.query,
        "HTTP_ACCEPT": request.headers.get("Accept", ""),
        "HTTP_ACCEPT_ENCODING": request.headers.get("Accept-Encoding", ""),
    }


@contextmanager
def served_metrics(host: str | None, port: int, context_of: Callable[[], Measured | None]) -> Iterator[int]:
    """
    Serve the default registry and the metrics of a worker while this is entered; yield the port.

    *host* and *port* are those of HttpServer, which may raise ConfigurationError.
    """
    collector = WorkerCollector(context_of)
    with MetricsServer(host, port, REGISTRY) as server:
        REGISTRY.register(collector)
        try:
            yield server.port
        finally:
            REGISTRY.unregister(collector)
