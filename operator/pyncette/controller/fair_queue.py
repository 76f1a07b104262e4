"""A queue in which namespaces take turns, so that a flood in one delays the others by at most one turn."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Final, Generic, TypeVar

URGENT_IN_A_ROW_MAX: Final = 16
"""Number of more urgent keys of a namespace before the turn of a less urgent one, so that a flood does not starve it."""

K = TypeVar("K", bound=Hashable)


def fair_share(own: float, total: float, namespaces: int) -> float:
    """Return the part of *total* that is done when the *own* work of a namespace is, if *namespaces* take turns."""
    return min(total, own * namespaces)


class FairQueue(Generic[K]):
    """
    Waiting keys, each with a namespace and an urgency. A key waits at most once, and a greater urgency comes sooner.

    Every other key comes from the next namespace in turn. The keys in between come from the next namespace in turn among
    those with the most urgent keys. So an urgent key is taken soon, even if many namespaces wait with less urgent ones. A
    namespace whose keys are all urgent leaves half of the turns to the others.

    Within a namespace, the most urgent key comes first, and the oldest of equally urgent ones.
    """

    def __init__(self) -> None:
        self._entries: dict[K, tuple[str, int]] = {}
        """The namespace and the urgency of each key."""
        self._lanes: OrderedDict[str, _Lane[K]] = OrderedDict()
        """The keys of each namespace. The next namespace in turn comes first."""
        self._rings: dict[int, OrderedDict[str, None]] = {}
        """By urgency: the namespaces with such keys. The next one in turn comes first."""
        self._is_urgent_next = True
        self._arrivals = 0

    def __len__(self) -> int:
        """Return how many keys wait."""
        return len(self._entries)

    def __contains__(self, key: K) -> bool:
        """Return whether *key* waits."""
        return key in self._entries

    def counts(self) -> Mapping[str, int]:
        """Return how many keys of each namespace wait. Safe to call from another thread."""
        return {namespace: len(lane) for namespace, lane in list(self._lanes.items())}

    def count(self, namespace: str) -> int:
        """Return how many keys of *namespace* wait."""
        lane = self._lanes.get(namespace)
        return 0 if lane is None else len(lane)

    def add(self, key: K, namespace: str, urgency: int = 0) -> None:
        """Add *key*. One that waits already keeps its place, unless it becomes more urgent."""
        entry = self._entries.get(key)
        if entry is not None:
            if urgency <= entry[1]:
                return
            self.discard(key)
        self._arrivals += 1
        self._entries[key] = (namespace, urgency)
        self._lanes.setdefault(namespace, _Lane()).add(key, urgency, self._arrivals)
        self._rings.setdefault(urgency, OrderedDict()).setdefault(namespace)

    def discard(self, key: K) -> None:
        """Remove *key*, if it waits."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        namespace, urgency = entry
        lane = self._lanes[namespace]
        lane.remove(key, urgency)
        if not lane.has(urgency):
            ring = self._rings[urgency]
            del ring[namespace]
            if not ring:
                del self._rings[urgency]
        if not lane:
            del self._lanes[namespace]

    def take(self, is_allowed: Callable[[str], bool] = lambda _: True) -> K | None:
        """Remove and return the next key of a namespace for which *is_allowed* is true; None if there is none."""
        namespace = self._next_namespace(is_allowed)
        if namespace is None:
            return None
        self._is_urgent_next = not self._is_urgent_next
        lane = self._lanes[namespace]
        key = lane.next()
        self.discard(key)
        if lane:
            self._end_turn(namespace, lane)
        return key

    def shed(self) -> K:
        """Remove and return the oldest key of the namespace with the most keys. The queue must not be empty."""
        key = max(self._lanes.values(), key=len).oldest()
        self.discard(key)
        return key

    def _next_namespace(self, is_allowed: Callable[[str], bool]) -> str | None:
        if not self._is_urgent_next:
            return next(filter(is_allowed, self._lanes), None)
        for urgency in sorted(self._rings, reverse=True):
            found = next(filter(is_allowed, self._rings[urgency]), None)
            if found is not None:
                return found
        return None

    def _end_turn(self, namespace: str, lane: _Lane[K]) -> None:
        """Move *namespace* behind all others."""
        self._lanes.move_to_end(namespace)
        for urgency in lane.urgencies():
            self._rings[urgency].move_to_end(namespace)


class _Lane(Generic[K]):
    """The keys of one namespace."""

    def __init__(self) -> None:
        self._levels: dict[int, OrderedDict[K, int]] = {}
        """By urgency: the keys and their numbers of arrival, the oldest first. No level is empty."""
        self._count = 0
        self._in_a_row = 0
        """Number of most urgent keys that were taken since the last less urgent one."""

    def __len__(self) -> int:
        return self._count

    def has(self, urgency: int) -> bool:
        return urgency in self._levels

    def urgencies(self) -> list[int]:
        return list(self._levels)

    def add(self, key: K, urgency: int, arrival: int) -> None:
        self._levels.setdefault(urgency, OrderedDict())[key] = arrival
        self._count += 1

    def remove(self, key: K, urgency: int) -> None:
        level = self._levels[urgency]
        del level[key]
        self._count -= 1
        if not level:
            del self._levels[urgency]

    def next(self) -> K:
        """Return the next key, and count it as taken. The caller removes it."""
        urgent = max(self._levels)
        lower = [level for urgency, level in self._levels.items() if urgency < urgent]
        if lower and self._in_a_row >= URGENT_IN_A_ROW_MAX:
            self._in_a_row = 0
            return _oldest(lower)
        self._in_a_row = self._in_a_row + 1 if lower else 0
        return next(iter(self._levels[urgent]))

    def oldest(self) -> K:
        return _oldest(self._levels.values())


def _oldest(levels: Iterable[Mapping[K, int]]) -> K:
    """Return the key that arrived before all others of *levels*."""
    _, level = min((next(iter(level.values())), level) for level in levels)
    return next(iter(level))
