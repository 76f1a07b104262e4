"""Writes the records of resources: creates, edits, moves, stops and finally removes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

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
)
from pyncette.core.runs import NEVER
from pyncette.core.side_runs import is_released
from pyncette.errors import StoreError, StoreRefusedError, StoreUnavailableError
from pyncette.ledger.ledger import Ledger, Rule, Ruling
from pyncette.mirror.carried import Bounds, ImplausibleRecordError, carried_dead_letter
from pyncette.mirror.conversion import DesiredRecord
from pyncette.mirror.rules import (
    MirrorResult,
    Step,
    Unremoved,
    mirrored,
    moved,
    policies_of,
    removed_after,
    stopped,
    stopped_between_runs,
    withdrawn,
)
from pyncette.store.base import Store
from pyncette.store.cancellation import leaks_as_errors
from pyncette.store.scanning import side_records, without_instances

WITHDRAWAL_GRACE: Final[Duration] = 24 * 3600 * SECOND
"""How long the stopped record of a deleted resource is kept: a restore or a mistake within it loses nothing."""

REMOVAL_SECONDS: Final = 10.0
"""Time limit for the removal of all misplaced records of a resource. The next pass continues the removal."""

SIDE_RECORDS_MAX: Final = 10_000
"""Maximum number of side runs and dead letters that a move reads."""

REFUSED_MAX: Final = 3
"""Maximum number of reasons in a result for records that a move did not carry over."""


class MisplacedRecord(NamedTuple):
    """A record of a resource that belongs at another key by now."""

    ledger: Ledger
    """Of the backend that holds it."""
    record: Record
    bounds: Bounds | None = None
    """The bounds of a record that moves to another database; None if it moves within its database."""


@dataclass(slots=True)
class MirrorReport:
    """What was done about several records, and the errors of those that could not be written."""

    results: list[MirrorResult] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """
        Collect a StoreError, so that it keeps no other record from being written.

        StoreUnavailableError is raised, though: each further record would wait for a timeout.
        """
        try:
            yield
        except StoreUnavailableError:
            raise
        except StoreError as error:
            self.errors.append(error)

    def raise_errors(self) -> None:
        """Raise the error that was collected, or one StoreError for several."""
        if len(self.errors) == 1:
            raise self.errors[0]
        if self.errors:
            raise StoreError(f"{self.errors[0]} (and {len(self.errors) - 1} more)") from self.errors[0]


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

    *misplaced* are records of the same resource at other keys, on this backend or another. The resource moves here from one
    of them. If its record is here already, they are removed. Idempotent. Raises StoreError; a failed removal does not raise,
    and is part of the result.
    """
    if misplaced:
        (here,) = await ledger.store.load([desired.key])
        latest = max(misplaced, key=lambda item: _lived_until(item.record))
        if _is_left_behind(here, latest.record):
            return await _move(ledger, desired, latest)
    result = await _create_or_edit(ledger, desired)
    # An interrupted move left two records of one name: remove the other one.
    return result._replace(unremoved=await _remove_misplaced(misplaced))


async def _remove_misplaced(misplaced: Sequence[MisplacedRecord]) -> tuple[Unremoved, ...]:
    """
    Remove *misplaced* records, and return those that could not be removed.

    Their database may refuse removals, hold an unwritable record, or not respond. The record that counts is elsewhere by
    now, so no error is raised.
    """
    unremoved: list[Unremoved] = []
    deadline = asyncio.get_running_loop().time() + REMOVAL_SECONDS
    for source, record, _ in misplaced:
        try:
            with leaks_as_errors():
                async with asyncio.timeout_at(deadline):
                    await remove_stopped(source, record, grace=0)
        except TimeoutError:
            timeout = StoreUnavailableError(f"removals took longer than {REMOVAL_SECONDS:g} seconds")
            unremoved.append(Unremoved(record, timeout))
        except Exception as error:  # noqa: BLE001 - an error of that database concerns this removal alone
            unremoved.append(Unremoved(record, error))
    return tuple(unremoved)


async def _create_or_edit(ledger: Ledger, desired: DesiredRecord) -> MirrorResult:
    """Like `create_or_edit_all` for one record; return the result. Raises StoreError."""
    report = MirrorReport()
    await create_or_edit_all(ledger, [desired], report)
    report.raise_errors()
    return report.results[0]


async def create_or_edit_all(
    ledger: Ledger, desired: Collection[DesiredRecord], report: MirrorReport
) -> None:
    """
    Write the records of resources where they belong, in batches, and add to *report* what was done.

    After an edit, update the side runs and remove the permits above a lower limit. Raises StoreUnavailableError.
    """
    answers = await _apply_all(ledger, {each.key: mirrored(each) for each in desired}, report)
    for result in answers.values():
        if result.step is Step.EDITED and result.record is not None:
            with report.collecting():
                await _edit_side_runs(ledger, result.record)
                if result.lowers_limit:
                    await remove_permits_of(ledger, result.record, policies_of(result.record).max_concurrent)


async def _move(ledger: Ledger, desired: DesiredRecord, misplaced: MisplacedRecord) -> MirrorResult:
    """
    Stop the *misplaced* record, wait for its side runs, create it here with its dead letters, and remove it there.

    An interrupted move continues where it stopped.
    """
    source, old, bounds = misplaced
    stopping: MirrorResult | None = (await source.apply({old.key: stopped_between_runs(desired)}))[old.key]
    if stopping is not None and stopping.step in {Step.WAITING, Step.OUTDATED}:
        return stopping
    # No worker may be left to withdraw what was released before its handler was called.
    async for page in _side_records(source, old.key):
        await source.apply(
            dict.fromkeys([record.key for record in page if is_released(record)], _released_withdrawn)
        )
    waiting = MirrorResult(old.key.task, Step.WAITING)
    # Side runs are counted at the source when they end. The move carries these counts over.
    if any([_is_under_way(record) async for page in _side_records(source, old.key) for record in page]):
        return waiting
    (last,) = await source.store.load([old.key])
    if last is None:
        return await _create_or_edit(ledger, desired)
    # Dead letters come before the record: while it is absent, an interrupted move returns here.
    refused = await _copy_dead_letters(ledger, desired, source, old.key)
    if refused is None:  # a run has begun since the check above
        return waiting
    # An interrupted move in the other direction may have left a stopped record there.
    await ledger.apply({desired.key: removed_after(0)})
    rule = moved(desired, last, returns=_returns(old, desired), bounds=bounds)
    result: MirrorResult = (await ledger.apply({desired.key: rule}))[desired.key]
    return result._replace(
        refused=(*result.refused, *refused), unremoved=await _remove_misplaced([misplaced])
    )


async def _copy_dead_letters(
    ledger: Ledger, desired: DesiredRecord, source: Ledger, home: Key
) -> list[str] | None:
    """
    Create the dead letters of *home* at the key of *desired*. Raises StoreError.

    Return a reason for each kind of dead letter that was refused; None if a run is under way, so that the move has to wait.
    Only this read counts: a database may have answered an earlier one differently.
    """
    now, read, refused = await ledger.now(), 0, dict[str, None]()
    async for page in _side_records(source, home):
        if any(map(_is_under_way, page)):
            return None
        rules: dict[Key, Rule] = {}
        for record in page:
            if is_dead_letter(record.key):
                try:
                    new = carried_dead_letter(record, desired, now)
                    rules[new.key] = _created(new)
                except ImplausibleRecordError as error:
                    refused[str(error)] = None
        await ledger.apply(rules)
        read += len(page)
    if read >= SIDE_RECORDS_MAX:
        refused[f"it has more than {SIDE_RECORDS_MAX:,} dead letters"] = None
    return list(refused)[:REFUSED_MAX]


async def _side_records(source: Ledger, home: Key) -> AsyncIterator[list[Record]]:
    """Yield pages of the side runs and dead letters of *home*. Stop at `SIDE_RECORDS_MAX`, since a database may return any number."""
    read = 0
    async for page in side_records(source.store, home):
        yield page
        read += len(page)
        if read >= SIDE_RECORDS_MAX:
            return


async def stop(ledger: Ledger, record: Record) -> MirrorResult | None:
    """
    Stop the *record* of a deleted resource, and return the result; None if it was stopped already.

    It is kept until `remove_stopped`. Raises StoreError.
    """
    report = MirrorReport()
    await stop_all(ledger, [record], report)
    report.raise_errors()
    return next(iter(report.results), None)


async def stop_all(ledger: Ledger, records: Collection[Record], report: MirrorReport) -> None:
    """Like `stop` for each of *records*, in batches; add to *report* what was done. Raises StoreUnavailableError."""
    running = [record for record in records if record.state.withdrawn_at is None]
    # Before the stop, too: after a crash in between, nothing would return to its side runs.
    ready = await _withdraw_all(ledger, running, report, with_dead_letters=False)
    answers = await _apply_all(ledger, {record.key: stopped for record in ready}, report)
    done = [record for record in ready if record.key in answers]
    await _withdraw_all(ledger, done, report, with_dead_letters=False)


async def remove_stopped(ledger: Ledger, record: Record, grace: Duration) -> MirrorResult | None:
    """
    Remove a *record* that was stopped longer ago than *grace*, with its side runs and dead letters.

    Without a grace it is stopped first. Returns the result; None if nothing was done. Raises StoreError.
    """
    report = MirrorReport()
    await remove_all_stopped(ledger, [record], grace, report)
    report.raise_errors()
    return next(iter(report.results), None)


async def remove_all_stopped(
    ledger: Ledger, records: Collection[Record], grace: Duration, report: MirrorReport
) -> None:
    """
    Like `remove_stopped` for each of *records*, in batches; add to *report* what was done.

    Raises StoreUnavailableError, and StoreError if the time of the store cannot be read.
    """
    now = await ledger.now()
    over = [record for record in records if not grace or _is_over(record.state, now - grace)]
    ready = await _withdraw_all(ledger, over, report, with_dead_letters=True)
    if not grace:
        unreported = MirrorReport(errors=report.errors)  # the result is the removal
        answers = await _apply_all(ledger, {record.key: stopped for record in ready}, unreported)
        ready = [record for record in ready if record.key in answers]
    rules: dict[Key, Rule] = {}
    for record in ready:
        with report.collecting():
            # Before the record, by which an interrupted removal is found again. Nothing due is left that would create permits.
            await remove_permits_of(ledger, record)
            rules[record.key] = removed_after(grace)
    await _apply_all(ledger, rules, report)


async def _apply_all(ledger: Ledger, rules: Mapping[Key, Rule], report: MirrorReport) -> dict[Key, Any]:
    """
    Apply *rules* in batches; return the answers by key, and add the results among them to *report*.

    A batch may be refused because of one of its records. Then each is written alone. Raises StoreUnavailableError.
    """
    answers: dict[Key, Any] = {}
    refused: list[Key] = []
    try:
        with report.collecting():
            try:
                if rules:
                    await ledger.apply(rules, answers)
            except StoreRefusedError:
                if len(rules) == 1:
                    raise
                refused = [key for key in rules if key not in answers]
        for key in refused:
            with report.collecting():
                await ledger.apply({key: rules[key]}, answers)
    finally:
        report.results += [answer for answer in answers.values() if answer is not None]
    return answers


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


async def _withdraw_all(
    ledger: Ledger, homes: Collection[Record], report: MirrorReport, *, with_dead_letters: bool
) -> list[Record]:
    """Withdraw the side runs of *homes*, and return those without an error. Raises StoreUnavailableError."""
    withdrawn_from: list[Record] = []
    for home in homes:
        with report.collecting():
            await _withdraw_side_records(ledger, home, with_dead_letters=with_dead_letters)
            withdrawn_from.append(home)
    return withdrawn_from


async def _withdraw_side_records(ledger: Ledger, home: Record, *, with_dead_letters: bool) -> None:
    """Withdraw the side runs of a schedule; its dead letters only if *with_dead_letters*, since they outlive a stop."""
    async for page in side_records(ledger.store, home.key):
        keys = [record.key for record in page if with_dead_letters or not is_dead_letter(record.key)]
        await ledger.apply(dict.fromkeys(keys, withdrawn))


def _released_withdrawn(record: Record | None, now: Instant) -> Ruling:
    """The rule that withdraws a side run which was released before its handler was called."""
    return Ruling(None) if record is None or not is_released(record) else withdrawn(record, now)


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


def _created(new: Record) -> Rule:
    """Return the rule that creates the record *new*, unless it is there."""

    def rule(record: Record | None, now: Instant) -> Ruling:
        del now
        return Ruling(None if record is not None else Change(None, new))

    return rule


def _is_over(state: State, before: Instant) -> bool:
    return state.withdrawn_at is not None and state.withdrawn_at <= before
