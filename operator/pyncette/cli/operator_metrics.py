"""Serves the metrics of the operator, to everybody or to those whom the API server lets read them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry

from pyncette.controller.cluster.metrics_access import Access, MetricsAccess, Reviews
from pyncette.controller.settings import OperatorSettings
from pyncette.telemetry.certificate import ServerCertificate
from pyncette.telemetry.http import Request, Response
from pyncette.telemetry.metrics import Guard, MetricsServer

REFUSALS: Final[Mapping[Access, Response]] = {
    Access.UNAUTHENTICATED: Response.of_text(
        HTTPStatus.UNAUTHORIZED, "Unauthorized", ("WWW-Authenticate", "Bearer")
    ),
    Access.FORBIDDEN: Response.of_text(
        HTTPStatus.FORBIDDEN, "Forbidden: the account may not get the non-resource URL /metrics"
    ),
    Access.UNDECIDED: Response.of_text(
        HTTPStatus.SERVICE_UNAVAILABLE, "Service Unavailable: the API server has not decided on the token"
    ),
}


def operator_metrics(
    settings: OperatorSettings, reviews: Reviews, registry: CollectorRegistry
) -> MetricsServer:
    """
    Return the server of the metrics in *registry*, which asks *reviews* on the running loop.

    Raises ConfigurationError if its certificate cannot be used.
    """
    guard = guarded(MetricsAccess(reviews, asyncio.get_running_loop()))
    folder = settings.metrics_certificate
    return MetricsServer(
        None,
        settings.metrics,
        registry,
        guard if settings.metrics_authentication else None,
        ServerCertificate(Path(folder)) if folder else None,
    )


def guarded(access: MetricsAccess) -> Guard:
    """Return a guard that lets through those whom *access* allows to read the metrics."""

    def guard(request: Request) -> Response | None:
        decision = access.decide(request.headers.get("Authorization"))
        return None if decision is Access.ALLOWED else REFUSALS[decision]

    return guard
