"""Applies rules to stored records, in batches, and settles the races between those who write them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from pyncette.clock import Clock, Instant
from pyncette.core import rules
from pyncette.core.record import Change, Key, Partition, Record, replace
from pyncette.core.rules import Beginning, Ended, Held, Settlement
from pyncette.core.spec import Policies
from pyncette.core.tallies import Tally, tallied
from pyncette.errors import HeldElsewhereError
from pyncette.store.base import Notification, Store

logger = logging.getLogger(__name__)

SWAP_ATTEMPTS_MAX: Final = 8
"""Losing eight races in a row for one record means a bug or an attack, not load."""

TALLY_ATTEMPTS_MAX: Final = 64
"""A template's record is where all workers count what they removed, so losing races for it is ordinary."""


class Ruling(NamedTuple):
    """What a rule says of one record: what to write, if anything, and what to answer once it is written."""

    change: Change | None
    answer: Any = None
    tally: Tally | None = None


Rule = Callable[[Record | None, Instant], Ruling]
"""Takes a record as it is stored (None: there is none) and the time."""


class Settling(NamedTuple):
    """A run that is over, and what is to be written about it."""

    held: Held
    ended: Ended
    settlement: Settlement


class Ledger:
    """The only writer of records. *wake* is told of each record that becomes claimable sooner than it was."""

    def __init__(
        self, store: Store, clock: Clock, wake: Callable[[Partition, Instant], None] | None = None
    ) -> None:
        self.store = store
        self.clock = clock
        self._wake = wake

    def on_claimable(self, wake: Callable[[Partition, Instant], None]) -> None:
        """Tell *wake*, and nobody else, of each record that becomes claimable sooner than it was."""
        self._wake = wake

    async def apply(self, rulings: Mapping[Key, Rule]) -> dict[Key, Any]:
        """
        Rule on each record, and write what the rules say; those that lose a race are ruled on again.

        Returns the answers by key. Raises what a rule raises, and then nothing more is written;
        `HeldElsewhereError` if a record changed under each attempt.
        """
        answers: dict[Key, Any] = {}
        open_keys = list(rulings)
        for _ in range(SWAP_ATTEMPTS_MAX):
            if not open_keys:
                return answers
            records = await self._load(open_keys)
            now = self.clock.now()
            ruled = [(key, rulings[key](record, now)) for key, record in zip(open_keys, records, strict=True)]
            made = await self._swap([ruling.change for _, ruling in ruled if ruling.change is not None])
            outcome = iter(made)
            open_keys = []
            tallies = []
            for key, ruling in ruled:
                if ruling.change is None or next(outcome):
                    answers[key] = ruling.answer
                    if ruling.tally is not None:
                        tallies.append(ruling.tally)
                else:
                    open_keys.append(key)
            await self._announce(ruling.change for key, ruling in ruled if key in answers)
            await self.count(tallies)
        raise HeldElsewhereError(
            f"{open_keys[0]} was changed by others {SWAP_ATTEMPTS_MAX} times while it was to be written"
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
        writing: list[tuple[Beginning, Policies]] = []
        for beginning, policies in claimed:
            if beginning.first:
                writing.append((beginning, policies))
            elif beginning.held is not None:
                ready.append(beginning.held)
        if writing:
            ready += await self._write_starts(writing)
        return ready

    async def settle(self, settling: Sequence[Settling]) -> list[bool]:
        """
        Write what became of runs, and say for each whether it was still ours to write.

        What was edited in mid-run is decided again on top of the edit; what was taken over stays as its new holder has it.
        """
        letters = [item.settlement.letter for item in settling if item.settlement.letter is not None]
        if letters:
            await self._swap([Change(None, letter) for letter in letters])
        written = [True] * len(settling)
        todo = [(index, item.held, item.settlement) for index, item in enumerate(settling)]
        todo = [entry for entry in todo if entry[2].change is not None]
        tallies: list[Tally] = []
        for _ in range(SWAP_ATTEMPTS_MAX):
            made = await self._swap(
                [settlement.change for _, _, settlement in todo if settlement.change is not None]
            )
            lost = []
            for entry, ok in zip(todo, made, strict=True):
                if not ok:
                    lost.append(entry)
                elif entry[2].tally is not None:
                    tallies.append(entry[2].tally)
            if not lost:
                await self.count(tallies)
                return written
            todo = []
            reloaded = await self._load([held.record.key for _, held, _ in lost])
            for (index, held, _), record in zip(lost, reloaded, strict=True):
                if record is None or not _same_lease(record, held.record):
                    written[index] = False
                    continue
                now_held = rules.again(held, record)
                settlement = rules.settle(now_held, settling[index].ended, self.clock.now())
                if settlement.change is not None:
                    todo.append((index, now_held, settlement))
        raise HeldElsewhereError(
            f"{todo[0][1].record.key} was edited {SWAP_ATTEMPTS_MAX} times while its run was completed"
        )

    async def count(self, tallies: Iterable[Tally]) -> None:
        """Count what was removed at the records of its schedules and templates."""
        by_home: dict[Key, list[Tally]] = {}
        for tally in tallies:
            by_home.setdefault(tally.home, []).append(tally)
        homes = list(by_home)
        for _ in range(TALLY_ATTEMPTS_MAX):
            if not homes:
                return
            records = await self._load(homes)
            now = self.clock.now()
            changes = [
                _tally_all(record, by_home[home], now) for home, record in zip(homes, records, strict=True)
            ]
            made = await self._swap(changes)
            homes = [home for home, ok in zip(homes, made, strict=True) if not ok]
        logger.error(
            "outcomes of removed instances were not counted", extra={"records": [str(home) for home in homes]}
        )

    async def _write_starts(self, writing: Sequence[tuple[Beginning, Policies]]) -> list[Held]:
        """First what lives beside a schedule, then the schedule: a crash between the two repeats harmlessly."""
        creations = [
            (beginning, change)
            for beginning, _ in writing
            for change in beginning.first
            if change.before is None
        ]
        created = await self._swap([change for _, change in creations])
        refused = {id(beginning) for (beginning, _), ok in zip(creations, created, strict=True) if not ok}
        moves = [
            (beginning, policies, change)
            for beginning, policies in writing
            for change in beginning.first
            if change.before is not None
        ]
        moved = await self._swap([change for _, _, change in moves])
        await self._announce(change for (_, _, change), ok in zip(moves, moved, strict=True) if ok)
        ready: list[Held] = []
        contested: list[tuple[Beginning, Policies, Change]] = []
        for (beginning, policies, change), ok in zip(moves, moved, strict=True):
            if not ok:
                contested.append((beginning, policies, change))
            elif beginning.held is not None and id(beginning) not in refused:
                ready.append(beginning.held)
        await self.count(
            beginning.tally
            for (beginning, _, _), ok in zip(moves, moved, strict=True)
            if ok and beginning.tally is not None
        )
        for beginning, policies, change in contested:
            ready += await self._start_again(
                beginning, policies, change, created=id(beginning) not in refused
            )
        return ready

    async def _start_again(
        self, beginning: Beginning, policies: Policies, change: Change, *, created: bool
    ) -> list[Held]:
        """An edit came between claim and start: begin anew on top of it, unless the lease went elsewhere."""
        assert change.before is not None
        held = beginning.held
        beside = held is not None and held.record.key != change.before.key
        if beside and created and held is not None:
            await self._swap([Change(held.record, None)])
        (record,) = await self._load([change.before.key])
        if record is None or not _same_lease(record, change.before):
            return []
        policies = record.spec.policies or policies
        return await self.start([(rules.begin(record, policies, self.clock.now()), policies)])

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

    async def _announce(self, changes: Iterable[Change | None]) -> None:
        """Tell of what is now claimable sooner than it was; only that, since telling costs a backend more than it seems."""
        soonest: dict[Partition, Instant] = {}
        for change in changes:
            if change is None or change.after is None or change.after.claimable_at is None:
                continue
            before = None if change.before is None else change.before.claimable_at
            at = change.after.claimable_at
            if before is None or at < before:
                partition = change.after.key.partition
                soonest[partition] = min(at, soonest.get(partition, at))
        if not soonest:
            return
        if self._wake is not None:
            for partition, at in soonest.items():
                self._wake(partition, at)
        if self.store.capabilities.notifies:
            await self.store.notify([Notification(partition, at) for partition, at in soonest.items()])


def _same_lease(record: Record, held: Record) -> bool:
    return record.lease is not None and held.lease is not None and record.lease.id == held.lease.id


def _tally_all(home: Record | None, tallies: Sequence[Tally], now: Instant) -> Change:
    record = home
    rows: list[Any] = []
    for tally in tallies:
        change = tallied(record, tally, now)
        record = change.after
        rows += change.history
    assert record is not None
    if home is not None:
        record = replace(record, version=home.version + 1)
    latest_by_slot = {row.slot: row for row in rows}
    return Change(home, record, tuple(latest_by_slot.values()))
