"""Remembers each call of a handler: for which occurrence, in which attempt, under which lease, and how it ended."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from enum import Enum
from typing import Final

from pyncette.clock import SECOND, Duration, Instant
from pyncette.core.policies import jitter_of
from pyncette.core.record import Key, Record
from pyncette.core.runs import Ending
from pyncette.core.spec import Heartbeat, Mode, Overlap
from pyncette.worker.occurrence import Occurrence

from .calendar import first_time
from .loop import Being, Process
from .network import TIMEOUT
from .scene import Identity, Lens, Scene, is_letter

CANCELLED_WITHIN: Final = SECOND // 5
"""How long after the end of its lease a run may not have been told that it is over."""

ENDED_WITHIN: Final = 1 * SECOND
"""How long after the instant at which a call has to be cancelled it may go on, unless it ignores that."""


class How(Enum):
    """How a call of a handler ended, as far as it has."""

    RUNNING = "running"
    RETURNED = "returned"
    RAISED = "raised"
    REFUSED = "refused"
    CANCELLED = "cancelled"


FAILED: Final = frozenset({How.RAISED, How.REFUSED})


class Call:
    """One call of a handler."""

    def __init__(self, process: Process, occurrence: Occurrence, identity: Identity, since: int) -> None:
        record = occurrence.held.record
        assert record.lease is not None
        self.process = process
        self.occurrence = occurrence
        self.identity = identity
        self.since = since
        self.own_since = process.own_time(since)
        """The same by the monotonic clock of its machine, which a hypervisor may stop unnoticed."""
        self.key = record.key
        self.attempt = occurrence.held.attempt
        self.policies = occurrence.held.policies
        self.lease_id = record.lease.id
        self.at_most_once = record.state.started is not None and record.state.started.at_most_once
        self.how = How.RUNNING
        self.is_told = False
        """Whether it was told that it is over, and takes its time."""

    @property
    def was_drained(self) -> bool:
        return self.how is How.CANCELLED and self.occurrence.ending is Ending.DRAINED

    def believes(self) -> Duration:
        """For how long it still takes the lease for its own."""
        if self.how is not How.RUNNING or self.process.being is Being.GONE or self.occurrence.lease_lost:
            return 0
        return self.occurrence.lease_remaining()


class Calls(Lens):
    """All calls, and those that run."""

    def __init__(self, scene: Scene, error: Callable[[Process], Duration]) -> None:
        super().__init__(scene)
        self._error = error
        self.number = 0
        self._by_claim: dict[tuple[Key, int], Call] = {}
        self._claimed_at: dict[str, int] = {}
        self._recreated_at: dict[Key, int] = {}
        self._by_identity: defaultdict[Identity, list[Call]] = defaultdict(list)
        self._running: defaultdict[Key, list[Call]] = defaultdict(list)

    def of_claim(self, record: Record) -> Call | None:
        """The call that followed from the claim which *record* is under."""
        return self._by_claim.get((record.key, record.fence))

    def of(self, key: Key) -> list[Call]:
        """The calls for the record of *key* that run now."""
        return self._running[key]

    def running(self) -> list[Call]:
        """All that run now."""
        return [call for calls in self._running.values() for call in calls]

    def claimed(self, record: Record) -> None:
        """A fence was given, and never was before."""
        again = self._by_claim.pop((record.key, record.fence), None)
        if again is not None and self._claimed_at[again.lease_id] >= self._recreated_at.get(record.key, 0):
            self.broken(f"the fence {record.fence} of {record.key} is given twice")
        assert record.lease is not None
        self._claimed_at[record.lease.id] = self.scene.loop.now

    def recreated(self, record: Record) -> None:
        """A record has a fence that it had before, and rightly so."""
        self._recreated_at[record.key] = self.scene.loop.now
        if record.key.occurrence:  # a side run begins with the claim of its schedule
            self._by_claim.pop((record.key, record.fence), None)

    def was_recreated(self, key: Key) -> bool:
        """Say whether the record of *key* was created with a fence that it had before."""
        return key in self._recreated_at

    def began(self, call: Call, now: Instant) -> None:
        """Judge a call that begins, *now* by the clock of its worker."""
        record, scheduled_at = call.occurrence.held.record, call.occurrence.held.scheduled_at
        key, policies = call.key, self.scene.policies_of(record)
        chosen = self.scene.chosen.get((key, record.fence))
        if chosen is None or chosen.run != scheduled_at:
            self.broken(f"{key} runs for {scheduled_at}, but a claim gave it {chosen and chosen.run}")
        if record.state.started is None and policies.mode is Mode.AT_MOST_ONCE:
            self.broken(f"{key} runs before its start is written, at most once")
        if self.of_claim(record) is not None:
            self.broken(f"{key} runs twice under one claim")
        # What is tried again after a drain has no attempt behind it that counts.
        is_again = call.attempt > 1 or (record.state.started is not None and not call.at_most_once)
        if not is_letter(key) and now < scheduled_at + (
            0 if key.occurrence or is_again else jitter_of(key, policies)
        ):
            self.broken(f"{key} runs before it is due")
        if call.occurrence.lease_remaining() <= 0:
            self.broken(f"{key} is started by {call.process} although its lease has run out")
        self._check_attempts(call)
        self._by_claim[key, record.fence] = call
        self._by_identity[call.identity].append(call)
        self.runs(call)

    def runs(self, call: Call) -> None:
        """Note that a call runs."""
        self.number += 1
        self._running[call.key].append(call)

    def ended(self, call: Call, how: How) -> None:
        """Judge a call that has ended."""
        self.check_lease(call)
        call.how = how
        self._running[call.key].remove(call)
        if call.occurrence.ending is None and not call.occurrence.lease_lost:
            self._check_length(call)

    def told(self, record: Record) -> None:
        """A call was cancelled, and ignores it for a while."""
        call = self.of_claim(record)
        if call is not None and not call.is_told:
            self.check_lease(call)
            call.is_told = True

    def check_lease(self, call: Call) -> None:
        """Its lease is not used up, or was only just, or its process stood still."""
        occurrence, process = call.occurrence, call.process
        if (
            call.is_told
            or occurrence.lease_lost
            or Heartbeat.COOPERATIVE
            in {
                call.policies.heartbeat,
                occurrence.held.policies.heartbeat,
            }
        ):
            return
        over, allowed = occurrence._clock.monotonic() - occurrence.lease_until, CANCELLED_WITHIN
        if process.being is not Being.RUNNING:
            return
        if process.thawed_at > call.since:
            over = min(over, self.scene.loop.now - process.thawed_at)
            allowed += SECOND  # its timers may have stood still
            if process.unseen:  # and its clock: only the backend can tell, when it renews
                allowed += call.policies.lease // 2 + 2 * TIMEOUT
        if over > allowed:
            self.broken(f"{call.key} runs on in {process} {over} µs after its lease was used up")

    def gone(self, process: Process) -> None:
        """A process has ended or crashed: its calls run no longer."""
        for calls in self._running.values():
            calls[:] = [call for call in calls if call.process is not process]

    def _check_attempts(self, call: Call) -> None:
        """Not more than were allowed, and at most once but one."""
        before = self._by_identity[call.identity]
        if before and (call.at_most_once or any(other.at_most_once for other in before)):
            self.broken(f"{call.key} runs twice, at most once")
        retry = self.scene.policies_of(call.occurrence.held.record).retry
        if not retry.max_attempts or not retry.count_takeovers:
            return
        if call.attempt > retry.max_attempts:
            self.broken(f"{call.key} runs in attempt {call.attempt}, {retry.max_attempts} are allowed")
        # Later attempts are not known to a machine that its hypervisor had paused before this call.
        failed = sum(other.how in FAILED and other.attempt <= call.attempt for other in before)
        if failed >= retry.max_attempts:
            self.broken(f"{call.key} runs although {failed} of {retry.max_attempts} attempts have failed")

    def _check_length(self, call: Call) -> None:
        """A call that had to be cancelled was: for its deadline, for its successor, or since its lease was lost."""
        policies = call.policies
        took = call.process.own_time(self.scene.loop.now) - call.own_since
        # A process that stood still does first what it has missed.
        able = self.scene.loop.now - call.process.thawed_at > ENDED_WITHIN + SECOND
        if able and policies.active_deadline is not None and took > policies.active_deadline + ENDED_WITHIN:
            self.broken(f"{call.key} ran for {took} µs, beyond its active deadline")
        if able and policies.overlap is Overlap.REPLACE and not call.key.occurrence:
            self._check_replaced(call)

    def _check_replaced(self, call: Call) -> None:
        record, scheduled_at = self.scene.records.get(call.key), call.occurrence.held.scheduled_at
        if record is None or record.lease is None or record.lease.id != call.lease_id:
            return  # it has no successor that waits for it any more
        policies = self.scene.policies_of(record)
        if policies.overlap is not Overlap.REPLACE or policies.suspend or record.state.exhausted:
            return  # an edit, or a side run that has exhausted its attempts, lets it go on
        after = max(scheduled_at, record.schedule_since)
        successor = first_time(record.spec.schedule, call.policies, record.schedule_since, after)
        if successor is None:
            return
        late = self.scene.backend.now() - successor - jitter_of(call.key, call.policies)
        took = self.scene.loop.now - call.since
        within = ENDED_WITHIN + self._error(call.process)
        held = call.occurrence.held.record
        if (
            record.schedule_since > held.schedule_since
        ):  # an edit, which it sees when it next reloads the record
            within += held.lease_length // 3
        if not self.scene.always_answered:
            within += TIMEOUT  # it asks first whether an edit has put its successor off
        if within < late < took:  # else it was too late from its start on
            self.broken(f"{call.key} runs on {late} µs after its successor was due")
