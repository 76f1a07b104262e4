"""Tells reconcilers which object to look at next: each key once, one pass at a time, again later if it failed."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Hashable
from enum import IntEnum
from itertools import islice
from typing import Final, Generic, TypeAlias, TypeVar

from pyncette.errors import PyncetteException

logger = logging.getLogger(__name__)

FIRST_WAIT_SECONDS: Final = 0.2
LONGEST_WAIT_SECONDS: Final = 60.0
"""Between passes that fail, doubling from the first: what mends itself is soon well, and what does not costs little."""

NEW_IN_A_ROW_MAX: Final = 16
"""After so many keys with something new, one of a resync has its turn: under a flood of edits, the rest is still looked at."""

RESTS_MAX: Final = 4
"""Rests in a row: who edits without an end is heard all the same."""

K = TypeVar("K", bound=Hashable)

Place: TypeAlias = Hashable
"""What may be away, and many keys with it: the API server, or one of the backends."""

Reconcile: TypeAlias = Callable[[K], Awaitable[float | None]]
"""One pass over one key; the result says after how many seconds to look again, even if nothing happens; None: no need."""

Finished: TypeAlias = Callable[[K, float, Exception | None], object]
"""Is told of each pass: its key, the seconds that it took, and what it failed with."""


class PassCancelledError(PyncetteException):
    """A pass waited for something that was cancelled."""


class Urgency(IntEnum):
    NEW = 0
    """Somebody wants something else than before."""
    ROUTINE = 1
    """A resync, or a second look."""


class _Rest:
    """How long a key is left alone that had a pass, in times of the loop."""

    __slots__ = ("latest", "until")

    def __init__(self, until: float, latest: float) -> None:
        self.until = until
        """Put off each time that the key comes meanwhile..."""
        self.latest = latest
        """... and no longer than until here."""


class Queue(Generic[K]):
    """
    Keys that are to be looked at, in the order of their arrival, those with something new first.

    A key says which object, never what happened to it: a pass reads what there is now. So a key waits at most once, and a
    burst of changes costs at most one pass more than a single one. Where a burst lasts longer than a pass, that takes some
    rest: a key that was looked at is looked at again once it was left alone for *rest_seconds*, or has waited `RESTS_MAX`
    times as long. All that is held grows with the number of distinct keys, which is the number of objects: the API server
    bounds that, and we hold the objects themselves, too.

    A pass that fails is repeated after a wait that doubles, with jitter. Where it fails since a place is *away*, its key is
    put aside with all others that failed for that: one of them asks again, ever less often, and once it gets through, the
    others follow. A key with something new waits for neither. The log has the *words* of an error, or its traceback if there
    are none.
    """

    def __init__(
        self,
        away: Callable[[Exception], Place | None] = lambda _: None,
        rest_seconds: float = 0,
        words: Callable[[Exception], str | None] = lambda _: None,
    ) -> None:
        self._away = away
        self._words = words
        self._rest_seconds = rest_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._resting: dict[K, _Rest] = {}
        """The rest of keys that had a pass, in the order of the passes."""
        self._waiting: dict[Urgency, dict[K, None]] = {urgency: {} for urgency in Urgency}
        self._new_in_a_row = 0
        self._in_progress: set[K] = set()
        self._once_more: dict[K, Urgency] = {}
        """Keys that were added during their pass, or the rest after it."""
        self._later: dict[K, tuple[float, asyncio.TimerHandle]] = {}
        """Keys that come at a time of the loop."""
        self._failures: dict[K, int] = {}
        """How often in a row the passes of a key failed."""
        self._outages: dict[Place, _Outage[K]] = {}
        self._aside: dict[K, Place] = {}
        """Keys that are put aside, and for which place."""
        self._filled = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        """How many keys wait for a pass now, those aside that come later."""
        resting = len(self._once_more.keys() - self._in_progress)
        return sum(map(len, self._waiting.values())) + resting

    @property
    def in_progress(self) -> int:
        """How many passes are under way."""
        return len(self._in_progress)

    @property
    def deferred(self) -> int:
        """How many keys come later, or once a place is back."""
        return len(self._later) + len(self._aside)

    def add(self, key: K, urgency: Urgency = Urgency.NEW) -> None:
        """Have *key* looked at as soon as it is its turn; once more, if that is going on right now, or was just before."""
        if key in self._in_progress or self._rests(key):
            self._once_more[key] = min(urgency, self._once_more.get(key, urgency))
            self._idle.clear()
        elif urgency is Urgency.NEW or not self._is_put_off(key):
            self._come_now(key)
            self._enqueue(key, urgency)

    def add_after(self, key: K, seconds: float) -> None:
        """Have *key* looked at in *seconds* at the latest. Its next pass, whyever it comes, takes the place of that."""
        loop = asyncio.get_running_loop()
        at = loop.time() + seconds
        known = self._later.get(key)
        if known is not None:
            if known[0] <= at:
                return
            known[1].cancel()
        self._later[key] = (at, loop.call_at(at, self._ripen, key))

    def back(self, place: Place) -> None:
        """Take note that *place* answers again: what was put aside for it is looked at now."""
        outage = self._outages.pop(place, None)
        if outage is None:
            return
        if outage.timer is not None:
            outage.timer.cancel()
        logger.info("%s answers again", place, extra={"waiting": len(outage.keys)})
        for key in outage.keys:
            del self._aside[key]
            self._enqueue(key, Urgency.ROUTINE)

    async def idle(self) -> None:
        """Return when nothing is waiting for its turn and no pass is under way; what comes later does not count."""
        await self._idle.wait()

    async def run(
        self, reconcile: Reconcile[K], passes: int, finished: Finished[K] = lambda *_: None
    ) -> None:
        """Have *reconcile* look at keys, at most *passes* of them at once, until cancelled."""
        self._loop = asyncio.get_running_loop()
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
                # Something that the pass waited for was cancelled; that must not cost us one of those who work.
                error = PassCancelledError(*failure.args)
            except Exception as failure:  # noqa: BLE001 - whatever it is, it is this key's alone, and is tried again
                error = failure
            self._end(key, error, again)
            finished(key, clock() - began, error)

    async def _take(self) -> K:
        while not any(self._waiting.values()):
            self._filled.clear()
            await self._filled.wait()
        key = self._next()
        self._in_progress.add(key)
        self._once_more.pop(key, None)
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
        away = None
        if error is not None:
            away = self._fail(key, error)
        else:
            self._failures.pop(key, None)
            self._have_rest(key)
            if again is not None:
                self.add_after(key, again)
        self._note_answer(key, away)
        if once_more is not None:
            self.add(key, once_more)
        self._note_idleness()

    def _fail(self, key: K, error: Exception) -> Place | None:
        """Have *key* tried again later, and return the place that is away, if that is why it failed."""
        place = self._away(error)
        if place is not None:
            self._put_aside(key, place, error)
            return place
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        wait = _wait_after(failures)
        told = self._words(error)
        logger.warning(
            "%s could not be reconciled",
            key,
            exc_info=error if told is None else None,
            extra={"failures": failures, "again_seconds": wait} | ({} if told is None else {"error": told}),
        )
        self.add_after(key, wait)
        return None

    # --- Rest ----------------------------------------------------------------------------------------------------

    def _have_rest(self, key: K) -> None:
        """Let *key* rest from now on, if keys do, and forget those that have rested."""
        if not self._rest_seconds:
            return
        assert self._loop is not None
        now = self._loop.time()
        self._resting.pop(key, None)
        self._resting[key] = _Rest(now + self._rest_seconds, now + self._rest_seconds * RESTS_MAX)
        for other, rest in list(islice(self._resting.items(), 2)):
            if rest.until <= now:
                del self._resting[other]

    def _rests(self, key: K) -> bool:
        """Say whether *key* has to rest yet, and then longer; whoever asks has it looked at afterwards."""
        rest = self._resting.get(key)
        if rest is None or self._loop is None or rest.until <= self._loop.time():
            return False
        if key not in self._once_more:
            self._rise_at(key, rest.until)
        rest.until = max(rest.until, min(self._loop.time() + self._rest_seconds, rest.latest))
        return True

    def _rise_at(self, key: K, at: float) -> None:
        assert self._loop is not None
        self._loop.call_at(at, self._rise, key, at)

    def _rise(self, key: K, at: float) -> None:
        """Have *key* looked at that was to rest until *at*, unless that is going on, for whatever other reason."""
        rest = self._resting.get(key)
        # Not by the clock, since a timer may be a little early, and would be set again and again.
        if rest is not None and rest.until > at:
            if key in self._once_more:
                self._rise_at(key, rest.until)
            return
        self._resting.pop(key, None)
        if key not in self._in_progress and key in self._once_more:
            self.add(key, self._once_more.pop(key))

    # --- Places that are away ------------------------------------------------------------------------------------

    def _put_aside(self, key: K, place: Place, error: Exception) -> None:
        outage = self._outages.get(place)
        if outage is None:
            outage = self._outages[place] = _Outage()
            logger.warning("%s is away", place, extra={"error": self._words(error) or str(error)})
            self._ask_later(place, outage)
        outage.keys[key] = None
        self._aside[key] = place

    def _ask_later(self, place: Place, outage: _Outage[K]) -> None:
        outage.failures += 1
        outage.at_once = 1
        wait = _wait_after(outage.failures)
        outage.timer = asyncio.get_running_loop().call_later(wait, self._ask, place, outage)

    def _ask(self, place: Place, outage: _Outage[K]) -> None:
        """
        Let the first of those that wait for *place* find out whether it is back.

        Twice as many follow when they got through, and so on: one that got through without the place proves nothing.
        """
        outage.failed = False
        first = list(islice(outage.keys, outage.at_once))
        outage.asking = {*first}
        for key in first:
            self._come_now(key)
            self._enqueue(key, Urgency.NEW)
        if not outage.asking:
            del self._outages[place]
            logger.info("%s answers again", place)

    def _note_answer(self, key: K, away: Place | None) -> None:
        """Take note that the pass of *key* is over, which may have been one that asks."""
        for place, outage in list(self._outages.items()):
            if key not in outage.asking:
                continue
            outage.asking.discard(key)
            outage.failed |= place == away
            if outage.asking:
                continue
            if outage.failed:
                self._ask_later(place, outage)
            else:
                outage.at_once *= 2
                self._ask(place, outage)

    def _is_put_off(self, key: K) -> bool:
        return key in self._aside or key in self._failures

    def _come_now(self, key: K) -> None:
        """Let *key* wait for nothing but its turn."""
        place = self._aside.pop(key, None)
        if place is not None:
            del self._outages[place].keys[key]

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
        elif key not in self._aside:
            self._enqueue(key, Urgency.ROUTINE)

    def _forget_later(self, key: K) -> None:
        known = self._later.pop(key, None)
        if known is not None:
            known[1].cancel()

    def _note_idleness(self) -> None:
        if not len(self) and not self._in_progress:
            self._idle.set()


class _Outage(Generic[K]):
    """A place that is away."""

    def __init__(self) -> None:
        self.keys: dict[K, None] = {}
        """Those that wait for it, in the order in which they failed."""
        self.asking: set[K] = set()
        """Those whose passes find out whether it is back."""
        self.at_once = 1
        """How many do that together."""
        self.failed = False
        self.failures = 0
        self.timer: asyncio.TimerHandle | None = None


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _wait_after(failures: int) -> float:
    """Return the seconds to wait after so many failures in a row, spread over the upper half."""
    longest = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** min(failures - 1, 16))
    return random.uniform(longest / 2, longest)
