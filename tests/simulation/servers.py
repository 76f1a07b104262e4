"""
Carries out what reaches the backend, as one kind of backend or another does it.

The store in memory carries out each request at one instant. No real server does: each mode is one thing that some server
does instead; tests/store shows it on real ones: PostgreSQL, MySQL, Redis and DynamoDB.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from random import Random
from typing import Any, Final, NamedTuple

from pyncette.clock import Duration, Instant
from pyncette.core.record import Change, Key, Partition, Record, Run, replace
from pyncette.store.base import Claimed, Store
from pyncette.store.memory import MemoryBackend

from .loop import SECOND, SimulatedLoop

STATES_MAX: Final = 400
"""States of the backend that are kept: what a failover may go back to."""

PAST_MOST: Final = SECOND
"""How far a failover may go back."""

LOCKED_MOST: Final = SECOND // 2
"""How long a swap may have its records locked."""


class Modes(NamedTuple):
    """What a server does that the store in memory does not."""

    skips_locked: bool = False
    """
    A swap locks its records for a while before others see it, and a claim passes over those: SKIP LOCKED of PostgreSQL
    and MySQL. Other writes of these records wait.
    """
    reads_committed: bool = False
    """
    A claim sees the records as they were when it began, and passes over those that changed since: READ COMMITTED of
    PostgreSQL. So the next time that it tells may be that of a record which others have changed.
    """
    loads_one_by_one: bool = False
    """
    A load of several records sees what others write between one and the next: Redis Cluster and DynamoDB ask one node
    after the other, and all ask for many records in several batches.
    """

    forgets: bool = False
    """
    A failover loses what it has acknowledged a moment ago: Redis, which replicates after it has answered.

    From then on the oracle judges no occurrence: what was lost may run again, be counted again, or be gone. It still
    sees to it that all comes to rest, that what is due is done in time, and that a drain leaves nothing behind.
    """


Done = Callable[[Any], None]


class _State(NamedTuple):
    """The backend at one instant."""

    at: int
    records: dict[Partition, dict[Key, Record]]
    histories: dict[Key, dict[int, Run]]


class Server:
    """The backend, which *store* is, in the *modes* of one kind of server."""

    tells_of_passed_over = True
    """Whether a claim tells of what it passed over, and that another is worth it at once. The port promises it."""

    def __init__(
        self, loop: SimulatedLoop, random: Random, store: Store, backend: MemoryBackend, modes: Modes
    ) -> None:
        self.modes = modes
        self._loop = loop
        self._random = random
        self._store = store
        self._backend = backend
        self._locked: dict[Key, int] = {}
        """Records that a swap has locked, and until when."""
        self._states: list[_State] = []
        self._era = 0
        """Failovers so far: what one of them finds under way is never committed."""

    @property
    def takes_time(self) -> bool:
        """Whether a request may be under way for a while after it arrived."""
        return any(self.modes[:3])

    def arrived(self, request: Any, done: Done) -> None:
        """Carry out *request*, and hand its answer to *done*, both at one instant; at once, unless a mode says otherwise."""
        verb, arguments = request.verb, request.arguments
        if verb == "swap":
            self._swap(request, done)
        elif verb == "claim" and (self.modes.skips_locked or self.modes.reads_committed):
            seen = {partition: dict(self._backend.shelf(partition).records) for partition in arguments[0]}
            delay = self._moment() if self.modes.reads_committed else 0
            self._after(delay, lambda: done(self._claim(seen, *arguments)))
        elif verb == "renew" and (until := self._locked_until(renewal.key for renewal in arguments[0])):
            self._loop.at(until, self.arrived, request, done)
        elif verb == "load" and self.modes.loads_one_by_one and len(arguments[0]) > 1:
            self._load(list(arguments[0]), [], done)
        else:
            self._carry_out(verb, arguments, done)

    # --- Swaps ---------------------------------------------------------------------------------------------------

    def _swap(self, request: Any, done: Done) -> None:
        keys = [_key_of(change) for change in request.arguments[0]]
        until = self._locked_until(keys)
        if until:
            self._loop.at(until, self.arrived, request, done)
        elif self.modes.skips_locked:
            until = self._loop.now + self._moment()
            self._locked.update(dict.fromkeys(keys, until))
            self._loop.at(until, self._commit, self._era, request.arguments, keys, done)
        else:
            self._carry_out("swap", request.arguments, done)

    def _commit(self, era: int, arguments: tuple[Any, ...], keys: Sequence[Key], done: Done) -> None:
        if era != self._era:
            return
        for key in keys:
            del self._locked[key]
        self._carry_out("swap", arguments, done)

    def _locked_until(self, keys: Any) -> int:
        """Return until when some of *keys* are locked; 0 if none is."""
        return max((self._locked.get(key, 0) for key in keys), default=0) if self._locked else 0

    # --- Claims and loads ----------------------------------------------------------------------------------------

    def _claim(
        self,
        seen: Mapping[Partition, Mapping[Key, Record]],
        limits: Mapping[Partition, int],
        lease_id: str,
        holder: str,
        now: Instant,
        expired_at: Instant,
        ahead: Duration = 0,
    ) -> Claimed:
        """Claim of what is as it was *seen*, and not locked; of the rest tell when it was next to be looked at."""
        self._remember()
        until, hidden = now + ahead, []
        times: list[Instant] = []
        for partition in limits:
            shelf = self._backend.shelf(partition)
            for key, record in list(shelf.records.items()):
                before = seen[partition].get(key)
                if before is None or before.version != record.version or key in self._locked:
                    hidden.append(record)
                    shelf.put(replace(record, claimable_at=None))
                    times += self._time_of(before, until, expired_at, ahead)
        claimed: Claimed = _at_once(self._store.claim(limits, lease_id, holder, now, expired_at, ahead))
        for record in hidden:
            self._backend.shelf(record.key.partition).put(record)
        if claimed.next_claimable_at is not None:
            times.append(claimed.next_claimable_at)
        return claimed._replace(next_claimable_at=min(times, default=None))

    def _time_of(
        self, before: Record | None, until: Instant, expired_at: Instant, ahead: Duration
    ) -> list[Instant]:
        """When what is passed over is to be looked at, as far as a claim sees it; nothing, if never."""
        if before is None or before.claimable_at is None:
            return []
        end = before.claimable_at
        if before.lease is not None and before.lease.expires_at > expired_at:
            end = max(end, before.lease.expires_at + until - expired_at)
        elif end <= until and not self.tells_of_passed_over:
            return []
        return [end - ahead]

    def _load(self, keys: list[Key], loaded: list[Record | None], done: Done) -> None:
        """Load the first of *keys*, and the others after it."""
        loaded += _at_once(self._store.load(keys[:1]))
        if len(keys) > 1:
            self._after(self._moment() // 10, lambda: self._load(keys[1:], loaded, done))
        else:
            done(loaded)

    # --- Failovers -----------------------------------------------------------------------------------------------

    def fail_over(self) -> None:
        """Go back to how the backend was a moment ago. What was acknowledged since is lost."""
        past = self._loop.now - int(PAST_MOST * self._random.random())
        lost = [state for state in self._states if state.at > past]
        self._states.clear()
        self._locked.clear()
        self._era += 1
        if not lost:
            return
        for partition, shelf in self._backend.shelves.items():
            before = lost[0].records.get(partition, {})
            for key in list(shelf.records):
                if key not in before:
                    shelf.remove(key)
            for record in before.values():
                shelf.put(record)
        self._backend.histories.clear()
        self._backend.histories.update(lost[0].histories)

    def _remember(self) -> None:
        """Keep the state of the backend as it is before a write."""
        if self.modes.forgets:
            shelves = self._backend.shelves
            records = {partition: dict(shelf.records) for partition, shelf in shelves.items()}
            histories = {key: dict(rows) for key, rows in self._backend.histories.items()}
            self._states.append(_State(self._loop.now, records, histories))
            del self._states[:-STATES_MAX]

    # --- How -----------------------------------------------------------------------------------------------------

    def _carry_out(self, verb: str, arguments: tuple[Any, ...], done: Done) -> None:
        if verb in {"swap", "claim", "renew"}:
            self._remember()
        method: Callable[..., Coroutine[Any, Any, Any]] = getattr(self._store, verb)
        done(_at_once(method(*arguments)))

    def _moment(self) -> int:
        """How long a transaction is under way: milliseconds mostly, and now and then as long as a lock may last."""
        share = self._random.random()
        return int(share**8 * LOCKED_MOST)

    def _after(self, delay: int, work: Callable[[], None]) -> None:
        if delay:
            self._loop.at(self._loop.now + delay, work)
        else:
            work()


def _at_once(call: Coroutine[Any, Any, Any]) -> Any:
    """Return what a verb of a store in memory returns; it awaits nothing."""
    try:
        call.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("a store in memory does not wait")


def _key_of(change: Change) -> Key:
    known = change.before or change.after
    assert known is not None
    return known.key
