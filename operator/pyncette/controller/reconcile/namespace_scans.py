"""Scans a backend for what workers have written: each namespace by itself, so that a large one delays no other."""

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
"""Concurrent scans of one backend: a namespace whose scan takes long leaves the others to the next ones in turn."""


class NamespaceScans:
    """
    The scans of one *backend*.

    *scan* scans a namespace, or everything if it is None, and returns the seconds that it took. *namespaces* returns those
    that hold anything. The first scan is one of everything, and so is the next one after `restart`. While no namespace holds
    anything, each scan is one of everything, which finds the first record.

    Scans take at most one part in `Intervals.scan_share` of the time, to which each namespace has an equal right. So a
    namespace whose scan is quick is scanned often, whatever the others take.
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
        """Whether everything was scanned since the last start."""
        self._seconds: dict[str | None, float] = {}
        """How long the last scan of each namespace took."""
        self._due_at: dict[str | None, float] = {}
        self._under_way: dict[str | None, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(SCANS_AT_ONCE)
        self._logged_at = float("-inf")

    def restart(self) -> None:
        """Scan everything as soon as possible: the backend became available, and may hold something else."""
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
        """Return the namespaces that are to be scanned now, those that have waited longest first; None: everything."""
        present: set[str | None] = {*self._namespaces()} or {None}
        now = _now()
        if self._under_way and None in present | self._under_way.keys():
            return []  # a scan of everything is the only one
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
        except Exception as error:  # noqa: BLE001 - it is tried again
            self._is_complete = False
            self._log(error)

    async def _scan_one(self, namespace: str | None) -> None:
        try:
            async with self._slots:
                if self._is_usable:
                    with leaks_as_errors():
                        self._seconds[namespace] = await self._scan(namespace)
        except Exception as error:  # noqa: BLE001 - one backend, one poisoned row: the others go on
            self._log(error)
        finally:
            del self._under_way[namespace]
            own = self._seconds.setdefault(namespace, 0.0)
            shared = fair_share(own, sum(self._seconds.values()), len(self._seconds))
            self._due_at[namespace] = _now() + max(self._intervals.scan, self._intervals.scan_share * shared)

    def _log(self, error: Exception) -> None:
        """Log a failure; if all namespaces fail at once, only the first of them."""
        if _now() - self._logged_at >= self._intervals.scan:
            self._logged_at = _now()
            log_failure("could not scan a backend", self._backend, error)


def _now() -> float:
    return asyncio.get_running_loop().time()
