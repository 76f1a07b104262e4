"""Parks keys while a dependency that they need is unavailable, and probes it with a few of them."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Hashable
from itertools import islice
from typing import Generic, TypeAlias, TypeVar

from pyncette.controller.intervals import RETRIES

logger = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)

Dependency: TypeAlias = Hashable
"""Something that many keys need and that can become unavailable: the API server, or one of the backends."""


class CircuitBreakers(Generic[K]):
    """
    A circuit breaker for each dependency that is unavailable.

    Keys that failed because of it are parked. One of them probes it, with backoff, by *probe*. Once a probe gets through,
    twice as many keys follow, and so on until none is parked.
    """

    def __init__(self, probe: Callable[[K], None]) -> None:
        self._probe = probe
        self._open: dict[Dependency, _OpenCircuit[K]] = {}
        self._parked: dict[K, Dependency] = {}

    def __len__(self) -> int:
        """Return how many keys are parked."""
        return len(self._parked)

    def __contains__(self, key: K) -> bool:
        """Return whether *key* is parked."""
        return key in self._parked

    def park(self, key: K, dependency: Dependency, error: str) -> None:
        """Park *key*, which failed with *error* since *dependency* is unavailable."""
        circuit = self._open.get(dependency)
        if circuit is None:
            circuit = self._open[dependency] = _OpenCircuit()
            logger.warning("%s is unavailable", dependency, extra={"error": error})
            self._probe_later(dependency, circuit)
        circuit.parked[key] = None
        self._parked[key] = dependency

    def release(self, key: K) -> None:
        """Let *key* have its next pass without waiting for its dependency."""
        dependency = self._parked.pop(key, None)
        if dependency is not None:
            del self._open[dependency].parked[key]

    def close(self, dependency: Dependency) -> Collection[K]:
        """Note that *dependency* is available again, and return the keys that were parked."""
        circuit = self._open.pop(dependency, None)
        if circuit is None:
            return ()
        if circuit.timer is not None:
            circuit.timer.cancel()
        logger.info("%s is available again", dependency, extra={"waiting": len(circuit.parked)})
        for key in circuit.parked:
            del self._parked[key]
        return circuit.parked

    def note(self, key: K, unavailable: Dependency | None) -> None:
        """Note that the pass of *key*, which may have been a probe, has ended, and which dependency it failed for."""
        for dependency, circuit in list(self._open.items()):
            if key not in circuit.probes:
                continue
            circuit.probes.discard(key)
            circuit.failed |= dependency == unavailable
            if circuit.probes:
                continue
            if circuit.failed:
                self._probe_later(dependency, circuit)
            else:
                circuit.probes_max *= 2
                self._start_probes(dependency, circuit)

    def _probe_later(self, dependency: Dependency, circuit: _OpenCircuit[K]) -> None:
        circuit.failures += 1
        circuit.probes_max = 1
        wait = RETRIES.after(circuit.failures, random.random())
        circuit.timer = asyncio.get_running_loop().call_later(wait, self._start_probes, dependency, circuit)

    def _start_probes(self, dependency: Dependency, circuit: _OpenCircuit[K]) -> None:
        """
        Probe *dependency* with the keys that were parked first.

        A single success closes no circuit: that key may not have needed the dependency this time.
        """
        circuit.failed = False
        first = list(islice(circuit.parked, circuit.probes_max))
        circuit.probes = {*first}
        for key in first:
            self.release(key)
            self._probe(key)
        if not circuit.probes:
            del self._open[dependency]
            logger.info("%s is available again", dependency)


class _OpenCircuit(Generic[K]):
    """The keys that wait for a dependency that is unavailable."""

    def __init__(self) -> None:
        self.parked: dict[K, None] = {}
        """In the order in which they failed."""
        self.probes: set[K] = set()
        """Keys whose passes are under way as probes."""
        self.probes_max = 1
        self.failed = False
        """Whether one of the latest probes failed for the dependency."""
        self.failures = 0
        self.timer: asyncio.TimerHandle | None = None
