"""Decides over how many partitions a template's instances are spread, and which template a process cannot serve."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from pyncette.clock import Instant
from pyncette.coordination.members import members
from pyncette.core.log_messages import naming_logger
from pyncette.core.record import BEYOND, Change, Key, Partition, Record, replace
from pyncette.errors import ConfigurationError, StoreUnavailableError
from pyncette.ledger.ledger import Ledger, Rule, Ruling
from pyncette.store.base import Store

logger = naming_logger(__name__)

PAGE = 200
"""Instances of each partition that are checked after a change: a process that has not noticed the change writes few."""


class PartitionedTemplate(Protocol):
    """A template, as its task module declares it."""

    @property
    def name(self) -> str: ...

    @property
    def partition_count(self) -> int: ...

    def partition_of(self, instance_name: str) -> int:
        """Return the partition of an instance. A selector may raise anything."""
        ...


class Mismatch(NamedTuple):
    """A template that this process cannot serve, since its stored partition count differs from the declared one."""

    handler: str
    declared: int
    stored: int
    has_instances: bool
    """True if instances prevent a change, False if a program with another count does."""

    def __str__(self) -> str:
        """Name the handler, both counts and the remedy."""
        here = f"The task {self.handler} has {_partitions(self.declared)} here"
        if self.has_instances:
            return (
                f"{here}, but its instances are stored in {self.stored}. Either go back to "
                f"partition_count={self.stored}, or declare the new count under a new name and move the instances "
                "there: list_tasks of the old task, schedule_many of the new one. Without instances, the new count takes "
                "effect"
            )
        return (
            f"{here}, but another program has stored {self.stored}. "
            "A worker stores the new count once no worker with another count runs"
        )

    @property
    def error(self) -> ConfigurationError:
        """The error that a call which needs the template raises."""
        return ConfigurationError(str(self))


async def settle_count(
    ledger: Ledger, realm: str, holder: str, task: PartitionedTemplate, record: Record, *, may_change: bool
) -> Mismatch | None:
    """
    Change the stored partition count to that of *task* if that is safe; otherwise return the mismatch.

    *record* is the template's, and *holder* this process as a member. The count changes only by a compare-and-swap, while
    no instance exists and no live member has registered another count; and only if this process *may_change* it, so that
    programs that only schedule do not change it back and forth. Raises StoreError.
    """
    stored, declared = record.spec.partitions, task.partition_count
    if stored is None or stored == declared:
        return None
    if await _has_instances(ledger.store, realm, task.name):
        return Mismatch(task.name, declared, stored, has_instances=True)
    if not may_change or await _is_disputed(ledger, realm, holder, task):
        return Mismatch(task.name, declared, stored, has_instances=False)
    changed = await _recount(ledger, record, declared)
    if changed is None:  # another process was faster, perhaps to the same end
        (current,) = await ledger.store.load([record.key])
        return next(iter(_mismatch(record.key, declared, current)), None)
    # A process that had read the older number may have written an instance just before the change.
    if await _misplaced(ledger.store, realm, task):
        await ledger.apply({record.key: _count_change(changed.version, stored)})
        return Mismatch(task.name, declared, stored, has_instances=True)
    logger.info(
        "changed the partition count of a template without instances",
        extra={"task": task.name, "before": stored, "partitions": declared},
    )
    return None


async def stray_partitions(
    store: Store, partitions: Iterable[Partition], handler: str, count: int
) -> list[int]:
    """Return those of *partitions* that hold instances of *handler* beyond its *count*, which no worker polls. Raises StoreError."""
    beyond = sorted(one for one in partitions if one.handler == handler and one.number >= count)
    return [partition.number for partition in beyond if await _instances_in(store, partition, handler, 1)]


def guarded_by_count(template: Key, count: int, rules: dict[Key, Rule]) -> dict[Key, Rule]:
    """
    Return *rules* for instances that apply only while the stored partition count of the *template* is *count*.

    The record of the template is read together with theirs. If its count differs, each rule answers with a Mismatch.
    """
    mismatch: list[Mismatch] = []

    def check(record: Record | None, now: Instant) -> Ruling:
        del now
        mismatch.clear()
        mismatch.extend(_mismatch(template, count, record))
        return Ruling(None)

    def guarded(rule: Rule) -> Rule:
        return lambda record, now: Ruling(None, mismatch[0]) if mismatch else rule(record, now)

    return {template: check} | {key: guarded(rule) for key, rule in rules.items()}


def _mismatch(template: Key, count: int, record: Record | None) -> list[Mismatch]:
    stored = None if record is None else record.spec.partitions
    if stored is None or stored == count:
        return []
    return [Mismatch(template.partition.handler, count, stored, has_instances=True)]


def _count_change(version: int, count: int) -> Rule:
    """Return the rule that sets the partition count of the template at this *version*; its answer is the record."""

    def rule(record: Record | None, now: Instant) -> Ruling:
        del now
        if record is None or record.version != version:
            return Ruling(None, None)
        after = replace(record, version=version + 1, spec=replace(record.spec, partitions=count))
        return Ruling(Change(record, after), after)

    return rule


async def _recount(ledger: Ledger, record: Record, count: int) -> Record | None:
    """Change the number of partitions of the template *record*, and return it as it is then; None if it was not as it is here."""
    try:
        changed: Record | None = (await ledger.apply({record.key: _count_change(record.version, count)}))[
            record.key
        ]
    except StoreUnavailableError:
        # If just the reply was lost, the instances are still to be checked: nobody else will.
        (changed,) = await ledger.store.load([record.key])
        if changed is None or (changed.version, changed.spec.partitions) != (record.version + 1, count):
            raise
    return changed


async def _is_disputed(ledger: Ledger, realm: str, holder: str, task: PartitionedTemplate) -> bool:
    found = await members(ledger.store, realm, ledger.clock.now())
    return any(
        member.holder != holder and member.registers_other_count(task.name, task.partition_count)
        for member in found
    )


async def _has_instances(store: Store, realm: str, handler: str) -> bool:
    for partition in await _partitions_of(store, realm, handler):
        if await _instances_in(store, partition, handler, 1):
            return True
    return False


async def _misplaced(store: Store, realm: str, task: PartitionedTemplate) -> bool:
    """Return whether an instance is in a partition where *task* would not place it."""
    for partition in await _partitions_of(store, realm, task.name):
        for record in await _instances_in(store, partition, task.name, PAGE):
            if partition.number >= task.partition_count or not _belongs(task, record):
                return True
    return False


def _belongs(task: PartitionedTemplate, record: Record) -> bool:
    try:
        return task.partition_of(record.key.instance) == record.key.partition.number
    except Exception:  # noqa: BLE001 - a selector may raise anything; then it did not place this instance
        return False


async def _partitions_of(store: Store, realm: str, handler: str) -> list[Partition]:
    return sorted(partition for partition in await store.partitions(realm) if partition.handler == handler)


async def _instances_in(store: Store, partition: Partition, handler: str, limit: int) -> list[Record]:
    # The template itself, and the records that count for it, have no instance in their keys, and come first.
    return await store.scan(partition, handler, Key(partition, handler, "", BEYOND), limit)


def _partitions(count: int) -> str:
    return "1 partition" if count == 1 else f"{count} partitions"
