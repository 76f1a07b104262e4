"""Writes the records of resources: creates, edits, moves, stops and finally removes them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final, NamedTuple

from pyncette.clock import SECOND, Duration, Instant
from pyncette.coordination.permit_records import permit_partition, remove_permits
from pyncette.core import edits
from pyncette.core.record import (
    Change,
    Key,
    Record,
    State,
    is_dead_letter,
    is_on_demand,
    replace,
)
from pyncette.core.runs import NEVER
from pyncette.ledger.ledger import Ledger, Rule, Ruling
from pyncette.mirror.conversion import DesiredRecord
from pyncette.mirror.rules import (
    MirrorResult,
    Step,
    mirrored,
    moved,
    policies_of,
    removed_after,
    stopped,
    stopped_between_runs,
    withdrawn,
)
from pyncette.store.base import Store
from pyncette.store.scanning import without_instances

WITHDRAWAL_GRACE: Final[Duration] = 24 * 3600 * SECOND
"""How long the stopped record of a deleted resource is kept: a restore or a mistake within it loses nothing."""

PAGE: Final = 200
"""Records in one page of a scan."""


class MisplacedRecord(NamedTuple):
    """A record of a resource that belongs at another key by now."""

    ledger: Ledger
    """Of the backend that holds it."""
    record: Record


async def task_records(store: Store, realm: str) -> AsyncIterator[Record]:
    """
    Yield the records that are neither instances nor side runs: one of each task in *realm*.

    Instances of templates are passed over in pages, however many there are.
    """
    for partition in await store.partitions(realm):
        async for record in without_instances(store, partition):
            if not record.key.occurrence:
                yield record


async def mirror_one(
    ledger: Ledger, desired: DesiredRecord, misplaced: Sequence[MisplacedRecord] = ()
) -> MirrorResult:
    """
    Make the record of one resource equal to *desired*, and return it with the change that was made.

    *misplaced* are records of the same resource at other keys, on this backend or another. It moves here from one of them;
    if it is here already, they are removed. Idempotent. Raises StoreError.
    """
    if misplaced:
        (here,) = await ledger.store.load([desired.key])
        latest = max(misplaced, key=lambda item: _lived_until(item.record))
        if _is_left_behind(here, latest.record):
            return await _move(ledger, desired, latest.ledger, latest.record)
    result = await _create_or_edit(ledger, desired)
    # An interrupted move left two records of one name: remove the other one.
    for stray in misplaced:
        await remove_stopped(stray.ledger, stray.record, grace=0)
    return result


async def _create_or_edit(ledger: Ledger, desired: DesiredRecord) -> MirrorResult:
    """Write the record where it belongs; after an edit, update its side runs and remove the permits above a lower limit."""
    result: MirrorResult = (await ledger.apply({desired.key: mirrored(desired)}))[desired.key]
    if result.step is Step.EDITED and result.record is not None:
        await _edit_side_runs(ledger, result.record)
        if result.lowers_limit:
            await remove_permits_of(ledger, result.record, policies_of(result.record).max_concurrent)
    return result


async def _move(ledger: Ledger, desired: DesiredRecord, source: Ledger, old: Record) -> MirrorResult:
    """
    Stop the record at its *source*, wait for its side runs, create it here, and remove it there.

    An interrupted move continues where it stopped.
    """
    stopping: MirrorResult | None = (await source.apply({old.key: stopped_between_runs(desired)}))[old.key]
    if stopping is not None and stopping.step in {Step.WAITING, Step.OUTDATED}:
        return stopping
    # Side runs are counted at the source when they end, and the counts move along.
    if any([_is_under_way(record) async for page in side_records(source.store, old.key) for record in page]):
        return MirrorResult(old.key.task, Step.WAITING)
    (last,) = await source.store.load([old.key])
    if last is None:
        return await _create_or_edit(ledger, desired)
    # An interrupted move in the other direction may have left a stopped record there.
    await ledger.apply({desired.key: removed_after(0)})
    rule = moved(desired, last, returns=_returns(old, desired))
    result: MirrorResult = (await ledger.apply({desired.key: rule}))[desired.key]
    async for page in side_records(source.store, last.key):
        dead_letters = {_at(desired.key, letter.key): letter for letter in page if is_dead_letter(letter.key)}
        await ledger.apply({key: _taken_along(key, letter) for key, letter in dead_letters.items()})
    await remove_stopped(source, last, grace=0)
    return result


async def stop(ledger: Ledger, record: Record) -> MirrorResult | None:
    """
    Stop the *record* of a deleted resource, and return the result; None if it was stopped already.

    It is kept until `remove_stopped`. Raises StoreError.
    """
    if record.state.withdrawn_at is not None:
        return None
    # Before the stop, too: after a crash in between, nothing would return to its side runs.
    await _withdraw_side_records(ledger, record, with_dead_letters=False)
    result: MirrorResult | None = (await ledger.apply({record.key: stopped}))[record.key]
    await _withdraw_side_records(ledger, record, with_dead_letters=False)
    return result


async def remove_stopped(ledger: Ledger, record: Record, grace: Duration) -> MirrorResult | None:
    """
    Remove a *record* that was stopped longer ago than *grace*, with its side runs and dead letters.

    Without a grace it is stopped first. Returns the result; None if nothing was done. Raises StoreError.
    """
    now = await ledger.now()
    if grace and not _is_over(record.state, now - grace):
        return None
    await _withdraw_side_records(ledger, record, with_dead_letters=True)
    if not grace:
        await ledger.apply({record.key: stopped})
    # Before the record, by which an interrupted removal is found again. Nothing due is left that would create permits.
    await remove_permits_of(ledger, record)
    result: MirrorResult | None = (await ledger.apply({record.key: removed_after(grace)}))[record.key]
    return result


async def remove_permits_of(ledger: Ledger, home: Record, limit: int = 0) -> None:
    """Remove the permits of *home* from number *limit* on; without a limit, those of an earlier limit."""
    realm, handler, _ = home.key.partition
    partition = permit_partition(realm, handler, home.key.task)
    await remove_permits(ledger.store, partition, home.key.task, await ledger.now(), limit=limit)


async def _edit_side_runs(ledger: Ledger, home: Record) -> None:
    """Apply the edited spec to the retries of side runs; requested runs keep theirs."""

    def rule(record: Record | None, now: Instant) -> Ruling:
        del now
        if record is None:
            return Ruling(None)
        after = edits.in_step(record, home, policies_of(home))
        return Ruling(None if after is record else Change(record, after))

    async for page in side_records(ledger.store, home.key):
        keys = [record.key for record in page if _is_under_way(record) and not is_on_demand(record.key)]
        await ledger.apply(dict.fromkeys(keys, rule))


async def _withdraw_side_records(ledger: Ledger, home: Record, *, with_dead_letters: bool) -> None:
    """Withdraw the side runs of a schedule; its dead letters only if *with_dead_letters*, since they outlive a stop."""
    async for page in side_records(ledger.store, home.key):
        keys = [record.key for record in page if with_dead_letters or not is_dead_letter(record.key)]
        await ledger.apply(dict.fromkeys(keys, withdrawn))


async def side_records(store: Store, home: Key) -> AsyncIterator[list[Record]]:
    """Yield the side runs and dead letters of a schedule, in pages. They precede the next instance of the same task."""
    after = home
    while page := await store.scan(home.partition, home.task, after, PAGE):
        found = [record for record in page if record.key.instance == home.instance]
        if found:
            yield found
        if len(found) < len(page):
            return
        after = page[-1].key


def _is_under_way(record: Record) -> bool:
    """Return whether the side run *record* has no outcome yet."""
    return record.claimable_at is not None


def _is_left_behind(here: Record | None, elsewhere: Record) -> bool:
    """
    Return whether the record *elsewhere* is the current one, and the record *here*, if any, was left by an interrupted move.

    An interrupted move leaves a stopped record, which does not know what has happened since.
    """
    return here is None or _lived_until(here) < _lived_until(elsewhere)


def _lived_until(record: Record) -> Instant:
    return NEVER if record.state.withdrawn_at is None else record.state.withdrawn_at


def _returns(old: Record, desired: DesiredRecord) -> bool:
    """Return whether *old* was stopped because its resource was deleted, and not by a move that was interrupted."""
    owner = old.state.owner
    same = owner is not None and desired.owner.uid != "" and owner.uid == desired.owner.uid
    return old.state.withdrawn_at is not None and not same


def _at(home: Key, letter: Key) -> Key:
    return home._replace(occurrence=letter.occurrence)


def _taken_along(key: Key, letter: Record) -> Rule:
    """Return the rule that creates a dead letter at the new key of its schedule, unless it is there."""

    def rule(record: Record | None, now: Instant) -> Ruling:
        if record is not None:
            return Ruling(None)
        return Ruling(Change(None, replace(letter, key=key, version=max(now, letter.version), locator=None)))

    return rule


def _is_over(state: State, before: Instant) -> bool:
    return state.withdrawn_at is not None and state.withdrawn_at <= before
