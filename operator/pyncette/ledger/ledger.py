"""Applies rules to stored records, in batches, and settles the races between those who write them."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import (
    AsyncGenerator,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager, suppress
from itertools import accumulate, count
from typing import Any, Final, NamedTuple

import msgspec

from pyncette.clock import SECOND, Clock, Duration, Instant, synchronize
from pyncette.core import edits, rules
from pyncette.core.accounting import (
    COUNTER_SHARDS,
    RemovedCounts,
    count_removed,
    counting_record,
    ended_by,
    parent_among,
    parents_of,
    shard_of,
)
from pyncette.core.backoff import Backoff
from pyncette.core.record import Change, HistoryRow, Key, Outcome, Partition, Record, replace
from pyncette.core.rules import RETURNED, Beginning, Ended, Ending, Held, Settlement
from pyncette.core.spec import Policies
from pyncette.errors import ContentionError, StoreError, StoreUnavailableError
from pyncette.store.base import Notification, Store

logger = logging.getLogger(__name__)

RACE_SECONDS: Final = 30.0
"""
A write is retried until it has lost every race for this long. Hundreds of processes that write one record finish within a
few seconds, so a longer series means a bug or an attack, not load. Most callers wait at least as long for an answer.
"""

SETTLED_AT_ONCE: Final = 2
"""
How many times `settle` writes the end of a run before it calls it contested. An edit in mid-run is nearly always over by
the second time. The other ends of the batch are reported only after that.
"""

RACE_BACKOFF: Final = Backoff(0.005, 0.5, jitter=1.0)
"""Delays between retries of a lost race: long enough to spread out many writers, and negligible within a lease."""

COUNTERS_MAX: Final = 1000
"""Records that count for templates and are kept in memory for the next time."""

ANNOUNCED_AHEAD: Final[Duration] = 20 * SECOND
"""
Other processes are notified of records that become claimable within this time. Workers find later ones by themselves:
they poll at least every `SAFETY_POLL`, which is half of this. The other half is for slow polls and for clocks that differ.
"""

LOGGED_MAX: Final = 10
"""The most records that one log line names."""

RELEASED: Final = frozenset({Ending.DRAINED, Ending.UNSTARTED})
"""After these, others are to look at once: this process stops, and they think that it goes on."""


class Ruling(NamedTuple):
    """What a rule says of one record: what to write, if anything, and what to answer once it is written."""

    change: Change | None
    answer: Any = None
    removed_counts: RemovedCounts | None = None
    further: tuple[Change, ...] = ()
    """Changes of other records that are made together with *change*, or not at all; one of them may create a record."""


Rule = Callable[[Record | None, Instant], Ruling]
"""Takes a record as it is stored (None: there is none) and the time."""


OnEnded = Callable[[str, str, Outcome, int], None]
"""Takes the realm and the name of a task, an outcome, and how many of its occurrences have ended with it."""


def withdrawal(policies: Policies) -> Rule:
    """Return the rule that removes a record, by *policies* unless it has its own, and counts what it withdraws."""

    def rule(record: Record | None, now: Instant) -> Ruling:
        if record is None:
            return Ruling(None)
        return Ruling(Change(record, None), removed_counts=edits.removed(record, policies, now))

    return rule


class Settling(msgspec.Struct, frozen=True, gc=False):
    """A run that is over, and what is to be written about it."""

    held: Held
    ended: Ended
    settlement: Settlement


class Starting(NamedTuple):
    """A claimed record with changes to write before its run, or instead of it."""

    beginning: Beginning
    policies: Policies
    lease_until: Duration
    """When its lease expires, by the clock's `monotonic`. The start is retried until then."""


class Ledger:
    """
    The only writer of what tasks have stored.

    *wake* is called for each record that may be claimable sooner than workers expect. A write that loses a race is decided
    again and retried, until nothing was written for *race_seconds*.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        wake: Callable[[Partition, Instant], None] | None = None,
        *,
        race_seconds: float = RACE_SECONDS,
    ) -> None:
        self.store = store
        self.clock = clock
        self._wake = wake
        self._on_ended: OnEnded | None = None
        self.race_seconds = race_seconds
        self._shards: dict[Key, set[Key]] = {}
        """Where this process counts for a template: at the template's own record, until a race for that was lost."""
        self._in_use: set[Key] = set()
        self._counted_at: dict[Key, Record] = {}
        self._synchronizing: asyncio.Future[bool] | None = None
        """Says whether the store has told its time, once the request has ended; None between requests."""

    def on_claimable(self, wake: Callable[[Partition, Instant], None]) -> None:
        """Call *wake*, and no other, for each record that may be claimable sooner than workers expect."""
        self._wake = wake

    def on_ended(self, ended: OnEnded) -> None:
        """
        Call *ended*, and no other, for occurrences whose outcome this ledger has written.

        Of all ledgers on a backend, at most one calls it for an occurrence, and once. None does if its process dies between
        the write and the call, or if the reply was lost and the record has changed again or is gone since.
        """
        self._on_ended = ended

    async def now(self) -> Instant:
        """
        Return the time for decisions: the store's, which is read again if it was not read within `STALE_AFTER`.

        Concurrent callers share one request. Raises StoreError.
        """
        # A slow answer is stale at once, and the next one would be no better.
        is_answered = False
        while self.clock.is_stale() and not is_answered:
            request = self._synchronizing
            is_answered = await (self._synchronize() if request is None else asyncio.shield(request))
        return self.clock.now()

    async def apply(
        self, rulings: Mapping[Key, Rule], answers: dict[Key, Any] | None = None
    ) -> dict[Key, Any]:
        """
        Rule on each record, and write what the rules say; those that lose a race are ruled on again.

        Returns the answers by key. Raises what a rule raises, and then nothing more is written;
        `ContentionError` if it lost every race for *race_seconds*. *answers* then has the answers to what was written:
        to apply those rules again would do their work twice.
        """
        answers = {} if answers is None else answers
        todo = list(rulings)
        races = _Races(self.race_seconds)
        while True:
            records = await self._load(todo)
            now = await self.now()
            ruled = [(key, rulings[key](record, now)) for key, record in zip(todo, records, strict=True)]
            units = [
                _Unit((ruling.change, *ruling.further), ruling.removed_counts)
                for _, ruling in ruled
                if ruling.change is not None
            ]
            known: dict[int, bool] = {}
            failure: StoreError | None = None
            try:
                await self._write(units, known)
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
            self._report_ended(
                ((ruling.change, *ruling.further), ruling.removed_counts)
                for ruling in written
                if ruling.change is not None
            )
            await self._announce(change for ruling in written for change in (ruling.change, *ruling.further))
            if failure is not None:
                raise failure
            if not todo:
                return answers
            if written:
                races.won()
            await races.lost(f"{todo[0]} could not be written: other processes kept changing it")

    async def create(self, records: Sequence[Record]) -> list[bool]:
        """
        Write each of *records* that is not there yet, without a look first, and say for each whether it was.

        Half the round trips of `apply`, for many that are most likely new. No key may occur twice.
        """
        changes = [Change(None, record) for record in records]
        created = await self._swap(changes)
        await self._announce(change for change, ok in zip(changes, created, strict=True) if ok)
        return created

    async def start(self, claimed: Sequence[Starting]) -> AsyncGenerator[dict[int, Held | None]]:
        """
        Write the changes that must precede each run, and yield results as they are known, by their place in *claimed*.

        A result is what may run, or None if there is nothing to run here: another worker has it, it was edited, or it
        moved on. No failure keeps the others from running. If a write fails without a result, the record is reloaded
        until its lease expires. It runs if its start was written after all; otherwise the start is written again. A
        start that is unknown even then is not yielded, and must not run.
        """
        todo = dict(enumerate(claimed))
        pauses = race_pauses()
        while todo:
            held = self._still_held({at: _Undecided(one) for at, one in todo.items()})
            decided, undecided = await self._write_starts({at: one.starting for at, one in held.items()})
            if decided:
                yield decided
            todo = {}
            while undecided and not todo:
                await asyncio.sleep(next(pauses))
                decided, todo, undecided = await self._start_again(self._still_held(undecided))
                if decided:
                    yield decided

    async def defer(self, changes: Sequence[Change]) -> None:
        """Have claimed records wait; one that was edited meanwhile is as the edit has it, and is seen when its lease ends."""
        await self._swap(changes)

    async def settle(self, settling: Sequence[Settling], *, again: bool = False) -> list[bool | Settling]:
        """
        Write what became of runs, and say for each whether it was still ours to write.

        What was edited in mid-run is decided again on top of the edit, and written once more; what was taken over stays
        as its new holder has it. A run that loses that race, too, is contested: its neighbours do not wait for it. Instead
        of a bool there is what was decided for it last, which is to be settled a little later.

        To settle the same *again* is harmless: one does after `StoreUnavailableError`. Then a record that was to be
        removed, and is gone, is taken for what the first try did: nothing is left to tell.
        """
        outcomes: list[bool | Settling] = [True] * len(settling)
        # Reported at the end alone: if this raises, all are settled again, and found to be written.
        written: list[Settling] = []
        todo = {at: item for at, item in enumerate(settling) if item.settlement.change is not None}
        for tried in range(SETTLED_AT_ONCE):
            made = await self._write_ends(todo.values())
            written += [item for item, ok in zip(todo.values(), made, strict=True) if ok]
            if tried:  # the caller knows only of the first decision
                changes = (item.settlement.change for item, ok in zip(todo.values(), made, strict=True) if ok)
                await self._announce(changes)
            if all(made):
                self._report_settled(written)
                return outcomes
            lost = {at: item for (at, item), ok in zip(todo.items(), made, strict=True) if not ok}
            todo = {}
            for at, decided in await self._settle_again(list(lost.items()), again=again):
                if isinstance(decided, bool):
                    outcomes[at] = decided
                    change = lost[at].settlement.change
                    if decided and change is not None and change.after is not None:
                        written.append(lost[at])  # what is gone may have been withdrawn, and counted so
                elif decided.settlement.change is not None:
                    todo[at] = decided
        for at, contested in todo.items():
            outcomes[at] = contested
        self._report_settled(written)
        return outcomes

    async def reloaded(self, held: Held) -> Held | None:
        """
        Return *held* on top of what others have changed in mid-run; None if the lease went elsewhere.

        It also reads the store's time if that is stale, so that the caller can decide. Raises StoreError.
        """
        await self.now()
        (record,) = await self.store.load([held.record.key])
        if record is None or not _same_lease(record, held.record):
            return None
        return rules.again(held, record)

    async def _write_starts(
        self, todo: Mapping[int, Starting]
    ) -> tuple[dict[int, Held | None], dict[int, _Undecided]]:
        """Write each start whole or not at all; return those written, and those that were not or may not have been."""
        refused: list[Key] = []
        written = await self._try_starts(todo, refused)
        if refused:
            logger.error(
                "starts cannot be written, so their leases will expire",
                extra={"records": [str(key) for key in refused[:LOGGED_MAX]], "total": len(refused)},
            )
        return written

    async def _try_starts(
        self, todo: Mapping[int, Starting], refused: list[Key]
    ) -> tuple[dict[int, Held | None], dict[int, _Undecided]]:
        decided = {at: one.beginning.held for at, one in todo.items() if not one.beginning.first}
        writing = [(at, one) for at, one in todo.items() if one.beginning.first]
        known: dict[int, bool] = {}
        halves: list[list[tuple[int, Starting]]] = []
        failure: Exception | None = None
        try:
            units = [_Unit(one.beginning.first, one.beginning.removed_counts) for _, one in writing]
            await self._write(units, known, race_seconds=0)
        except ContentionError as error:
            failure = error
        except StoreUnavailableError as error:
            failure = error
            logger.warning(
                "starts may not have been written; reloading their records",
                extra={"error": str(error), "records": len(writing) - len(known)},
            )
        except (StoreError, ValueError, TypeError, OverflowError) as error:
            logger.debug("starts were refused", extra={"error": str(error)})
            # A store rolls back a whole batch if it cannot write one change of it.
            rest = [entry for place, entry in enumerate(writing) if place not in known]
            writing = [entry for place, entry in enumerate(writing) if place in known]
            known = dict(enumerate(known[place] for place in sorted(known)))
            if len(rest) == 1:
                refused += [_claimed(one.beginning).key for _, one in rest]
            else:
                halves = [rest[: len(rest) // 2], rest[len(rest) // 2 :]]
        undecided = {
            at: _Undecided(one, known.get(place) is False, failure)
            for place, (at, one) in enumerate(writing)
            if not known.get(place)
        }
        done = [(at, one.beginning) for at, one in writing if at not in undecided]
        self._report_begun(beginning for _, beginning in done)
        await self._announce((beginning.first[-1] for _, beginning in done), by_holder=True)
        decided |= {at: beginning.held for at, beginning in done}
        for half in halves:
            more = await self._try_starts(dict(half), refused)
            decided |= more[0]
            undecided |= more[1]
        return decided, undecided

    def _still_held(self, undecided: Mapping[int, _Undecided]) -> dict[int, _Undecided]:
        """Return those whose leases have not expired, and give up the others."""
        now = self.clock.monotonic()
        held = {at: one for at, one in undecided.items() if one.starting.lease_until > now}
        if over := [one for at, one in undecided.items() if at not in held]:
            logger.error(
                "starts were given up: their leases expired before they could be written",
                extra={
                    "records": [str(_claimed(one.starting.beginning).key) for one in over[:LOGGED_MAX]],
                    "total": len(over),
                    "error": str(over[0].failure or ""),
                },
            )
        return held

    async def _start_again(
        self, undecided: dict[int, _Undecided]
    ) -> tuple[dict[int, Held | None], dict[int, Starting], dict[int, _Undecided]]:
        """Reload starts that may not have been written; return those decided, those to write, and those still unknown."""
        changes = [change for one in undecided.values() for change in one.starting.beginning.first]
        keys = list({_key_of(change): None for change in changes})
        try:
            stored = dict(zip(keys, await self._load(keys), strict=True))
            now = await self.now()
        except StoreError as error:
            return {}, {}, {at: one._replace(failure=error) for at, one in undecided.items()}
        decided: dict[int, Held | None] = {}
        todo: dict[int, Starting] = {}
        for at, one in undecided.items():
            try:
                again = _begun_again(one, stored, now)
            except Exception:
                # A record that cannot be decided affects only itself: its lease expires, and it is claimed again.
                key = _claimed(one.starting.beginning).key
                logger.exception("a claimed record could not be decided", extra={"record": str(key)})
                again = None
            if isinstance(again, Beginning):
                todo[at] = one.starting._replace(beginning=again)
            else:
                decided[at] = again
                *_, move = one.starting.beginning.first
                if _is_what_we_wrote(stored[_key_of(move)], move, again=False):
                    self._report_begun([one.starting.beginning])
        return decided, todo, {}

    async def _write_ends(self, settling: Collection[Settling]) -> list[bool]:
        """Write each end whole or not at all: the record, its dead letter, and the counts kept elsewhere."""
        changes = [change for item in settling if (change := item.settlement.change) is not None]
        # Nearly all have just returned, and are a change and nothing else.
        more = {
            at: item
            for at, item in enumerate(settling)
            if item.ended is not RETURNED or item.settlement.removed_counts is not None
        }
        if any(item.settlement.removed_counts or item.settlement.dead_letter for item in more.values()):
            units = [
                _Unit(rules.changes_of(more[at].settlement), more[at].settlement.removed_counts)
                if at in more
                else _Unit((change,), None)
                for at, change in enumerate(changes)
            ]
            known: dict[int, bool] = {}
            with suppress(ContentionError):  # the others do not wait for what cannot be counted now
                await self._write(units, known, race_seconds=0)
            made = [known.get(at, False) for at in range(len(units))]
        else:
            made = await self._swap(changes)
        if more:
            await self._announce(
                item.settlement.change
                for at, item in more.items()
                if made[at] and item.ended.ending in RELEASED
            )
        return made

    async def _settle_again(
        self, lost: Sequence[tuple[int, Settling]], *, again: bool
    ) -> list[tuple[int, Settling | bool]]:
        """
        Decide again about each run whose record had changed, on top of that change.

        A bool tells instead that there is nothing more to write, and whether it was written: it was not if the lease
        went elsewhere, but it was if just the reply of a swap was lost. A dead letter that already exists is not
        created again.
        """
        dead_letters = [
            dead_letter.key for _, item in lost if (dead_letter := item.settlement.dead_letter) is not None
        ]
        keys = [item.held.record.key for _, item in lost]
        records = await self._load([*keys, *dead_letters])
        existing = {
            dead_letter
            for dead_letter, record in zip(dead_letters, records[len(keys) :], strict=True)
            if record
        }
        now = await self.now()
        decided: list[tuple[int, Settling | bool]] = []
        for (at, item), record in zip(lost, records[: len(keys)], strict=True):
            if record is None or not _same_lease(record, item.held.record):
                decided.append((at, _is_what_we_wrote(record, item.settlement.change, again=again)))
                continue
            held = rules.again(item.held, record)
            settlement = rules.settle(held, item.ended, now)
            if settlement.dead_letter is not None and settlement.dead_letter.key in existing:
                settlement = replace(settlement, dead_letter=None)
            decided.append((at, Settling(held, item.ended, settlement)))
        return decided

    # --- Outcomes ------------------------------------------------------------------------------------------------

    def _report_settled(self, settled: Iterable[Settling]) -> None:
        """Report the occurrences that ended with runs, after the write."""
        if self._on_ended is None:
            return
        succeeded: dict[tuple[str, str], int] = {}
        others: list[Settling] = []
        for item in settled:
            change = item.settlement.change
            # Nearly all have succeeded and dropped nothing, so they add no further rows of history.
            if (
                item.ended is RETURNED
                and change is not None
                and (before := change.before) is not None
                and (after := change.after) is not None
                and after.state.summary.rows == before.state.summary.rows
            ):
                of = before.key.partition.realm, before.key.task
                succeeded[of] = succeeded.get(of, 0) + 1
            else:
                others.append(item)
        for (realm, task), number in succeeded.items():
            self._on_ended(realm, task, Outcome.SUCCEEDED, number)
        self._report_ended(
            (rules.changes_of(item.settlement), item.settlement.removed_counts) for item in others
        )

    def _report_begun(self, beginnings: Iterable[Beginning]) -> None:
        """Report the occurrences that ended with a claim: those that were dropped, and those whose worker died."""
        self._report_ended((beginning.first, beginning.removed_counts) for beginning in beginnings)

    def _report_ended(self, written: Iterable[tuple[Sequence[Change], RemovedCounts | None]]) -> None:
        """Report the occurrences that ended with changes; those of one write are of one task."""
        if self._on_ended is None:
            return
        totals: dict[tuple[str, str, Outcome], int] = {}
        for changes, removed_counts in written:
            for outcome, number in ended_by(changes, removed_counts).items():
                key = _key_of(changes[0])
                of = key.partition.realm, key.task, outcome
                totals[of] = totals.get(of, 0) + number
        for (realm, task, outcome), number in totals.items():
            self._on_ended(realm, task, outcome, number)

    async def _synchronize(self) -> bool:
        request = self._synchronizing = asyncio.get_running_loop().create_future()
        try:
            await synchronize(self.clock, self.store.now)
        except StoreError as error:
            request.set_exception(error)
            request.exception()  # marks it as retrieved, in case no caller waits for it
            raise
        else:
            request.set_result(True)
            return True
        finally:
            self._synchronizing = None
            if not request.done():  # this was cancelled: then a waiting caller asks again
                request.set_result(False)

    # --- Writing -------------------------------------------------------------------------------------------------

    async def _write(
        self,
        units: Sequence[_Unit],
        known: dict[int, bool] | None = None,
        *,
        race_seconds: float | None = None,
    ) -> list[bool]:
        """
        Make the changes of each unit together, and with them what they count; say for each whether it was made.

        A unit loses if one of its own records is not as it was. For the record that it is counted at, it tries again.
        *known* maps the place of each unit to its result, and is filled in even if this raises.
        """
        known = {} if known is None else known
        if all(unit.removed_counts is None and len(unit.changes) == 1 for unit in units):
            made: list[bool] = []
            try:
                return await self._swap([unit.changes[0] for unit in units], made)
            finally:
                known.update(enumerate(made))
        races = _Races(self.race_seconds if race_seconds is None else race_seconds)
        while todo := [at for at in range(len(units)) if at not in known]:
            before = len(known)
            failed = await self._write_once(units, todo, known)
            for at in await self._lost(units, failed):
                known[at] = False
            if len(known) > before:
                races.won()
            else:
                await races.lost(
                    f"the outcomes of {len(todo)} records could not be counted: other processes kept changing the counters"
                )
        return [known[at] for at in range(len(units))]

    async def _write_once(
        self, units: Sequence[_Unit], todo: Sequence[int], known: dict[int, bool]
    ) -> list[_Bundle]:
        """Try to write the units *todo*, and add results to *known*; return bundles that may have lost a race to count."""
        with self._counters() as counters:
            bundles = await self._bundles(units, todo, counters)
            written: list[bool] = []
            try:
                await self._swap_bundles(bundles, written)
            finally:
                for bundle, ok in zip(bundles, written, strict=False):
                    if ok or bundle.parent is None:
                        known.update(dict.fromkeys(bundle.units, ok))
        for bundle, ok in zip(bundles, written, strict=True):
            if bundle.template is not None:
                self._remember(bundle, made=ok)
        return [
            bundle
            for bundle, ok in zip(bundles, written, strict=True)
            if not ok and bundle.parent is not None
        ]

    async def _bundles(
        self, units: Sequence[_Unit], todo: Sequence[int], counters: _Counters
    ) -> list[_Bundle]:
        """Put together what is to be made together: what is counted at one record goes with that record's own change."""
        bundles = [_Bundle([at], list(units[at].changes)) for at in todo if units[at].removed_counts is None]
        counting = {
            at: removed_counts for at in todo if (removed_counts := units[at].removed_counts) is not None
        }
        by_parent: dict[Key, list[int]] = {}
        parents = await self._schedules(counting.values())
        templates: dict[Key, Key] = {}
        for at, removed_counts in counting.items():
            parent = parent_among(removed_counts, parents)
            if parent is None:  # nobody is left to count it
                bundles.append(_Bundle([at], list(units[at].changes)))
                continue
            if parent.instance != removed_counts.of.instance:
                template, parent = parent, counters.of(parent)
                templates[parent] = template
            by_parent.setdefault(parent, []).append(at)
        parents |= await self._counting(templates)
        ours = {record.key for at in todo for change in units[at].changes if (record := change.before)}
        now = await self.now()
        for parent, ats in by_parent.items():
            if parent in ours:  # no key may occur twice: its own change first
                continue
            part = self._fitting(units, ats)  # the rest has its turn when this is written
            count = _count_all_removed(parent, parents.get(parent), [counting[at] for at in part], now)
            changes = [*(change for at in part for change in units[at].changes), count]
            bundles.append(_Bundle(list(part), changes, parent, templates.get(parent)))
        return bundles

    def _fitting(self, units: Sequence[_Unit], ats: Sequence[int]) -> Sequence[int]:
        """
        Return as many of *ats* as fit into one swap with the record that counts them, all or about one half.

        Of those that create a record it is the first alone: a group creates no more than one.
        """
        creating = [at for at in ats if any(change.before is None for change in units[at].changes)]
        if len(creating) > 1:
            ats = [at for at in ats if at == creating[0] or at not in creating]
        capabilities = self.store.capabilities
        room = min(capabilities.swap_batch_max, capabilities.group_max) - 1
        while len(ats) > 1 and sum(len(units[at].changes) for at in ats) > room:
            ats = ats[: (len(ats) + 1) // 2]
        return ats

    async def _schedules(self, removed: Iterable[RemovedCounts]) -> dict[Key, Record | None]:
        """Return the records of the schedules that *removed* lived beside."""
        keys = list(
            {
                parent: None
                for removed_counts in removed
                if removed_counts.of.occurrence
                for parent in parents_of(removed_counts.of)[:1]
            }
        )
        return dict(zip(keys, await self._load(keys), strict=True)) if keys else {}

    async def _counting(self, keys: Iterable[Key]) -> dict[Key, Record | None]:
        """Return the records that count for templates, as they were when they were last seen; new ones are created."""
        found: dict[Key, Record | None] = {key: self._counted_at.get(key) for key in keys}
        unknown = [key for key, record in found.items() if record is None]
        if not unknown:
            return found
        found |= zip(unknown, await self._load(unknown), strict=True)
        missing = [key for key in unknown if found[key] is None]
        if missing:
            now = await self.now()
            await self._swap([Change(None, counting_record(key, now)) for key in missing])
            found |= zip(missing, await self._load(missing), strict=True)
        return found

    @contextmanager
    def _counters(self) -> Iterator[_Counters]:
        """Hand out the records that count for templates, each to one write of this process at a time."""
        counters = _Counters(self._shards, self._in_use)
        try:
            yield counters
        finally:
            counters.release()

    def _remember(self, bundle: _Bundle, *, made: bool) -> None:
        """Keep what was counted at, since the next batch most likely counts there too."""
        parent, after = bundle.parent, bundle.changes[-1].after
        assert parent is not None
        if made and after is not None:
            if len(self._counted_at) >= COUNTERS_MAX:
                self._counted_at.clear()
            self._counted_at[parent] = after
        else:
            self._counted_at.pop(parent, None)

    async def _lost(self, units: Sequence[_Unit], failed: Sequence[_Bundle]) -> set[int]:
        """Return which units of bundles that could not be written have lost; a bundle without any lost a race to count."""
        if not failed:
            return set()
        changes = [(at, change) for bundle in failed for at in bundle.units for change in units[at].changes]
        records = await self._load([_key_of(change) for _, change in changes])
        lost = {
            at
            for (at, change), record in zip(changes, records, strict=True)
            if _version_of(record) != _version_of(change.before)
        }
        for bundle in failed:
            if bundle.template is not None and bundle.parent is not None and lost.isdisjoint(bundle.units):
                # Others count there, too; so this process goes elsewhere.
                self._shards.get(bundle.template, set()).discard(bundle.parent)
        return lost

    async def _swap_bundles(self, bundles: Sequence[_Bundle], made: list[bool]) -> None:
        """Make each bundle whole or not at all, as many in one swap as fit, and add the results to *made*."""
        size = self.store.capabilities.swap_batch_max
        batch: list[Change] = []
        lengths: list[int] = []
        for bundle in bundles:
            if batch and len(batch) + len(bundle.changes) > size:
                made += _of_bundles(lengths, await self.store.swap(batch))
                batch, lengths = [], []
            lengths.append(len(bundle.changes))
            group = len(lengths) if len(bundle.changes) > 1 else 0
            batch += [change._replace(group=group) for change in bundle.changes]
        if batch:
            made += _of_bundles(lengths, await self.store.swap(batch))

    async def _load(self, keys: Sequence[Key]) -> list[Record | None]:
        size = self.store.capabilities.swap_batch_max
        if len(keys) <= size:
            return await self.store.load(keys)
        return [
            record
            for at in range(0, len(keys), size)
            for record in await self.store.load(keys[at : at + size])
        ]

    async def _swap(self, changes: Sequence[Change], made: list[bool] | None = None) -> list[bool]:
        """Make *changes*, and add the results of each swap to *made*, which keeps them if a later one fails."""
        size = self.store.capabilities.swap_batch_max
        made = [] if made is None else made
        for at in range(0, len(changes), size):
            made += await self.store.swap(changes[at : at + size] if len(changes) > size else changes)
        return made

    async def _announce(self, changes: Iterable[Change | None], *, by_holder: bool = False) -> None:
        """
        Announce each record that may be claimable sooner than workers expect: see `_announced_at`.

        The worker of this process is woken however far ahead the record is claimable. Other processes are notified if
        that is within `ANNOUNCED_AHEAD`, since a notification costs a backend more than it seems. Sleeping workers find
        later records by polling. Pretended time may skip that poll, so it has no such limit.
        """
        soonest: dict[Partition, Instant] = {}
        for change in changes:
            at = None if change is None else _announced_at(change, by_holder=by_holder)
            if change is not None and change.after is not None and at is not None:
                partition = change.after.key.partition
                soonest[partition] = min(at, soonest.get(partition, at))
        if not soonest:
            return
        if self._wake is not None:
            for partition, at in soonest.items():
                self._wake(partition, at)
        if self.store.capabilities.notifies:
            await self._notify(soonest)

    async def _notify(self, soonest: Mapping[Partition, Instant]) -> None:
        last = self.clock.latest_after(ANNOUNCED_AHEAD)
        notifications = [Notification(partition, at) for partition, at in soonest.items() if at <= last]
        if not notifications:
            return
        try:
            await self.store.notify(notifications)
        except StoreError as error:
            # What was written stands, and others find it at their next poll.
            logger.debug("others were not notified of claimable records", extra={"error": str(error)})


class _Unit(NamedTuple):
    """What is written together, and what it counts."""

    changes: tuple[Change, ...]
    removed_counts: RemovedCounts | None


class _Undecided(NamedTuple):
    """A start that was not written, or may not have been."""

    starting: Starting
    lost: bool = False
    """It was certainly not written: a record had changed, or its name was taken."""
    failure: Exception | None = None


class _Races:
    """Pauses between retries of a write that lost a race; an error once every race was lost for *seconds*."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self.won()

    def won(self) -> None:
        """Reset the pauses and the time limit, since something was written."""
        self._until = self._loop.time() + self._seconds
        self._pauses = race_pauses()

    async def lost(self, what: str) -> None:
        """Pause before the next try. Raises ContentionError, which says *what* was lost, once the time is up."""
        if self._loop.time() >= self._until:
            raise ContentionError(f"{what} for {self._seconds:g} s")
        await asyncio.sleep(next(self._pauses))


def race_pauses() -> Iterator[float]:
    """Yield the delay before each retry of a lost race, in seconds."""
    return RACE_BACKOFF.delays(random.random)


class _Counters:
    """The records that one write counts at, for templates: nobody else in this process does at the same time."""

    def __init__(self, shards: dict[Key, set[Key]], in_use: set[Key]) -> None:
        self._shards = shards
        self._in_use = in_use
        self._taken: dict[Key, Key] = {}

    def of(self, template: Key) -> Key:
        """Return where to count what was removed of *template*: its own record, as long as no other is needed."""
        if template not in self._taken:
            shards = self._shards.setdefault(template, {template})
            free = shards - self._in_use
            shard = min(free) if free else shard_of(template, random.randrange(1, COUNTER_SHARDS))
            shards.add(shard)
            self._in_use.add(shard)
            self._taken[template] = shard
        return self._taken[template]

    def release(self) -> None:
        self._in_use.difference_update(self._taken.values())


class _Bundle(NamedTuple):
    """The changes of one unit; or of all that are counted at one record, with that record's own change as the last."""

    units: list[int]
    changes: list[Change]
    parent: Key | None = None
    """Where they are counted."""
    template: Key | None = None
    """What *parent* is a share of."""


def _of_bundles(lengths: Sequence[int], made: Sequence[bool]) -> list[bool]:
    """Say for each bundle of a batch whether it was made, which for all of its changes is the same."""
    begins = accumulate(lengths, initial=0)
    return [made[begin] for begin, _ in zip(begins, lengths, strict=False)]


def _announced_at(change: Change, *, by_holder: bool) -> Instant | None:
    """
    Return when the record of *change* is now claimable; None if workers need no notification.

    They need one if it is claimable sooner than it was, or has lost a lease: a worker that saw the lease sleeps until it
    ends. With *by_holder*, the holder of the lease has moved the record on, and knows when it is next claimable. Then
    others need a notification only if the record is due no later than before.
    """
    before, after = change.before, change.after
    at = _free_at(after)
    was_at = _free_at(before)
    if at is None or before is None or was_at is None:
        return at
    if by_holder:
        is_news = before.claimable_at is not None and at <= before.claimable_at
    else:
        is_news = at < was_at or (before.lease is not None and after is not None and after.lease is None)
    return at if is_news else None


def _free_at(record: Record | None) -> Instant | None:
    """Return when a worker that does not hold *record* can claim it."""
    if record is None or record.claimable_at is None:
        return None
    return record.claimable_at if record.lease is None else max(record.claimable_at, record.lease.expires_at)


def _same_lease(record: Record, held: Record) -> bool:
    return record.lease is not None and held.lease is not None and record.lease.id == held.lease.id


def _key_of(change: Change) -> Key:
    record = change.before or change.after
    assert record is not None
    return record.key


def _version_of(record: Record | None) -> int | None:
    return None if record is None else record.version


def _claimed(beginning: Beginning) -> Record:
    """Return the record that was claimed; its own change comes last, after those that create records."""
    before = beginning.first[-1].before
    assert before is not None
    return before


def _begun_again(
    one: _Undecided, stored: Mapping[Key, Record | None], now: Instant
) -> Beginning | Held | None:
    """
    Decide by the *stored* records how to go on with a start that was not written, or may not have been.

    Return a beginning to write, an occurrence that may run, or None to leave the record alone. An earlier write may take
    effect at any time, even after it was given up. So each retry changes the same version of the record: only one wins.
    """
    beginning = one.starting.beginning
    *created, move = beginning.first
    before, held = _claimed(beginning), beginning.held
    if held is not None:
        ours = stored.get(held.record.key)
        if ours is not None and _is_started(ours, held.record):
            return rules.again(held, ours)
    record = stored.get(before.key)
    if record is None or not _same_lease(record, before):
        return None
    if record.version != before.version:  # an edit came in between
        again = rules.begin(record, record.spec.policies or one.starting.policies, now)
        return again if again.first else again.held
    if held is not None:
        is_taken = one.lost and bool(created)  # by another worker, which runs it or has run it
    else:
        is_taken = any(stored.get(_key_of(change)) is not None for change in created)
    return Beginning(None, (move,), beginning.removed_counts) if is_taken else beginning


def _is_started(record: Record, written: Record) -> bool:
    """Say whether *record* holds the start that was *written*, perhaps with later edits. Each claim has its own lease id."""
    theirs, ours = record.state.started, written.state.started
    if theirs is None or ours is None or not _same_lease(record, written):
        return False
    return (theirs.scheduled_at, theirs.at_most_once) == (ours.scheduled_at, ours.at_most_once)


def _is_what_we_wrote(record: Record | None, change: Change | None, *, again: bool) -> bool:
    """Say whether *change* was made after all, by a swap whose reply was lost."""
    after = None if change is None else change.after
    if record is None and after is None:
        return again
    return (
        record is not None
        and after is not None
        and (record.version, record.fence, record.state) == (after.version, after.fence, after.state)
    )


def _count_all_removed(
    parent: Key, before: Record | None, removed: Sequence[RemovedCounts], now: Instant
) -> Change:
    record = before
    rows: dict[int, HistoryRow] = {}
    for removed_counts in removed:
        change = count_removed(parent, record, removed_counts, now)
        record = change.after
        rows |= {row.slot: row for row in change.history}
    assert record is not None
    if before is not None:
        record = replace(record, version=before.version + 1)
    return Change(before, record, tuple(rows.values()))
