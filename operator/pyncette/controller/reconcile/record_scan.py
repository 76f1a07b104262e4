"""Reads the records of tasks from a store, each with what runs beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from pyncette.clock import Instant
from pyncette.controller.reconcile.backlog import late_since_of
from pyncette.coordination.partition_counts import stray_partitions
from pyncette.core.record import Key, Partition, Record, is_on_demand
from pyncette.store.base import Store
from pyncette.store.scanning import without_instances


class ObservedRecord(NamedTuple):
    """The record of a task, and where it is."""

    backend: str
    record: Record
    running: int = 0
    """Runs under way beside the schedule."""
    requested: int = 0
    """Requested runs that have no outcome yet, under way or not."""
    late_since: Instant | None = None
    """Since when its next occurrence waits for a worker; None if it does not."""
    strays: tuple[int, ...] = ()
    """Of a template: partitions beyond its count that hold instances. No worker polls them."""


async def holds_anything(store: Store, partitions: Sequence[Partition]) -> bool:
    """Return whether any of *partitions* has a record. Raises StoreError."""
    for partition in partitions:
        if await store.scan(partition, None, None, 1):
            return True
    return False


async def scan_records(
    store: Store, partitions: Sequence[Partition], backend: str, now: Instant, task: str | None = None
) -> AsyncIterator[ObservedRecord]:
    """
    Yield the records of tasks in *partitions*, or of one *task*, with what runs beside them.

    Instances are passed over, however many there are.
    """
    for partition in partitions:
        observed: ObservedRecord | None = None
        async for record in without_instances(store, partition, task):
            key = record.key
            if not key.occurrence:
                if observed is not None:
                    yield observed
                strays = await _strays(store, partitions, record)
                observed = ObservedRecord(
                    backend, record, late_since=late_since_of(record, now), strays=strays
                )
            elif observed is not None and observed.record.key == key._replace(occurrence=""):
                observed = observed._replace(
                    running=observed.running + record.is_leased(now),
                    requested=observed.requested + is_on_demand(key),
                )
        if observed is not None:
            yield observed


async def _strays(store: Store, partitions: Sequence[Partition], record: Record) -> tuple[int, ...]:
    """
    Return the partitions beyond the count of a template that hold its instances.

    A handler has one template, which has its name. Any other record that is stored like one is none, and is not looked at:
    a database may hold any number of them, and of partitions.
    """
    count, (realm, handler, _) = record.spec.partitions, record.key.partition
    if count is None or record.state.owner is None or record.key != Key(Partition(realm, handler), handler):
        return ()
    return tuple(await stray_partitions(store, partitions, handler, count))
