"""How outcomes are counted, and which rows of history tell of them."""

from itertools import count as numbers

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyncette.core.accounting import (
    RemovedCounts,
    Verdict,
    count_removed,
    counted,
    parent_among,
    parents_of,
    rows_of,
    run_id,
    runs_of,
    with_dropped,
    with_verdict,
    within_limits,
)
from pyncette.core.policies import choose
from pyncette.core.record import Counts, Dropped, Outcome, Summary, replace
from pyncette.core.schedule import Cron, Once
from pyncette.core.spec import Exhaustion, Missed, Overlap, Policies, Retry
from tests.core.play import (
    AT_MOST_ONCE,
    INSTANCE,
    MINUTE,
    NONE,
    RAISED,
    REFUSED,
    RETURNED,
    STATIC,
    T0,
    Play,
    at,
    nonzero,
)

TEMPLATE = INSTANCE._replace(instance="")
BESIDE = INSTANCE._replace(occurrence="run-1")


def verdict(outcome: Outcome, ended_at: int = T0, **fields) -> Verdict:
    return Verdict(outcome, T0, T0, ended_at, 1, "worker", **fields)


# --- Counts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", Outcome)
def test_each_outcome_is_counted_as_itself(outcome):
    counts = counted(Counts(1, 1, 1, 1, 1, 1, 1, 1), outcome, 3)

    names = [name for name, number in nonzero(counts).items() if number == 4]
    assert [name.replace("_", "").lower() for name in names] == [outcome.value.lower()]
    assert sum(nonzero(counts).values()) == 11


def test_a_gap_is_one_row_and_counts_all_its_occurrences():
    play = Play(policies=Policies(keep_successful=3, keep_failed=10))

    play.run(1000.5)

    assert play.counts == {"succeeded": 1, "missed": 999}
    missed, ran = play.runs
    assert (missed.outcome, missed.count, missed.exact) == (Outcome.MISSED, 999, True)
    assert (missed.scheduled_at, missed.started_at) == (at(999), None)
    assert (ran.outcome, ran.count) == (Outcome.SUCCEEDED, 1)


def test_counts_are_exact_until_a_gap_is_too_large_and_then_say_so():
    play = Play(schedule=Cron("* * * * * *"), policies=Policies(keep_failed=1))

    play.run(60)
    assert play.record.state.summary.exact
    assert play.counts == {"succeeded": 1, "missed": 3599}

    play.run(600)
    assert not play.record.state.summary.exact
    assert not play.runs[0].exact
    assert play.counts["missed"] >= 10_000


def test_a_lower_bound_stays_one():
    bound = with_dropped(Summary(), (Dropped(Outcome.MISSED, T0, T0, 10_001, exact=False),))

    assert not with_dropped(bound, (Dropped(Outcome.MISSED, T0, T0),)).exact
    assert not with_verdict(bound, verdict(Outcome.SUCCEEDED)).exact


# --- Summaries -------------------------------------------------------------------------------------------------------


def test_a_summary_describes_the_last_run():
    play = Play(policies=Policies(retry=Retry(max_attempts=2, jitter=False)))

    play.run(1, RAISED)
    play.end(play.start(2), 2.5, REFUSED)

    summary = play.record.state.summary
    assert (summary.last_scheduled_at, summary.last_started_at, summary.last_ended_at) == (
        at(1),
        at(1),
        at(2.5),
    )
    assert (summary.last_outcome, summary.last_attempts, summary.last_worker) == (Outcome.FAILED, 2, "worker")
    assert summary.last_message == "DoNotRetry: never"
    assert (summary.last_success_at, summary.last_failure_at) == (None, at(2.5))


def test_a_success_ends_a_series_of_failures_and_remembers_when_they_were():
    play = Play()

    for minutes in (1, 2, 3):
        play.run(minutes, REFUSED)
    assert play.record.state.summary.consecutive_failures == 3
    play.run(4)

    summary = play.record.state.summary
    assert (summary.consecutive_failures, summary.last_failure_at, summary.last_success_at) == (
        0,
        at(3),
        at(4),
    )
    assert summary.last_message == ""


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.SUCCEEDED])
def test_failures_in_a_row_are_what_failed_and_not_what_was_put_aside(outcome):
    before = Summary(consecutive_failures=2)

    after = with_verdict(before, verdict(outcome))

    failed = outcome in {Outcome.FAILED, Outcome.DEAD_LETTERED, Outcome.LOST}
    assert after.consecutive_failures == (3 if failed else 2)
    assert after.last_failure_at == (T0 if failed else None)


def test_a_long_message_is_cut():
    ended = with_verdict(Summary(), verdict(Outcome.FAILED, message="x" * 5000))

    assert ended.last_message == "x" * 1024


# --- History ---------------------------------------------------------------------------------------------------------


def test_history_keeps_the_newest_so_many_of_each_kind():
    play = Play(policies=Policies(keep_successful=3, keep_failed=2))

    for minutes in range(1, 21):
        play.run(minutes, REFUSED if minutes % 4 == 0 else RETURNED)

    kept = [(run.scheduled_at, run.outcome) for run in play.runs]
    assert [s for s, outcome in kept if outcome is Outcome.SUCCEEDED] == [at(17), at(18), at(19)]
    assert [s for s, outcome in kept if outcome is Outcome.FAILED] == [at(16), at(20)]


def test_no_history_is_made_unless_it_is_kept():
    play = Play()

    play.run(1)
    play.run(10)

    assert play.runs == []


@pytest.mark.parametrize(("kept", "names"), [((0, 5), ["failed"]), ((5, 0), ["succeeded"])])
def test_each_kind_is_kept_by_its_own_limit(kept, names):
    play = Play(policies=Policies(keep_successful=kept[0], keep_failed=kept[1]))

    play.run(1)
    play.run(2, REFUSED)

    assert [run.outcome.value for run in play.runs] == names


def test_a_row_says_what_a_summary_says_and_names_the_run():
    play = Play(policies=Policies(keep_failed=1))
    held = play.start(1)

    play.end(held, 1.5, REFUSED)

    (run,) = play.runs
    assert run.id == run_id(held.record.key, held.record.fence)
    assert (run.scheduled_at, run.started_at, run.ended_at) == (at(1), at(1), at(1.5))
    assert (run.attempts, run.worker, run.message) == (1, "worker", "DoNotRetry: never")


def test_a_run_has_an_id_of_its_own_for_each_attempt_and_the_same_wherever_asked():
    play = Play()

    first, second = play.start(1), play.start(5)

    assert run_id(first.record.key, first.record.fence) != run_id(second.record.key, second.record.fence)
    assert run_id(STATIC, 7) == run_id(STATIC, 7)


@given(st.lists(st.sampled_from(Outcome), max_size=40), st.integers(0, 5), st.integers(0, 5))
def test_slots_are_taken_in_turns_so_the_newest_are_kept(outcomes, keep_successful, keep_failed):
    policies = Policies(keep_successful=keep_successful, keep_failed=keep_failed)
    summary, slots, tick = Summary(), {}, numbers(T0)
    told: dict[bool, list[int]] = {True: [], False: []}

    for outcome in outcomes:
        ended = verdict(outcome, next(tick), dropped=(Dropped(Outcome.MISSED, T0, T0),))
        rows = rows_of(summary, policies, runs_of(Play().record, ended))
        slots |= {row.slot: row.run for row in rows}
        summary = with_verdict(summary, ended)
        told[False].append(ended.ended_at)
        told[outcome is Outcome.SUCCEEDED].append(ended.ended_at)

    def kept(*, succeeded: bool) -> list[int]:
        rows = [run.ended_at for run in slots.values() if (run.outcome is Outcome.SUCCEEDED) == succeeded]
        return sorted(rows)

    assert kept(succeeded=True) == told[True][len(told[True]) - min(keep_successful, len(told[True])) :]
    assert kept(succeeded=False) == told[False][len(told[False]) - min(keep_failed, len(told[False])) :]


def test_a_lowered_limit_is_kept_although_rows_of_before_are_still_there():
    play = Play(policies=Policies(keep_successful=10, keep_failed=10))
    for minutes in range(1, 9):
        play.run(minutes, ended=REFUSED if minutes % 2 else RETURNED)
    lowered = Policies(keep_successful=2, keep_failed=1)
    latest_first = sorted(play.runs, key=lambda run: run.ended_at, reverse=True)

    assert [run.scheduled_at for run in within_limits(latest_first, lowered)] == [at(8), at(7), at(6)]
    assert within_limits(latest_first, None) == latest_first


# --- What removed instances leave behind -----------------------------------------------------------------------------


def test_what_is_removed_is_counted_at_its_schedule_or_else_at_its_template():
    assert parents_of(INSTANCE) == (TEMPLATE,)
    assert parents_of(BESIDE) == (INSTANCE, TEMPLATE)
    assert parents_of(STATIC._replace(occurrence="run-1")) == (STATIC,)
    assert parents_of(STATIC) == ()


def test_the_template_gets_a_record_to_count_in_but_a_schedule_that_is_gone_does_not_return():
    record = Play().record

    assert parent_among(RemovedCounts(BESIDE, Summary()), {INSTANCE: record, TEMPLATE: record}) == INSTANCE
    assert parent_among(RemovedCounts(BESIDE, Summary()), {INSTANCE: None, TEMPLATE: record}) == TEMPLATE
    assert parent_among(RemovedCounts(BESIDE, Summary()), {INSTANCE: None, TEMPLATE: None}) == TEMPLATE
    assert parent_among(RemovedCounts(STATIC._replace(occurrence="run-1"), Summary()), {STATIC: None}) is None


def test_a_run_on_demand_that_outlives_its_schedule_does_not_bring_it_back():
    play = Play()
    play.run_now(0.5)
    held = play.start(0.5)
    play.remove(0.6)

    play.end(held, 0.7)

    assert play.records == {}


def test_an_instance_that_ends_while_its_last_run_goes_on_leaves_all_counts_to_its_template():
    policies = replace(AT_MOST_ONCE, not_after=at(2), missed=Missed.LATEST)
    play = Play(policies=policies, key=INSTANCE, own=False)
    play.run(1)

    held = play.start(9)
    assert play.key not in play.records
    play.end(held, 9.5)

    assert play.counts == {"succeeded": 2}


def test_counts_of_dropped_occurrences_survive_the_removal_of_an_instance_with_a_side_run():
    policies = replace(AT_MOST_ONCE, not_after=at(5), missed=Missed.LATEST)
    play = Play(policies=policies, key=INSTANCE, own=False)

    play.run(9)

    assert play.counts == {"succeeded": 1, "missed": 4}


def test_removed_counts_add_up_in_any_order():
    parent = Play(schedule=None, key=TEMPLATE).record
    early = RemovedCounts(INSTANCE, with_verdict(Summary(), verdict(Outcome.SUCCEEDED, at(1))))
    late = RemovedCounts(INSTANCE, with_verdict(Summary(), verdict(Outcome.FAILED, at(2))))

    for order in ((early, late), (late, early)):
        record = parent
        for removed_counts in order:
            record = count_removed(TEMPLATE, record, removed_counts, at(3)).after
        summary = record.state.summary
        assert nonzero(summary.counts) == {"succeeded": 1, "failed": 1}
        assert (summary.last_outcome, summary.last_ended_at) == (Outcome.FAILED, at(2))
        assert (summary.last_success_at, summary.last_failure_at) == (at(1), at(2))


def test_failures_in_a_row_go_on_from_instance_to_instance():
    record = None
    for outcome in (Outcome.FAILED, Outcome.FAILED, Outcome.MISSED):
        summary = Summary()
        if outcome is Outcome.FAILED:
            summary = with_verdict(summary, verdict(outcome))
        else:
            summary = with_dropped(summary, (Dropped(outcome, T0, T0),))
        record = count_removed(TEMPLATE, record, RemovedCounts(INSTANCE, summary), T0).after

    assert record.state.summary.consecutive_failures == 2


def test_the_parent_keeps_everything_but_its_counts():
    parent = Play().record

    before, after, *_ = count_removed(
        STATIC, parent, RemovedCounts(STATIC._replace(occurrence="run-1"), Summary()), T0
    )

    assert before is parent
    assert after == replace(parent, version=parent.version + 1)


def test_history_of_removed_one_offs_stays_with_the_template_if_asked_for():
    policies = Policies(keep_successful=2, keep_failed=2)
    play = Play(schedule=Once(at(1)), policies=policies, key=INSTANCE, own=False)
    play.records[TEMPLATE] = Play(schedule=None, key=TEMPLATE, policies=policies).record

    for minutes in range(1, 6):
        play.reschedule(minutes - 0.5, Once(at(minutes)))
        play.run(minutes)

    kept = sorted(run.scheduled_at for run in play.history[TEMPLATE].values())
    assert kept == [at(4), at(5)]


def test_counts_without_rows_do_not_disturb_the_turns_of_slots():
    policies = Policies(keep_successful=3, keep_failed=3)
    play = Play(policies=policies)
    silent = Summary(counts=Counts(succeeded=5, failed=7), rows=7)

    for minutes in range(1, 5):
        play.run(minutes)
    play.records[STATIC] = count_removed(
        STATIC, play.record, RemovedCounts(STATIC._replace(occurrence="x"), silent), at(4.5)
    ).after
    play.run(5)

    assert [run.scheduled_at for run in play.runs] == [at(3), at(4), at(5)]
    assert play.counts == {"succeeded": 10, "failed": 7}


def test_a_side_run_is_in_the_history_of_its_schedule():
    play = Play(policies=Policies(overlap=Overlap.ALLOW, keep_successful=3, keep_failed=3))

    play.run(1)
    play.run(5.5)

    told = [(run.scheduled_at, run.outcome, run.count) for run in play.runs]
    assert sorted(told) == [
        (at(1), Outcome.SUCCEEDED, 1),
        (at(4), Outcome.MISSED, 3),
        (at(5), Outcome.SUCCEEDED, 1),
    ]


def test_a_dead_letter_redriven_after_its_schedule_was_created_anew_takes_no_count_below_zero():
    play = Play(policies=Policies(exhausted=Exhaustion.DEAD_LETTER))
    play.run(1, REFUSED)
    dead_letter = play.dead_letters[0].key
    play.remove(1.1)
    fresh = Play()
    play.records[STATIC] = fresh.record

    play.redrive(1.2)
    play.end(play.start(1.2, dead_letter), 1.2)

    assert play.counts == {"succeeded": 1}


def test_what_nothing_ever_happened_to_leaves_nothing_behind():
    play = Play(policies=NONE, key=INSTANCE, own=False)

    play.remove(0.5)

    assert play.records == {}


def test_a_gap_too_large_for_any_count_costs_no_more_than_a_small_one():
    century = 100 * 365 * 24 * 60 * MINUTE

    choice = choose(Cron("* * * * * *"), Policies(), T0, T0 + 1_000_000, T0 + century)

    assert not choice.dropped[0].exact
