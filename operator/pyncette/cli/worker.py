"""Runs a task module on the backend that it is told to use: what a pod does, and anyone who runs workers themselves."""

from __future__ import annotations

import asyncio
import datetime
import logging
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

from pyncette.app import Pyncette, PyncetteContext
from pyncette.cli.failures import Failure
from pyncette.cli.modules import Target, load_app
from pyncette.settings import Settings
from pyncette.sqlite import sqlite_repository
from pyncette.start import choose_loop, run_context
from pyncette.store.backend import Backend
from pyncette.telemetry.health import HealthServer

logger = logging.getLogger(__name__)


def run_worker(target: Target, settings: Settings) -> int:
    """
    Run the app of *target* until SIGINT or SIGTERM; return the exit code.

    Raises ConfigurationError and StoreError, if it cannot begin or cannot go on.
    """
    backend = settings.backend
    if backend is None:
        raise Failure(
            "no backend is said: set PYNCETTE_BACKEND or --backend, for example to sqlite:///tasks.db"
        )
    app = load_app(target)
    say_what_is_ignored(app, backend)
    if backend.in_memory:
        logger.warning("records are kept in memory: nothing survives this process, and no other takes part")
    health = _Health()

    @asynccontextmanager
    async def create() -> AsyncIterator[PyncetteContext]:
        async with app.create(
            new_store=backend.new_store, realm=settings.realm, slots=settings.concurrency
        ) as context:
            health.context = context
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
            logger.info("health is served", extra={"port": server.port})
        with asyncio.Runner(loop_factory=choose_loop()) as runner:
            return runner.run(run_context(create, datetime.timedelta(seconds=settings.drain_seconds)))


def say_what_is_ignored(app: Pyncette, backend: Backend) -> None:
    """Log that the backend of the module is not used, if it names one."""
    configuration = app.configuration
    if app.repository_factory is not sqlite_repository or "sqlite_database" in configuration:
        factory = getattr(app.repository_factory, "__name__", type(app.repository_factory).__name__)
        logger.warning(
            "the backend that the module names is ignored", extra={"ignored": factory, "used": str(backend)}
        )


class _Health:
    """What probes are told. A backend that is away makes a worker unready, and never unlive."""

    def __init__(self) -> None:
        self.context: PyncetteContext | None = None

    @staticmethod
    def is_live() -> bool:
        return True

    def is_ready(self) -> bool:
        return self.context is not None and self.context.ready
