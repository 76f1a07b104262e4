"""Applies rules to stored records, in batches, and settles the races between those who write them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from pyncette.clock import Clock, Instant
from pyncette.core import rules
from pyncette.core.record import Change, HistoryRow, Key, Partition, Record, replace
from pyncette.core.rules import RETURNED, Beginning, Ended, Ending, Held, Settlement
from pyncette.core.spec import Policies
from pyncette.core.tallies import Tally, home_among, homes_of, tallied
from pyncette.errors import HeldElsewhereError
from pyncette.store.base import Notification, Store

logger = logging.getLogger(__name__)

SWAP_ATTEMPTS_MAX: Final = 8
"""Losing eight races in a row for one record means a bug or an attack, not load."""

TALLY_ATTEMPTS_MAX: Final = 64
"""A template's record is where all workers count what they removed, so losing races for it is ordinary."""


GIVEN_BACK: Final = frozenset({Ending.DRAINED, Ending.UNSTARTED})
"""After these, others are to look at once: this process stops, and they think that it goes on."""


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
        todo = list(rulings)
        for _ in range(SWAP_ATTEMPTS_MAX):
            records = await self._load(todo)
            now = self.clock.now()
            ruled = [(key, rulings[key](record, now)) for key, record in zip(todo, records, strict=True)]
            made = iter(await self._swap([ruling.change for _, ruling in ruled if ruling.change is not None]))
            todo, written = [], []
            for key, ruling in ruled:
                if ruling.change is None or next(made):
                    answers[key] = ruling.answer
                    written.append(ruling)
                else:
                    todo.append(key)
            await self._announce(ruling.change for ruling in written)
            await self.count(ruling.tally for ruling in written if ruling.tally is not None)
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

    async def settle(self, settling: Sequence[Settling]) -> list[bool]:
        """
        Write what became of runs, and say for each whether it was still ours to write.

        What was edited in mid-run is decided again on top of the edit; what was taken over stays as its new holder has
        it. To settle the same again is harmless: one does after `StoreUnavailableError`.
        """
        written = [True] * len(settling)
        todo = {at: item for at, item in enumerate(settling) if item.settlement.change is not None}
        for _ in range(SWAP_ATTEMPTS_MAX):
            made = await self._write_ends(todo.values())
            if all(made):
                return written
            lost = [entry for entry, ok in zip(todo.items(), made, strict=True) if not ok]
            todo = {}
            for at, again in await self._settle_again(lost):
                if isinstance(again, bool):
                    written[at] = again
                elif again.settlement.change is not None:
                    todo[at] = again
            if not todo:
                return written
        (item, *_) = todo.values()
        raise HeldElsewhereError(
            f"{item.held.record.key} was edited {SWAP_ATTEMPTS_MAX} times while its run was completed"
        )

    async def count(self, tallies: Iterable[Tally]) -> None:
        """Count what was removed at the records of its schedules and templates."""
        todo = list(tallies)
        for _ in range(TALLY_ATTEMPTS_MAX):
            if not todo:
                return
            homes = list({home: None for tally in todo for home in homes_of(tally.of)})
            records = dict(zip(homes, await self._load(homes), strict=True))
            by_home: dict[Key, list[Tally]] = {}
            for tally in todo:
                home = home_among(tally, records)
                if home is not None:
                    by_home.setdefault(home, []).append(tally)
            now = self.clock.now()
            made = await self._swap([_tally_all(home, records[home], by_home[home], now) for home in by_home])
            todo = [
                tally for home, ok in zip(by_home, made, strict=True) if not ok for tally in by_home[home]
            ]
        if todo:
            logger.error(
                "outcomes of removed instances were not counted",
                extra={"records": [str(tally.of) for tally in todo]},
            )

    async def _write_starts(
        self, writing: Sequence[tuple[Beginning, Policies]]
    ) -> tuple[list[Held], list[_Contested]]:
        """First what lives beside a schedule, then the schedule: a crash between the two repeats harmlessly."""
        creations = {
            at: change for at, (beginning, _) in enumerate(writing) for change in beginning.first[:-1]
        }
        created = dict(zip(creations, await self._swap(list(creations.values())), strict=True))
        moved = await self._swap([beginning.first[-1] for beginning, _ in writing])
        done = [beginning for (beginning, _), ok in zip(writing, moved, strict=True) if ok]
        await self._announce(beginning.first[-1] for beginning in done)
        await self.count(beginning.tally for beginning in done if beginning.tally is not None)
        ready: list[Held] = []
        contested: list[_Contested] = []
        for at, ((beginning, policies), ok) in enumerate(zip(writing, moved, strict=True)):
            if not ok:
                before, ours = beginning.first[-1].before, creations[at].after if created.get(at) else None
                assert before is not None
                contested.append(_Contested(before, policies, ours))
            elif beginning.held is not None and created.get(at, True):  # what others created, others run
                ready.append(beginning.held)
        return ready, contested

    async def _begin_again(self, contested: Sequence[_Contested]) -> list[tuple[Beginning, Policies]]:
        """An edit came between claim and start: begin anew on top of it, unless the lease went elsewhere."""
        records = await self._load([claim.record.key for claim in contested])
        now = self.clock.now()
        still_held = [
            (claim, record)
            for claim, record in zip(contested, records, strict=True)
            if record is not None and record.lease is not None and _same_lease(record, claim.record)
        ]
        # Only under a live lease is it sure that nobody else has come to count on what we created.
        await self._swap(
            [
                Change(claim.created, None)
                for claim, record in still_held
                if claim.created is not None and record.lease is not None and record.lease.expires_at > now
            ]
        )
        return [
            (rules.begin(record, record.spec.policies or claim.policies, now), claim.policies)
            for claim, record in still_held
        ]

    async def _write_ends(self, settling: Collection[Settling]) -> list[bool]:
        """First dead letters, then the schedules that they come from: a crash between the two repeats harmlessly."""
        changes = [change for item in settling if (change := item.settlement.change) is not None]
        # Nearly all have just returned, and are a change and nothing else.
        more = [
            (at, item.ended.ending, item.settlement)
            for at, item in enumerate(settling)
            if item.ended is not RETURNED or item.settlement.tally is not None
        ]
        await self._swap([Change(None, letter) for _, _, (_, letter, _) in more if letter is not None])
        made = await self._swap(changes)
        if more:
            await self._announce(
                (change for at, ending, (change, _, _) in more if made[at] and ending in GIVEN_BACK),
                sooner=False,
            )
            await self.count(tally for at, _, (_, _, tally) in more if made[at] and tally is not None)
        return made

    async def _settle_again(self, lost: Sequence[tuple[int, Settling]]) -> list[tuple[int, Settling | bool]]:
        """
        Decide again about each run whose record had changed, on top of that change.

        A bool tells instead that there is nothing more to write, and whether it was written: it was not if the lease
        went elsewhere, but it was if just the reply of a swap was lost.
        """
        records = await self._load([item.held.record.key for _, item in lost])
        now = self.clock.now()
        decided: list[tuple[int, Settling | bool]] = []
        for (at, item), record in zip(lost, records, strict=True):
            if record is None or not _same_lease(record, item.held.record):
                decided.append((at, _is_what_we_wrote(record, item.settlement.change)))
            else:
                held = rules.again(item.held, record)
                decided.append((at, Settling(held, item.ended, rules.settle(held, item.ended, now))))
        return decided

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

    async def _announce(self, changes: Iterable[Change | None], *, sooner: bool = True) -> None:
        """
        Tell of what is now claimable sooner than it was; only that, since telling costs a backend more than it seems.

        Without *sooner*, of all that is claimable again: its lease was in the way.
        """
        soonest: dict[Partition, Instant] = {}
        for change in changes:
            if change is None or change.after is None or change.after.claimable_at is None:
                continue
            before = None if change.before is None else change.before.claimable_at
            at = change.after.claimable_at
            if not sooner or before is None or at < before:
                partition = change.after.key.partition
                soonest[partition] = min(at, soonest.get(partition, at))
        if not soonest:
            return
        if self._wake is not None:
            for partition, at in soonest.items():
                self._wake(partition, at)
        if self.store.capabilities.notifies:
            await self.store.notify([Notification(partition, at) for partition, at in soonest.items()])


class _Contested(NamedTuple):
    """A claim whose start could not be written, because its record had changed."""

    record: Record
    policies: Policies
    created: Record | None
    """What was created beside it already."""


def _same_lease(record: Record, held: Record) -> bool:
    return record.lease is not None and held.lease is not None and record.lease.id == held.lease.id


def _is_what_we_wrote(record: Record | None, change: Change | None) -> bool:
    """Say whether *change* was made after all, by a swap whose reply was lost."""
    after = None if change is None else change.after
    return (
        record is not None
        and after is not None
        and (record.version, record.fence, record.state) == (after.version, after.fence, after.state)
    )


def _tally_all(home: Key, before: Record | None, tallies: Sequence[Tally], now: Instant) -> Change:
    record = before
    rows: dict[int, HistoryRow] = {}
    for tally in tallies:
        _, record, history, _ = tallied(home, record, tally, now)
        rows |= {row.slot: row for row in history}
    assert record is not None
    if before is not None:
        record = replace(record, version=before.version + 1)
    return Change(before, record, tuple(rows.values()))
