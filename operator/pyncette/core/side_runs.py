"""Makes the records of side runs: occurrences that run as records of their own, so that their schedule can move on."""

from __future__ import annotations

from pyncette.clock import Instant
from pyncette.core.record import Record, State, is_side_run, replace
from pyncette.core.schedule import Interval, Once, Schedule
from pyncette.core.spec import Missed, Overlap, Policies, Spec


def side_run_of(record: Record, policies: Policies, occurrence: str, at: Instant, now: Instant) -> Record:
    """
    Return the record of a side run of *record*: a one-off due *at*, with its arguments, removed when it has ended.

    It copies the policies of the record's own spec, if it has any; otherwise those of the template count for it, too.
    """
    once = Once(at, _zone_of(record.spec.schedule))
    return Record(
        key=record.key._replace(occurrence=occurrence),
        spec=Spec(once, record.spec.args, side_run_policies(record, policies)),
        version=max(record.version + 1, now),
        fence=record.fence,
        due_at=at,
        schedule_since=at - 1,
        claimable_at=at,
        lease_length=policies.lease,
        state=State(created_version=record.state.created_version),
    )


def side_run_policies(parent: Record, policies: Policies) -> Policies | None:
    """Return the *policies* of *parent* as its side runs have them; None if they are those of its template."""
    if parent.spec.policies is None:
        return None
    return replace(policies, overlap=Overlap.FORBID, missed=Missed.ALL, suspend=False, keep_finished=False)


def is_released(record: Record) -> bool:
    """Say whether *record* is a side run that was released before its handler was called: only at most once is that known."""
    return is_side_run(record.key) and record.state.started is None and record.due_at is not None


def _zone_of(schedule: Schedule | None) -> str:
    return "UTC" if schedule is None or isinstance(schedule, Interval) else schedule.zone
