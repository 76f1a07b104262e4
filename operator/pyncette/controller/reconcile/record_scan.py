"""Reads the records of tasks from a store, each with its side runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from pyncette.clock import Instant
from pyncette.controller.reconcile.backlog import late_since_of
from pyncette.coordination.partition_counts import stray_partitions
from pyncette.core.record import Partition, Record, is_on_demand
from pyncette.store.base import Store
from pyncette.store.scanning import without_instances


class ObservedRecord(NamedTuple):
    """The record of a task, and where it is."""

    backend: str
    record: Record
    running: int = 0
    """Number of side runs under way."""
    requested: int = 0
    """Number of requested runs without an outcome, under way or not."""
    late_since: Instant | None = None
    """Time since which its next occurrence waits for a worker; None if it does not wait."""
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
    Yield the records of tasks in *partitions*, or of one *task*, with their side runs. Raises StoreError.

    Instances are skipped without reading them one by one.
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
    count = record.spec.partitions
    if count is None or record.state.owner is None:
        return ()
    return tuple(await stray_partitions(store, partitions, record.key.partition.handler, count))
