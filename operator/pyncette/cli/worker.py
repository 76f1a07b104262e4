"""Runs the worker process of a task module."""

from __future__ import annotations

import asyncio
import datetime
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager

from pyncette.app.application import Pyncette
from pyncette.app.context import PyncetteContext, runtime_of
from pyncette.app.process import choose_loop, run_context
from pyncette.app.runtime import Runtime
from pyncette.cli.failures import Failure
from pyncette.cli.modules import Target, load_app
from pyncette.cli.settings import Settings
from pyncette.errors import ConfigurationError
from pyncette.sqlite import sqlite_repository
from pyncette.store.backend import Backend
from pyncette.store.base import Store
from pyncette.telemetry.health import HealthServer

logger = logging.getLogger(__name__)


def run_worker(target: Target, settings: Settings) -> int:
    """
    Run the app of *target* until SIGINT or SIGTERM; return the exit code.

    Raises ConfigurationError or StoreError if it cannot start or continue.
    """
    backend = settings.backend
    if backend is None:
        raise Failure(
            "no backend configured: set PYNCETTE_BACKEND or pass --backend, such as sqlite:///tasks.db"
        )
    app = load_app(target)
    say_what_is_ignored(app, backend)
    if backend.in_memory:
        logger.warning(
            "records are kept in memory: they are lost when this process ends, and no other process can share them"
        )
    health = _Health(settings.stall_seconds)
    new_store: Callable[[], Store] = backend.new_store
    if settings.metrics is not None:
        new_store = _measured(app, backend)

    @asynccontextmanager
    async def create() -> AsyncIterator[PyncetteContext]:
        async with app.create(
            new_store=new_store, realm=settings.realm, slots=settings.concurrency
        ) as context:
            health.runtime = runtime_of(context)
            logger.info(
                "running handlers",
                extra={
                    "task_module": target.module,
                    "backend": str(backend),
                    "realm": settings.realm,
                    "handlers": ",".join(sorted(app.tasks)),
                },
            )
            yield context

    with ExitStack() as stack:
        if settings.health is not None:
            checks = {"/healthz": health.is_live, "/readyz": health.is_ready}
            server = stack.enter_context(HealthServer(*settings.health, checks))
            logger.info("serving health checks", extra={"port": server.port})
        if settings.metrics is not None:
            from pyncette.telemetry.metrics import served_metrics  # noqa: PLC0415 - the library is an extra

            port = stack.enter_context(served_metrics(*settings.metrics, lambda: health.runtime))
            logger.info("serving metrics", extra={"port": port})
        with asyncio.Runner(loop_factory=choose_loop()) as runner:
            return runner.run(run_context(create, datetime.timedelta(seconds=settings.drain_seconds)))


def say_what_is_ignored(app: Pyncette, backend: Backend) -> None:
    """Log a warning if the task module configures a backend, which is not used."""
    configuration = app.configuration
    if app.repository_factory is not sqlite_repository or "sqlite_database" in configuration:
        factory = getattr(app.repository_factory, "__name__", type(app.repository_factory).__name__)
        logger.warning(
            "the backend of the task module is ignored", extra={"ignored": factory, "used": str(backend)}
        )


def _measured(app: Pyncette, backend: Backend) -> Callable[[], Store]:
    """Measure *app*, and return a factory of measured stores of *backend*. Raises ConfigurationError."""
    try:
        from pyncette.prometheus import use_prometheus, with_prometheus_repository  # noqa: PLC0415 - an extra
    except ImportError:
        raise ConfigurationError(
            "metrics need prometheus-client: pip install 'pyncette-operator[prometheus]'"
        ) from None
    use_prometheus(app, measure_repository=False)
    return with_prometheus_repository(backend.new_store)


class _Health:
    """The health checks of a worker. An unavailable backend makes it unready but not unlive: a restart would not help."""

    def __init__(self, stall_seconds: float) -> None:
        self._stall_seconds = stall_seconds
        self.runtime: Runtime | None = None

    def is_live(self) -> bool:
        if self.runtime is None or not self._stall_seconds:
            return True
        return self.runtime.stalled_seconds <= self._stall_seconds

    def is_ready(self) -> bool:
        return self.runtime is not None and self.runtime.ready
