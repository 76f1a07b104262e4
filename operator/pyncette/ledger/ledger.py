"""Applies rules to stored records in batches, and retries the writes that lose a race."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from itertools import count
from typing import Any, Final, NamedTuple

from pyncette.clock import Clock, Instant
from pyncette.core import edits, rules
from pyncette.core.accounting import RemovedCounts
from pyncette.core.record import Change, Key, Record
from pyncette.core.runs import RETURNED, Completion, Ending, HeldRun, with_record
from pyncette.core.spec import Policies
from pyncette.errors import ContentionError, StoreError
from pyncette.ledger.announcements import Announcements, Wake
from pyncette.ledger.backend_time import BackendTime
from pyncette.ledger.batches import Batches, is_written
from pyncette.ledger.counters import CountedWrites, Unit
from pyncette.ledger.outcomes import OnEnded, Outcomes
from pyncette.ledger.races import RACE_SECONDS, Races
from pyncette.ledger.starts import PendingStart, Starts
from pyncette.store.base import Store

SETTLED_AT_ONCE: Final = 2
"""
How many times `settle` writes a completion before it calls it contested. An edit in mid-run is nearly always over by the
second time. The other completions of the batch are reported only after that.
"""

RELEASED: Final = frozenset({Ending.DRAINED, Ending.UNSTARTED})
"""Endings after which other workers must poll at once: this process stops, and they assume that it goes on."""


class Ruling(NamedTuple):
    """The decision of a rule about one record: a change to write, if any, and the answer once it is written."""

    change: Change | None
    answer: Any = None
    removed_counts: RemovedCounts | None = None
    further: tuple[Change, ...] = ()
    """Changes of other records that are made together with *change*, or not at all; one of them may create a record."""


Rule = Callable[[Record | None, Instant], Ruling]
"""Takes a record as it is stored (None: there is none) and the time."""


def withdrawal(policies: Policies) -> Rule:
    """Return the rule that removes a record, and counts the run that this withdraws by its own policies or *policies*."""

    def rule(record: Record | None, now: Instant) -> Ruling:
        if record is None:
            return Ruling(None)
        return Ruling(Change(record, None), removed_counts=edits.removed(record, policies, now))

    return rule


class Ledger:
    """
    The only writer of the records of tasks.

    It calls *wake* for each record that may be claimable sooner than workers expect. A write that loses a race is decided
    again and retried, until nothing was written for *race_seconds*.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        wake: Wake | None = None,
        *,
        race_seconds: float = RACE_SECONDS,
    ) -> None:
        self.store = store
        self.clock = clock
        self.race_seconds = race_seconds
        self._time = BackendTime(store, clock)
        self._batches = Batches(store)
        self._writes = CountedWrites(self._batches, self._time)
        self._announcements = Announcements(store, clock, wake)
        self._outcomes = Outcomes()
        self._starts = Starts(
            self._batches, self._writes, clock, self._time, self._announcements, self._outcomes
        )

    def on_claimable(self, wake: Wake) -> None:
        """Call *wake*, and no other, for each record that may be claimable sooner than workers expect."""
        self._announcements.wake = wake

    def on_ended(self, ended: OnEnded) -> None:
        """
        Call *ended*, and no other, for occurrences whose outcome this ledger has written.

        Of all ledgers on a backend, at most one calls it for an occurrence, and once. None does if its process dies between
        the write and the call, or if the reply was lost and the record has changed again or is gone since.
        """
        self._outcomes.listener = ended

    async def now(self) -> Instant:
        """
        Return the time for decisions: the store's, which is read again if it was not read within `STALE_AFTER`.

        Concurrent callers share one request. Raises StoreError.
        """
        return await self._time.now()

    async def apply(
        self, rulings: Mapping[Key, Rule], answers: dict[Key, Any] | None = None
    ) -> dict[Key, Any]:
        """
        Apply its rule to each record and write the changes; a change that loses a race is decided again.

        Returns the answers by key. Raises the error of a rule, and then writes nothing more; ContentionError after losing
        every race for *race_seconds*. *answers* then holds the answers of the rules whose changes were written: applying
        those rules again would do their work twice.
        """
        answers = {} if answers is None else answers
        todo = list(rulings)
        races = Races(self.race_seconds)
        while True:
            records = await self._batches.load(todo)
            now = await self.now()
            ruled = [(key, rulings[key](record, now)) for key, record in zip(todo, records, strict=True)]
            units = [
                Unit((ruling.change, *ruling.further), ruling.removed_counts)
                for _, ruling in ruled
                if ruling.change is not None
            ]
            known: dict[int, bool] = {}
            failure: StoreError | None = None
            try:
                await self._writes.write(units, known, self.race_seconds)
            except StoreError as error:
                failure = error
            places = count()
            todo, written = [], []
            for key, ruling in ruled:
                if ruling.change is None or known.get(next(places)):
                    answers[key] = ruling.answer
                    written.append(ruling)
                else:
                    todo.append(key)
            self._outcomes.ended(
                ((ruling.change, *ruling.further), ruling.removed_counts)
                for ruling in written
                if ruling.change is not None
            )
            changed = (change for ruling in written for change in (ruling.change, *ruling.further))
            await self._announcements.announce(changed)
            if failure is not None:
                raise failure
            if not todo:
                return answers
            if written:
                races.won()
            await races.lost(f"{todo[0]} could not be written: other processes kept changing it")

    async def create(self, records: Sequence[Record]) -> list[bool]:
        """
        Create each of *records* unless it exists, and say for each whether it was created.

        This takes half the round trips of `apply`, for records that are most likely new. No key may occur twice.
        """
        changes = [Change(None, record) for record in records]
        created = await self._batches.swap(changes)
        await self._announcements.announce(change for change, ok in zip(changes, created, strict=True) if ok)
        return created

    def start(self, claimed: Sequence[PendingStart]) -> AsyncGenerator[dict[int, HeldRun | None]]:
        """
        Write the changes that must precede each run, and yield results as they are known, by their place in *claimed*.

        A result is a run that may start, or None if there is nothing to run here: another worker has the record, it was
        edited, or it moved on. A failure of one start does not keep the others from running. If a write fails without a
        result, the record is reloaded until its lease expires. The run may start if its start was written after all;
        otherwise the start is written again. A start that is still unknown then is not yielded, and must not run.
        """
        return self._starts.start(claimed)

    async def defer(self, changes: Sequence[Change]) -> None:
        """
        Write *changes* that defer claimed records.

        A record that was changed meanwhile, and is still held, is deferred on top of that change; if it is changed again, it
        stays as it is until its lease ends.
        """
        made = await self._batches.swap(changes)
        lost = [change for change, ok in zip(changes, made, strict=True) if not ok]
        if not lost:
            return
        stored = await self._batches.load([change.key for change in lost])
        again = [rules.deferred_again(change, record) for change, record in zip(lost, stored, strict=True)]
        await self._batches.swap([change for change in again if change is not None])

    async def settle(
        self, completions: Sequence[Completion], *, again: bool = False
    ) -> list[bool | Completion]:
        """
        Write how runs ended, and say for each whether the lease was still held, so that it was written.

        A record that was edited in mid-run is decided again on top of the edit, and written once more; one that was
        taken over stays as its new holder has it. A run that loses that race, too, is contested, and the others do not
        wait for it: its result is not a bool but its last completion, to be settled a little later.

        Settling the same completions *again* is harmless, as after `StoreUnavailableError`. Then a record that was to be
        removed, and is gone, counts as removed by the first try: nothing else can be known of it.
        """
        outcomes: list[bool | Completion] = [True] * len(completions)
        # Reported only at the end: if this raises, all are settled again, and found to be written.
        written: list[Completion] = []
        todo = {at: item for at, item in enumerate(completions) if item.change is not None}
        for tried in range(SETTLED_AT_ONCE):
            made = await self._write_ends(todo.values())
            written += [item for item, ok in zip(todo.values(), made, strict=True) if ok]
            if tried:  # the caller knows only of the first decision
                changes = (item.change for item, ok in zip(todo.values(), made, strict=True) if ok)
                await self._announcements.announce(changes)
            if all(made):
                self._outcomes.completed(written)
                return outcomes
            lost = {at: item for (at, item), ok in zip(todo.items(), made, strict=True) if not ok}
            todo = {}
            for at, decided in await self._settle_again(list(lost.items()), again=again):
                if isinstance(decided, bool):
                    outcomes[at] = decided
                    change = lost[at].change
                    if decided and change is not None and change.after is not None:
                        written.append(
                            lost[at]
                        )  # a record that is gone may have been withdrawn, and counted as that
                elif decided.change is not None:
                    todo[at] = decided
        for at, contested in todo.items():
            outcomes[at] = contested
        self._outcomes.completed(written)
        return outcomes

    async def reloaded(self, held: HeldRun) -> HeldRun | None:
        """
        Return *held* with its record as it is stored now; None if the lease was taken over.

        It also reads the store's time if that is stale, so that the caller can decide. Raises StoreError.
        """
        await self.now()
        (record,) = await self.store.load([held.record.key])
        if record is None or not record.has_lease_of(held.record):
            return None
        return with_record(held, record)

    async def _write_ends(self, completions: Collection[Completion]) -> list[bool]:
        """Write each completion whole or not at all: the record, its dead letter, and the counts kept elsewhere."""
        changes = [change for item in completions if (change := item.change) is not None]
        # Nearly all have just returned, and are a change and nothing else.
        more = {
            at: item
            for at, item in enumerate(completions)
            if item.ended is not RETURNED or item.removed_counts is not None
        }
        if any(item.removed_counts or item.created for item in more.values()):
            units = [
                Unit(more[at].changes, more[at].removed_counts) if at in more else Unit((change,), None)
                for at, change in enumerate(changes)
            ]
            known: dict[int, bool] = {}
            with suppress(ContentionError):  # the others do not wait for what cannot be counted now
                await self._writes.write(units, known, race_seconds=0)
            made = [known.get(at, False) for at in range(len(units))]
        else:
            made = await self._batches.swap(changes)
        if more:
            await self._announcements.announce(
                change
                for at, item in more.items()
                if made[at] and item.ended.ending in RELEASED
                for change in item.changes
            )
        return made

    async def _settle_again(
        self, lost: Sequence[tuple[int, Completion]], *, again: bool
    ) -> list[tuple[int, Completion | bool]]:
        """
        Decide again about each run whose record had changed, on top of that change.

        A bool says that there is nothing more to write, and whether it was written: it was not if the lease was taken
        over, but it was if just the reply of a swap was lost. A record whose key is taken is not created.
        """
        creating = [created.key for _, item in lost if (created := item.created) is not None]
        keys = [item.held.record.key for _, item in lost]
        records = await self._batches.load([*keys, *creating])
        existing = {key for key, record in zip(creating, records[len(keys) :], strict=True) if record}
        now = await self.now()
        decided: list[tuple[int, Completion | bool]] = []
        for (at, item), record in zip(lost, records[: len(keys)], strict=True):
            if record is None:
                was_to_go = item.change is None or item.change.after is None
                decided.append((at, again and was_to_go))
                continue
            if not record.has_lease_of(item.held.record):
                decided.append((at, is_written(record, item.change)))
                continue
            completion = rules.settle(with_record(item.held, record), item.ended, now)
            if completion.created is not None and completion.created.key in existing:
                completion = rules.without_created(completion, now)
            decided.append((at, completion))
        return decided
