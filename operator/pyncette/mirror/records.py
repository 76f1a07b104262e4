"""Keeps the records of resources equal to what is wished for: created, edited, moved, stopped, and at last removed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from enum import Enum
from typing import Final, NamedTuple

from pyncette.clock import SECOND, Duration, Instant
from pyncette.coordination.permit_records import permit_partition, remove_permits
from pyncette.core import edits
from pyncette.core.record import (
    BEYOND,
    NO_REQUESTS,
    Change,
    Key,
    Owner,
    Partition,
    Record,
    Requests,
    State,
    is_dead_letter,
    is_on_demand,
    replace,
)
from pyncette.core.rules import NEVER
from pyncette.core.schedule import Once
from pyncette.core.spec import Policies, Spec
from pyncette.ledger.ledger import Ledger, Rule, Ruling, withdrawal
from pyncette.mirror.conversion import created_at, requests_of, spec_hash, to_key, to_owner, to_spec
from pyncette.resources.task import PyncetteTask
from pyncette.store.base import Store
from pyncette.store.scanning import without_instances

WITHDRAWAL_GRACE: Final[Duration] = 24 * 3600 * SECOND
"""How long the record of a resource that is gone is kept, stopped: a restore or a mistake within it loses nothing."""

PAGE: Final = 200
"""Records of one look at what is there."""


class DesiredRecord(NamedTuple):
    """A resource as the store is to hold it."""

    key: Key
    spec: Spec
    owner: Owner
    created_at: Instant | None
    """When the resource was created: a one-off that was too old by then is missed. None: it is not known."""
    requests: Requests = NO_REQUESTS
    """What it asks for once. A resource that asks for it from the start has been given it."""
    is_over: bool = False
    """It is known to have no further occurrence: if there is no record that says so, the one that is made does."""
    outlives: Owner | None = None
    """
    The owner of a record that is not newer than this, although its generation or its creation time is: the cluster's
    store was restored, and counts on from its older state.
    """

    @property
    def policies(self) -> Policies:
        return self.spec.policies or Policies()


class Step(Enum):
    """What was done about a resource."""

    CREATED = "created"
    EDITED = "edited"
    UNCHANGED = "unchanged"
    OUTDATED = "outdated"
    """The record holds a newer generation of the same resource already, or a newer resource of the same name."""
    MOVED = "moved"
    """Its handler is another: the record went to the other partition, with its due time, fence and counts."""
    WAITING = "waiting"
    """Its handler is another, and it moves once what runs is over: ask again."""
    STOPPED = "stopped"
    REMOVED = "removed"


class Removal(NamedTuple):
    """How far the removal of instances came."""

    removed: int
    done: bool
    """None is left, nor the template; or it is wanted again, and then what is left stays."""


class MirrorResult(NamedTuple):
    """What was done about the resource with this name."""

    name: str
    step: Step
    record: Record | None = None
    """As it is now, written or not; None if there is none at its key, or if it was not read."""
    lowers_limit: bool = False
    """Whether the new limit of concurrent runs is lower than the old one."""

    @property
    def is_written(self) -> bool:
        """Whether anything was written."""
        return self.step not in {Step.UNCHANGED, Step.OUTDATED, Step.WAITING}


class MisplacedRecord(NamedTuple):
    """A record of a resource that belongs at another key by now."""

    ledger: Ledger
    """Of the backend that holds it."""
    record: Record


def desired_record_of(task: PyncetteTask, realm: str, seen_at: Instant | None = None) -> DesiredRecord:
    """
    Return how *task* is to be held in *realm*.

    *seen_at* counts as its creation where no API server gave it one: when its file was written, for example.
    """
    spec = to_spec(task)
    created = created_at(task)
    return DesiredRecord(
        to_key(task, realm),
        spec,
        to_owner(task, spec),
        seen_at if created is None else created,
        requests_of(task.metadata.annotations),
    )


# --- Decisions -------------------------------------------------------------------------------------------------------


def mirrored(desired: DesiredRecord) -> Rule:
    """
    The rule for the record of a resource. It writes only what differs, and never on behalf of an older generation.

    Nor does it write on behalf of an older resource of the same name, which a late watch may still show.
    """

    def rule(record: Record | None, now: Instant) -> Ruling:
        if record is None:
            new = edits.created(
                desired.key,
                desired.spec,
                desired.policies,
                now,
                owner=desired.owner,
                requested_at=desired.created_at,
            )
            if desired.is_over and isinstance(desired.spec.schedule, Once):
                new = replace(new, due_at=None, claimable_at=None)
            return _made(Step.CREATED, None, new, State(), desired, now)
        owner = record.state.owner
        if is_ahead(record, desired):
            return _left(record, Step.OUTDATED)
        if owner == desired.owner and owner != desired.outlives and record.state.withdrawn_at is None:
            return _left(record, Step.UNCHANGED)
        spec = desired.spec
        if is_template(record.spec) and is_template(spec):  # its instances are where they are
            spec = replace(spec, partitions=record.spec.partitions)
        edited = edits.edited(record, spec, desired.policies, now, owner=desired.owner)
        return _made(Step.EDITED, record, edited, record.state, desired, now)

    return rule


def moved(desired: DesiredRecord, old: Record, *, returns: bool = False) -> Rule:
    """
    The rule that creates the record of a resource at its new place, from the *old* one that was stopped.

    If the resource *returns* after a deletion, and was not merely moved, its schedule continues from now.
    """

    def rule(record: Record | None, now: Instant) -> Ruling:
        if (
            record is not None
        ):  # it was created there when we were here before, and crashed before old was removed
            return mirrored(desired)(record, now)
        here = Record(
            key=desired.key,
            spec=old.spec,
            version=max(now, old.version),
            fence=max(now, old.fence),
            due_at=old.due_at,
            schedule_since=old.schedule_since,
            claimable_at=old.claimable_at,
            lease_length=old.lease_length,
            state=old.state if returns or _has_started(old) else replace(old.state, withdrawn_at=None),
        )
        new = edits.edited(here, desired.spec, desired.policies, now, owner=desired.owner)
        return _made(Step.MOVED, None, new, here.state, desired, now)

    return rule


def suspended_as(suspend: bool, latest: Owner) -> Rule:
    """
    Return the rule that suspends or resumes a record whose *latest* spec cannot be written as a whole, by its *suspend*.

    The stored generation is suspended; it is resumed only if this rule had suspended it. The owner keeps that generation, so
    a later spec is written as usual. An older spec, or that of an older resource, changes nothing.
    """

    def rule(record: Record | None, now: Instant) -> Ruling:
        spec = None if record is None else suspension(record, suspend, latest)
        if record is None or spec is None:
            return Ruling(None)
        after = edits.edited(record, spec, spec.policies or Policies(), now, owner=record.state.owner)
        return Ruling(Change(record, after), MirrorResult(record.key.task, Step.EDITED, after))

    return rule


def suspension(record: Record, suspend: bool, latest: Owner) -> Spec | None:
    """Return the spec of *record* as `suspended_as` writes it; None if that changes nothing."""
    owner, policies = record.state.owner, _policies_of(record)
    if owner is None or record.state.withdrawn_at is not None:
        return None
    if _is_newer(owner, latest) or policies.suspend is suspend:
        return None
    spec = replace(record.spec, policies=replace(policies, suspend=suspend))
    is_its_own = not suspend and spec_hash(spec) != owner.spec_hash
    return None if is_its_own else spec


def stopped(record: Record | None, now: Instant) -> Ruling:
    """The rule for the record of a resource that is gone: nothing of it runs any more, and what ran is withdrawn."""
    if record is None or record.state.withdrawn_at is not None:
        return Ruling(None, None)
    policies = _policies_of(record)
    after = edits.stopped(record, policies, now)
    rows = edits.withdrawal_rows(record, policies, now)
    return Ruling(Change(record, after, rows), MirrorResult(record.key.task, Step.STOPPED, after))


def stopped_between_runs(desired: DesiredRecord) -> Rule:
    """
    The rule for the record that the resource of *desired* moves away from: like `stopped`, once a run in progress has ended.

    An older generation, or an older resource of the same name, changes nothing.
    """

    def rule(record: Record | None, now: Instant) -> Ruling:
        if record is None:
            return Ruling(None, None)
        if is_ahead(record, desired):
            return Ruling(None, MirrorResult(record.key.task, Step.OUTDATED))
        if edits.started_of(record, _policies_of(record)) is not None:
            return Ruling(None, MirrorResult(record.key.task, Step.WAITING))
        return stopped(record, now)

    return rule


def removed_after(grace: Duration) -> Rule:
    """The rule for the record of a resource that was stopped: it is removed, unless the resource returns within *grace*."""

    def rule(record: Record | None, now: Instant) -> Ruling:
        if record is None or record.state.withdrawn_at is None or record.state.withdrawn_at > now - grace:
            return Ruling(None, None)
        return Ruling(Change(record, None), MirrorResult(record.key.task, Step.REMOVED))

    return rule


def withdrawn(record: Record | None, now: Instant) -> Ruling:
    """The rule for what lives beside a schedule that is stopped or removed; it is counted there."""
    return withdrawal(Policies())(record, now)


def is_ahead(record: Record, desired: DesiredRecord) -> bool:
    """Say whether *record* comes from a newer generation of the same resource, or from a newer resource of its name."""
    owner = record.state.owner
    return owner is not None and owner != desired.outlives and _is_newer(owner, desired.owner)


def is_suspended_otherwise(record: Record, desired: DesiredRecord) -> bool:
    """
    Say whether *record* is of the generation of *desired*, and `suspended_as` has changed it on behalf of a later one.

    That one is to come yet, or is lost: the cluster's store was restored.
    """
    return (
        record.state.owner == desired.owner and _policies_of(record).suspend is not desired.policies.suspend
    )


def _is_newer(owner: Owner, other: Owner) -> bool:
    """Say whether *owner* is a newer generation of the same resource than *other*, or a newer resource of its name."""
    if owner.uid == other.uid:
        return owner.generation > other.generation
    if owner.created_at is None or other.created_at is None:
        return False
    return owner.created_at > other.created_at


def is_template(spec: Spec) -> bool:
    """Say whether *spec* is that of a dynamic task, whose instances have the schedules."""
    return spec.partitions is not None


def _policies_of(record: Record) -> Policies:
    return record.spec.policies or Policies()


def _made(
    step: Step, before: Record | None, after: Record, known: State, desired: DesiredRecord, now: Instant
) -> Ruling:
    """Rule that *after* is written, for a resource other than the one *known* so far with its requests handled."""
    if known.owner is None or known.owner.uid != desired.owner.uid:
        after = replace(after, state=replace(after.state, handled=desired.requests))
    rows = edits.missed_rows(known.summary, after, desired.policies, now)
    lowers_limit = (
        before is not None and _policies_of(before).max_concurrent > desired.policies.max_concurrent
    )
    return Ruling(Change(before, after, rows), MirrorResult(after.key.task, step, after, lowers_limit))


def _left(record: Record, step: Step) -> Ruling:
    return Ruling(None, MirrorResult(record.key.task, step, record))


# --- Doing it --------------------------------------------------------------------------------------------------------


async def homes(store: Store, realm: str) -> AsyncIterator[Record]:
    """
    Yield the records that are neither instances nor beside a schedule: one of each task in *realm*.

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
    Make the record of one resource equal to its *desired*, and return it with what was done.

    *misplaced* are records of the same resource at other keys, on this backend or another: it moves here from one of
    them, unless it is here already, and then those that are left go. Doing this twice does it once. Raises StoreError.
    """
    if misplaced:
        (here,) = await ledger.store.load([desired.key])
        latest = max(misplaced, key=lambda item: _lived_until(item.record))
        if _is_left_behind(here, latest.record):
            return await _move(ledger, desired, latest.ledger, latest.record)
    result = await _create_or_edit(ledger, desired)
    # A move that did not come to its end left two records of one name: the one that is not wanted goes.
    for stray in misplaced:
        await remove_stopped(stray.ledger, stray.record, grace=0)
    return result


async def _create_or_edit(ledger: Ledger, desired: DesiredRecord) -> MirrorResult:
    """Write the record where it belongs; after an edit, update its side runs and remove the permits above a lower limit."""
    result: MirrorResult = (await ledger.apply({desired.key: mirrored(desired)}))[desired.key]
    if result.step is Step.EDITED and result.record is not None:
        await _edit_beside(ledger, result.record)
        if result.lowers_limit:
            await _remove_permits(ledger, result.record, _policies_of(result.record).max_concurrent)
    return result


async def _move(ledger: Ledger, desired: DesiredRecord, source: Ledger, old: Record) -> MirrorResult:
    """
    Stop it at its *source*, let what runs beside it end there, create it here, remove it there.

    Wherever this breaks off, it goes on from there the next time.
    """
    stopping: MirrorResult | None = (await source.apply({old.key: stopped_between_runs(desired)}))[old.key]
    if stopping is not None and stopping.step in {Step.WAITING, Step.OUTDATED}:
        return stopping
    # What runs beside it is counted there once it is over, and that moves along.
    if any([_is_under_way(record) async for page in beside(source.store, old.key) for record in page]):
        return MirrorResult(old.key.task, Step.WAITING)
    (last,) = await source.store.load([old.key])
    if last is None:
        return await _create_or_edit(ledger, desired)
    # An interrupted move in the other direction may have left a stopped record there.
    await ledger.apply({desired.key: removed_after(0)})
    rule = moved(desired, last, returns=_returns(old, desired))
    result: MirrorResult = (await ledger.apply({desired.key: rule}))[desired.key]
    async for page in beside(source.store, last.key):
        letters = {_at(desired.key, letter.key): letter for letter in page if is_dead_letter(letter.key)}
        await ledger.apply({key: _taken_along(key, letter) for key, letter in letters.items()})
    await remove_stopped(source, last, grace=0)
    return result


async def stop(ledger: Ledger, record: Record) -> MirrorResult | None:
    """
    Stop the record of a resource that is gone, and return what was done; None if it was stopped already.

    It is kept until `remove_stopped`. Raises StoreError.
    """
    if record.state.withdrawn_at is not None:
        return None
    # Before it is stopped, too: after a crash in between nobody would come back to what lives beside it.
    await _withdraw_beside(ledger, record, with_letters=False)
    result: MirrorResult | None = (await ledger.apply({record.key: stopped}))[record.key]
    await _withdraw_beside(ledger, record, with_letters=False)
    return result


async def remove_stopped(ledger: Ledger, record: Record, grace: Duration) -> MirrorResult | None:
    """
    Remove a *record* that was stopped longer ago than *grace*, with what lives beside it.

    Without a grace it is stopped first. Returns what was done; None: nothing. Raises StoreError.
    """
    now = await ledger.now()
    if grace and not _is_over(record.state, now - grace):
        return None
    await _withdraw_beside(ledger, record, with_letters=True)
    if not grace:
        await ledger.apply({record.key: stopped})
    # Before the record, which is what is found again if this is broken off. Nothing is due there that would make some.
    await _remove_permits(ledger, record)
    result: MirrorResult | None = (await ledger.apply({record.key: removed_after(grace)}))[record.key]
    return result


async def remove_instances(ledger: Ledger, template: Record, at_most: int) -> Removal:
    """
    Remove *at_most* of what the instances of *template* have in the store, and if nothing is left, the template itself.

    It has to be stopped: what is wanted again stays, with the instances that are left. Where this breaks off, it goes on
    the next time. A run in progress is withdrawn, and what is removed is counted at the template. Raises StoreError.
    """
    (home,) = await ledger.store.load([template.key])
    if home is None or home.state.withdrawn_at is None or not is_template(home.spec):
        return Removal(0, done=True)
    rule = withdrawal(_policies_of(home))
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
    await _remove_permits(ledger, home)
    await ledger.apply({home.key: removed_after(0)})
    return Removal(removed, done=True)


async def instances_of(store: Store, template: Record) -> AsyncIterator[list[Record]]:
    """Yield the instances of *template*, in pages, with what lives beside each; also those in partitions of an earlier count."""
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
    """Yield the records that count what was removed of *template*, beside itself: some tens in each partition at most."""
    for partition in await _partitions_of(store, template):
        home = template.key._replace(partition=partition)
        async for page in beside(store, home):
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


async def _remove_permits(ledger: Ledger, home: Record, limit: int = 0) -> None:
    """Remove the permits of *home* from number *limit* on; without a limit, those of an earlier limit."""
    realm, handler, _ = home.key.partition
    partition = permit_partition(realm, handler, home.key.task)
    await remove_permits(ledger.store, partition, home.key.task, await ledger.now(), limit=limit)


async def _edit_beside(ledger: Ledger, home: Record) -> None:
    """Let the occurrences that run beside a schedule be tried again as it is now; what was asked for stays as asked."""

    def rule(record: Record | None, now: Instant) -> Ruling:
        del now
        if record is None:
            return Ruling(None)
        after = edits.in_step(record, home, _policies_of(home))
        return Ruling(None if after is record else Change(record, after))

    async for page in beside(ledger.store, home.key):
        keys = [record.key for record in page if _is_under_way(record) and not is_on_demand(record.key)]
        await ledger.apply(dict.fromkeys(keys, rule))


async def _withdraw_beside(ledger: Ledger, home: Record, *, with_letters: bool) -> None:
    """Withdraw what lives beside a schedule; dead letters only if asked to, since they outlive a stop."""
    async for page in beside(ledger.store, home.key):
        keys = [record.key for record in page if with_letters or not is_dead_letter(record.key)]
        await ledger.apply(dict.fromkeys(keys, withdrawn))


async def beside(store: Store, home: Key) -> AsyncIterator[list[Record]]:
    """Yield what lives beside a schedule, in pages. All of it comes before the next instance of the same task."""
    after = home
    while page := await store.scan(home.partition, home.task, after, PAGE):
        found = [record for record in page if record.key.instance == home.instance]
        if found:
            yield found
        if len(found) < len(page):
            return
        after = page[-1].key


def _is_under_way(record: Record) -> bool:
    """Say whether what lives beside a schedule has an outcome to come."""
    return record.claimable_at is not None


def _is_left_behind(here: Record | None, elsewhere: Record) -> bool:
    """
    Say whether the record *elsewhere* is the current one, and the record *here*, if any, was left by an interrupted move.

    An interrupted move leaves a stopped record, which does not know what has happened since.
    """
    return here is None or _lived_until(here) < _lived_until(elsewhere)


def _lived_until(record: Record) -> Instant:
    return NEVER if record.state.withdrawn_at is None else record.state.withdrawn_at


def _has_started(old: Record) -> bool:
    """Say whether the due time of the stopped record has started already, and its run was withdrawn."""
    floor = old.state.floor
    return floor is not None and old.due_at is not None and old.due_at <= floor


def _returns(old: Record, desired: DesiredRecord) -> bool:
    """Say whether *old* was stopped because its resource was deleted, and not by a move that was interrupted."""
    owner = old.state.owner
    same = owner is not None and desired.owner.uid != "" and owner.uid == desired.owner.uid
    return old.state.withdrawn_at is not None and not same


def _at(home: Key, letter: Key) -> Key:
    return home._replace(occurrence=letter.occurrence)


def _taken_along(key: Key, letter: Record) -> Rule:
    """The rule for a dead letter that moves with its schedule: it is created where that went, unless it is there."""

    def rule(record: Record | None, now: Instant) -> Ruling:
        if record is not None:
            return Ruling(None)
        return Ruling(Change(None, replace(letter, key=key, version=max(now, letter.version), locator=None)))

    return rule


def _is_over(state: State, before: Instant) -> bool:
    return state.withdrawn_at is not None and state.withdrawn_at <= before
