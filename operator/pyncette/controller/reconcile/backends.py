"""Keeps the backends of the settings open, and checks which of them answer."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import Final, NamedTuple

from pyncette.clock import SystemClock, synchronize
from pyncette.controller.intervals import CONNECTS, DEFAULT, Intervals
from pyncette.controller.metrics import BACKEND_UP, DATABASE_COPIED, Metrics
from pyncette.controller.reconcile.databases import Databases, answered
from pyncette.controller.reconcile.open_namespaces import OpenNamespaces
from pyncette.controller.settings import BackendSettings, OperatorSettings
from pyncette.controller.status.observed import Access
from pyncette.coordination.members import OlderWorkersError, migrate
from pyncette.errors import ConfigurationError, PyncetteException, SchemaError, StoreError
from pyncette.ledger.ledger import Ledger
from pyncette.store.backend import Backend
from pyncette.store.base import Store
from pyncette.store.cancellation import leaks_as_errors
from pyncette.store.redaction import without_secrets

logger = logging.getLogger(__name__)

RACE_SECONDS: Final = 1.0
"""
Time limit for the races that the writes of a pass may lose. The pass then fails and is retried with backoff.

A tenant can rewrite its rows without pause, and must not occupy one of the few passes that all tenants share.
"""

COMPARED_SECONDS: Final = 60.0
"""Interval of comparisons of an available backend with others: its driver may have connected to another database meanwhile."""

FAULT_SECONDS: Final = 60.0
"""Minimum time between changes of the reported error of an unavailable backend. Each change rewrites the status of its tasks."""


class Reach(NamedTuple):
    """How backends are reached, and what time it is; tests simulate both."""

    read: Callable[[BackendSettings], Backend] = BackendSettings.read
    clock: Callable[[], SystemClock] = SystemClock


REAL: Final = Reach()


class OpenBackend:
    """A backend of the settings, and its current state."""

    def __init__(
        self,
        settings: BackendSettings,
        databases: Databases,
        metrics: Metrics,
        intervals: Intervals = DEFAULT,
        reach: Reach = REAL,
    ) -> None:
        self.settings = settings
        self._databases = databases
        self._intervals = intervals
        self._reach = reach
        self._metrics = metrics
        metrics.gauge(BACKEND_UP, settings.name).set_function(lambda: float(self.ready))
        metrics.gauge(DATABASE_COPIED, settings.name).set_function(lambda: float(self.is_copy))
        self.clock = reach.clock()
        """The backend's time. Until the backend has answered it is this machine's, which no decision uses."""
        self.ready = False
        """True if it answered the last health check."""
        self.fault = ""
        """Why it is not ready, as reported, without secrets; empty if it is ready, or was not checked yet."""
        self._logged = ""
        """The error that was logged last."""
        self._ledger: Ledger | None = None
        self._opened: Backend | None = None
        """The backend of the last attempt to connect: no error may show its URL."""
        self._on_change: Callable[[], None] = lambda: None
        self._fault_since = -FAULT_SECONDS
        """When the reported error last changed, by the monotonic clock of the loop."""

    @property
    def store_name(self) -> str:
        """The name of the first opened backend that shares its database; its own name unless there is one."""
        return self._databases.store_name(self.name)

    @property
    def is_copy(self) -> bool:
        """True if its database has the identity of another one, so that one of them is a copy."""
        return self._databases.is_copy(self.name)

    @property
    def is_alias(self) -> bool:
        """True if another backend of the settings has the same records and is scanned instead."""
        return self.store_name != self.name

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def is_expected(self) -> bool:
        """True if it answers, or if it is being opened for the first time."""
        return self.ready or not self.fault

    @property
    def ledger(self) -> Ledger | None:
        """The ledger that writes to it; None while it does not answer."""
        return self._ledger if self.ready else None

    async def keep(self, on_change: Callable[[], None]) -> None:
        """Open it and check it until cancelled; call *on_change* when it becomes available or unavailable."""
        self._on_change = on_change
        delays = CONNECTS.delays(random.random)
        while True:
            try:
                with leaks_as_errors():
                    await self._prepare()
                    async with self._read().new_store(create=False) as store:
                        delays = CONNECTS.delays(random.random)
                        self._ledger = Ledger(store, self.clock, race_seconds=RACE_SECONDS)
                        await self._keep_checking(store)
            except Exception as error:  # noqa: BLE001 - even a bug, ours or a driver's, costs this backend alone
                self.mark_down(error)
            finally:
                self._ledger = None
                self._databases.disconnected(self.name)
            await asyncio.sleep(next(delays))

    async def _keep_checking(self, store: Store) -> None:
        """Check that the connection *store* responds, and compare its database regularly, until cancelled."""
        is_fresh, compared_at = True, 0.0
        while True:
            try:
                await self._ping(store)
                now = asyncio.get_running_loop().time()
                if not self.ready or now - compared_at >= COMPARED_SECONDS:
                    await self._databases.compare(self.name, store, fresh=is_fresh, again=self.ready)
                    is_fresh, compared_at = False, now
            except StoreError as error:
                self.mark_down(error)
            else:
                self._mark_up()
            await asyncio.sleep(self._intervals.backend)

    async def _ping(self, store: Store) -> None:
        with self._metrics.measured(self.name, "ask"):
            await answered(synchronize(self.clock, store.now))

    async def check_database(self, store: Store) -> None:
        """
        Raise StoreError if *store* does not lead to the database that was compared with those of other backends.

        Its driver may have reconnected to a database that another backend uses. A scan would then find the tasks there under
        two names, and treat each as a move of the other.
        """
        try:
            await self._databases.check(self.name, store)
        except StoreError as error:
            self.mark_down(error)
            raise

    async def _prepare(self) -> None:
        """Migrate the tables, and create the roles, as far as the settings leave that to the operator."""
        settings = self.settings.roles
        if settings is None:
            await self._migrate()
            return
        roles = settings.of(self._read())
        await self._as_administrator(roles.create, settings.administrator)
        await self._migrate()
        await self._as_administrator(roles.grant, settings.administrator)

    async def _as_administrator(self, change: Callable[[], Awaitable[None]], administrator: str) -> None:
        """
        Make a *change* to the users of the database, as *administrator*.

        Without it, an installation that had it before goes on. If the user of the operator's URL cannot log in either,
        this raises the StoreError of the change.
        """
        try:
            await change()
        except StoreError as error:
            if not await self._can_log_in():
                raise
            logger.warning(
                "could not create the users of a database or grant them their rights, and uses them as they are; "
                "correct the password of %s in the Secret %s: it must be the one in the database, and a volume keeps that "
                "of its first start",
                administrator,
                self.settings.secret_name,
                extra={"backend": self.name, "error": self.message_of(error)},
            )

    async def _can_log_in(self) -> bool:
        """Return whether the user of the operator's own URL can log in, whatever tables there are."""
        try:
            async with self._read().new_store(create=False):
                return True
        except SchemaError:
            return True
        except StoreError:
            return False

    async def _migrate(self) -> None:
        if self.settings.migrate != "Auto":
            return
        try:
            migrated = await migrate(self._read())
        except OlderWorkersError as error:
            # Older workers keep running, and this release works with their tables. The next start tries again.
            logger.info(
                "did not migrate: older workers are still running",
                extra={"backend": self.name, "error": str(error)},
            )
            return
        if migrated.before != migrated.after:
            logger.info(
                "migrated the tables of a backend to the schema of this release",
                extra={"backend": self.name, "before": migrated.before, "after": migrated.after},
            )

    def _read(self) -> Backend:
        """Return the backend that its file names, which is read again at each connect, since a Secret may be changed."""
        settings = self.settings
        try:
            self._opened = self._reach.read(settings)
            return self._opened
        except ConfigurationError as error:
            raise ConfigurationError(
                f"the URL of the backend {self.name}: {error}; it is the key {settings.secret_key} of the Secret "
                f"{settings.secret_name}, mounted for the operator"
            ) from None

    def _mark_up(self) -> None:
        if self.ready:
            return
        self.ready, self.fault = True, ""
        logger.info("backend ready", extra={"backend": self.name})
        self._on_change()

    def mark_down(self, error: Exception) -> None:
        """Record that it failed with *error*, and is unavailable until the next health check."""
        now = asyncio.get_running_loop().time()
        message = self.message_of(error)
        if self.ready or message != self._logged:
            log_failure("backend unavailable", self, error)
        self._logged = message
        is_news = self.is_expected or (message != self.fault and now - self._fault_since >= FAULT_SECONDS)
        self.ready = False
        self._databases.disconnected(self.name)
        if is_news:
            self.fault, self._fault_since = message, now
            self._on_change()

    def message_of(self, error: Exception) -> str:
        """Return the message of *error* for the log, and for conditions that tenants read: without secrets."""
        if not isinstance(error, PyncetteException):
            # A bug, ours or a driver's: its message may hold anything.
            return f"unexpected {type(error).__name__}; see the log of the operator"
        return without_secrets(str(error), self.urls()) or type(error).__name__

    def urls(self) -> Iterator[str]:
        """Yield the URL of the last attempt to connect, and the current one."""
        if self._opened is not None:
            yield self._opened.url
            yield self._opened.with_current_credentials().url


def log_failure(message: str, backend: OpenBackend, error: Exception) -> None:
    """Log a failure of *backend* that is retried; with a traceback if it is a bug."""
    bug = None if isinstance(error, PyncetteException) else error
    logger.warning(message, exc_info=bug, extra={"backend": backend.name, "error": backend.message_of(error)})


class Backends:
    """All backends of the settings."""

    def __init__(
        self,
        settings: OperatorSettings,
        metrics: Metrics,
        intervals: Intervals = DEFAULT,
        reach: Reach = REAL,
    ) -> None:
        self.clock = reach.clock()
        """The clock for pools without a backend."""
        self.open_namespaces = OpenNamespaces(settings.backends, intervals.namespaces)
        """The namespaces that each backend is open to. Records are compared with them one by one."""
        databases = Databases(self._mark_down, self._changed)
        self._all: Mapping[str, OpenBackend] = {
            backend.name: OpenBackend(backend, databases, metrics, intervals, reach)
            for backend in settings.backends
        }
        self._on_change: Callable[[OpenBackend], None] = lambda _: None

    def __iter__(self) -> Iterator[OpenBackend]:
        return iter(self._all.values())

    @property
    def ready(self) -> bool:
        """True if all of them answer."""
        return all(backend.ready for backend in self)

    def message_of(self, error: Exception) -> str | None:
        """Return the message of a backend's *error* without secrets, for the log; None if it is no error of a backend."""
        if not isinstance(error, StoreError):
            return None
        urls = [url for backend in self for url in backend.urls()]
        return without_secrets(str(error), urls) or type(error).__name__

    def get(self, name: str) -> OpenBackend | None:
        """Return the backend of this name, if the settings have one."""
        return self._all.get(name)

    def store_name(self, name: str) -> str:
        """Return the name of the store of the backend *name*, as far as that is known."""
        backend = self._all.get(name)
        return name if backend is None else backend.store_name

    def names_of(self, store_name: str) -> frozenset[str]:
        """Return the names of all backends whose records are at *store_name*, as far as that is known."""
        return frozenset(backend.name for backend in self if backend.store_name == store_name)

    def is_open(self, store_name: str, namespace: str) -> bool:
        """Return whether pools in *namespace* may use the records at *store_name*, by any name of the backend."""
        return any(
            self.open_namespaces.is_open(backend.name, namespace)
            for backend in self
            if backend.store_name == store_name
        )

    def is_exclusive(self, store_name: str, namespace: str) -> bool:
        """Return whether pools in *namespace*, and in no other one, may use the records at *store_name*."""
        return self.open_namespaces.is_exclusive(self.names_of(store_name), namespace)

    def settings(self, name: str, namespace: str) -> BackendSettings | None:
        """Return the settings of the backend *name*, if there is one and pools in *namespace* may use it."""
        backend = self._all.get(name)
        if backend is None or not self.open_namespaces.is_open(name, namespace):
            return None
        return backend.settings

    def access(self, name: str, namespace: str) -> Access:
        """Return the access of pools in *namespace* to the backend *name*."""
        backend = self._all.get(name)
        if backend is None:
            return Access.UNKNOWN
        if not self.open_namespaces.is_open(name, namespace):
            return Access.REFUSED
        return Access.OPEN if backend.ready else Access.DOWN

    async def keep(self, on_change: Callable[[OpenBackend], None]) -> None:
        """
        Keep all of them open until cancelled.

        Call *on_change* with one that becomes available or unavailable, has another store name, or became a copy.
        """
        self._on_change = on_change
        async with asyncio.TaskGroup() as keeping:
            for backend in self:
                keeping.create_task(backend.keep(partial(on_change, backend)))

    def _changed(self, name: str) -> None:
        self._on_change(self._all[name])

    def _mark_down(self, name: str, error: Exception) -> None:
        self._all[name].mark_down(error)
