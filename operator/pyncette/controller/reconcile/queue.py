"""The work queue of the reconcilers: each key once, one pass at a time, again with backoff if it failed."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Hashable, Mapping
from enum import IntEnum
from functools import partial
from typing import Final, Generic, TypeAlias, TypeVar

from pyncette.controller.fair_queue import FairQueue
from pyncette.controller.intervals import RETRIES
from pyncette.controller.reconcile.circuit_breaker import CircuitBreakers, Dependency
from pyncette.controller.reconcile.debounce import Debounce
from pyncette.store.cancellation import leaks_as_errors

logger = logging.getLogger(__name__)

SLOW_SECONDS: Final = 2.0
"""Duration after which a pass is slow, so that another one may begin in addition."""

SLOW_PASSES: Final = 96
"""Maximum number of slow passes beyond the limit: a team may have many namespaces on one slow backend."""

K = TypeVar("K", bound=Hashable)

Reconcile: TypeAlias = Callable[[K], Awaitable[float | None]]
"""One pass over one key. Returns the seconds after which the next is due even if nothing happens; None: never."""

Finished: TypeAlias = Callable[[K, float, Exception | None], object]
"""Called after each pass with its key, the seconds that it took, and the error that it failed with."""


class Urgency(IntEnum):
    """The order in which the keys of a namespace have their passes."""

    ROUTINE = 0
    """A resync, or a repeated pass."""
    NEW = 1
    """The desired state has changed."""


class Queue(Generic[K]):
    """
    The work queue of the reconcilers: namespaces take turns, and keys of changed objects come first.

    *namespace_of* returns the namespace of a key.

    A key names an object, and not an event: a pass reads the current state. So a key waits at most once, and a burst of
    changes costs at most one more pass than a single change. Bursts that outlast a pass are debounced by
    *quiet_seconds*. Memory grows with the number of distinct keys, which is the number of objects: the API server bounds
    that, and the operator holds the objects themselves, too.

    A pass that fails is repeated with backoff. If *dependency_of* returns an unavailable dependency for its error, the
    circuit breaker of that dependency parks the key. The key of a changed object waits for neither. A failure is logged
    with the result of *message_of* for its error, or with a traceback if that is None.
    """

    def __init__(
        self,
        namespace_of: Callable[[K], str],
        dependency_of: Callable[[Exception], Dependency | None] = lambda _: None,
        quiet_seconds: float = 0,
        message_of: Callable[[Exception], str | None] = lambda _: None,
    ) -> None:
        self._namespace_of = namespace_of
        self._dependency_of = dependency_of
        self._message_of = message_of
        self._debounce: Debounce[K, Urgency] = Debounce(quiet_seconds, self.add)
        self._breakers: CircuitBreakers[K] = CircuitBreakers(partial(self._enqueue, urgency=Urgency.NEW))
        self._waiting: FairQueue[K] = FairQueue()
        self._in_progress: set[K] = set()
        self._passes_of: Counter[str] = Counter()
        """By namespace: the number of passes under way."""
        self._passes_max = 0
        self._slow: set[K] = set()
        """Keys with slow passes, which do not count against the limit of concurrent passes."""
        self._slow_max = 0
        self._begin_worker: Callable[[], object] = lambda: None
        self._once_more: dict[K, Urgency] = {}
        """Keys that were added during their pass."""
        self._later: dict[K, tuple[float, asyncio.TimerHandle]] = {}
        """Keys to be added at a time of the loop."""
        self._failures: dict[K, int] = {}
        """How often in a row the passes of a key failed."""
        self._idle_workers: deque[asyncio.Future[None]] = deque()
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        """Return how many keys wait for a pass now; those that are deferred do not count."""
        return len(self._waiting) + len(self._debounce)

    def waiting(self) -> Mapping[str, int]:
        """Return how many keys of each namespace wait for a pass now. Safe to call from another thread."""
        return self._waiting.counts()

    @property
    def in_progress(self) -> int:
        """How many passes are under way."""
        return len(self._in_progress)

    @property
    def deferred(self) -> int:
        """How many keys wait for a time, or for a dependency that is unavailable."""
        return len(self._later) + len(self._breakers)

    @property
    def debounced(self) -> int:
        """How many quiet periods the queue keeps."""
        return self._debounce.quiet_periods

    def add(self, key: K, urgency: Urgency = Urgency.NEW) -> None:
        """Queue a pass over *key*. If one is under way or in its quiet period, another follows after that."""
        if key in self._in_progress:
            self._once_more[key] = max(urgency, self._once_more.get(key, urgency))
            self._idle.clear()
        elif self._debounce.hold(key, urgency, max):
            self._idle.clear()
        elif urgency is Urgency.NEW or not self._backs_off(key):
            self._breakers.release(key)
            self._enqueue(key, urgency)

    def add_after(self, key: K, seconds: float) -> None:
        """Queue a pass over *key* in *seconds* at the latest. A pass that comes sooner, for whatever reason, replaces it."""
        loop = asyncio.get_running_loop()
        at = loop.time() + seconds
        known = self._later.get(key)
        if known is not None:
            if known[0] <= at:
                return
            known[1].cancel()
        self._later[key] = (at, loop.call_at(at, self._ripen, key))

    def recovered(self, dependency: Dependency) -> None:
        """Queue the keys that were parked for *dependency*, which is available again."""
        for key in self._breakers.close(dependency):
            self._enqueue(key, Urgency.ROUTINE)

    async def idle(self) -> None:
        """Return once no key waits and no pass is under way; those that are deferred do not count."""
        await self._idle.wait()

    async def run(
        self,
        reconcile: Reconcile[K],
        passes: int,
        finished: Finished[K] = lambda *_: None,
        *,
        passes_per_namespace: int | None = None,
        slow_passes: int = 0,
    ) -> None:
        """
        Call *reconcile* with the keys, until cancelled: at most *passes* at once, and *passes_per_namespace* of these.

        A pass may wait for a slow backend. Passes of other namespaces continue meanwhile. Up to *slow_passes* that take longer
        than `SLOW_SECONDS` do not count against the limit. So no backend takes all passes, however many namespaces use it.
        """
        self._passes_max = passes if passes_per_namespace is None else passes_per_namespace
        self._slow_max = slow_passes
        async with asyncio.TaskGroup() as group:
            self._begin_worker = lambda: group.create_task(self._work(reconcile, finished))
            for _ in range(passes):
                self._begin_worker()

    # --- Passes --------------------------------------------------------------------------------------------------

    async def _work(self, reconcile: Reconcile[K], finished: Finished[K]) -> None:
        loop = asyncio.get_running_loop()
        clock, is_replaced = loop.time, False
        while not is_replaced:
            key = await self._take()
            becoming_slow = loop.call_later(SLOW_SECONDS, self._replace_worker, key)
            error: Exception | None = None
            again: float | None = None
            began = clock()
            try:
                with leaks_as_errors():
                    again = await reconcile(key)
            except Exception as failure:  # noqa: BLE001 - it concerns this key alone, which is retried
                error = failure
            becoming_slow.cancel()
            is_replaced = key in self._slow
            self._slow.discard(key)
            self._end(key, error, again)
            finished(key, clock() - began, error)
        self._wake_worker()  # a key may have waited for a pass of its namespace to end

    def _replace_worker(self, key: K) -> None:
        """Start a worker that replaces the one with the slow pass over *key*. The slow one ends after that pass."""
        if len(self._slow) < self._slow_max:
            self._slow.add(key)
            self._begin_worker()

    async def _take(self) -> K:
        while (key := self._waiting.take(self._may_begin)) is None:
            woken = asyncio.get_running_loop().create_future()
            self._idle_workers.append(woken)
            await woken
        self._in_progress.add(key)
        self._passes_of[self._namespace_of(key)] += 1
        self._debounce.drop(key)
        self._forget_later(key)
        return key

    def _wake_worker(self) -> None:
        """Wake one worker that has nothing to do, if there is one; a busy one takes the next key after its pass."""
        while self._idle_workers:
            woken = self._idle_workers.popleft()
            if not woken.done():  # else the worker was cancelled
                woken.set_result(None)
                return

    def _may_begin(self, namespace: str) -> bool:
        return self._passes_of[namespace] < self._passes_max

    def _note_end(self, namespace: str) -> None:
        self._passes_of[namespace] -= 1
        if not self._passes_of[namespace]:
            del self._passes_of[namespace]

    def _end(self, key: K, error: Exception | None, again: float | None) -> None:
        self._in_progress.discard(key)
        self._note_end(self._namespace_of(key))
        once_more = self._once_more.pop(key, None)
        unavailable = None
        if error is not None:
            unavailable = self._fail(key, error)
        else:
            self._failures.pop(key, None)
            self._debounce.start(key)
            if again is not None:
                self.add_after(key, again)
        self._breakers.note(key, unavailable)
        if once_more is not None:
            self.add(key, once_more)
        self._note_idleness()

    def _fail(self, key: K, error: Exception) -> Dependency | None:
        """Defer the next pass over *key*, and return the dependency whose unavailability made this one fail, if any."""
        dependency, message = self._dependency_of(error), self._message_of(error)
        if dependency is not None:
            self._breakers.park(key, dependency, message or str(error))
            return dependency
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        wait = RETRIES.after(failures, random.random())
        logger.warning(
            "could not reconcile %s",
            key,
            exc_info=error if message is None else None,
            extra={"failures": failures, "again_seconds": wait}
            | ({} if message is None else {"error": message}),
        )
        self.add_after(key, wait)
        return None

    def _backs_off(self, key: K) -> bool:
        return key in self._breakers or key in self._failures

    # --- Keys that wait ------------------------------------------------------------------------------------------

    def _enqueue(self, key: K, urgency: Urgency) -> None:
        self._waiting.add(key, self._namespace_of(key), urgency)
        self._wake_worker()
        self._idle.clear()

    def _ripen(self, key: K) -> None:
        del self._later[key]
        if key in self._in_progress:
            self._once_more.setdefault(key, Urgency.ROUTINE)
        elif key not in self._breakers:
            self._enqueue(key, Urgency.ROUTINE)

    def _forget_later(self, key: K) -> None:
        known = self._later.pop(key, None)
        if known is not None:
            known[1].cancel()

    def _note_idleness(self) -> None:
        if not len(self) and not self._in_progress:
            self._idle.set()
