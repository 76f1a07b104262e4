"""The work queue of the reconcilers: each key once, one pass at a time, again with backoff if it failed."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Hashable
from enum import IntEnum
from functools import partial
from typing import Final, Generic, TypeAlias, TypeVar

from pyncette.controller.intervals import RETRIES
from pyncette.controller.reconcile.circuit_breaker import CircuitBreakers, Dependency
from pyncette.controller.reconcile.debounce import Debounce
from pyncette.errors import PyncetteException

logger = logging.getLogger(__name__)

NEW_IN_A_ROW_MAX: Final = 16
"""After this many keys with something new, one of a resync has its turn, so a flood of edits does not starve the rest."""

K = TypeVar("K", bound=Hashable)

Reconcile: TypeAlias = Callable[[K], Awaitable[float | None]]
"""One pass over one key. Returns the seconds after which the next is due even if nothing happens; None: never."""

Finished: TypeAlias = Callable[[K, float, Exception | None], object]
"""Called after each pass with its key, the seconds that it took, and the error that it failed with."""


class PassCancelledError(PyncetteException):
    """A pass waited for something that was cancelled."""


class Urgency(IntEnum):
    """The order in which keys have their passes."""

    NEW = 0
    """The desired state has changed."""
    ROUTINE = 1
    """A resync, or a repeated pass."""


class Queue(Generic[K]):
    """
    The work queue of the reconcilers: keys in the order of their arrival, those with something new first.

    A key says which object, never what happened to it: a pass reads the current state. So a key waits at most once, and a
    burst of changes costs at most one more pass than a single change. Bursts that outlast a pass are debounced by
    *quiet_seconds*. Memory grows with the number of distinct keys, which is the number of objects: the API server bounds
    that, and the operator holds the objects themselves, too.

    A pass that fails is repeated with backoff. If it failed because a dependency is unavailable, by *dependency_of* its
    error, the circuit breaker of that dependency parks its key. A key with something new waits for neither. A failure is
    logged with the *message_of* its error, or with a traceback if there is none.
    """

    def __init__(
        self,
        dependency_of: Callable[[Exception], Dependency | None] = lambda _: None,
        quiet_seconds: float = 0,
        message_of: Callable[[Exception], str | None] = lambda _: None,
    ) -> None:
        self._dependency_of = dependency_of
        self._message_of = message_of
        self._debounce: Debounce[K, Urgency] = Debounce(quiet_seconds, self.add)
        self._breakers: CircuitBreakers[K] = CircuitBreakers(partial(self._enqueue, urgency=Urgency.NEW))
        self._waiting: dict[Urgency, dict[K, None]] = {urgency: {} for urgency in Urgency}
        self._new_in_a_row = 0
        self._in_progress: set[K] = set()
        self._once_more: dict[K, Urgency] = {}
        """Keys that were added during their pass."""
        self._later: dict[K, tuple[float, asyncio.TimerHandle]] = {}
        """Keys to be added at a time of the loop."""
        self._failures: dict[K, int] = {}
        """How often in a row the passes of a key failed."""
        self._filled = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        """Return how many keys wait for a pass now; those that are deferred do not count."""
        return sum(map(len, self._waiting.values())) + len(self._debounce)

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
            self._once_more[key] = min(urgency, self._once_more.get(key, urgency))
            self._idle.clear()
        elif self._debounce.hold(key, urgency, min):
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
        self, reconcile: Reconcile[K], passes: int, finished: Finished[K] = lambda *_: None
    ) -> None:
        """Call *reconcile* with the keys, at most *passes* of them at once, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(passes):
                group.create_task(self._work(reconcile, finished))

    # --- Passes --------------------------------------------------------------------------------------------------

    async def _work(self, reconcile: Reconcile[K], finished: Finished[K]) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            key = await self._take()
            error: Exception | None = None
            again: float | None = None
            began = clock()
            try:
                again = await reconcile(key)
            except asyncio.CancelledError as failure:
                if _is_being_cancelled():
                    raise
                # Something that the pass waited for was cancelled; this worker goes on.
                error = PassCancelledError(*failure.args)
            except Exception as failure:  # noqa: BLE001 - it concerns this key alone, which is tried again
                error = failure
            self._end(key, error, again)
            finished(key, clock() - began, error)

    async def _take(self) -> K:
        while not any(self._waiting.values()):
            self._filled.clear()
            await self._filled.wait()
        key = self._next()
        self._in_progress.add(key)
        self._debounce.drop(key)
        self._forget_later(key)
        return key

    def _next(self) -> K:
        new, routine = self._waiting[Urgency.NEW], self._waiting[Urgency.ROUTINE]
        take_new = bool(new) and not (routine and self._new_in_a_row >= NEW_IN_A_ROW_MAX)
        self._new_in_a_row = self._new_in_a_row + 1 if take_new else 0
        waiting = new if take_new else routine
        key = next(iter(waiting))
        del waiting[key]
        return key

    def _end(self, key: K, error: Exception | None, again: float | None) -> None:
        self._in_progress.discard(key)
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
        new, routine = self._waiting[Urgency.NEW], self._waiting[Urgency.ROUTINE]
        if key in new:
            return
        if urgency is Urgency.NEW:
            routine.pop(key, None)
        self._waiting[urgency][key] = None
        self._filled.set()
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


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
