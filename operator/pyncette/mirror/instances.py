"""Reads the instances of a dynamic task, and removes them once the task is gone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

from pyncette.clock import Instant
from pyncette.core.record import (
    BEYOND,
    Change,
    Key,
    Partition,
    Record,
)
from pyncette.ledger.ledger import Ledger, Ruling, withdrawal
from pyncette.mirror.records import remove_permits_of
from pyncette.mirror.rules import is_template, policies_of, removed_after
from pyncette.store.base import Store
from pyncette.store.scanning import PAGE, side_records


class Removal(NamedTuple):
    """The progress of a removal of instances."""

    removed: int
    done: bool
    """True if nothing is left, or if the template has returned, so that the rest stays."""


async def remove_instances(ledger: Ledger, template: Record, at_most: int) -> Removal:
    """
    Remove *at_most* records of the instances of *template*, and if none is left, the template itself.

    It has to be stopped: a template that has returned stays, with the instances that are left. An interrupted removal
    continues the next time. Runs in progress are withdrawn, and removals are counted at the template. Raises StoreError.
    """
    (home,) = await ledger.store.load([template.key])
    if home is None or home.state.withdrawn_at is None or not is_template(home.spec):
        return Removal(0, done=True)
    rule = withdrawal(policies_of(home))
    removed = 0
    async for page in instances_of(ledger.store, home):
        part = page[: at_most - removed]
        await ledger.apply({record.key: rule for record in part})
        removed += len(part)
        if removed == at_most:
            return Removal(removed, done=False)
    async for record in _counters(ledger.store, home):
        await ledger.apply({record.key: _forgotten})
    # After the instances, since a worker may create permits as long as there is one; before the record that this is
    # repeated for.
    await remove_permits_of(ledger, home)
    await ledger.apply({home.key: removed_after(0)})
    return Removal(removed, done=True)


async def instances_of(store: Store, template: Record) -> AsyncIterator[list[Record]]:
    """Yield the instances of *template* with their side runs, in pages, also from partitions of an earlier count."""
    for partition in await _partitions_of(store, template):
        # The template itself, and the records that count for it, have no instance in their keys, and come first.
        after = Key(partition, template.key.task, "", BEYOND)
        while page := await store.scan(partition, template.key.task, after, PAGE):
            yield page
            after = page[-1].key


async def _partitions_of(store: Store, template: Record) -> list[Partition]:
    realm, handler, _ = template.key.partition
    return sorted(partition for partition in await store.partitions(realm) if partition.handler == handler)


async def _counters(store: Store, template: Record) -> AsyncIterator[Record]:
    """Yield the counter records of *template* besides itself: some tens in each partition at most."""
    for partition in await _partitions_of(store, template):
        home = template.key._replace(partition=partition)
        async for page in side_records(store, home):
            for record in page:
                yield record
        if partition != template.key.partition:
            (counter,) = await store.load([home])
            if counter is not None:
                yield counter


def _forgotten(record: Record | None, now: Instant) -> Ruling:
    """The rule for a record that only counts, of a template that is removed."""
    del now
    return Ruling(None if record is None else Change(record, None))
