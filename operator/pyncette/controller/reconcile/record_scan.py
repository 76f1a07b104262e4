"""Reads the records of tasks from a store, each with its side runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

from pyncette.clock import Instant
from pyncette.controller.reconcile.backlog import late_since_of
from pyncette.coordination.partition_counts import stray_partitions
from pyncette.core.record import Key, Partition, Record, is_on_demand
from pyncette.errors import StoreRefusedError
from pyncette.store.base import Store
from pyncette.store.scanning import without_instances


class TooManyRowsError(StoreRefusedError):
    """The error for a database with more rows than a scan reads. Its owner can forge endless rows."""


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
    store: Store,
    partitions: Sequence[Partition],
    backend: str,
    now: Instant,
    admits: Callable[[int], bool],
    task: str | None = None,
) -> AsyncIterator[ObservedRecord]:
    """
    Yield the records of tasks in *partitions*, or of one *task*, with their side runs. Raises StoreError.

    Instances are skipped without reading them one by one. Raises TooManyRowsError once *admits* returns false for the
    number of rows, or of partitions, that are read next.
    """

    def read(rows: int) -> None:
        if not admits(rows):
            raise TooManyRowsError(f"the backend {backend} shows more rows than are read")

    for partition in partitions:
        observed: ObservedRecord | None = None
        async for record in without_instances(store, partition, task, read):
            key = record.key
            if not key.occurrence:
                if observed is not None:
                    yield observed
                strays: tuple[int, ...] = ()
                if (count := _partitions_of(record)) is not None:
                    read(len(partitions))
                    strays = tuple(await stray_partitions(store, partitions, key.partition.handler, count))
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


def _partitions_of(record: Record) -> int | None:
    """
    Return the partition count of a template; None for any other record.

    A handler has one template, which has its name. A database may hold any number of other records that are stored like one.
    """
    realm, handler, _ = record.key.partition
    is_template = record.state.owner is not None and record.key == Key(Partition(realm, handler), handler)
    return record.spec.partitions if is_template else None
