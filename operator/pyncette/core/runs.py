"""The values of a run on its way from its claim to its completion: record, start plan, held run, completion."""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple

import msgspec

from pyncette.clock import Duration, Instant
from pyncette.core.accounting import RemovedCounts
from pyncette.core.policies import jitter_of, next_takes_over_at
from pyncette.core.record import Change, Dropped, Key, Record, replace
from pyncette.core.spec import Overlap, Policies

NEVER: Final[Instant] = 2**62
"""Later than any due time."""


class HeldRun(msgspec.Struct, frozen=True, gc=False):
    """A run of an occurrence whose lease this process holds."""

    record: Record
    policies: Policies
    scheduled_at: Instant
    began_at: Instant
    """The store's time of the first claim of this occurrence."""
    attempt: int
    dropped: tuple[Dropped, ...] = ()
    """Occurrences that the choice of this one dropped; they are counted when this one ends."""
    upcoming: Instant | None = None
    """The occurrence after this one, if it is known already and the schedule has not been edited since."""


class StartPlan(msgspec.Struct, frozen=True, gc=False):
    """The decision about a claimed record: what to write first, and what to run then."""

    run: HeldRun | None
    """The run to start once *move* is written; None: nothing is to run."""
    move: Change | None = None
    """The change of the claimed record that must be written first; None: the run may start at once."""
    created: Record | None = None
    """A side run or a dead letter, created together with *move*."""
    removed_counts: RemovedCounts | None = None
    """What *move* adds to the counters of another record, in the same write."""
    parent: Key | None = None
    """The record whose schedule must still name the occurrence. `rules.with_parent` decides that before *move* is written."""
    parent_move: Change | None = None
    """A change of that record that only counts up its version: *move* fails if the parent is edited at the same time."""

    @property
    def changes(self) -> tuple[Change, ...]:
        """What is written together, with the change of the claimed record last."""
        changes = _changes(self.move, self.created)
        return changes if self.parent_move is None else (self.parent_move, *changes)


class Ending(Enum):
    """How one call of a handler ended."""

    RETURNED = "returned"
    RAISED = "raised"
    REFUSED = "refused"
    """It raised an error that must not be retried."""
    REPLACED = "replaced"
    """It was cancelled because the next occurrence, which replaces it, was due."""
    DRAINED = "drained"
    """It was cancelled because the worker stopped."""
    UNSTARTED = "unstarted"
    """It was never made: the occurrence is released as if it had not been claimed."""


class Ended(NamedTuple):
    """The ending of a call, with the error of its handler and the delay that it asked for."""

    ending: Ending
    message: str = ""
    retry_after: Duration | None = None


RETURNED: Final = Ended(Ending.RETURNED)
DRAINED: Final = Ended(Ending.DRAINED, "the worker stopped before the run ended")
UNSTARTED: Final = Ended(Ending.UNSTARTED)


class Completion(msgspec.Struct, frozen=True, gc=False):
    """A run that has ended, and what to write about it."""

    held: HeldRun
    ended: Ended
    change: Change | None
    """None: nothing is written, and the lease expires."""
    created: Record | None = None
    """A dead letter, or the restored record of an instance; created together with *change*, unless one has its key."""
    removed_counts: RemovedCounts | None = None
    """What *change* adds to the counters of another record, in the same write."""

    @property
    def changes(self) -> tuple[Change, ...]:
        """What is written together, with the change of the record itself last."""
        return _changes(self.change, self.created)


def _changes(change: Change | None, created: Record | None) -> tuple[Change, ...]:
    changes = () if change is None else (change,)
    return changes if created is None else (Change(None, created), *changes)


def with_record(held: HeldRun, record: Record) -> HeldRun:
    """Return *held* with *record*, which others have changed while the lease stayed the same."""
    return replace(held, record=record, policies=record.spec.policies or held.policies, upcoming=None)


def replaced_at(held: HeldRun) -> Instant:
    """Return when the next occurrence replaces the one held; `NEVER` if there is none."""
    record = held.record
    if record.state.exhausted:
        return NEVER
    return _taken_over_at(held, held.policies, held.scheduled_at)


def replacement_check_at(held: HeldRun, after: Instant) -> Instant:
    """
    Return when the next occurrence may replace the one held, at the soonest after *after*; `NEVER` if it cannot.

    The caller has to reload the record then: it may be edited, suspended and resumed in the meantime.
    """
    policies = replace(held.policies, suspend=False) if held.policies.suspend else held.policies
    jitter = jitter_of(held.record.key, policies)
    return _taken_over_at(held, policies, max(held.scheduled_at, after - jitter))


def _taken_over_at(held: HeldRun, policies: Policies, after: Instant) -> Instant:
    if policies.overlap is not Overlap.REPLACE:
        return NEVER
    record = held.record
    at = next_takes_over_at(record.key, record.spec.schedule, policies, record.schedule_since, after)
    return NEVER if at is None else at
