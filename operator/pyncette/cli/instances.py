"""
Reads the instances of a dynamic task in the order of their names, as many as a list may read.

No store has an index of names without their partition, of states, or of numbers in names. So a list reads instances from
the first name on, all partitions side by side, and keeps the few that it shows. What it reads is bounded, and what it
holds at a time is a page of each partition.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final, NamedTuple

from pyncette.cli.survey import PAGE, StoredTask, find
from pyncette.core.record import Key, Partition, Record
from pyncette.store.base import Store

DIGITS: Final = re.compile(r"([0-9]+)")


class Names(NamedTuple):
    """Which instances a list may read."""

    prefix: str = ""
    scan_limit: int = 0
    """The number of records to read, those of side runs and dead letters among them; 0: all of them."""


class Found(NamedTuple):
    """The instances that were found."""

    instances: list[StoredTask]
    """The first ones of those that match, in natural order, without their side runs."""
    matched: int
    read: int
    """The number of records that were read."""
    last: str
    """The name of the last instance that was read."""
    is_complete: bool
    """True if all instances with the prefix were read."""


def natural(name: str) -> tuple[Any, ...]:
    """Return the key that sorts *name* with its numbers by value: a2 before a10."""
    parts = DIGITS.split(name)
    values = [(len(part.lstrip("0")), part.lstrip("0")) if at % 2 else part for at, part in enumerate(parts)]
    return (*values, (-1, name))


async def find_instances(
    store: Store,
    realm: str,
    task: str,
    handler: str | None,
    names: Names,
    limit: int,
    matches: Callable[[StoredTask], bool],
) -> Found:
    """Return the first *limit* instances of *task* that match, of those that *names* allows to read. Raises StoreError."""
    partitions = await _partitions(store, realm, task, handler)
    kept: list[StoredTask] = []
    matched = read = 0
    last = ""
    async for record in _by_name(store, partitions, names.prefix):
        if names.scan_limit and read == names.scan_limit:
            return Found(_first(kept, limit), matched, read, last, is_complete=False)
        read, last = read + 1, record.key.instance
        if record.key.occurrence:
            continue
        one = StoredTask(f"{record.key.task}/{last}", record.key.partition.handler, [record])
        if matches(one):
            matched += 1
            kept.append(one)
            if len(kept) > limit + PAGE:
                kept = _first(kept, limit)
    return Found(_first(kept, limit), matched, read, last, is_complete=True)


def _first(found: list[StoredTask], limit: int) -> list[StoredTask]:
    return sorted(found, key=lambda one: natural(one.name))[:limit]


async def _partitions(store: Store, realm: str, task: str, handler: str | None) -> dict[Partition, str]:
    """Return the partitions that may hold instances of *task*, which may be the name of its resource, and its name there."""
    named = {record.key.partition.handler: record.key.task for record in await find(store, realm, task)}
    return {
        partition: named.get(partition.handler, task)
        for partition in sorted(await store.partitions(realm))
        if handler in {None, partition.handler}
    }


async def _by_name(store: Store, partitions: Mapping[Partition, str], prefix: str) -> AsyncIterator[Record]:
    """Yield the records of the instances with *prefix*, of all partitions, by name."""
    scans = [_scan(store, partition, task, prefix) for partition, task in partitions.items()]
    if prefix:  # a scan begins after a key, and so after the instance that has the prefix as its name
        keys = [Key(partition, task, prefix) for partition, task in partitions.items()]
        for record in await store.load(keys) if keys else ():
            if record is not None:
                yield record
    heads: list[tuple[str, int, Record]] = []
    for number, scan in enumerate(scans):
        if (record := await anext(scan, None)) is not None:
            heads.append((record.key.instance, number, record))
    heapq.heapify(heads)
    while heads:
        _, number, record = heads[0]
        yield record
        following = await anext(scans[number], None)
        if following is None:
            heapq.heappop(heads)
        else:
            heapq.heapreplace(heads, (following.key.instance, number, following))


async def _scan(store: Store, partition: Partition, task: str, prefix: str) -> AsyncIterator[Record]:
    """Yield the records of instances in *partition* whose names begin with *prefix*, after the one of that name."""
    after = Key(partition, task, prefix) if prefix else None
    while page := await store.scan(partition, task, after, PAGE):
        for record in page:
            key = record.key
            if key.instance and not key.instance.startswith(prefix):
                return
            if key.instance:
                yield record
        after = page[-1].key
