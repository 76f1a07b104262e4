"""Writes changes together with what they add to the counters of other records."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

from pyncette.clock import Instant
from pyncette.core.accounting import (
    COUNTER_SHARDS,
    RemovedCounts,
    count_removed,
    counting_record,
    parent_among,
    parents_of,
    shard_of,
)
from pyncette.core.record import Change, HistoryRow, Key, Record, replace
from pyncette.ledger.backend_time import BackendTime
from pyncette.ledger.batches import Batches
from pyncette.ledger.races import Races

COUNTERS_MAX: Final = 1000
"""Records that count for templates and are kept in memory for the next time."""


class Unit(NamedTuple):
    """Changes that are made together or not at all, and what they add to the counters of another record."""

    changes: tuple[Change, ...]
    removed_counts: RemovedCounts | None


class _Bundle(NamedTuple):
    """The changes of one unit; or of all units counted at one record, with that record's own change as the last."""

    units: list[int]
    changes: list[Change]
    parent: Key | None = None
    """The record that counts them."""
    template: Key | None = None
    """The template that *parent* counts for."""


class CountedWrites:
    """The writes of units. Nearly all have nothing to count, and then this is a plain swap."""

    def __init__(self, batches: Batches, time: BackendTime) -> None:
        self._batches = batches
        self._time = time
        self._shards: dict[Key, set[Key]] = {}
        """Where this process counts for a template: at the template's own record, until a race for that was lost."""
        self._in_use: set[Key] = set()
        self._counted_at: dict[Key, Record] = {}
        """The records that count, as they were last written here."""

    async def write(self, units: Sequence[Unit], known: dict[int, bool], race_seconds: float) -> None:
        """
        Make the changes of each unit together with what they count.

        A unit loses if one of its own records is not as it was. For the record that counts it, it tries again, until it
        has lost each race for *race_seconds*: then ContentionError is raised. *known* maps the place of each unit to
        whether it was made, and is filled in even if this raises.
        """
        if all(unit.removed_counts is None and len(unit.changes) == 1 for unit in units):
            made: list[bool] = []
            try:
                await self._batches.swap([unit.changes[0] for unit in units], made)
            finally:
                known.update(enumerate(made))
            return
        races = Races(race_seconds)
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

    async def _write_once(
        self, units: Sequence[Unit], todo: Sequence[int], known: dict[int, bool]
    ) -> list[_Bundle]:
        """Try to write the units *todo*, and add results to *known*; return bundles that may have lost a race to count."""
        with self._counters() as counters:
            bundles = await self._bundles(units, todo, counters)
            written: list[bool] = []
            try:
                await self._batches.swap_groups([bundle.changes for bundle in bundles], written)
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
        self, units: Sequence[Unit], todo: Sequence[int], counters: _Counters
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
        now = await self._time.now()
        for parent, ats in by_parent.items():
            if parent in ours:  # no key may occur twice: its own change first
                continue
            part = self._fitting(units, ats)  # the rest has its turn when this is written
            count = _count_all_removed(parent, parents.get(parent), [counting[at] for at in part], now)
            changes = [*(change for at in part for change in units[at].changes), count]
            bundles.append(_Bundle(list(part), changes, parent, templates.get(parent)))
        return bundles

    def _fitting(self, units: Sequence[Unit], ats: Sequence[int]) -> Sequence[int]:
        """
        Return as many of *ats* as fit into one swap with the record that counts them, all or about one half.

        Of those that create a record it is the first alone: a group creates no more than one.
        """
        creating = [at for at in ats if any(change.before is None for change in units[at].changes)]
        if len(creating) > 1:
            ats = [at for at in ats if at == creating[0] or at not in creating]
        capabilities = self._batches.store.capabilities
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
        return dict(zip(keys, await self._batches.load(keys), strict=True)) if keys else {}

    async def _counting(self, keys: Iterable[Key]) -> dict[Key, Record | None]:
        """Return the records that count for templates, as they were when they were last seen; new ones are created."""
        found: dict[Key, Record | None] = {key: self._counted_at.get(key) for key in keys}
        unknown = [key for key, record in found.items() if record is None]
        if not unknown:
            return found
        found |= zip(unknown, await self._batches.load(unknown), strict=True)
        missing = [key for key in unknown if found[key] is None]
        if missing:
            now = await self._time.now()
            await self._batches.swap([Change(None, counting_record(key, now)) for key in missing])
            found |= zip(missing, await self._batches.load(missing), strict=True)
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
        """Keep the record that counted, since the next batch most likely counts there too."""
        parent, after = bundle.parent, bundle.changes[-1].after
        assert parent is not None
        if made and after is not None:
            if len(self._counted_at) >= COUNTERS_MAX:
                self._counted_at.clear()
            self._counted_at[parent] = after
        else:
            self._counted_at.pop(parent, None)

    async def _lost(self, units: Sequence[Unit], failed: Sequence[_Bundle]) -> set[int]:
        """Return which units of bundles that could not be written have lost; a bundle without any lost a race to count."""
        if not failed:
            return set()
        changes = [(at, change) for bundle in failed for at in bundle.units for change in units[at].changes]
        records = await self._batches.load([change.key for _, change in changes])
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


class _Counters:
    """The records that one write counts at, for templates: no other write of this process uses them at the same time."""

    def __init__(self, shares: dict[Key, set[Key]], in_use: set[Key]) -> None:
        self._shards = shares
        self._in_use = in_use
        self._taken: dict[Key, Key] = {}

    def of(self, template: Key) -> Key:
        """Return where to count what was removed of *template*: its own record, as long as no other is needed."""
        if template not in self._taken:
            shares = self._shards.setdefault(template, {template})
            free = shares - self._in_use
            share = min(free) if free else shard_of(template, random.randrange(1, COUNTER_SHARDS))
            shares.add(share)
            self._in_use.add(share)
            self._taken[template] = share
        return self._taken[template]

    def release(self) -> None:
        self._in_use.difference_update(self._taken.values())


def _version_of(record: Record | None) -> int | None:
    return None if record is None else record.version


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
