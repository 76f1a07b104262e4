"""Decides when and which deleted tasks are stopped in the backend, and holds back more than is credible at once."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

from pyncette.controller.cluster.api import ObjectName

WINDOW_SECONDS: Final = 3600.0
"""Removals of the last hour count together: a mistake is made in one go, or by a tool that goes on for a while."""


LONGEST_BURST: Final = 15
"""A burst ends after this many times its pause at the latest: deletions may never come to an end."""


class Burst(NamedTuple):
    """Deletions in one namespace that follow each other closely."""

    began_at: float
    last_at: float


class Bursts:
    """
    The bursts of deletions, by namespace, so that one that never ends delays no other namespace.

    A burst ends once nothing was deleted for *pause* seconds: a namespace is deleted object by object.
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
            if now >= min(burst.last_at + self._pause, burst.began_at + LONGEST_BURST * self._pause):
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
    of the backend, or *least*. If they lose more, only those are held back that exceed an equal part of that: a few
    deletions in one namespace go on, whatever happens in the others.
    """

    def __init__(self, share: int, least: int) -> None:
        self._share = share
        self._least = least
        self._stopped_at: dict[str, deque[float]] = {}
        """By namespace: when tasks were stopped within the last hour, in the order of time."""

    def judge(self, gone: Collection[ObjectName], mirrored: Mapping[str, int], now: float) -> Verdict:
        """
        Decide about all that are *gone*; *mirrored* counts the tasks of each namespace on the backend; *now* in seconds.

        Tasks that are stopped already are not among *gone*. Neither are those that are proven to be deleted on purpose,
        which are no reason to doubt the next ones.
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
        """Return how many of so many *tasks* may be removed within an hour."""
        return max(self._least, tasks * self._share // 100)

    def _drop_old(self, now: float) -> None:
        for namespace, stopped in list(self._stopped_at.items()):
            while stopped and stopped[0] <= now - WINDOW_SECONDS:
                stopped.popleft()
            if not stopped:
                del self._stopped_at[namespace]


def _equal_part(demands: Collection[int], total: int) -> float:
    """
    Return how much each of *demands* may have, so that all together have *total* at most.

    Those that demand less than an equal part leave the rest to the others.
    """
    left: float = total
    for number, demand in enumerate(sorted(demands)):
        part = left / (len(demands) - number)
        if demand > part:
            return part
        left -= demand
    return float("inf")
