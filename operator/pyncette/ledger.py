"""Applies rules to stored records, in batches, and settles the races between those who write them."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, Final, NamedTuple

import msgspec

from pyncette.clock import SECOND, Clock, Duration, Instant, synchronize
from pyncette.core import rules
from pyncette.core.record import Change, HistoryRow, Key, Partition, Record, replace
from pyncette.core.rules import RETURNED, Beginning, Ended, Ending, Held, Settlement
from pyncette.core.spec import Policies
from pyncette.core.tallies import (
    SHARES,
    Tally,
    counting_record,
    home_among,
    homes_of,
    share_of,
    tallied,
)
from pyncette.errors import HeldElsewhereError, StoreError
from pyncette.store.base import Notification, Store

logger = logging.getLogger(__name__)

SWAP_ATTEMPTS_MAX: Final = 8
"""Losing eight races in a row for one record means a bug or an attack, not load."""

TALLY_ATTEMPTS_MAX: Final = 64
"""Others that count at the same record may be faster a few times; so many in a row is no accident."""

COUNTERS_MAX: Final = 1000
"""Records that count for templates and are kept in memory for the next time."""

ANNOUNCED_AHEAD: Final[Duration] = 20 * SECOND
"""
Other processes are notified of what becomes claimable within this time. Whatever is later, a worker finds by itself: it
polls at least every `SAFETY_LOOK`, which is half of this. The other half is for slow polls and for clocks that differ.
"""

GIVEN_BACK: Final = frozenset({Ending.DRAINED, Ending.UNSTARTED})
"""After these, others are to look at once: this process stops, and they think that it goes on."""


class Ruling(NamedTuple):
    """What a rule says of one record: what to write, if anything, and what to answer once it is written."""

    change: Change | None
    answer: Any = None
    tally: Tally | None = None
    further: tuple[Change, ...] = ()
    """Changes of other records that are made together with *change*, or not at all; one of them may create a record."""


Rule = Callable[[Record | None, Instant], Ruling]
"""Takes a record as it is stored (None: there is none) and the time."""


class Settling(msgspec.Struct, frozen=True, gc=False):
    """A run that is over, and what is to be written about it."""

    held: Held
    ended: Ended
    settlement: Settlement


class Ledger:
    """The only writer of what tasks have stored. *wake* is told of each record that workers may take for later than it is."""

    def __init__(
        self, store: Store, clock: Clock, wake: Callable[[Partition, Instant], None] | None = None
    ) -> None:
        self.store = store
        self.clock = clock
        self._wake = wake
        self._shares: dict[Key, set[Key]] = {}
        """Where this process counts for a template: at the template's own record, until a race for that was lost."""
        self._in_use: set[Key] = set()
        self._counted_at: dict[Key, Record] = {}
        self._asking: asyncio.Future[None] | None = None
        """Done once the store has told its time, or did not, if it was just asked."""

    def on_claimable(self, wake: Callable[[Partition, Instant], None]) -> None:
        """Tell *wake*, and nobody else, of each record that workers may take for later than it is."""
        self._wake = wake

    async def now(self) -> Instant:
        """
        Return the time to decide by: that of the store, which is asked for it if it was not within `STALE_AFTER`.

        Those that ask at once share one request. Raises StoreError.
        """
        while self.clock.is_stale():
            if self._asking is None:
                await self._ask()
                break  # a slow answer is stale at once, and the next one would be no better
            await asyncio.shield(self._asking)
        return self.clock.now()

    async def apply(self, rulings: Mapping[Key, Rule]) -> dict[Key, Any]:
        """
        Rule on each record, and write what the rules say; those that lose a race are ruled on again.

        Returns the answers by key. Raises what a rule raises, and then nothing more is written;
        `HeldElsewhereError` if a record changed under each attempt.
        """
        answers: dict[Key, Any] = {}
        todo = list(rulings)
        for _ in range(SWAP_ATTEMPTS_MAX):
            records = await self._load(todo)
            now = await self.now()
            ruled = [(key, rulings[key](record, now)) for key, record in zip(todo, records, strict=True)]
            units = [
                _Unit((ruling.change, *ruling.further), ruling.tally)
                for _, ruling in ruled
                if ruling.change is not None
            ]
            made = iter(await self._write(units))
            todo, written = [], []
            for key, ruling in ruled:
                if ruling.change is None or next(made):
                    answers[key] = ruling.answer
                    written.append(ruling)
                else:
                    todo.append(key)
            await self._announce(change for ruling in written for change in (ruling.change, *ruling.further))
            if not todo:
                return answers
        raise HeldElsewhereError(
            f"{todo[0]} was changed by others {SWAP_ATTEMPTS_MAX} times while it was to be written"
        )

    async def create(self, records: Sequence[Record]) -> list[bool]:
        """
        Write each of *records* that is not there yet, without a look first, and say for each whether it was.

        Half the round trips of `apply`, for many that are most likely new. No key may occur twice.
        """
        changes = [Change(None, record) for record in records]
        created = await self._swap(changes)
        await self._announce(change for change, ok in zip(changes, created, strict=True) if ok)
        return created

    async def start(self, claimed: Sequence[tuple[Beginning, Policies]]) -> list[Held]:
        """Write what has to stand before a run, and return what may run. What another has taken is left alone."""
        ready: list[Held] = []
        todo = list(claimed)
        for _ in range(SWAP_ATTEMPTS_MAX):
            writing = []
            for beginning, policies in todo:
                if beginning.first:
                    writing.append((beginning, policies))
                elif beginning.held is not None:
                    ready.append(beginning.held)
            if not writing:
                return ready
            started, contested = await self._write_starts(writing)
            ready += started
            todo = await self._begin_again(contested)
        logger.error(
            "claims were given up: their records were edited each time their start was written",
            extra={"records": len(todo)},
        )
        return ready

    async def put_off(self, changes: Sequence[Change]) -> None:
        """Have claimed records wait; one that was edited meanwhile is as the edit has it, and is seen when its lease ends."""
        await self._swap(changes)

    async def settle(self, settling: Sequence[Settling], *, again: bool = False) -> list[bool]:
        """
        Write what became of runs, and say for each whether it was still ours to write.

        What was edited in mid-run is decided again on top of the edit; what was taken over stays as its new holder has
        it. To settle the same *again* is harmless: one does after `StoreUnavailableError`. Then a record that was to
        be removed, and is gone, is taken for what the first try did: nothing is left to tell.
        """
        written = [True] * len(settling)
        todo = {at: item for at, item in enumerate(settling) if item.settlement.change is not None}
        for attempt in range(SWAP_ATTEMPTS_MAX):
            made = await self._write_ends(todo.values())
            if attempt:  # whoever asked knows of the first decision only
                changes = (item.settlement.change for item, ok in zip(todo.values(), made, strict=True) if ok)
                await self._announce(changes)
            if all(made):
                return written
            lost = [entry for entry, ok in zip(todo.items(), made, strict=True) if not ok]
            todo = {}
            for at, decided in await self._settle_again(lost, again=again):
                if isinstance(decided, bool):
                    written[at] = decided
                elif decided.settlement.change is not None:
                    todo[at] = decided
            if not todo:
                return written
        (item, *_) = todo.values()
        raise HeldElsewhereError(
            f"{item.held.record.key} was edited {SWAP_ATTEMPTS_MAX} times while its run was completed"
        )

    async def reloaded(self, held: Held) -> Held | None:
        """
        Return *held* on top of what others have changed in mid-run; None if the lease went elsewhere.

        The clock has heard of the store's time then, so that what follows can be decided. Raises StoreError.
        """
        await self.now()
        (record,) = await self.store.load([held.record.key])
        if record is None or not _same_lease(record, held.record):
            return None
        return rules.again(held, record)

    async def _write_starts(
        self, writing: Sequence[tuple[Beginning, Policies]]
    ) -> tuple[list[Held], list[tuple[Beginning, Policies]]]:
        """Write each start whole or not at all, and return what may run, and what somebody else had changed."""
        # A dead letter stands before its schedule moves on: a crash between the two repeats harmlessly.
        await self._swap(
            [letter for beginning, _ in writing if beginning.held is None for letter in beginning.first[:-1]]
        )
        made = await self._write(
            [
                _Unit(
                    beginning.first if beginning.held is not None else beginning.first[-1:], beginning.tally
                )
                for beginning, _ in writing
            ]
        )
        done = [beginning for (beginning, _), ok in zip(writing, made, strict=True) if ok]
        await self._announce((beginning.first[-1] for beginning in done), by_holder=True)
        contested = [entry for entry, ok in zip(writing, made, strict=True) if not ok]
        return [beginning.held for beginning in done if beginning.held is not None], contested

    async def _begin_again(
        self, contested: Sequence[tuple[Beginning, Policies]]
    ) -> list[tuple[Beginning, Policies]]:
        """An edit came between claim and start: begin anew on top of it, unless the lease went elsewhere."""
        moves = [beginning.first[-1] for beginning, _ in contested]
        records = await self._load([move.before.key for move in moves if move.before is not None])
        now = await self.now()
        again = []
        for (beginning, policies), move, record in zip(contested, moves, records, strict=True):
            if record is None or move.before is None or not _same_lease(record, move.before):
                continue
            if record.version == move.before.version:
                # What was to run beside it is there already, and others run it. The schedule moves on all the same.
                again.append((Beginning(None, (move,), beginning.tally), policies))
            else:
                again.append((rules.begin(record, record.spec.policies or policies, now), policies))
        return again

    async def _write_ends(self, settling: Collection[Settling]) -> list[bool]:
        """First dead letters, then the schedules that they come from: a crash between the two repeats harmlessly."""
        changes = [change for item in settling if (change := item.settlement.change) is not None]
        # Nearly all have just returned, and are a change and nothing else.
        more = [
            (at, item.ended.ending, item.settlement)
            for at, item in enumerate(settling)
            if item.ended is not RETURNED or item.settlement.tally is not None
        ]
        await self._swap([Change(None, end.letter) for _, _, end in more if end.letter is not None])
        tallies = {at: end.tally for at, _, end in more if end.tally is not None}
        if tallies:
            made = await self._write([_Unit((change,), tallies.get(at)) for at, change in enumerate(changes)])
        else:
            made = await self._swap(changes)
        if more:
            await self._announce(end.change for at, ending, end in more if made[at] and ending in GIVEN_BACK)
        return made

    async def _settle_again(
        self, lost: Sequence[tuple[int, Settling]], *, again: bool
    ) -> list[tuple[int, Settling | bool]]:
        """
        Decide again about each run whose record had changed, on top of that change.

        A bool tells instead that there is nothing more to write, and whether it was written: it was not if the lease
        went elsewhere, but it was if just the reply of a swap was lost.
        """
        records = await self._load([item.held.record.key for _, item in lost])
        now = await self.now()
        decided: list[tuple[int, Settling | bool]] = []
        for (at, item), record in zip(lost, records, strict=True):
            if record is None or not _same_lease(record, item.held.record):
                decided.append((at, _is_what_we_wrote(record, item.settlement.change, again=again)))
            else:
                held = rules.again(item.held, record)
                decided.append((at, Settling(held, item.ended, rules.settle(held, item.ended, now))))
        return decided

    async def _ask(self) -> None:
        asking = self._asking = asyncio.get_running_loop().create_future()
        try:
            await synchronize(self.clock, self.store.now)
        except StoreError as error:
            asking.set_exception(error)
            asking.exception()  # whether anybody waits for it or not
            raise
        finally:
            self._asking = None
            if not asking.done():  # also if this was cancelled: then one of those that wait asks
                asking.set_result(None)

    # --- Writing -------------------------------------------------------------------------------------------------

    async def _write(self, units: Sequence[_Unit]) -> list[bool]:
        """
        Make the changes of each unit together, and with them what they count; say for each whether it was made.

        A unit loses if one of its own records is not as it was. For the record that it is counted at, it tries again.
        """
        if all(unit.tally is None and len(unit.changes) == 1 for unit in units):
            return await self._swap([unit.changes[0] for unit in units])
        made = [False] * len(units)
        todo = list(range(len(units)))
        in_vain = 0
        while in_vain < TALLY_ATTEMPTS_MAX:
            with self._counters() as counters:
                bundles = await self._bundles(units, todo, counters)
                written = await self._swap_bundles(bundles)
            failed = []
            settled: set[int] = set()
            for bundle, ok in zip(bundles, written, strict=True):
                for at in bundle.units:
                    made[at] = ok
                if bundle.template is not None:
                    self._remember(bundle, made=ok)
                if ok or bundle.home is None:
                    settled.update(bundle.units)
                else:
                    failed.append(bundle)
            settled |= await self._lost(units, failed)
            todo = [at for at in todo if at not in settled]
            if not todo:
                return made
            in_vain = 0 if settled else in_vain + 1
        raise HeldElsewhereError(
            f"what became of {len(todo)} records could not be counted: others counted first, {TALLY_ATTEMPTS_MAX} times"
        )

    async def _bundles(
        self, units: Sequence[_Unit], todo: Sequence[int], counters: _Counters
    ) -> list[_Bundle]:
        """Put together what is to be made together: what is counted at one record goes with that record's own change."""
        bundles = [_Bundle([at], list(units[at].changes)) for at in todo if units[at].tally is None]
        counting = {at: tally for at in todo if (tally := units[at].tally) is not None}
        by_home: dict[Key, list[int]] = {}
        homes = await self._schedules(counting.values())
        templates: dict[Key, Key] = {}
        for at, tally in counting.items():
            home = home_among(tally, homes)
            if home is None:  # nobody is left to count it
                bundles.append(_Bundle([at], list(units[at].changes)))
                continue
            if home.instance != tally.of.instance:
                template, home = home, counters.of(home)
                templates[home] = template
            by_home.setdefault(home, []).append(at)
        homes |= await self._counting(templates)
        ours = {record.key for at in todo for change in units[at].changes if (record := change.before)}
        now = await self.now()
        for home, ats in by_home.items():
            if home in ours:  # no key may occur twice: its own change first
                continue
            part = self._fitting(units, ats)  # the rest has its turn when this is written
            count = _tally_all(home, homes.get(home), [counting[at] for at in part], now)
            changes = [*(change for at in part for change in units[at].changes), count]
            bundles.append(_Bundle(list(part), changes, home, templates.get(home)))
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

    async def _schedules(self, tallies: Iterable[Tally]) -> dict[Key, Record | None]:
        """Return the records of the schedules that *tallies* lived beside."""
        keys = list(
            {home: None for tally in tallies if tally.of.occurrence for home in homes_of(tally.of)[:1]}
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
        counters = _Counters(self._shares, self._in_use)
        try:
            yield counters
        finally:
            counters.give_back()

    def _remember(self, bundle: _Bundle, *, made: bool) -> None:
        """Keep what was counted at, since the next batch most likely counts there too."""
        home, after = bundle.home, bundle.changes[-1].after
        assert home is not None
        if made and after is not None:
            if len(self._counted_at) >= COUNTERS_MAX:
                self._counted_at.clear()
            self._counted_at[home] = after
        else:
            self._counted_at.pop(home, None)

    async def _lost(self, units: Sequence[_Unit], failed: Sequence[_Bundle]) -> set[int]:
        """Return which units of bundles that could not be written have lost; a bundle without any lost a race to count."""
        if not failed:
            return set()
        befores = {
            at: change.before
            for bundle in failed
            for at in bundle.units
            for change in units[at].changes
            if change.before is not None
        }
        records = await self._load([before.key for before in befores.values()])
        lost = {
            at
            for (at, before), record in zip(befores.items(), records, strict=True)
            if record is None or record.version != before.version
        }
        for bundle in failed:
            if bundle.template is not None and bundle.home is not None and lost.isdisjoint(bundle.units):
                # Others count there, too; so this process goes elsewhere.
                self._shares.get(bundle.template, set()).discard(bundle.home)
        return lost

    async def _swap_bundles(self, bundles: Sequence[_Bundle]) -> list[bool]:
        """Make each bundle whole or not at all, as many in one swap as fit."""
        size = self.store.capabilities.swap_batch_max
        made: list[bool] = []
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
        return made

    async def _load(self, keys: Sequence[Key]) -> list[Record | None]:
        size = self.store.capabilities.swap_batch_max
        if len(keys) <= size:
            return await self.store.load(keys)
        return [
            record
            for at in range(0, len(keys), size)
            for record in await self.store.load(keys[at : at + size])
        ]

    async def _swap(self, changes: Sequence[Change]) -> list[bool]:
        size = self.store.capabilities.swap_batch_max
        if not changes:
            return []
        if len(changes) <= size:
            return await self.store.swap(changes)
        return [
            made
            for at in range(0, len(changes), size)
            for made in await self.store.swap(changes[at : at + size])
        ]

    async def _announce(self, changes: Iterable[Change | None], *, by_holder: bool = False) -> None:
        """
        Tell workers of each record that they may take for later than it is: see `_announced_at`.

        The worker of this process is woken however far ahead the record is claimable. Other processes are notified if
        that is within `ANNOUNCED_AHEAD`, since a notification costs a backend more than it seems: a worker that sleeps
        finds whatever is later at a poll of its own. Pretended time may pass over that poll, so it knows no such limit.
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
        last = self.clock.reach(ANNOUNCED_AHEAD)
        notifications = [Notification(partition, at) for partition, at in soonest.items() if at <= last]
        if not notifications:
            return
        try:
            await self.store.notify(notifications)
        except StoreError as error:
            # What was written stands, and others find it at their next poll.
            logger.debug("others were not told of what is claimable", extra={"error": str(error)})


class _Unit(NamedTuple):
    """What is written together, and what it counts."""

    changes: tuple[Change, ...]
    tally: Tally | None


class _Counters:
    """The records that one write counts at, for templates: nobody else in this process does at the same time."""

    def __init__(self, shares: dict[Key, set[Key]], in_use: set[Key]) -> None:
        self._shares = shares
        self._in_use = in_use
        self._taken: dict[Key, Key] = {}

    def of(self, template: Key) -> Key:
        """Return where to count what was removed of *template*: its own record, as long as no other is needed."""
        if template not in self._taken:
            shares = self._shares.setdefault(template, {template})
            free = shares - self._in_use
            share = min(free) if free else share_of(template, random.randrange(1, SHARES))
            shares.add(share)
            self._in_use.add(share)
            self._taken[template] = share
        return self._taken[template]

    def give_back(self) -> None:
        self._in_use.difference_update(self._taken.values())


class _Bundle(NamedTuple):
    """The changes of one unit; or of all that are counted at one record, with that record's own change as the last."""

    units: list[int]
    changes: list[Change]
    home: Key | None = None
    """Where they are counted."""
    template: Key | None = None
    """What *home* is a share of."""


def _of_bundles(lengths: Sequence[int], made: Sequence[bool]) -> list[bool]:
    """Say for each bundle of a batch whether it was made, which for all of its changes is the same."""
    begins = accumulate(lengths, initial=0)
    return [made[begin] for begin, _ in zip(begins, lengths, strict=False)]


def _announced_at(change: Change, *, by_holder: bool) -> Instant | None:
    """
    Return when the record of *change* is now claimable; None if no worker has to be told.

    Workers have to be told if it is claimable sooner than it was, or has lost a lease: they may have seen it leased, and
    then sleep until the lease ends. With *by_holder*, the worker that holds the lease has moved the record on, and knows
    itself when that is next claimable. Then others are told only of a record that is as due as before.
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


def _tally_all(home: Key, before: Record | None, tallies: Sequence[Tally], now: Instant) -> Change:
    record = before
    rows: dict[int, HistoryRow] = {}
    for tally in tallies:
        change = tallied(home, record, tally, now)
        record = change.after
        rows |= {row.slot: row for row in change.history}
    assert record is not None
    if before is not None:
        record = replace(record, version=before.version + 1)
    return Change(before, record, tuple(rows.values()))
