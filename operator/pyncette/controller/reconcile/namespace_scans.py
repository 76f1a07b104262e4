"""Scans a backend for the writes of workers, one namespace at a time, so that a large one delays no other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection
from typing import Final

from pyncette.controller.fair_queue import fair_share
from pyncette.controller.intervals import Intervals
from pyncette.controller.reconcile.backends import OpenBackend, log_failure
from pyncette.store.cancellation import leaks_as_errors

SCANS_AT_ONCE: Final = 4
"""Maximum number of concurrent scans of a backend, so that a slow scan of one namespace does not block the others."""


class NamespaceScans:
    """
    The scans of one *backend*.

    *scan* scans a namespace, or everything for None, and returns its duration in seconds. *namespaces* returns those with
    records or pools. The first scan covers everything, and so does the next one after `restart`. While *namespaces* is
    empty, each scan covers everything, so that it finds the first record.

    All scans together take at most one part in `Intervals.scan_share` of the time, and namespaces have equal shares of it.
    So a namespace with a quick scan is scanned often, however long the others take.
    """

    def __init__(
        self,
        backend: OpenBackend,
        scan: Callable[[str | None], Awaitable[float]],
        namespaces: Callable[[], Collection[str]],
        intervals: Intervals,
    ) -> None:
        self._backend = backend
        self._scan = scan
        self._namespaces = namespaces
        self._intervals = intervals
        self._restarted = asyncio.Event()
        self._is_complete = False
        """Whether everything was scanned since the start, or since `restart`."""
        self._seconds: dict[str | None, float] = {}
        """By namespace: the duration of its last scan; None: of everything."""
        self._due_at: dict[str | None, float] = {}
        self._under_way: dict[str | None, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(SCANS_AT_ONCE)
        self._logged_at = float("-inf")

    def restart(self) -> None:
        """Scan everything as soon as possible, since the backend became available and its records may differ."""
        self._is_complete = False
        self._restarted.set()

    async def run(self) -> None:
        """Scan until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                if self._is_usable and not self._is_complete:
                    await self._scan_all()
                elif self._is_usable:
                    for namespace in self._due():
                        task = group.create_task(self._scan_one(namespace))
                        self._under_way[namespace] = task
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._intervals.scan):
                        await self._restarted.wait()
                self._restarted.clear()

    @property
    def _is_usable(self) -> bool:
        return self._backend.ledger is not None and not self._backend.is_alias

    def _due(self) -> list[str | None]:
        """Return the namespaces whose scan is due, the longest overdue first; None stands for everything."""
        present: set[str | None] = {*self._namespaces()} or {None}
        now = _now()
        if self._under_way and None in present | self._under_way.keys():
            return []  # a scan of everything runs alone
        for gone in self._seconds.keys() - present:
            del self._seconds[gone], self._due_at[gone]
        due = [name for name in present - self._under_way.keys() if self._due_at.get(name, now) <= now]
        return sorted(due, key=lambda name: (self._due_at.get(name, now), name or ""))

    async def _scan_all(self) -> None:
        if self._under_way:
            await asyncio.wait(self._under_way.values())
            if not self._is_usable:
                return
        self._is_complete = True
        try:
            with leaks_as_errors():
                await self._scan(None)
        except Exception as error:  # noqa: BLE001 - the next turn retries
            self._is_complete = False
            self._log(error)

    async def _scan_one(self, namespace: str | None) -> None:
        try:
            async with self._slots:
                if self._is_usable:
                    with leaks_as_errors():
                        self._seconds[namespace] = await self._scan(namespace)
        except Exception as error:  # noqa: BLE001 - a failure concerns this namespace alone
            self._log(error)
        finally:
            del self._under_way[namespace]
            own = self._seconds.setdefault(namespace, 0.0)
            shared = fair_share(own, sum(self._seconds.values()), len(self._seconds))
            self._due_at[namespace] = _now() + max(self._intervals.scan, self._intervals.scan_share * shared)

    def _log(self, error: Exception) -> None:
        """Log a failure, at most once per scan interval: usually all namespaces fail together."""
        if _now() - self._logged_at >= self._intervals.scan:
            self._logged_at = _now()
            log_failure("could not scan a backend", self._backend, error)


def _now() -> float:
    return asyncio.get_running_loop().time()
