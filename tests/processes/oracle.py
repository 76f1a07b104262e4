"""
Judges every occurrence of a fault-injection account, by nothing but what was asked for and what handlers wrote.

It knows no rule of the product: it lists the times that the schedules name between their edits, and looks for each
whether it ran, how often, when, and beside what.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pyncette.core.record import Counts
from tests.processes.account import Account, Run
from tests.processes.conductor import LEASE_SECONDS, LOST_MOMENTS, Fault, Played
from tests.processes.subjects import A_SECOND, KINDS, Edit, Kind, Subject, Times, clock

LEASE: Final = int(LEASE_SECONDS * A_SECOND)

UNDER_WAY: Final = A_SECOND // 2
"""From a claim to the call of its handler, in a process that is not disturbed: an edit in between comes too late."""

LATE_EDIT: Final = 4 * A_SECOND
"""So long after its end an edit whose result is not known may still be carried out."""

FELT: Final = LEASE + 5 * A_SECOND
"""So long after its end a fault is felt at most: a lease of the dead has to expire, and what has waited is made up for."""

IN_TIME: Final = 2 * A_SECOND
"""How late a start may be that no fault disturbs, on a machine that is busy with other things."""

OVERLAP: Final = A_SECOND // 20
"""Two runs do not overlap if it is by less than it takes to write a line of the account on a laden machine."""

STOPPED: Final = A_SECOND
"""A process that stood still for so long may have lost a lease: a renewal is due after a third of one."""

HELD_UP: Final = 6 * LEASE // 10
"""A claim leaves nearly a whole lease; who stood still for this long may have lost what it had just claimed."""

DEATHS: Final = frozenset({"kill", "stop", "suspend", "silence", "lock", "failover", "failover in step"})
"""The faults by which a worker loses what it holds: it dies, or it stands still or is cut off beyond its lease."""

CERTAIN_DEATHS: Final = frozenset({"kill", "failover", "failover in step"})

HARMLESS: Final = frozenset({"step", "editor killed", "editor suspended", "start", "start in vain"})
"""Nobody goes by the time of day of a machine, and editors run nothing."""


@dataclass
class Judged:
    """What came out."""

    violations: list[str] = field(default_factory=list)
    by_promise: Counter[str] = field(default_factory=Counter)
    starts: int = 0
    occurrences: int = 0
    expected: int = 0
    ran: int = 0
    """Of those that were expected."""
    lost: int = 0
    """At most once, expected, and not started, or not ended: a worker that held it died."""
    withdrawn: int = 0
    """Expected, but late when an edit took them away."""
    repeated: int = 0
    """At least once, run again after their end, since a fault kept that from being written."""
    at_failovers: Counter[str] = field(default_factory=Counter)
    """Promises that did not hold since a failover lost writes that had been acknowledged: measured, and no violation."""
    failover_stories: list[str] = field(default_factory=list)
    judged_in_time: int = 0
    too_busy: int = 0
    """Starts that nothing but a busy machine kept from being judged in time."""
    latest: float = 0.0
    """The greatest lateness in seconds that no fault explains."""
    earliest: float = 0.0
    """By how many seconds a start came before its time, at most."""

    def add(self, promise: str, story: str) -> None:
        self.by_promise[promise] += 1
        self.violations.append(f"{promise}: {story}")


@dataclass
class Timed:
    """A run with its times as times of day, in microseconds."""

    run: Run
    started: int
    over: int
    """When it returned, raised, was cancelled, or died with its process."""
    saw_its_end: bool

    @property
    def at(self) -> int:
        return self.run.occurrence.scheduled_at

    @property
    def succeeded(self) -> bool:
        return self.run.ended_at is not None

    def __str__(self) -> str:
        run = self.run
        end = (
            "returned"
            if run.ended_at
            else "raised"
            if run.raised_at
            else "was cancelled"
            if run.stopped_at
            else "ended with its process"
        )
        return (
            f"due {clock(self.at)}, started {clock(self.started)} by {run.process}, attempt {run.attempt},"
            f" fence {run.fence}, key {run.idempotency_key[:6]}, {end} {clock(self.over)}"
        )


@dataclass
class Span:
    """What counts of a subject after an edit, and until when."""

    edit: Edit
    since: int
    """The earliest time that may count."""
    surely_since: int
    until: int
    """The latest time that may count."""
    surely_until: int
    next: Edit | None
    """The edit that ended it, or may have."""

    @property
    def times(self) -> Times | None:
        return self.edit.times

    def names(self, at: int) -> bool:
        return self.times is not None and self.since <= at <= self.until and self.times.names(at)


class Oracle:
    """Judges what was *played* by what handlers wrote into the *account*, and by the *counts* by task in the store."""

    def __init__(self, played: Played, account: Account, counts: Mapping[str, Counts]) -> None:
        self.played = played
        self.judged = Judged(starts=len(account.runs), occurrences=len(account.of))
        self._counts = counts
        self._faults = sorted(played.faults, key=lambda fault: fault.began)
        self._by_process: dict[int, list[Fault]] = defaultdict(list)
        for fault in self._faults:
            self._by_process[fault.process].append(fault)
        self._runs = self._timed(account)
        self._missing: Counter[str] = Counter()

    def judge(self) -> Judged:
        for failure in self.played.failures:
            self.judged.add("a process did what no process may do", failure)
        for subject in self.played.subjects:
            history = _History(self, subject, self._runs.get((subject.kind.task, subject.name), []))
            history.judge()
        self._judge_limits()
        for kind in KINDS.values():
            self._judge_counts(kind)
        return self.judged

    # --- Faults --------------------------------------------------------------------------------------------------

    def faults(self, process: int, began: int, ended: int) -> list[Fault]:
        """The faults that *process* may have felt between *began* and *ended*."""
        return [
            fault
            for fault in (*self._by_process.get(process, ()), *self._by_process.get(0, ()))
            if fault.kind not in HARMLESS and fault.began <= ended and began <= fault.ended
        ]

    def deaths(self, began: int, ended: int) -> bool:
        """Whether any worker died, or stood still for long, between *began* and *ended*; or the machine was too busy."""
        starved = sum(
            min(fault.ended, ended) - max(fault.began, began)
            for fault in self._faults
            if fault.kind == "starved" and fault.began <= ended and began <= fault.ended
        )
        return starved >= HELD_UP or any(
            fault.kind in DEATHS and (fault.kind in CERTAIN_DEATHS or fault.ended - fault.began >= HELD_UP)
            for fault in self._faults
            if fault.began <= ended and began <= fault.ended
        )

    def failed_over(self, began: int, ended: int) -> bool:
        """Whether writes of the time from *began* to *ended* may have been acknowledged, and lost at a failover."""
        return any(
            fault.began - LOST_MOMENTS * A_SECOND <= ended and began <= fault.ended + FELT
            for fault in self._by_process.get(0, ())
            if fault.kind.startswith("failover") and self.played.backend.loses_writes
        )

    def anything(self, began: int, ended: int) -> bool:
        return not self.is_quiet(began, ended)

    def is_quiet(self, began: int, ended: int) -> bool:
        """Whether nobody felt a fault between *began* and *ended*."""
        return not self.kinds_felt(began, ended)

    def kinds_felt(self, began: int, ended: int) -> set[str]:
        """The kinds of the faults that anybody may have felt between *began* and *ended*."""
        return {
            fault.kind
            for fault in self._faults
            if (fault.kind == "start" or fault.kind not in HARMLESS)
            and fault.began <= ended
            and began <= fault.ended
        }

    def stood_still(self, timed: Timed) -> bool:
        """Whether the process stood still in mid-run, or before, for long enough to lose a lease."""
        return any(
            fault.kind == "starved"
            or (fault.kind in {"stop", "suspend"} and fault.ended - fault.began >= STOPPED)
            for fault in self.faults(timed.run.process, timed.started - LEASE, timed.over)
        )

    # --- Over all ------------------------------------------------------------------------------------------------

    def _timed(self, account: Account) -> dict[tuple[str, str], list[Timed]]:
        died = {fault.process: fault.ended for fault in self._faults if fault.kind in {"kill", "term"}}
        found: dict[tuple[str, str], list[Timed]] = defaultdict(list)
        for run in account.runs:
            started = run.time_of_day // 1000
            seen = run.over_at
            if seen is None:
                over = died.get(run.process, self.played.ended + 60 * A_SECOND)
            else:
                over = started + (seen - run.started_at) // 1000
            task, instance, _ = run.occurrence
            found[task, instance].append(Timed(run, started, over, seen is not None))
        for runs in found.values():
            runs.sort(key=lambda timed: timed.started)
        return found

    def _judge_limits(self) -> None:
        for kind in KINDS.values():
            if not kind.limit:
                continue
            live = [
                timed
                for (task, _), runs in self._runs.items()
                if task == kind.task
                for timed in runs
                if not self.stood_still(timed) and timed.over - timed.started > OVERLAP
            ]
            edges = sorted(
                [(timed.started + OVERLAP, 1, timed.started) for timed in live]
                + [(timed.over, -1, 0) for timed in live]
            )
            running = 0
            for at, change, _ in edges:
                running += change
                if running > kind.limit:
                    now = [str(timed) for timed in live if timed.started <= at <= timed.over]
                    self.judged.add(
                        "no more runs at once than the limit",
                        "\n  ".join([f"{kind.task} at {clock(at)}", *now]),
                    )
                    break

    def _judge_counts(self, kind: Kind) -> None:
        """How many occurrences ended in which way has to follow from what ran."""
        counts = self._counts.get(kind.task)
        if counts is None:
            return
        runs = [timed for (task, _), runs in self._runs.items() if task == kind.task for timed in runs]
        keys = {timed.run.idempotency_key for timed in runs}
        ended = {timed.run.idempotency_key for timed in runs if timed.succeeded}
        total = counts.succeeded + counts.failed + counts.dead_lettered + counts.lost + counts.withdrawn
        dropped = counts.missed + counts.skipped + counts.replaced
        edits = [edit for edit in self.played.edits if edit.subject.kind == kind]
        withdrawing = sum(edit.operation in {"force", "remove"} for edit in edits)
        story = f"{kind.task}: {counts}, {len(keys)} occurrences ran, {len(ended)} returned"
        if dropped:
            self._wrong(f"{story}; nothing can be missed, skipped or replaced")
        # An edit of a schedule whose runs overlap withdraws all that were released before their handlers were called.
        unstarted = counts.withdrawn if kind.at_most_once and kind.may_overlap and edits else 0
        if counts.withdrawn > max(withdrawing, unstarted):
            self._wrong(f"{story}; {withdrawing} edits can have withdrawn a run")
        if kind.at_most_once:
            unrecorded = sum(
                1
                for timed in runs
                if timed.succeeded
                and self.faults(timed.run.process, timed.started - A_SECOND, timed.over + LEASE + A_SECOND)
            )
            if not len(ended) - unrecorded <= counts.succeeded <= len(ended):
                self._wrong(f"{story}; of {unrecorded} that returned it may not have been written")
            unseen = self._missing[kind.task]
            if not len(keys) <= total <= len(keys) + unseen + unstarted:
                self._wrong(f"{story}; at most {unseen} can have been lost before their start")
            return
        unfinished = {
            timed.run.idempotency_key for timed in runs if timed.over >= self.played.ended - IN_TIME
        } - ended
        finals = counts.succeeded + counts.failed + counts.dead_lettered
        again = counts.dead_lettered if kind.is_mirrored else 0
        if counts.lost:
            self._wrong(f"{story}; nothing can be lost")
        if not len(keys) - counts.withdrawn - len(unfinished) <= finals <= len(keys) + again:
            self._wrong(f"{story}; each has one outcome")
        if counts.succeeded > len(ended):
            self._wrong(f"{story}; more succeeded than returned")

    def _wrong(self, story: str) -> None:
        promise = "counts by outcome equal what ran"
        if self.failed_over(self.played.began, self.played.ended):
            self.judged.at_failovers[promise] += 1
        else:
            self.judged.add(promise, story)

    def note_missing(self, subject: Subject) -> None:
        """Take note of what may have been lost before its start."""
        self._missing[subject.kind.task] += 1


class _History:
    """One subject: its edits, and its runs in the order of their starts."""

    def __init__(self, oracle: Oracle, subject: Subject, runs: Sequence[Timed]) -> None:
        self._oracle = oracle
        self._played = oracle.played
        self._judged = oracle.judged
        self._subject = subject
        self._kind = subject.kind
        self._runs = runs
        self._of: dict[int, list[Timed]] = defaultdict(list)
        for timed in runs:
            self._of[timed.at].append(timed)
        self._all_edits = [edit for edit in oracle.played.edits if edit.subject == subject]
        self._edits = [edit for edit in self._all_edits if edit.moves and (edit.made or not edit.known)]
        self._asked = [edit for edit in self._all_edits if edit.operation == "run" and edit.made]
        self._spans = list(self._counting())

    def judge(self) -> None:
        for at, runs in self._of.items():
            self._judge_start(at, runs)
            if self._kind.at_most_once:
                self._judge_once(at, runs)
            else:
                self._judge_repetition(at, runs)
            self._judge_attempts(at, runs)
        for number, span in enumerate(self._spans):
            self._judge_expected(number, span)
            self._judge_in_flight(span)
        for edit in self._asked:
            self._judge_run_now(edit)
        if not self._kind.may_overlap:
            self._judge_overlap()
            self._judge_fences()
        self._judge_lateness()
        self.note_missing()

    # --- What counts ---------------------------------------------------------------------------------------------

    def _counting(self) -> Iterator[Span]:
        for number, edit in enumerate(self._edits):
            error = self._error(edit)
            further = self._edits[number + 1 :]
            following = further[0] if further else None
            known = next((each for each in further if each.known), None)
            late = 0 if edit.known else LATE_EDIT
            yield Span(
                edit,
                edit.before - error,
                edit.after + late + error,
                (known.after + self._error(known))
                if known is not None
                else self._played.ended + 60 * A_SECOND,
                (following.before - self._error(following))
                if following is not None
                else self._played.ended - IN_TIME - A_SECOND // 2,
                following,
            )

    def _error(self, edit: Edit) -> int:
        return int(self._played.errors[edit.editor] * A_SECOND)

    def _is_asked_for(self, at: int) -> bool:
        return any(
            edit.before - self._error(edit)
            <= at
            <= edit.after + self._error(edit) + (0 if edit.known else LATE_EDIT)
            for edit in self._asked
        )

    def _is_redriven(self, timed: Timed) -> bool:
        """Whether it may be a dead letter that is tried again, beside its schedule."""
        return any(
            edit.operation == "redrive"
            and edit.before <= timed.started
            and any(other is not timed and other.over <= edit.after for other in self._of[timed.at])
            for edit in self._all_edits
        )

    def _is_kept(self, at: int) -> bool:
        """Whether *at* was the next time before an edit without force, which keeps the sooner of two."""
        for number, span in enumerate(self._spans):
            if span.times is None or at <= span.until or not span.times.names(at):
                continue
            passed = [edit for edit in self._edits[number + 1 :] if edit.after < at]
            if any(edit.known and edit.operation != "schedule" for edit in passed):
                continue
            if next(span.times.between(span.until, at), None) is None:
                return True
        return False

    def _was_made_anew(self, at: int, first: Timed, second: Timed) -> bool:
        """Whether the instance was removed and created again between two starts, so that *at* may count again."""
        removed = [
            edit for edit in self._edits if edit.operation == "remove" and edit.before < second.started
        ]
        return any(
            edit.operation in {"create", "force", "schedule", "edit"}
            and any(gone.number < edit.number for gone in removed)
            and first.started <= edit.after
            and edit.before - self._error(edit) <= at
            for edit in self._edits
        )

    # --- One occurrence ------------------------------------------------------------------------------------------

    def _judge_start(self, at: int, runs: Sequence[Timed]) -> None:
        early = (at - runs[0].started) / A_SECOND
        self._judged.earliest = max(self._judged.earliest, early)
        if early > self._played.backend.time_error:
            self._add("nothing before its time", at, f"{early:.3f} s early")
        if any(span.names(at) for span in self._spans) or self._is_asked_for(at) or self._is_kept(at):
            return
        later = any(
            span.times is not None and span.times.names(at) and at < span.since for span in self._spans
        )
        if later:
            self._add("nothing of a new schedule before the edit", at)
        else:
            self._add("nothing but what a schedule names", at)

    def _judge_once(self, at: int, runs: Sequence[Timed]) -> None:
        for first, second in itertools.pairwise(runs):
            if not self._was_made_anew(at, first, second):
                self._add("at most once none twice", at)

    def _judge_repetition(self, at: int, runs: Sequence[Timed]) -> None:
        for first, second in itertools.pairwise(runs):
            if not first.succeeded or second.started < first.over:
                continue
            if self._was_made_anew(at, first, second):
                continue
            if second.run.fence < first.run.fence and self._oracle.stood_still(second):
                continue  # it was claimed before, and stood still on its way to the handler
            if self._oracle.faults(first.run.process, first.started - A_SECOND, second.started):
                self._judged.repeated += 1
            else:
                self._add("nothing repeated after it completed", at)

    def _judge_attempts(self, at: int, runs: Sequence[Timed]) -> None:
        by_key: dict[str, list[Timed]] = defaultdict(list)
        for timed in runs:
            by_key[timed.run.idempotency_key].append(timed)
        redriven = any(edit.operation == "redrive" for edit in self._all_edits)
        for same in by_key.values():
            same.sort(key=lambda timed: timed.run.fence)
            fences = [timed.run.fence for timed in same]
            attempts = [timed.run.attempt for timed in same]
            if len(set(fences)) < len(fences) or (attempts != sorted(attempts) and not redriven):
                self._add("fences and attempts grow", at)

    def _judge_run_now(self, edit: Edit) -> None:
        """An extra run has a time of its own, which no schedule names: that of the editor when it asked."""
        if not edit.known or edit.after > self._played.ended - FELT:
            return
        error = self._error(edit)
        found = [at for at in self._of if edit.before - error <= at <= edit.after + error and at % A_SECOND]
        if not found and not (
            self._kind.at_most_once and self._oracle.deaths(edit.before - A_SECOND, edit.after + 2 * A_SECOND)
        ):
            # The same annotation twice, or an instance that is not there, asks for nothing.
            self._judged.add("what was asked for runs", f"{self._subject.name}\n  {edit}")

    # --- Between two edits ---------------------------------------------------------------------------------------

    def _judge_expected(self, number: int, span: Span) -> None:
        if span.times is None or not span.edit.known:
            return
        expected = list(span.times.between(span.surely_since, min(span.surely_until, self._played.ended)))
        self._judged.expected += len(expected)
        self._judged.ran += sum(at in self._of for at in expected)
        further = self._spans[number + 1 :]
        last = max(
            (
                at
                for at in self._of
                if span.names(at)
                and (at < span.surely_until or not any(other.names(at) for other in further))
            ),
            default=-1,
        )
        missing = [at for at in expected if at not in self._of]
        skipped = [at for at in missing if at < last]
        for at in skipped:
            self._judge_missing(at, min(self._of[later][0].started for later in self._of if later > at))
        backlog = [at for at in missing if at > last]
        if not backlog:
            return
        taking_away = self._taking_away(number)
        if taking_away is None:
            later = [runs[0].started for at, runs in self._of.items() if at > backlog[0]]
            ended = self._played.ended - IN_TIME
            busy = [timed.started for timed in self._runs if timed.over >= ended and timed.started <= ended]
            for at in backlog:
                if busy and not self._kind.may_overlap and at > min(busy) and at >= ended - FELT:
                    continue  # the run before it was still under way at the end
                self._judge_missing(at, min(later, default=at + FELT))
            return
        self._judged.withdrawn += len(backlog)
        edited = taking_away.before
        if any(
            at <= backlog[0] and runs[0].started >= edited for at, runs in self._of.items() if span.names(at)
        ):
            return  # an older one is what was kept
        if self._keeps(number) and not self._oracle.deaths(backlog[0] - A_SECOND, span.next.after + FELT):
            self._add("an edit without force keeps the sooner time", backlog[0])

    def _taking_away(self, number: int) -> Edit | None:
        """Return the edit that withdraws what is late of a span: an edit that changes nothing does not."""
        times = self._spans[number].times
        return next(
            (
                edit
                for edit in self._edits[number + 1 :]
                if not (edit.operation == "edit" and edit.known and edit.times == times)
            ),
            None,
        )

    def _keeps(self, number: int) -> bool:
        """Whether the edit after a span keeps what was late, and no other takes it away before it can have run."""
        span = self._spans[number]
        fresh = span.edit.operation in {"create", "force"} or any(
            span.edit.after < at and span.names(at) and runs[0].started < self._edits[number + 1].before
            for at, runs in self._of.items()
        )
        if not fresh:
            return False  # something older may be what is kept
        (edit, *further) = self._edits[number + 1 :]
        if edit.operation != "schedule" or not edit.known or not edit.made:
            return False
        return all(
            other.operation == "schedule" or other.before > edit.after + FELT for other in further
        ) and (edit.after + FELT < self._played.ended)

    def _judge_missing(self, at: int, later: int) -> None:
        if not self._kind.at_most_once:
            self._add("at least once none is lost", at)
            return
        if self._oracle.deaths(at - A_SECOND, min(max(later, at + LEASE + A_SECOND), at + 3 * FELT)):
            self._judged.lost += 1
        else:
            self._add("at most once none is lost unless its worker died", at)

    def _judge_in_flight(self, span: Span) -> None:
        """What was late when an edit came is withdrawn, but for what had started, or is kept."""
        if span.times is None or span.next is None or not span.next.known:
            return
        if span.next.operation not in {"force", "remove"} and span.next.times == span.times:
            return
        after = span.next.after
        late = []
        for at, runs in self._of.items():
            first = runs[0]
            if not span.names(at) or first.started <= after + UNDER_WAY:
                continue
            if any(
                other.names(at) for other in self._spans if other is not span and other.edit.after >= after
            ):
                continue
            felt = self._oracle.faults(first.run.process, span.next.before - LEASE, first.started)
            if not felt or first.started > after + FELT:
                late.append(at)
        allowed = 0 if span.next.operation in {"force", "remove"} else 1
        if len(late) > allowed:
            self._add(f"what an edit took away does not run ({span.next.operation})", late[allowed])

    def note_missing(self) -> None:
        """Take note of what may have been lost at most once before its start: also what an edit may have taken away."""
        seen = set(self._of)
        for span in self._spans:
            if span.times is not None:
                until = min(span.until, self._played.ended + A_SECOND)
                for at in span.times.between(span.since, until):
                    if at not in seen and self._oracle.anything(at - A_SECOND, at + LEASE):
                        seen.add(at)
                        self._oracle.note_missing(self._subject)

    # --- Beside each other ---------------------------------------------------------------------------------------

    def _judge_overlap(self) -> None:
        live = [
            timed
            for timed in self._runs
            if timed.over > timed.started
            and not self._is_asked_for(timed.at)
            and not self._is_redriven(timed)
        ]
        for first, second in itertools.pairwise(live):
            if first.over - second.started <= OVERLAP:
                continue
            if not self._kind.renews_itself and second.started - first.started > LEASE:
                continue  # its handler shows too late that it lives
            if self._oracle.stood_still(first) or self._oracle.stood_still(second):
                continue
            if any(
                edit.operation in {"force", "remove"}
                and edit.before <= second.started
                and first.started - A_SECOND <= edit.after + (0 if edit.known else LATE_EDIT)
                for edit in self._all_edits
            ):
                continue
            self._add(
                "no two live workers in what may not overlap", first.at,
                f"{(min(first.over, second.over) - second.started) / A_SECOND:.3f} s beside that of {clock(second.at)}",
            )  # fmt: skip

    def _judge_fences(self) -> None:
        """Of two runs of one schedule, the one that began after the other was over has the greater fence."""
        runs = [timed for timed in self._runs if not self._is_asked_for(timed.at)]
        if any(edit.operation == "redrive" for edit in self._all_edits):
            return  # a dead letter has its own
        for first, second in itertools.pairwise(runs):
            if first.over <= second.started and second.run.fence <= first.run.fence:
                if self._oracle.stood_still(second):
                    continue
                # A failover may have lost the claim of the first, whose fence is then given again.
                self._add("fences grow", second.at, claimed=first.started)

    def _judge_lateness(self) -> None:
        began = 0
        ends: list[int] = []
        for timed in self._runs:
            busy = max((end for end in ends if end <= timed.started), default=0)
            ends.append(timed.over)
            # An edit that was answered later may have been made later: no sooner was it due.
            edited = max((edit.after for edit in self._edits if edit.before <= timed.started), default=0)
            began = max(timed.at, busy, edited)
            if timed is not self._of[timed.at][0] or self._kind.limit:
                continue
            felt = self._oracle.kinds_felt(timed.at - FELT, timed.started)
            if felt:
                self._judged.too_busy += felt == {"starved"}
                continue
            self._judged.judged_in_time += 1
            late = timed.started - began
            self._judged.latest = max(self._judged.latest, late / A_SECOND)
            if late > IN_TIME:
                self._add("in time without faults", timed.at, f"{late / A_SECOND:.3f} s late")

    # --- Telling -------------------------------------------------------------------------------------------------

    def _add(self, promise: str, at: int, what: str = "", claimed: int | None = None) -> None:
        seen = [at, *(timed.started for timed in self._of.get(at, ()))]
        lost = claimed is not None and self._oracle.failed_over(claimed, claimed)
        if lost or self._oracle.failed_over(min(seen), max(seen)):
            self._judged.at_failovers[promise] += 1
            self._judged.failover_stories.append(f"{promise}: {self._story(at, what)}")
        else:
            self._judged.add(promise, self._story(at, what))

    def _story(self, at: int, what: str) -> str:
        """All that happened to one occurrence, and around it."""
        runs = self._of.get(at, [])
        before = [edit for edit in self._edits if edit.before <= at]
        later = [edit for edit in self._edits if edit.before > at]
        begin = (
            max(min(at, *(edit.before for edit in before[-2:])) if before else at, at - 15 * A_SECOND)
            - 2 * A_SECOND
        )
        end = max([at, *(timed.over for timed in runs)]) + 4 * A_SECOND
        entries: list[tuple[int, str]] = [
            (edit.before, str(edit))
            for edit in self._all_edits
            if (begin <= edit.after and edit.before <= end) or edit in before[-3:] or edit in later[:2]
        ]
        entries += [
            (timed.started, f"{'->' if timed.at == at else '  '} {timed}")
            for timed in self._runs
            if begin <= timed.started <= end
        ]
        entries += [
            (fault.began, f"{fault.kind} of {fault.process or 'all'} until {clock(fault.ended)}")
            for fault in self._played.faults
            if begin <= fault.ended and fault.began <= end
        ]
        lines = [f"  {clock(when)} {text}" for when, text in sorted(entries)]
        return "\n".join([f"{self._subject.name} due {clock(at)} {what}", *lines])
