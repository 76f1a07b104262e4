"""One instance and what lives beside it, played by hand: what a store and workers do to them, without either."""

from collections import Counter
from dataclasses import dataclass, field
from itertools import count

import msgspec

from pyncette.clock import SECOND, Duration, Instant
from pyncette.core import edits, rules
from pyncette.core.accounting import RemovedCounts, count_removed, parent_among, parents_of
from pyncette.core.edits import Locked
from pyncette.core.record import Change, Counts, Key, Lease, Partition, Record, Run, is_dead_letter, replace
from pyncette.core.runs import DRAINED, RETURNED, UNSTARTED, Ended, Ending, HeldRun, StartPlan, with_record
from pyncette.core.schedule import Interval, Schedule
from pyncette.core.spec import Missed, Mode, Overlap, Policies, Retry, Spec

__all__ = [
    "ALLOW",
    "AT_MOST_ONCE",
    "COMMIT",
    "DRAINED",
    "EACH_MINUTE",
    "FAST_FORWARD",
    "HOUR",
    "INSTANCE",
    "LEASE",
    "MINUTE",
    "NONE",
    "RAISED",
    "REFUSED",
    "REPLACE",
    "REPLACED",
    "RETURNED",
    "STATIC",
    "STEADY",
    "T0",
    "UNLOCK",
    "UNSTARTED",
    "Play",
    "at",
    "minute",
]

T0: Instant = 1_704_067_200 * SECOND
"""Monday, the 1st of January 2024, midnight UTC: a round time, and as large as in life."""

MINUTE: Duration = 60 * SECOND
HOUR: Duration = 60 * MINUTE

STATIC = Key(Partition("", "report", 0), "report")
INSTANCE = Key(Partition("", "remind", 0), "remind", "ada")

RAISED = Ended(Ending.RAISED, "ValueError: no")
REFUSED = Ended(Ending.REFUSED, "DoNotRetry: never")
REPLACED = Ended(Ending.REPLACED, "the next occurrence was due")

# The failure modes of the Python API, as policies.
_OLD = Policies(missed=Missed.ALL, max_catch_up=0)
NONE = replace(_OLD, retry=Retry(max_attempts=0, wait_for_lease=True))
UNLOCK = replace(_OLD, retry=Retry(max_attempts=0, initial=SECOND, maximum=SECOND, jitter=False))
COMMIT = replace(_OLD, retry=Retry(max_attempts=1, count_takeovers=False))
AT_MOST_ONCE = replace(_OLD, mode=Mode.AT_MOST_ONCE, overlap=Overlap.ALLOW)
FAST_FORWARD = replace(NONE, missed=Missed.FAST_FORWARD)

LEASE = 1
"""Minutes: the default lease."""

STEADY = Retry(max_attempts=3, initial=10 * SECOND, maximum=60 * SECOND, jitter=False)
ALLOW = Policies(overlap=Overlap.ALLOW)
REPLACE = Policies(overlap=Overlap.REPLACE, retry=STEADY)


def at(minutes: float) -> Instant:
    """The instant so many minutes after `T0`."""
    return T0 + round(minutes * MINUTE)


def minute(instant: Instant | None) -> float | None:
    """How many minutes after `T0` it is."""
    return None if instant is None else (instant - T0) / MINUTE


EACH_MINUTE = Interval(MINUTE)
DEFAULTS = Policies()


@dataclass
class Play:
    """
    A schedule that was declared at minute 0, and is due each minute unless told otherwise.

    With *own*, the policies are its own, as those of a resource; else they are those of its template.
    """

    schedule: Schedule | None = EACH_MINUTE
    policies: Policies = DEFAULTS
    key: Key = STATIC
    own: bool = True
    args: str = "{}"
    records: dict[Key, Record] = field(default_factory=dict)
    history: dict[Key, dict[int, Run]] = field(default_factory=dict)
    calls: list[tuple[HeldRun, Instant]] = field(default_factory=list)
    """What handlers were called with, and when."""

    def __post_init__(self) -> None:
        self._lease_ids = (f"lease-{number}" for number in count())
        self.put(Change(None, edits.created(self.key, self.spec, self.policies, T0)))

    @property
    def spec(self) -> Spec:
        args = msgspec.Raw(self.args.encode())
        return Spec(self.schedule, args=args, policies=self.policies if self.own else None)

    @property
    def record(self) -> Record:
        """The schedule's own record."""
        return self.records[self.key]

    @property
    def beside(self) -> list[Record]:
        """What lives beside the schedule, the soonest first."""
        siblings = [record for key, record in self.records.items() if key.occurrence]
        return sorted(siblings, key=lambda record: (record.due_at or 0, record.key))

    @property
    def dead_letters(self) -> list[Record]:
        return [record for record in self.beside if is_dead_letter(record.key)]

    @property
    def claimable(self) -> float | None:
        """At which minute the schedule's record is next to be looked at."""
        return minute(self.record.claimable_at)

    @property
    def due(self) -> float | None:
        return minute(self.record.due_at)

    @property
    def counts(self) -> dict[str, int]:
        """Outcomes that were counted, those that never happened left out; by the template, if the record is gone."""
        parent = self.records.get(self.key) or self.records.get(self.key._replace(instance=""))
        return nonzero(parent.state.summary.counts) if parent is not None else {}

    @property
    def runs(self) -> list[Run]:
        """The history of the schedule, oldest first."""
        return sorted(
            self.history.get(self.key, {}).values(), key=lambda run: (run.ended_at, run.scheduled_at)
        )

    @property
    def called(self) -> list[tuple[float, int]]:
        """The scheduled minute and attempt of each call so far."""
        return [((held.scheduled_at - T0) / MINUTE, held.attempt) for held, _ in self.calls]

    # --- What a store does ---------------------------------------------------------------------------------------

    def put(self, change: Change) -> bool:
        """Make *change* if nobody has changed the record meanwhile; anything a store would refuse is a failure."""
        before, after, rows, parent, _ = change
        key = (before or after).key
        stored = self.records.get(key)
        if (stored and stored.version) != (before and before.version):
            return False
        if before is not None and after is not None:
            assert after.key == before.key
            assert after.version > before.version, "a write that is no change"
            assert after.fence >= before.fence, "a fence that goes back"
        self.history.setdefault(parent or key, {}).update((row.slot, row.run) for row in rows)
        if after is None:
            del self.records[key]
        elif stored and stored.lease and after.lease and stored.lease.id == after.lease.id:
            self.records[key] = replace(after, lease=stored.lease)
        else:
            self.records[key] = after
        return True

    def claimables(self, now: Instant) -> list[Record]:
        """What a claim could have, soonest first."""
        ready = [
            record
            for record in self.records.values()
            if record.claimable_at is not None
            and record.claimable_at <= now
            and (record.lease is None or record.lease.expires_at <= now)
        ]
        return sorted(ready, key=lambda record: (record.claimable_at, record.key))

    def claim(self, now: Instant, key: Key | None = None, holder: str = "worker") -> Record | None:
        """Give a lease to the soonest claimable record, or to that of *key*; None if there is none."""
        found = [record for record in self.claimables(now) if key in {None, record.key}]
        if not found:
            return None
        record = found[0]
        claimed = replace(
            record,
            lease=Lease(next(self._lease_ids), holder, now + record.lease_length),
            attempt=record.attempt + 1,
            version=record.version + 1,
            fence=record.fence + 1,
            began_at=now if record.began_at is None else record.began_at,
        )
        self.records[record.key] = claimed
        return claimed

    def renew(self, held: HeldRun, now: Instant) -> bool:
        record = self.records.get(held.record.key)
        if record is None or record.lease is None or record.lease.id != held.record.lease.id:
            return False
        lease = record.lease._replace(expires_at=now + held.policies.lease)
        self.records[record.key] = replace(record, lease=lease)
        return True

    # --- What a worker does --------------------------------------------------------------------------------------

    def policies_of(self, record: Record) -> Policies:
        return record.spec.policies or self.policies

    def begin(self, record: Record, now: Instant) -> HeldRun | None:
        """Decide about a claimed record, write what comes first, and call the handler if there is something to run."""
        plan = rules.begin(record, self.policies_of(record), now)
        return self.write(plan, now)

    def write(self, plan: StartPlan, now: Instant) -> HeldRun | None:
        if plan.parent is not None:
            plan = rules.with_parent(plan, self.records.get(plan.parent), now)
        is_created = plan.created is None or self.put(Change(None, plan.created))
        if plan.move is not None:
            if not self.put(plan.move):
                assert plan.created is None or not is_created or self.put(Change(plan.created, None))
                return None
            assert plan.parent_move is None or self.put(plan.parent_move)
            if plan.removed_counts is not None:
                self.count(plan.removed_counts, now)
        if plan.run is None or not is_created:
            return None
        self.calls.append((plan.run, now))
        return plan.run

    def start(self, minutes: float, key: Key | None = None) -> HeldRun | None:
        """Claim at that minute, and begin; None if there was nothing to run."""
        record = self.claim(at(minutes), key)
        return None if record is None else self.begin(record, at(minutes))

    def end(self, held: HeldRun, minutes: float, ended: Ended = RETURNED) -> bool:
        """Settle at that minute; False if the lease was lost."""
        now = at(minutes)
        stored = self.records.get(held.record.key)
        if stored is None or stored.lease is None or stored.lease.id != held.record.lease.id:
            return False
        if stored.version != held.record.version:
            held = with_record(held, stored)
        completion = rules.settle(held, ended, now)
        if completion.created is not None and not self.put(Change(None, completion.created)):
            completion = rules.without_created(completion, now)
        if completion.change is not None:
            assert self.put(completion.change)
        if completion.removed_counts is not None:
            self.count(completion.removed_counts, now)
        return True

    def run(self, minutes: float, ended: Ended = RETURNED) -> HeldRun | None:
        """Claim and call a handler that ends within the same instant."""
        held = self.start(minutes)
        if held is not None:
            assert self.end(held, minutes, ended)
        return held

    def count(self, removed_counts: RemovedCounts, now: Instant) -> None:
        parent = parent_among(
            removed_counts, {key: self.records.get(key) for key in parents_of(removed_counts.of)}
        )
        if parent is not None:
            assert self.put(count_removed(parent, self.records.get(parent), removed_counts, now))

    # --- What an edit does ---------------------------------------------------------------------------------------

    def edit(self, minutes: float, **fields) -> None:
        """Put an edited spec in force: *fields* of its policies, or its `schedule`, or its `args`."""
        self.schedule, self.args = fields.pop("schedule", self.schedule), fields.pop("args", self.args)
        self.policies = replace(self.policies, **fields)
        after = edits.edited(self.record, self.spec, self.policies, at(minutes))
        assert self.put(Change(self.record, after))

    def edit_template(self, **fields) -> None:
        """Change the policies that records without policies of their own follow: no record is written."""
        assert not self.own
        self.policies = replace(self.policies, **fields)

    def reschedule(
        self, minutes: float, schedule: Schedule, args: str = "{}", *, keep_sooner: bool = True
    ) -> Locked | None:
        """`schedule_task` without force."""
        self.schedule, self.args = schedule, args
        if self.key not in self.records:
            self.put(Change(None, edits.created(self.key, self.spec, self.policies, at(minutes))))
            return None
        after = edits.rescheduled(self.record, self.spec, self.policies, at(minutes), keep_sooner=keep_sooner)
        if isinstance(after, Locked):
            return after
        assert self.put(Change(self.record, after))
        return None

    def overwrite(self, minutes: float, schedule: Schedule) -> None:
        """`schedule_task` with force."""
        self.schedule = schedule
        after = edits.overwritten(self.record, self.spec, self.policies, at(minutes))
        rows = edits.withdrawal_rows(self.record, self.policies, at(minutes))
        assert self.put(Change(self.record, after, rows))

    def stop(self, minutes: float) -> None:
        rows = edits.withdrawal_rows(self.record, self.policies, at(minutes))
        assert self.put(Change(self.record, edits.stopped(self.record, self.policies, at(minutes)), rows))

    def remove(self, minutes: float, key: Key | None = None) -> None:
        record = self.records[key or self.key]
        removed_counts = edits.removed(record, self.policies, at(minutes))
        assert self.put(Change(record, None))
        if removed_counts is not None:
            self.count(removed_counts, at(minutes))

    def resume(self, minutes: float) -> None:
        after = edits.resumed(self.record, self.policies, at(minutes))
        if after is not self.record:
            assert self.put(Change(self.record, after))

    def run_now(self, minutes: float, name: str = "now") -> None:
        self.put(Change(None, edits.on_demand(self.record, self.policies, name, at(minutes))))

    def redrive(self, minutes: float) -> None:
        for dead_letter in self.dead_letters:
            after = edits.redriven(dead_letter, at(minutes))
            if after is not dead_letter:
                assert self.put(Change(dead_letter, after))


def nonzero(counts: Counts) -> dict[str, int]:
    return dict(Counter({name: number for name, number in msgspec.structs.asdict(counts).items() if number}))
