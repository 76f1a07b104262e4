"""Detects a stale watch, by comparing it with lists, and answers the operator's probes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Final

from pyncette.controller.cluster.api import Kind, ObjectName

STALE_SECONDS: Final = 60.0
"""How long the watch may take to deliver what a list has shown. It takes milliseconds; kopf waits for up to some seconds before it tries again."""

FIRST_SECONDS: Final = 300.0
"""The same, for what was there when the operator started: the watch begins with a list of its own, of all that there is."""

OVERDUE_PERIODS: Final = 3
"""Periods without a successful resync after which the process is restarted."""

OLDER_LISTS_MAX: Final = 2
"""Lists in a row that are older than an earlier one: the cluster was restored, and the cached state is invalid."""

Monotonic = Callable[[], float]
"""Seconds that only grow."""


class WatchStaleness:
    """
    Compares what the watch delivers with what lists show. Safe to call from any thread.

    A handler sees nothing of a watch that is quiet, dead or forbidden. A list of a resync does: what it shows newer than the
    watch delivered has some time to arrive there as well; if it does not, the watch is stale.
    """

    def __init__(
        self, monotonic: Monotonic = time.monotonic, *, stale_seconds: float = STALE_SECONDS
    ) -> None:
        self._monotonic = monotonic
        self._stale_seconds = stale_seconds
        self._awaited: dict[tuple[Kind, ObjectName], tuple[int | None, float]] = {}
        """What the watch has to deliver: the least version, and the deadline."""
        self._grace = FIRST_SECONDS
        self._lock = threading.Lock()
        self.last_delivery_at: float | None = None
        """When the watch last delivered anything, by the monotonic clock."""

    def listed_newer(self, kind: Kind, name: ObjectName, version: int | None) -> None:
        """Record that a list showed an object in a *version* that the watch has not delivered."""
        with self._lock:
            # What is awaited already keeps its time: an object that changes all the time would never be late.
            self._awaited.setdefault((kind, name), (version, self._monotonic() + self._grace))

    def delivered(self, kind: Kind, name: ObjectName, version: int | None) -> None:
        """Record that the watch delivered an object, be it its deletion."""
        self.last_delivery_at = self._monotonic()
        with self._lock:
            awaited = self._awaited.get((kind, name))
            if awaited is not None and _reaches(version, awaited[0]):
                del self._awaited[kind, name]

    def forget(self, kind: Kind, names: Iterable[ObjectName]) -> None:
        """Stop waiting for objects that a later list shows to be gone."""
        with self._lock:
            for name in names:
                self._awaited.pop((kind, name), None)

    def started(self) -> None:
        """Record that all that was there at the start has been listed: from now on there is less to wait for."""
        self._grace = self._stale_seconds

    def missed(self) -> tuple[Kind, ObjectName] | None:
        """Return an object that the watch should have delivered by now, if there is one."""
        now = self._monotonic()
        with self._lock:
            return next((key for key, (_, until) in self._awaited.items() if until < now), None)


class Liveness:
    """
    The answers to liveness and readiness probes. Safe to call from any thread.

    Alive: the watch is not stale, and a resync succeeded within three periods of *resync_seconds*. While the API server
    cannot be reached, nothing is overdue: to be started again would not bring it back.
    Ready: both kinds are served, all was listed once, the API server answers, and *backends_ready* returns true.
    """

    def __init__(
        self,
        sight: WatchStaleness,
        resync_seconds: float,
        backends_ready: Callable[[], bool] = lambda: True,
        monotonic: Monotonic = time.monotonic,
    ) -> None:
        self._sight = sight
        self._overdue_seconds = OVERDUE_PERIODS * resync_seconds
        self._backends_ready = backends_ready
        self._monotonic = monotonic
        self._resynced_at = monotonic()
        self._older_lists = 0
        self._discovered = False
        self._listed = False
        self._api_answers = True

    def discovered(self) -> None:
        """Record that both kinds are served, and the watch has begun."""
        self._discovered = True
        self._resynced_at = self._monotonic()

    def resynced(self) -> None:
        """Record that everything was listed, to the end."""
        if not self._listed:
            self._sight.started()
        self._listed = True
        self._api_answers = True
        self._older_lists = 0
        self._resynced_at = self._monotonic()

    def unreachable(self) -> None:
        """Record that the API server did not answer to a resync, so it is not the resync's fault that it is late."""
        self._api_answers = False
        self._resynced_at = self._monotonic()

    def listed_older(self) -> None:
        """Record a list that is older than one before (`Listed.fresh`)."""
        self._older_lists += 1

    def why_dead(self) -> str | None:
        """Return why the process is to be started again, or None if it is alive."""
        missed = self._sight.missed()
        if missed is not None:
            kind, name = missed
            return f"the watch did not deliver {kind.name} {name}, which a list shows"
        if self._older_lists >= OLDER_LISTS_MAX:
            return "lists are older than they were: the cluster was restored"
        if self._discovered and self._monotonic() - self._resynced_at > self._overdue_seconds:
            return f"no resync succeeded for {self._overdue_seconds:g} seconds"
        return None

    def is_alive(self) -> bool:
        return self.why_dead() is None

    def is_ready(self) -> bool:
        return (
            self._discovered
            and self._listed
            and self._api_answers
            and self._backends_ready()
            and self.is_alive()
        )


def _reaches(version: int | None, awaited: int | None) -> bool:
    """Return whether a delivery is at least what is awaited; where versions are no numbers, any delivery is."""
    return version is None or awaited is None or version >= awaited
