"""Which of several passed occurrences runs, when the next one is due, and how long a retry waits."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyncette.clock import SECOND
from pyncette.core.policies import backoff, choose, gap, is_outside, jitter_of, next_due
from pyncette.core.record import Dropped, Outcome, replace
from pyncette.core.schedule import Cron, Interval, Once
from pyncette.core.spec import Missed, Policies, Retry
from tests.core.oracles import EFFORT
from tests.core.play import HOUR, INSTANCE, MINUTE, STATIC, T0, at, minute

EACH_MINUTE = Interval(MINUTE)


def chosen(policies: Policies, due: float, now: float, schedule=EACH_MINUTE):
    """Which minute runs, and the gaps before it, as (outcome, first, last, how many)."""
    choice = choose(schedule, policies, T0, at(due), at(now))
    gaps = [
        (gap.outcome.value, minute(gap.first_at), minute(gap.last_at), gap.count) for gap in choice.dropped
    ]
    return minute(choice.run), gaps


# --- Missed runs -----------------------------------------------------------------------------------------------------

ON_TIME = [
    pytest.param(Policies(missed=missed, max_catch_up=cap), id=f"{missed.value}-{cap}")
    for missed in Missed
    for cap in (0, 1, 100)
]


@pytest.mark.parametrize("policies", ON_TIME)
def test_an_occurrence_that_is_on_time_runs_whatever_the_policy(policies):
    assert chosen(policies, due=5, now=5) == (5, [])


MISSED = {
    "All runs the oldest": (Policies(missed=Missed.ALL), 5, []),
    "All without a cap runs the oldest": (Policies(missed=Missed.ALL, max_catch_up=0), 5, []),
    "All runs the newest so many": (Policies(missed=Missed.ALL, max_catch_up=3), 13, [("missed", 5, 12, 8)]),
    "All with a cap of one is Latest": (
        Policies(missed=Missed.ALL, max_catch_up=1),
        15,
        [("missed", 5, 14, 10)],
    ),
    "All with a cap above the backlog runs all": (Policies(missed=Missed.ALL, max_catch_up=11), 5, []),
    "Latest runs the latest": (Policies(missed=Missed.LATEST), 15, [("missed", 5, 14, 10)]),
    "Skip runs what is not 10 s late": (Policies(missed=Missed.SKIP), 15, [("missed", 5, 14, 10)]),
    "Skip follows a starting deadline": (
        Policies(missed=Missed.SKIP, starting_deadline=3 * MINUTE),
        12,
        [("missed", 5, 11, 7)],
    ),
    "fast_forward runs the stale one": (Policies(missed=Missed.FAST_FORWARD), 5, []),
    "a deadline skips what it passed, for All": (
        Policies(missed=Missed.ALL, starting_deadline=2 * MINUTE),
        13,
        [("skipped", 5, 12, 8)],
    ),
    "a cap and a deadline, the cap first": (
        Policies(missed=Missed.ALL, max_catch_up=5, starting_deadline=2 * MINUTE),
        13,
        [("missed", 5, 10, 6), ("skipped", 11, 12, 2)],
    ),
    "a cap within the deadline": (
        Policies(missed=Missed.ALL, max_catch_up=2, starting_deadline=5 * MINUTE),
        14,
        [("missed", 5, 13, 9)],
    ),
    "a deadline that Latest meets": (
        Policies(missed=Missed.LATEST, starting_deadline=2 * MINUTE),
        15,
        [("missed", 5, 14, 10)],
    ),
    "a deadline skips the stale one of fast_forward": (
        Policies(missed=Missed.FAST_FORWARD, starting_deadline=2 * MINUTE),
        13,
        [("skipped", 5, 12, 8)],
    ),
}


@pytest.mark.parametrize(("policies", "run", "gaps"), MISSED.values(), ids=MISSED)
def test_after_an_outage_the_missed_run_policy_says_what_runs(policies, run, gaps):
    assert chosen(policies, due=5, now=15) == (run, gaps)


def test_skip_drops_what_is_later_than_ten_seconds_and_runs_what_is_not():
    policies = Policies(missed=Missed.SKIP)

    punctual = choose(EACH_MINUTE, policies, T0, at(5), at(5) + 10 * SECOND)
    late = choose(EACH_MINUTE, policies, T0, at(5), at(5) + 10 * SECOND + 1)

    assert punctual.run == at(5)
    assert (late.run, late.upcoming) == (None, at(6))
    assert late.dropped == (Dropped(Outcome.MISSED, at(5), at(5)),)


def test_a_starting_deadline_lets_start_what_is_exactly_as_late_and_skips_what_is_later():
    policies = Policies(starting_deadline=30 * SECOND)

    assert chosen(policies, due=5, now=5.5) == (5, [])
    assert choose(EACH_MINUTE, policies, T0, at(5), at(5.5) + 1).run is None
    assert chosen(policies, due=5, now=5.6) == (None, [("skipped", 5, 5, 1)])


def test_missed_and_skipped_are_distinguished_when_none_can_start():
    policies = Policies(missed=Missed.LATEST, starting_deadline=6 * SECOND)

    assert chosen(policies, due=5, now=8.5) == (None, [("missed", 5, 7, 3), ("skipped", 8, 8, 1)])


def test_a_one_off_that_is_late_is_skipped_and_nothing_follows():
    choice = choose(Once(at(5)), Policies(starting_deadline=MINUTE), T0, at(5), at(9))

    assert (choice.run, choice.upcoming) == (None, None)
    assert choice.dropped == (Dropped(Outcome.SKIPPED, at(5), at(5)),)


def test_times_after_the_window_are_no_occurrences_and_are_not_counted_as_dropped():
    window = {"not_after": at(10)}

    assert chosen(Policies(**window), due=5, now=60) == (10, [("missed", 5, 9, 5)])
    assert chosen(Policies(starting_deadline=MINUTE, **window), due=5, now=60) == (
        None,
        [("missed", 5, 9, 5), ("skipped", 10, 10, 1)],
    )
    assert chosen(Policies(missed=Missed.SKIP, **window), due=5, now=60) == (None, [("missed", 5, 10, 6)])
    assert chosen(Policies(missed=Missed.ALL, max_catch_up=2, **window), due=5, now=60) == (
        9,
        [("missed", 5, 8, 4)],
    )


def test_a_gap_is_counted_exactly_up_to_ten_thousand_and_then_as_a_lower_bound():
    each_second = Cron("* * * * * *")
    first = T0 + SECOND

    def counted(number: int) -> Dropped:
        (dropped,) = gap(Outcome.MISSED, each_second, Policies(), T0, first, first + number * SECOND)
        return dropped

    assert (counted(9_999).count, counted(9_999).exact) == (9_999, True)
    assert (counted(10_000).count, counted(10_000).exact) == (10_000, True)
    assert counted(1_000_000).count >= 10_000
    assert not counted(1_000_000).exact


@pytest.mark.parametrize("missed", Missed)
def test_a_year_of_seconds_behind_is_decided_without_computing_each(missed):
    year = 366 * 24 * HOUR

    choice = choose(Cron("* * * * * *"), Policies(missed=missed), T0, T0 + SECOND, T0 + year)

    assert choice.run is not None
    assert len(choice.dropped) <= 2


# Brute force: the same rules over a list of all the times there were.

schedules = st.sampled_from(
    [Interval(MINUTE), Interval(7 * SECOND), Cron("*/3 * * * *"), Cron("5,6,50 * * * *")]
)
durations = st.integers(0, 40 * MINUTE)
policy_sets = st.builds(
    Policies,
    missed=st.sampled_from(Missed),
    max_catch_up=st.integers(0, 12),
    starting_deadline=st.none() | durations,
    not_after=st.none() | st.builds(lambda length: T0 + length, st.integers(2 * HOUR, 6 * HOUR)),
)


def listed(schedule, policies: Policies, first: int, until: int) -> list[int]:
    times = [first]
    while (at := next_due(schedule, policies, T0, times[-1])) is not None and at <= until:
        times.append(at)
    return times


def sorted_out(policies: Policies, times: list[int], now: int) -> tuple[int | None, list[int], list[int]]:
    """What runs, what is missed, what is skipped, of all the *times* that have passed."""
    late = policies.starting_deadline
    if policies.missed is Missed.SKIP:
        tolerance = 10 * SECOND if late is None else late
        rest = [at for at in times if now - at <= tolerance]
        return (rest or [None])[0], times[: len(times) - len(rest)], []
    kept = {Missed.LATEST: 1, Missed.ALL: policies.max_catch_up or len(times)}.get(
        policies.missed, len(times)
    )
    missed, rest = times[: max(0, len(times) - kept)], times[max(0, len(times) - kept) :]
    punctual = [at for at in rest if late is None or now - at <= late]
    return (punctual or [None])[0], missed, rest[: len(rest) - len(punctual)]


@EFFORT
def test_the_choice_is_the_same_as_one_time_after_the_other(effort):
    @effort
    @given(schedules, policy_sets, st.integers(1, 40), durations)
    def property_of(schedule, policies, steps, delay):
        due = listed(schedule, Policies(), next_due(schedule, policies, T0, T0), T0 + 2 * HOUR)[:steps][-1]
        now = due + delay

        choice = choose(schedule, policies, T0, due, now)

        times = listed(schedule, policies, due, now)
        run, missed, skipped = sorted_out(policies, times, now)
        assert choice.run == run
        gaps = {Outcome.MISSED: missed, Outcome.SKIPPED: skipped}
        assert choice.dropped == tuple(
            Dropped(outcome, at[0], at[-1], len(at)) for outcome, at in gaps.items() if at
        )
        if choice.upcoming is not None:
            after = run if run is not None else times[-1]
            assert choice.upcoming == next_due(schedule, policies, T0, after)

    property_of()


@EFFORT
def test_catching_up_takes_each_time_once_and_in_order(effort):
    @effort
    @given(schedules, policy_sets, durations)
    def property_of(schedule, policies, delay):
        due = next_due(schedule, policies, T0, T0)
        now = due + delay
        times, seen = listed(schedule, policies, due, now), []

        while due is not None and due <= now:
            choice = choose(schedule, policies, T0, due, now)
            seen += [(gap.first_at, gap.count) for gap in choice.dropped]
            if choice.run is not None:
                seen.append((choice.run, 1))
            last = choice.run if choice.run is not None else choice.dropped[-1].last_at
            due = next_due(schedule, policies, T0, last)

        assert sum(number for _, number in seen) == len(times)
        assert all(earlier < later for (earlier, _), (later, _) in pairwise(seen))

    property_of()


# --- The window ------------------------------------------------------------------------------------------------------


def test_the_window_holds_its_ends_and_nothing_outside():
    policies = Policies(not_before=at(10), not_after=at(12))

    assert minute(next_due(EACH_MINUTE, policies, T0, T0)) == 10
    assert minute(next_due(EACH_MINUTE, policies, T0, at(11))) == 12
    assert next_due(EACH_MINUTE, policies, T0, at(12)) is None
    assert [is_outside(policies, at(m)) for m in (9, 10, 12, 13)] == [True, False, False, True]


def test_a_window_moves_no_interval():
    policies = Policies(not_before=at(10) + 1)

    assert minute(next_due(EACH_MINUTE, policies, T0, T0)) == 11


# --- Jitter ----------------------------------------------------------------------------------------------------------


def test_jitter_is_the_same_for_an_instance_for_ever_and_differs_between_instances():
    policies = Policies(jitter=HOUR)
    keys = [INSTANCE._replace(instance=str(number)) for number in range(200)]

    jitters = [jitter_of(key, policies) for key in keys]

    assert jitters == [jitter_of(key, policies) for key in keys]
    assert all(0 <= jitter < HOUR for jitter in jitters)
    assert len(set(jitters)) > 190
    assert min(jitters) < HOUR // 10
    assert max(jitters) > HOUR * 9 // 10


def test_jitter_is_pinned_since_a_new_release_must_not_move_the_runs_of_an_old_one():
    assert jitter_of(STATIC, Policies(jitter=HOUR)) == 1_443_078_568
    assert jitter_of(INSTANCE, Policies(jitter=HOUR)) == 2_502_652_861


def test_without_jitter_occurrences_are_claimable_at_their_due_time():
    assert jitter_of(STATIC, Policies()) == 0


# --- Backoff ---------------------------------------------------------------------------------------------------------


def test_the_backoff_doubles_up_to_its_maximum():
    retry = Retry(initial=5 * SECOND, maximum=60 * SECOND, jitter=False)

    waits = [backoff(retry, STATIC, attempt) // SECOND for attempt in range(1, 8)]

    assert waits == [5, 10, 20, 40, 60, 60, 60]


def test_the_ten_thousandth_attempt_waits_no_longer_than_the_maximum():
    assert backoff(Retry(jitter=False), STATIC, 10_000) == 300 * SECOND


def test_jitter_shortens_a_backoff_by_less_than_half_and_spreads_instances():
    retry = Retry(initial=8 * SECOND, maximum=HOUR)
    keys = [INSTANCE._replace(instance=str(number)) for number in range(200)]

    waits = [backoff(retry, key, 1) for key in keys]

    assert all(4 * SECOND < wait <= 8 * SECOND for wait in waits)
    assert len(set(waits)) > 190


def test_a_backoff_is_the_same_whenever_it_is_computed():
    assert backoff(Retry(), STATIC, 3) == backoff(Retry(), STATIC, 3)


@given(st.integers(0, HOUR), st.integers(0, 24 * HOUR), st.integers(1, 100), st.booleans())
def test_a_backoff_keeps_its_bounds(initial, maximum, attempt, jitter):
    retry = Retry(initial=initial, maximum=maximum, jitter=jitter)

    wait = backoff(retry, STATIC, attempt)

    assert 0 <= wait <= maximum
    assert wait <= backoff(replace(retry, jitter=False), STATIC, attempt) <= 2 * wait + 2
