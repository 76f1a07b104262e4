"""Keeps account of occurrences: each that was due has one outcome, and each outcome is counted once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Final

from pyncette.clock import Duration, Instant
from pyncette.core.accounting import RemovedCounts
from pyncette.core.record import Counts, Key, Outcome, Partition, Record, Summary, replace
from pyncette.core.schedule import Once, Schedule
from pyncette.core.spec import Exhaustion, Overlap, Policies

from .calendar import FOREVER, times
from .calls import FAILED, Calls, How
from .loop import Being, Process
from .network import TIMEOUT
from .scene import Choice, Identity, Lens, Scene, is_letter, is_outside

Numbers = tuple[int, ...]
"""How many of each outcome, in the order of `Outcome`."""

ENDED: Final = frozenset(Outcome) - {Outcome.MISSED, Outcome.SKIPPED}
"""Outcomes of occurrences that have started."""

NONE: Final[Numbers] = (0,) * len(Outcome)
INDEX: Final = {outcome: index for index, outcome in enumerate(Outcome)}


class Books(Lens):
    """Outcomes by occurrence, and counts by record."""

    def __init__(self, scene: Scene, calls: Calls, failures: Callable[[Process], Sequence[int]]) -> None:
        super().__init__(scene)
        self._calls = calls
        self.failures = failures
        """When each process has asked the backend for something in vain."""
        self._outcomes: dict[Identity, Outcome] = {}
        self._beside: set[Identity] = set()
        """Occurrences that were given a record of their own."""
        self._counts: dict[Key, Numbers] = {}
        """What the counts of each record must be."""
        self._ended: Counter[tuple[str, Outcome]] = Counter()
        """How many occurrences of each task have ended in which way, whoever counts them."""
        self._reported: Counter[tuple[str, Outcome]] = Counter()
        """How many of them the ledgers of all processes have reported to their listeners."""
        self._started_by: dict[tuple[Key, int], tuple[Process, int, Duration]] = {}
        """Who wrote, at most once, that an occurrence has started, when, and how much of its lease was left."""
        self._edited: set[Key] = set()
        """Records whose schedule was edited in mid-run."""

    def outcome_of(self, identity: Identity) -> Outcome | None:
        return self._outcomes.get(identity)

    # --- What happens to records ---------------------------------------------------------------------------------

    def opened(self, record: Record) -> None:
        """A record was created."""
        self._counts[record.key] = NONE

    def put_beside(self, record: Record, scheduled_at: Instant) -> None:
        """An occurrence was given a record of its own."""
        self._beside.add(self.scene.identity(record, scheduled_at))

    def edited(self, key: Key) -> None:
        """The schedule of a record was edited in mid-run."""
        self._edited.add(key)

    def written_by(self, process: Process, before: Record | None, after: Record) -> None:
        """A record was written; note who starts what is to run at most once."""
        started = after.state.started
        if started is None or not started.at_most_once or after.lease is None:
            return
        if before is None or before.state.started is None:
            left = after.lease.expires_at - self.scene.backend.now()
            self._started_by[after.key, after.fence] = (process, self.scene.loop.now, left)

    def reported(self, realm: str, task: str, outcome: Outcome, number: int) -> None:
        """A process received from its ledger, as metrics do, how occurrences have ended."""
        del realm
        self._reported[task, outcome] += number

    def reported_twice(self, task: str) -> str | None:
        """
        Say whether more occurrences were reported than have ended.

        One may be reported by nobody: its process died, or never got the reply.
        """
        # A dead letter is reported once, and a redrive takes it back from the counts.
        for outcome in ENDED - {Outcome.DEAD_LETTERED}:
            reported, ended = self._reported[task, outcome], self._ended[task, outcome]
            if reported > ended and not self.scene.is_lost:
                return f"{ended} of {task} have {outcome.value}, and {reported} were reported"
        return None

    def check_totals(self, task: str, partitions: Collection[Partition]) -> None:
        """What is counted of the instances of a template, there and elsewhere, is what has ended: no more and no less."""
        total = NONE
        for key, record in self.scene.records.items():
            if key.task == task and key.partition in partitions:
                total = plus(total, numbers_of(record.state.summary.counts))
        for outcome in ENDED:
            ended, counted = self._ended[task, outcome], total[INDEX[outcome]]
            if ended != counted:
                self.broken(f"{ended} of {task} have {outcome.value}, and {counted} are counted")

    def closed(self, record: Record | None, key: Key) -> None:
        """A write is over: compare, if there is still a record."""
        if record is None or (not record.attempt and record.state.started is None):
            self._edited.discard(key)
        if record is None:
            self._counts.pop(key, None)
        elif self._counts.get(key, NONE) != numbers_of(record.state.summary.counts):
            self.broken(f"the counts of {key} are wrong: {self._counts.get(key)} outcomes were seen")

    def changed(self, before: Record | None, after: Record, *, ends: bool) -> None:
        """Somebody has changed a record, and perhaps ended what it ran."""
        numbers = added(before, after.state.summary)
        self._add(after.key, numbers)
        if ends and before is not None:
            self._withdrawn(before, numbers)
            return
        missed = numbers[INDEX[Outcome.MISSED]]
        if sum(numbers) != missed or missed > isinstance(after.spec.schedule, Once):
            self.broken(f"an edit of {after.key} has counted {numbers}")

    def settled(self, before: Record, after: Record) -> None:
        """The holder of a lease has written what became of its claim."""
        numbers = added(before, after.state.summary)
        self._add(after.key, numbers)
        edited = after.key in self._edited
        self._moved_on(before, after.due_at, after.state.summary, numbers, pending_in(after), edited=edited)

    def _moved_on(
        self,
        before: Record,
        due: Instant | None,
        summary: Summary,
        numbers: Numbers,
        pending: int,
        *,
        edited: bool,
    ) -> None:
        """Each time between the old due time and the new has an outcome, is in progress, or has a record of its own."""
        key = before.key
        chosen = self.scene.chosen.get((key, before.fence)) or Choice(None, 0)
        ran = sum(numbers) != numbers[INDEX[Outcome.MISSED]] + numbers[INDEX[Outcome.SKIPPED]]
        if ran:
            self._end_the_last(before, summary, numbers)
        beside = not ran and due != before.due_at and self._is_put_beside(before, chosen)
        begun = before.state.started
        if edited and begun is not None:
            # The edit has made all other times of before count no longer.
            expected = 0
            if ran:
                expected = 1 + sum(gap.count for gap in begun.dropped)
                if not begun.at_most_once:
                    after = before.schedule_since + 1
                    if not _is_set_by_an_edit(before.spec.schedule, begun.scheduled_at):
                        after = max(after, begun.scheduled_at + 1)
                    policies = self.scene.policies_of(before)
                    end = FOREVER if due is None else due
                    expected += len(times(before.spec.schedule, policies, before.schedule_since, after, end))
            if sum(numbers) != expected:
                self.broken(f"{key} counts {numbers} after an edit, and {expected} have passed")
            return
        accounted = sum(numbers) + pending - pending_in(before) + beside
        passed = self._passed(before, due, begun=chosen.run is not None)
        if accounted != passed:
            self.broken(f"{passed} times of {key} have passed, and {accounted} of them are accounted for")

    def _is_put_beside(self, before: Record, chosen: Choice) -> bool:
        policies = self.scene.policies_of(before)
        if policies.overlap is not Overlap.ALLOW or chosen.run is None or before.state.started is not None:
            return False
        if self.scene.identity(before, chosen.run) not in self._beside:
            self.broken(f"{before.key} moves on from {chosen.run}, which has no outcome and no other record")
        return True

    def _passed(self, before: Record, due: Instant | None, *, begun: bool) -> int:
        """How many times lie from the due time of *before* to *due*; negative, if it goes back."""
        begin, end = before.due_at or FOREVER, due or FOREVER
        if begin == end:
            return 0
        sign = 1 if begin < end else -1
        begin, end = min(begin, end), max(begin, end)
        schedule, policies = before.spec.schedule, self.scene.policies_of(before)
        if end == FOREVER and not isinstance(schedule, Once) and policies.not_after is None:
            self.broken(f"the schedule of {before.key} has ended, although it never ends")
            return 0
        # What is due outside of a window is no occurrence, unless it had started before the window was set.
        counts = begun or isinstance(schedule, Once) or not is_outside(policies, begin)
        return sign * (counts + len(times(schedule, policies, before.schedule_since, begin + 1, end)))

    # --- Outcomes ------------------------------------------------------------------------------------------------

    def _end_the_last(self, before: Record, summary: Summary, numbers: Numbers) -> None:
        assert summary.last_scheduled_at is not None
        assert summary.last_outcome is not None
        if numbers[INDEX[summary.last_outcome]] != 1:
            self.broken(
                f"{before.key} counts {numbers}, but its last outcome is {summary.last_outcome.value}"
            )
        self._end(before, summary.last_scheduled_at, summary.last_outcome)

    def _end(self, before: Record, scheduled_at: Instant, outcome: Outcome) -> None:
        """An occurrence has its outcome."""
        key, identity = before.key, self.scene.identity(before, scheduled_at)
        if identity in self._outcomes:
            self.broken(f"{key} has {outcome.value}, and had {self._outcomes[identity].value} before")
        self._outcomes[identity] = outcome
        self._ended[key.task, outcome] += 1
        if is_letter(key):
            self._ended[key.task, Outcome.DEAD_LETTERED] -= 1
        if outcome is Outcome.LOST:
            self._check_lost(before)
        if outcome is Outcome.WITHDRAWN:
            return
        chosen = self.scene.chosen.get((key, before.fence))
        if before.state.started is None and (chosen is None or chosen.run != scheduled_at):
            self.broken(f"{key} has {outcome.value} for {scheduled_at}, but a claim gave it {chosen}")
        call = self._calls.of_claim(before)
        how = None if call is None else call.how
        policies = self.scene.policies_of(before)
        held = policies if call is None else call.policies
        if not is_right(outcome, how, before, policies, held):
            self.broken(
                f"{key} has {outcome.value} in attempt {before.attempt} of {policies.retry.max_attempts},"
                f" after a call that {how}"
            )

    def _check_lost(self, before: Record) -> None:
        """What is lost, at most once, was called, or whoever started it died, stood still or did not reach the backend."""
        claim = (before.key, before.fence - 1)
        process, at, left = self._started_by.get(claim, (None, 0, 0))
        if process is None or self._calls.of_claim(replace(before, fence=before.fence - 1)) is not None:
            return
        # Frozen before its start was written, it may still be: the request was on its way.
        well = process.being is Being.RUNNING and process.thawed_at < at and not self.scene.steps
        failed = sum(since >= at for since in self.failures(process))
        # It has to ask again, and to renew the lease, before that is used up.
        takes = 2 * TIMEOUT if self.scene.undisturbed else 5 * TIMEOUT
        if well and failed <= 1 and left >= takes:
            self.broken(f"{before.key} is lost, but {process} has never called its handler, and lives")

    # --- What is removed, and counted elsewhere ------------------------------------------------------------------

    def removed(self, before: Record, removed_counts: RemovedCounts | None, *, by_edit: bool) -> None:
        """A record was removed, and what it leaves is counted by *removed_counts*: all of it, and nothing else."""
        key = before.key
        if removed_counts is None:
            if (key.instance or key.occurrence) and not self._leaves_nothing(before, by_edit=by_edit):
                self.broken(f"{key} is removed, and nobody counts what it leaves")
            return
        numbers = added(before, removed_counts.summary)
        if by_edit:
            self._withdrawn(before, numbers)
        elif is_letter(key):
            assert removed_counts.summary.last_outcome is not None
            self._end(before, before.due_at or 0, removed_counts.summary.last_outcome)
            if sum(numbers) or numbers[INDEX[Outcome.DEAD_LETTERED]] != -1:
                self.broken(f"{key} counts {numbers}: a dead letter has had one outcome already")
        elif key.occurrence:
            self._end_the_last(before, removed_counts.summary, numbers)
            if sum(numbers) != 1:
                self.broken(f"{key} counts {numbers}, but it was one occurrence")
        else:
            self._moved_on(before, None, removed_counts.summary, numbers, 0, edited=key in self._edited)

    def _leaves_nothing(self, before: Record, *, by_edit: bool) -> bool:
        if numbers_of(before.state.summary.counts) != NONE:
            return False
        if by_edit:
            return is_letter(before.key) or self.scene.moved_on_from(before) is None
        if before.key.occurrence:
            return False
        edited = before.key in self._edited
        self._moved_on(before, None, before.state.summary, NONE, 0, edited=edited)
        return True

    def _withdrawn(self, before: Record, numbers: Numbers) -> None:
        begun, expected = self.scene.moved_on_from(before), 0
        if begun is not None and not is_letter(before.key):
            assert begun.run is not None
            expected = 1 + begun.dropped
            self._end(before, begun.run, Outcome.WITHDRAWN)
        if sum(numbers) != expected or numbers[INDEX[Outcome.WITHDRAWN]] != (expected > 0):
            self.broken(f"{before.key} is stopped, and counts {numbers}; {begun} was in progress")

    def counted(self, before: Record | None, after: Record, removed: Sequence[RemovedCounts]) -> None:
        """What *removed* tell of was counted at their home, and nothing else was changed there."""
        if before is not None and went_by(before) != went_by(after):
            self.broken(f"more of {after.key} is changed than what is counted there")
        total = NONE if before is None else numbers_of(before.state.summary.counts)
        for removed_counts in removed:
            total = plus(total, numbers_of(removed_counts.summary.counts))
            # A letter that was redriven takes itself back, from a schedule that may have been made anew since.
            letters = INDEX[Outcome.DEAD_LETTERED]
            total = (*total[:letters], max(0, total[letters]), *total[letters + 1 :])
        if total != numbers_of(after.state.summary.counts):
            self.broken(f"what was removed beside {after.key} is not counted there: {total} it should be")
        self._counts[after.key] = total

    def _add(self, key: Key, numbers: Numbers) -> None:
        self._counts[key] = plus(self._counts.get(key, NONE), numbers)


def is_right(outcome: Outcome, how: How | None, before: Record, policies: Policies, held: Policies) -> bool:
    """Say whether *outcome* follows from how the handler's call ended, if there was one under this claim."""
    started, limit = before.state.started, policies.retry.max_attempts
    at_most_once = started is not None and started.at_most_once
    if outcome is Outcome.SUCCEEDED:
        return how is How.RETURNED
    if outcome is Outcome.REPLACED:
        return held.overlap is Overlap.REPLACE
    if outcome is Outcome.LOST:
        return at_most_once
    if (policies.exhausted is Exhaustion.DEAD_LETTER) != (outcome is Outcome.DEAD_LETTERED):
        return False
    if how is None:
        return 0 < limit < before.attempt
    spent = at_most_once or how is How.REFUSED or 0 < limit <= before.attempt
    return spent and (how in FAILED or how is How.CANCELLED)


def went_by(record: Record) -> tuple[object, ...]:
    """What of a record a worker goes by."""
    return (record.due_at, record.lease, record.attempt, record.spec, record.schedule_since)


def pending_in(record: Record) -> int:
    """How many occurrences a record has moved on from before they have an outcome: at most once, in mid-run."""
    started = record.state.started
    if started is None or not started.at_most_once:
        return 0
    return 1 + sum(gap.count for gap in started.dropped)


def added(before: Record | None, summary: Summary) -> Numbers:
    """What *summary* has counted since *before*."""
    old = NONE if before is None else numbers_of(before.state.summary.counts)
    return minus(numbers_of(summary.counts), old)


def numbers_of(counts: Counts) -> Numbers:
    return (
        counts.succeeded,
        counts.failed,
        counts.dead_lettered,
        counts.missed,
        counts.skipped,
        counts.replaced,
        counts.lost,
        counts.withdrawn,
    )


def plus(these: Numbers, those: Numbers) -> Numbers:
    return tuple(a + b for a, b in zip(these, those, strict=True))


def minus(these: Numbers, those: Numbers) -> Numbers:
    return tuple(a - b for a, b in zip(these, those, strict=True))


def _is_set_by_an_edit(schedule: Schedule | None, begun: Instant) -> bool:
    """Say whether *schedule* is a one-off that came while another time had *begun*: it is taken as given."""
    return isinstance(schedule, Once) and schedule.at != begun
