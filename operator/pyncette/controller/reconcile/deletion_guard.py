"""Decides which deleted tasks are stopped in the backend, and when. It holds back implausibly many deletions."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

from pyncette.controller.cluster.api import ObjectName

WINDOW_SECONDS: Final = 3600.0
"""Removals within this time count together: a mistake happens at once, or by a tool that runs for a while."""

PAUSES_MAX: Final = 15
"""Maximum length of a burst, in pauses: deletions may go on without end."""


class Burst(NamedTuple):
    """Deletions in one namespace that follow each other closely."""

    began_at: float
    last_at: float


class Bursts:
    """
    The bursts of deletions, by namespace, so that an endless burst delays no other namespace.

    A burst ends after *pause* seconds without a deletion: a namespace is deleted object by object.
    """

    def __init__(self, pause: float) -> None:
        self._pause = pause
        self._bursts: dict[str, Burst] = {}

    def note(self, namespace: str, now: float) -> None:
        """Record a deletion in *namespace*."""
        before = self._bursts.get(namespace)
        self._bursts[namespace] = Burst(now if before is None else before.began_at, now)

    def namespaces(self, now: float) -> frozenset[str]:
        """Return the namespaces whose burst has not ended."""
        for namespace, burst in list(self._bursts.items()):
            if now >= min(burst.last_at + self._pause, burst.began_at + PAUSES_MAX * self._pause):
                del self._bursts[namespace]
        return frozenset(self._bursts)


class Verdict(NamedTuple):
    """The decision about deleted tasks."""

    credible: Sequence[ObjectName]
    held: Sequence[ObjectName]


class Guard:
    """
    The guard against the mass deletion of tasks on one backend.

    A namespace may lose *share* percent of its tasks within an hour, or *least* of them. Above that, all of its deleted
    tasks are held back until a person confirms their number. All namespaces together may lose *share* percent of the tasks
    of the backend, or *least*. If they lose more, only namespaces that exceed an equal part of that are held back. So a few
    deletions in one namespace are never held back by deletions in others.
    """

    def __init__(self, share: int, least: int) -> None:
        self._share = share
        self._least = least
        self._stopped_at: dict[str, deque[float]] = {}
        """By namespace: when tasks were stopped within the last hour, in the order of time."""

    def judge(self, gone: Collection[ObjectName], mirrored: Mapping[str, int], now: float) -> Verdict:
        """
        Decide about all that are *gone*; *mirrored* counts the tasks of each namespace on the backend; *now* in seconds.

        *gone* has no stopped tasks. It also has no tasks whose intended deletion is proved: these are no reason to doubt
        further deletions.
        """
        self._drop_old(now)
        names: defaultdict[str, list[ObjectName]] = defaultdict(list)
        for name in sorted(gone):
            names[name.namespace].append(name)
        lost = {namespace: len(stopped) for namespace, stopped in self._stopped_at.items()}
        total = self._allowed(sum(mirrored.values()) + sum(lost.values()))
        for namespace, its in names.items():
            before = lost.get(namespace, 0)
            if before + len(its) <= self._allowed(mirrored.get(namespace, 0) + before):
                lost[namespace] = before + len(its)
            else:
                names[namespace] = []
        part = _equal_part(lost.values(), total)
        credible = [
            name for namespace, its in names.items() if lost.get(namespace, 0) <= part for name in its
        ]
        return Verdict(credible, sorted({*gone} - {*credible}))

    def note_stopped(self, names: Collection[ObjectName], now: float) -> None:
        """Count *names*, which were credible and are stopped now."""
        for name in names:
            self._stopped_at.setdefault(name.namespace, deque()).append(now)

    def _allowed(self, tasks: int) -> int:
        """Return how many of *tasks*, a number, may be removed within an hour."""
        return max(self._least, tasks * self._share // 100)

    def _drop_old(self, now: float) -> None:
        for namespace, stopped in list(self._stopped_at.items()):
            while stopped and stopped[0] <= now - WINDOW_SECONDS:
                stopped.popleft()
            if not stopped:
                del self._stopped_at[namespace]


def _equal_part(demands: Collection[int], total: int) -> float:
    """
    Return the maximum that each of *demands* may have, so that all together have at most *total*.

    A smaller demand leaves the rest of its part to the others.
    """
    left: float = total
    for number, demand in enumerate(sorted(demands)):
        part = left / (len(demands) - number)
        if demand > part:
            return part
        left -= demand
    return float("inf")
