"""A queue in which namespaces take turns, so that a flood in one delays no other by more than a turn."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Final, Generic, TypeVar

IN_A_ROW_MAX: Final = 16
"""After this many more urgent keys of a namespace, one that is less urgent has its turn, so a flood starves nothing."""

K = TypeVar("K", bound=Hashable)


def fair_share(own: float, total: float, namespaces: int) -> float:
    """Return how much of the work of *total* is done until the *own* of a namespace is, if *namespaces* take turns."""
    return min(total, own * namespaces)


class FairQueue(Generic[K]):
    """
    Keys that wait, each once, in a namespace and with an urgency: the greater, the sooner.

    Every other key comes from the next namespace in turn. The keys in between come from the next namespace in turn among
    those that have the most urgent keys. So something urgent is taken at once while many namespaces wait with less urgent
    keys, and a namespace whose keys are all urgent leaves half of the turns to the others.

    Within a namespace, the most urgent key comes first, and the oldest of those alike.
    """

    def __init__(self) -> None:
        self._places: dict[K, tuple[str, int]] = {}
        """The namespace and the urgency of each key."""
        self._lanes: OrderedDict[str, _Lane[K]] = OrderedDict()
        """The keys of each namespace that has any; the namespace whose turn is next comes first."""
        self._rings: dict[int, OrderedDict[str, None]] = {}
        """By urgency: the namespaces that have such keys; the one whose turn is next comes first."""
        self._is_urgent_next = True
        self._arrivals = 0

    def __len__(self) -> int:
        """Return how many keys wait."""
        return len(self._places)

    def __contains__(self, key: K) -> bool:
        """Return whether *key* waits."""
        return key in self._places

    def counts(self) -> Mapping[str, int]:
        """Return how many keys of each namespace wait. Safe to call from another thread."""
        return {namespace: len(lane) for namespace, lane in list(self._lanes.items())}

    def count(self, namespace: str) -> int:
        """Return how many keys of *namespace* wait."""
        lane = self._lanes.get(namespace)
        return 0 if lane is None else len(lane)

    def add(self, key: K, namespace: str, urgency: int = 0) -> None:
        """Add *key*. One that waits already keeps its place, unless it becomes more urgent."""
        place = self._places.get(key)
        if place is not None:
            if urgency <= place[1]:
                return
            self.discard(key)
        self._arrivals += 1
        self._places[key] = (namespace, urgency)
        self._lanes.setdefault(namespace, _Lane()).add(key, urgency, self._arrivals)
        self._rings.setdefault(urgency, OrderedDict()).setdefault(namespace)

    def discard(self, key: K) -> None:
        """Remove *key*, if it waits."""
        place = self._places.pop(key, None)
        if place is None:
            return
        namespace, urgency = place
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
        """Remove and return the next key of a namespace that *is_allowed*; None if there is none."""
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
        """Remove and return the oldest key of the namespace that has the most."""
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
        """Let *namespace* have its next turn after all others."""
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
        """How many of the most urgent keys were taken since one of a lower level was."""

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
        """Return the key whose turn it is, and count that."""
        urgent = max(self._levels)
        lower = [level for urgency, level in self._levels.items() if urgency < urgent]
        if lower and self._in_a_row >= IN_A_ROW_MAX:
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
