"""One record's life, at random: whatever happens to it, each of its occurrences ends once, and nothing else does."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from pyncette.clock import SECOND, Instant
from pyncette.core import rules
from pyncette.core.accounting import idempotency_key
from pyncette.core.edits import started_of
from pyncette.core.policies import next_due
from pyncette.core.record import Change, Record, Started
from pyncette.core.runs import HeldRun, replaced_at
from pyncette.core.schedule import Cron, Interval
from pyncette.core.spec import Exhaustion, Missed, Mode, Overlap, Policies, Retry
from tests.core.oracles import EFFORT
from tests.core.play import (
    DRAINED,
    MINUTE,
    RAISED,
    REFUSED,
    REPLACED,
    RETURNED,
    STATIC,
    T0,
    UNSTARTED,
    Play,
    minute,
)

ROWS = 10_000
"""More rows than a life has: the history is then an account of every outcome."""

SCHEDULES = [Interval(MINUTE), Interval(25 * SECOND), Cron("*/2 * * * *"), Cron("7,8,20 * * * *")]

EDITED = ["mode", "overlap", "missed", "max_catch_up", "starting_deadline", "retry", "exhausted", "lease"]

ENDINGS = [RETURNED, RAISED, REFUSED, DRAINED, UNSTARTED]

policies = st.builds(
    Policies,
    mode=st.sampled_from(Mode),
    overlap=st.sampled_from(Overlap),
    missed=st.sampled_from(Missed),
    max_catch_up=st.integers(0, 5),
    starting_deadline=st.sampled_from([None, None, 20 * SECOND, 5 * MINUTE]),
    retry=st.builds(
        Retry,
        max_attempts=st.integers(0, 3),
        initial=st.just(10 * SECOND),
        maximum=st.just(100 * SECOND),
        wait_for_lease=st.booleans(),
        count_takeovers=st.booleans(),
    ),
    exhausted=st.sampled_from(Exhaustion),
    lease=st.sampled_from([30 * SECOND, 5 * MINUTE]),
    keep_finished=st.just(True),
    keep_successful=st.just(ROWS),
    keep_failed=st.just(ROWS),
)

HALF_A_SECOND = SECOND // 2
"""Runs on demand are asked for between the full seconds of all schedules, and so are told from them."""

steps = st.one_of(
    st.tuples(st.just("wait"), st.integers(0, 90)),
    st.tuples(st.just("wait"), st.sampled_from([30, 60, 300])),
    st.tuples(st.just("start")),
    st.tuples(st.just("run"), st.sampled_from(ENDINGS)),
    st.tuples(st.just("start_and_die")),
    st.tuples(st.just("die_between_the_writes_of_a_start")),
    st.tuples(st.just("end_the_oldest"), st.sampled_from(ENDINGS)),
    st.tuples(st.just("replace_the_oldest")),
    st.tuples(st.just("edit_schedule"), st.sampled_from(SCHEDULES)),
    st.tuples(st.just("edit_schedule_between_claim_and_start"), st.sampled_from(SCHEDULES)),
    st.tuples(st.just("edit_policies"), policies),
    st.tuples(st.just("suspend"), st.booleans()),
    st.tuples(st.just("resume")),
    st.tuples(st.just("withdraw_and_return"), st.integers(0, 100)),
    st.tuples(st.just("run_now")),
)
"""What can happen next: a method of `Life`, and its argument."""


@dataclass
class Life:
    """A `Play`, and beside it the plain list of the times that have to be accounted for."""

    play: Play
    now: Instant = T0
    occurrences: list[Instant] = field(default_factory=list)
    """All times so far at which the schedule was in force: those that an edit dropped are taken out again."""
    holders: list[HeldRun] = field(default_factory=list)
    """Who believes to hold a lease; some are stalled, and have lost it."""
    asked_for: int = 0
    seen: dict = field(default_factory=dict)

    def wait(self, seconds: int) -> None:
        record, at = self.play.record, self.now
        self.now += seconds * SECOND
        if self.play.policies.suspend or record.state.exhausted or record.state.withdrawn_at is not None:
            return
        while (at := next_due(record.spec.schedule, Policies(), record.schedule_since, at)) <= self.now:
            self.occurrences.append(at)

    def start(self) -> HeldRun | None:
        return self.begin(self.play.claim(self.now))

    def begin(self, claimed: Record | None) -> HeldRun | None:
        held = None if claimed is None else self.play.begin(claimed, self.now)
        if held is not None:
            self.holders.append(held)
        return held

    def end(self, held: HeldRun, ended) -> None:
        self.holders.remove(held)
        if ended is UNSTARTED:
            self.play.calls = [call for call in self.play.calls if call[0] is not held]
        before = self.play.records.get(held.record.key)
        if self.play.end(held, minute(self.now), ended) and ended is UNSTARTED:
            self.forget_what_an_edit_overtook(before)

    def run(self, ended) -> None:
        held = self.start()
        if held is not None:
            self.end(held, ended)

    def start_and_die(self) -> None:
        held = self.start()
        if held is not None:
            self.holders.remove(held)

    def die_between_the_writes_of_a_start(self) -> None:
        claimed = self.play.claim(self.now, STATIC)
        if claimed is not None:
            created = rules.begin(claimed, self.play.policies, self.now).created
            if created is not None:
                self.play.put(Change(None, created))
            self.wait(self.play.policies.lease // SECOND)
            self.begin(self.play.claim(self.now, STATIC))

    def end_the_oldest(self, ended) -> None:
        if self.holders:
            self.end(self.holders[0], ended)

    def replace_the_oldest(self) -> None:
        for held in self.holders[:1]:
            if held.policies.overlap is Overlap.REPLACE and replaced_at(held) <= self.now:
                self.end(held, REPLACED)

    def edit_schedule(self, schedule) -> None:
        if schedule != self.play.schedule:
            self.play.edit(minute(self.now), schedule=schedule)
            self.forget_what_has_not_started()

    def edit_schedule_between_claim_and_start(self, schedule) -> None:
        claimed = self.play.claim(self.now, STATIC)
        self.edit_schedule(schedule)
        if claimed is not None and self.begin(claimed) is None and self.play.record.lease == claimed.lease:
            self.begin(self.play.record)

    def edit_policies(self, policies) -> None:
        exhausted = self.play.record.state.exhausted
        self.play.edit(minute(self.now), **{name: getattr(policies, name) for name in EDITED})
        if exhausted and not self.play.record.state.exhausted:
            self.forget_what_has_not_started()

    def suspend(self, suspend) -> None:
        if suspend != self.play.policies.suspend:
            self.play.edit(minute(self.now), suspend=suspend)
            if not suspend:
                self.forget_what_has_not_started()

    def resume(self) -> None:
        if self.play.record.state.exhausted:
            self.play.resume(minute(self.now))
            self.forget_what_has_not_started()

    def withdraw_and_return(self, seconds) -> None:
        self.play.stop(minute(self.now))
        self.wait(seconds)
        self.play.edit(minute(self.now))
        self.forget_what_has_not_started()

    def run_now(self) -> None:
        self.asked_for += 1
        self.play.run_now(minute(self.now + HALF_A_SECOND), name=str(self.asked_for))

    # --- The plain list ------------------------------------------------------------------------------------------

    def forget_what_has_not_started(self) -> None:
        """An edit of the schedule, or a resume: earlier times that neither started nor ended are no occurrences."""
        kept = set(self.ended())
        for record in self.play.records.values():
            started = started_of(record, self.play.policies_of(record))
            if started is not None:
                kept |= self.times_of(started)
            elif record.key.occurrence:
                kept.add(record.due_at)  # given back, and still due beside its schedule
        self.occurrences = [at for at in self.occurrences if at in kept]

    def forget_what_an_edit_overtook(self, before: Record) -> None:
        """At most once, a start that is taken back is due again, unless its schedule was edited since."""
        started = before.state.started
        if started and started.at_most_once and before.schedule_since >= started.scheduled_at:
            dropped = self.times_of(started)
            self.occurrences = [at for at in self.occurrences if at not in dropped]

    def times_of(self, started: Started) -> set[Instant]:
        spans = [(gap.first_at, gap.last_at) for gap in started.dropped]
        spans.append((started.scheduled_at, started.scheduled_at))
        return {at for at in self.occurrences if any(first <= at <= last for first, last in spans)}

    def ended(self) -> list[Instant]:
        """The times that the history accounts for, gaps taken apart."""
        found = []
        for run in self.play.runs:
            if run.scheduled_at % SECOND == HALF_A_SECOND:
                continue
            last = self.occurrences.index(run.scheduled_at)
            assert run.count <= last + 1, f"{run} holds more occurrences than there were"
            found += self.occurrences[last - run.count + 1 : last + 1]
        return found

    # --- What always holds ---------------------------------------------------------------------------------------

    def check(self) -> None:
        play = self.play
        for key, record in play.records.items():
            version, fence = self.seen.get(key, (0, 0))
            assert (record.version >= version, record.fence >= fence) == (True, True)
            self.seen[key] = (record.version, record.fence)
        ended = self.ended()
        assert len(ended) == len(set(ended)), "an occurrence ended twice"
        assert sum(play.counts.values()) == sum(run.count for run in play.runs)
        started_at_most_once = set()
        for held, _ in play.calls:
            key = idempotency_key(held.record, held.scheduled_at)
            assert key not in started_at_most_once, f"{minute(held.scheduled_at)} was started again"
            started = held.record.state.started
            if started is not None and started.at_most_once:
                started_at_most_once.add(key)

    def live_on_in_peace(self) -> None:
        """Nobody dies, fails or edits any more, until nothing is overdue."""
        self.holders.clear()
        self.suspend(suspend=False)
        for _ in range(1000):
            if self.play.record.state.exhausted:
                self.resume()
            elif self.play.claimables(self.now):
                self.run(RETURNED)
            elif self.is_at_rest():
                return
            else:
                self.wait(60)
        raise AssertionError("it never comes to rest")

    def is_at_rest(self) -> bool:
        """Whether nothing is to come but the schedule's next occurrence."""
        record = self.play.record
        extra = any(record.claimable_at is not None for record in self.play.beside)
        return record.lease is None and not record.attempt and record.state.started is None and not extra


@EFFORT
def test_each_occurrence_ends_in_exactly_one_outcome_whatever_happens(effort):
    @effort
    @given(st.sampled_from(SCHEDULES), policies, st.lists(steps, min_size=30, max_size=60))
    def property_of(schedule, policies, steps):
        life = Life(Play(schedule, policies))

        for name, *what in steps:
            getattr(life, name)(*what)
            life.check()
        life.live_on_in_peace()
        life.check()

        assert sorted(life.ended()) == life.occurrences
        on_demand = [run for run in life.play.runs if run.scheduled_at % SECOND == HALF_A_SECOND]
        assert len(on_demand) == life.asked_for

    property_of()
