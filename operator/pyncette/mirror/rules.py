"""Decides how the record of a resource is created, edited, moved, suspended, stopped and removed. Pure."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from pyncette.clock import Duration, Instant
from pyncette.core import edits
from pyncette.core.record import (
    Change,
    Owner,
    Record,
    State,
    replace,
)
from pyncette.core.schedule import Once
from pyncette.core.spec import Policies, Spec
from pyncette.ledger.ledger import Rule, Ruling, withdrawal
from pyncette.mirror.carried import Bounds, ImplausibleRecordError, bounded, check_due
from pyncette.mirror.conversion import (
    DesiredRecord,
    spec_hash,
)


class Step(Enum):
    """The change that was made to the record of a resource."""

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


class Unremoved(NamedTuple):
    """A record that could not be removed, and why."""

    record: Record
    error: Exception


class MirrorResult(NamedTuple):
    """The result of mirroring a resource."""

    name: str
    step: Step
    record: Record | None = None
    """As it is now, written or not; None if there is none at its key, or if it was not read."""
    lowers_limit: bool = False
    """True if the new limit of concurrent runs is lower than the old one."""
    refused: tuple[str, ...] = ()
    """Clauses that say why a move did not carry over some records."""
    unremoved: tuple[Unremoved, ...] = ()
    """Misplaced records that could not be removed."""

    @property
    def is_written(self) -> bool:
        """True if anything was written."""
        return self.step not in {Step.UNCHANGED, Step.OUTDATED, Step.WAITING}


def mirrored(desired: DesiredRecord) -> Rule:
    """
    Return the rule for the record of a resource. It writes only differences, and never for an older generation.

    Nor does it write for an older resource of the same name, which a late watch may still show.
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


def moved(
    desired: DesiredRecord, old: Record, *, returns: bool = False, bounds: Bounds | None = None
) -> Rule:
    """
    Return the rule that creates the record of a resource at its new key, from the *old* one that was stopped.

    If the resource *returns* after a deletion, and was not merely moved, its schedule continues from now. An *old* record
    from another database has *bounds*. If the old record exceeds them, it is ignored, and the new one starts afresh.
    """

    def rule(record: Record | None, now: Instant) -> Ruling:
        if (
            record is not None
        ):  # it was created there when we were here before, and crashed before old was removed
            return mirrored(desired)(record, now)
        try:
            return _moved(desired, old, returns, bounds, now)
        except ImplausibleRecordError as error:
            created = mirrored(desired)(None, now)
            return created._replace(answer=created.answer._replace(refused=(str(error),)))

    return rule


def _moved(desired: DesiredRecord, old: Record, returns: bool, bounds: Bounds | None, now: Instant) -> Ruling:
    """Rule that the *old* record continues at its new key. Raises ImplausibleRecordError if it exceeds its *bounds*."""
    if bounds is not None:
        old = bounded(old, now)
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
    if bounds is not None:
        check_due(new, bounds, now)
    return _made(Step.MOVED, None, new, here.state, desired, now)


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
    owner, policies = record.state.owner, policies_of(record)
    if owner is None or record.state.withdrawn_at is not None:
        return None
    if _is_newer(owner, latest) or policies.suspend is suspend:
        return None
    spec = replace(record.spec, policies=replace(policies, suspend=suspend))
    is_its_own = not suspend and spec_hash(spec) != owner.spec_hash
    return None if is_its_own else spec


def stopped(record: Record | None, now: Instant) -> Ruling:
    """The rule that stops the record of a deleted resource, and withdraws its run."""
    if record is None or record.state.withdrawn_at is not None:
        return Ruling(None, None)
    policies = policies_of(record)
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
        if edits.started_of(record, policies_of(record)) is not None:
            return Ruling(None, MirrorResult(record.key.task, Step.WAITING))
        return stopped(record, now)

    return rule


def removed_after(grace: Duration) -> Rule:
    """Return the rule that removes a stopped record, unless its resource returns within *grace*."""

    def rule(record: Record | None, now: Instant) -> Ruling:
        if record is None or record.state.withdrawn_at is None or record.state.withdrawn_at > now - grace:
            return Ruling(None, None)
        return Ruling(Change(record, None), MirrorResult(record.key.task, Step.REMOVED))

    return rule


def withdrawn(record: Record | None, now: Instant) -> Ruling:
    """The rule for side runs of a schedule that is stopped or removed, which are counted there."""
    return withdrawal(Policies())(record, now)


def is_ahead(record: Record, desired: DesiredRecord) -> bool:
    """
    Return whether *record* comes from a newer generation of the same resource, or from a newer resource of its name.

    The record of a template has the name of its handler, which another resource takes over once the record is stopped.
    """
    owner = record.state.owner
    if owner is not None and owner.name != desired.owner.name and record.state.withdrawn_at is not None:
        return False
    return owner is not None and owner != desired.outlives and _is_newer(owner, desired.owner)


def is_suspended_otherwise(record: Record, desired: DesiredRecord) -> bool:
    """
    Return whether *record* is of the generation of *desired*, and `suspended_as` has changed it on behalf of a later one.

    That one is to come yet, or is lost: the cluster's store was restored.
    """
    return record.state.owner == desired.owner and policies_of(record).suspend is not desired.policies.suspend


def _is_newer(owner: Owner, other: Owner) -> bool:
    """Return whether *owner* is a newer generation of the same resource than *other*, or a newer resource of its name."""
    if owner.uid == other.uid:
        return owner.generation > other.generation
    if owner.created_at is None or other.created_at is None:
        return False
    return owner.created_at > other.created_at


def is_template(spec: Spec) -> bool:
    """Return whether *spec* is that of a dynamic task, whose instances have the schedules."""
    return spec.partitions is not None


def policies_of(record: Record) -> Policies:
    return record.spec.policies or Policies()


def _made(
    step: Step, before: Record | None, after: Record, known: State, desired: DesiredRecord, now: Instant
) -> Ruling:
    """Rule that *after* is written, for a resource other than the one *known* so far with its requests handled."""
    if known.owner is None or known.owner.uid != desired.owner.uid:
        after = replace(after, state=replace(after.state, handled=desired.requests))
    rows = edits.missed_rows(known.summary, after, desired.policies, now)
    lowers_limit = before is not None and policies_of(before).max_concurrent > desired.policies.max_concurrent
    return Ruling(Change(before, after, rows), MirrorResult(after.key.task, step, after, lowers_limit))


def _left(record: Record, step: Step) -> Ruling:
    return Ruling(None, MirrorResult(record.key.task, step, record))


def _has_started(old: Record) -> bool:
    """Return whether the due time of the stopped record has started already, and its run was withdrawn."""
    floor = old.state.floor
    return floor is not None and old.due_at is not None and old.due_at <= floor
