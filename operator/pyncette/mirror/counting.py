"""Counts the instances of a dynamic task, and those that wait for a worker, as far as counting is cheap."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

from pyncette.clock import SECOND, Duration, Instant
from pyncette.core.record import Partition, Record
from pyncette.core.spec import Policies
from pyncette.resources.task import PARTITIONS_MAX
from pyncette.resources.task_status import Instances
from pyncette.store.base import Counted, Store

COUNTED_MAX: Final = 10_000
"""Maximum number of due or leased records that is counted. Beyond it, an exact number has no use."""

SLACK: Final = 2
"""Names fall to partitions by chance, so of each up to so many times its share are counted."""

LATE: Final[tuple[Duration, ...]] = tuple(
    seconds * SECOND for seconds in (10, 30, 60, 120, 300, 600, 1800, 3600, 4 * 3600, 24 * 3600)
)
"""
Steps by which the waiting time of instances is measured. No store can say which record has waited longest, but each can
count the records that were due by a given time.
"""

PROBED_MAX: Final = 1_000
"""Records that are counted for one step: running ones may be among them, and are skipped."""


async def instances_of(
    store: Store, template: Record, now: Instant, counted_max: int = COUNTED_MAX
) -> Instances:
    """Return how many instances the dynamic task of the record *template* has, and how many are due and leased. Raises StoreError."""
    realm, handler, _ = template.key.partition
    stored = template.spec.partitions or 1  # a row may hold any number
    partitions = [Partition(realm, handler, number) for number in range(min(max(stored, 1), PARTITIONS_MAX))]
    # One handler belongs to one dynamic task, and its instances have that name, whatever the resource is called.
    lease = (template.spec.policies or Policies()).lease
    found = await counted_in(store, partitions, handler, now, lease, counted_max)
    return Instances(total=found.total, due=found.due, leased=found.leased)


async def waiting_in(
    store: Store, partition: Partition, task: str, now: Instant, known: Duration = 0
) -> tuple[int, Duration | None]:
    """
    Return how many records of *task* wait for a worker, up to `COUNTED_MAX`, and how long the oldest has waited.

    That is rounded down to a step of `LATE`, or to 0; None if no record waits. It is 0, too, if the oldest has waited no
    longer than is *known* of other partitions: that takes one request, and not one for each halving of `LATE`. Raises
    StoreError.
    """
    due = (await store.count(partition, task, now, 0, COUNTED_MAX)).due
    if not due:
        return 0, None
    shorter, longer = bisect_right(LATE, known), len(LATE)
    if known and (shorter == longer or not await _waits(store, partition, task, now - LATE[shorter])):
        return due, 0
    while shorter < longer:
        middle = (shorter + longer) // 2
        if await _waits(store, partition, task, now - LATE[middle]):
            shorter = middle + 1
        else:
            longer = middle
    return due, LATE[shorter - 1] if shorter else 0


async def _waits(store: Store, partition: Partition, task: str, since: Instant) -> bool:
    return (await store.count(partition, task, since, 0, PROBED_MAX)).due > 0


async def counted_in(
    store: Store,
    partitions: Sequence[Partition],
    task: str,
    now: Instant,
    longest_lease: Duration,
    counted_max: int = COUNTED_MAX,
) -> Counted:
    """Count the records of *task* in all of *partitions* together: at most *counted_max* of either kind. Raises StoreError."""
    limit = counted_max if len(partitions) == 1 else SLACK * counted_max // len(partitions) + 1
    due, leased, total, exact = 0, 0, 0, True
    is_counted = True
    for partition in partitions:
        found = await store.count(partition, task, now, longest_lease, limit)
        due += found.due
        leased += found.leased
        exact = exact and found.is_exact
        is_counted = is_counted and found.total is not None
        total += found.total or 0
    return Counted(
        min(due, counted_max),
        min(leased, counted_max),
        exact and max(due, leased) <= counted_max,
        total if is_counted else None,
    )
