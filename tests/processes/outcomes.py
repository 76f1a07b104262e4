"""What the store says became of every occurrence, to be held against the account of those who ran them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import msgspec

from pyncette.core.record import Counts, Key, Partition, Record
from pyncette.store.base import Store
from tests.processes.account import Account, Occurrence, Run
from tests.processes.population import AT_MOST_ONCE, FAR_AWAY, Population

PAGE = 1000


@dataclass(frozen=True)
class Stored:
    """All records of some partitions, as they were at one time or another while they were read."""

    records: dict[Key, Record]

    def counts(self, task: str) -> Counts:
        """How occurrences of *task* ended: of what is there still, and of what is gone and was counted at its template."""
        found = [
            record.state.summary.counts
            for key, record in self.records.items()
            if key.partition.handler == task
        ]
        return _sum(found)

    @property
    def unfinished(self) -> dict[Key, Record]:
        """Those that something is still to happen to within this test: in mid-run, to be retried, or due."""
        return {
            key: record
            for key, record in self.records.items()
            if record.lease
            or record.attempt
            or record.state.started
            or (record.due_at or FAR_AWAY) < FAR_AWAY
        }

    def of(self, occurrences: Iterable[Occurrence]) -> Self:
        """The records of the instances that *occurrences* are of, and of what runs beside them."""
        names = {(occurrence.task, occurrence.instance) for occurrence in occurrences}
        return replace(
            self,
            records={
                key: record
                for key, record in self.records.items()
                if (key.partition.handler, _name(key)) in names
            },
        )

    def summary(self) -> str:
        tasks = sorted({key.partition.handler for key in self.records})
        return ", ".join(f"{task}: {self.counts(task)}" for task in tasks)


async def stored(new_store: Callable[[], Store], partitions: Sequence[Partition]) -> Stored:
    """Read every record of *partitions*."""
    records: dict[Key, Record] = {}
    async with new_store() as store:
        for partition in partitions:
            after = None
            while page := await store.scan(partition, None, after, PAGE):
                records.update((record.key, record) for record in page)
                after = page[-1].key
    return Stored(records)


def disagreements(
    population: Population, account: Account, found: Stored, may_be_lost: Callable[[Run], bool]
) -> list[str]:
    """
    Say where store, account and what was due do not agree; each sentence names a promise that is broken.

    *may_be_lost* says of which runs that ended their process may have been unable to write that.
    """
    return list(_disagreements(population, account, found, may_be_lost))


def _disagreements(
    population: Population, account: Account, found: Stored, may_be_lost: Callable[[Run], bool]
) -> Iterable[str]:
    tasks = {occurrence.task for occurrence in population.expected}
    unknown = {occurrence for occurrence in account.started if occurrence.task in tasks} - population.expected
    if unknown:
        yield f"{len(unknown)} ran that were never due, such as {min(unknown)}"
    lost = population.at_least_once - account.ended
    if lost:
        yield f"{len(lost)} at least once never ran to their end, such as {min(lost)}"
    for task in sorted(AT_MOST_ONCE):
        twice = account.more_than_once(task)
        if twice:
            yield f"{len(twice)} at most once ran twice, such as {account.of[twice[0]]}"
    stale = account.fences_that_do_not_grow()
    if stale:
        yield f"{len(stale)} got a fence that did not grow, such as {account.of[stale[0]]}"
    for task in sorted(tasks):
        yield from _wrongly_counted(task, population.of(task), account, found, may_be_lost)
    if found.unfinished:
        yield f"{len(found.unfinished)} records are left in mid-run or due, such as {min(found.unfinished)}"


def _wrongly_counted(
    task: str,
    expected: set[Occurrence],
    account: Account,
    found: Stored,
    may_be_lost: Callable[[Run], bool],
) -> Iterable[str]:
    counts = found.counts(task)
    if task not in AT_MOST_ONCE:
        if counts != Counts(succeeded=len(expected)):
            yield f"of {task}, {len(expected)} should have succeeded, and were counted as {counts}"
        return
    if counts != Counts(succeeded=len(expected) - counts.lost, lost=counts.lost):
        yield f"of {task}, {len(expected)} should have succeeded or be lost, and were counted as {counts}"
    unended = len(expected - account.ended)
    ended = (run for run in account.runs if run.ended_at is not None and run.occurrence in expected)
    unrecorded = {run.occurrence for run in ended if may_be_lost(run)}
    if not unended <= counts.lost <= unended + len(unrecorded):
        yield (
            f"of {task}, {counts.lost} are counted as lost, although {unended} never came to an end"
            f" and only of {len(unrecorded)} that did it may not have been written"
        )


def _name(key: Key) -> str:
    return key.instance or key.task


def _sum(counts: Iterable[Counts]) -> Counts:
    columns = zip(*(msgspec.structs.astuple(each) for each in counts), strict=True)
    return Counts(*map(sum, columns))
