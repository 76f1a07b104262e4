"""At most once, a start is written before the handler is called, and nothing runs twice."""

import pytest

from pyncette.clock import SECOND
from pyncette.core import edits, rules
from pyncette.core.policies import policies_of
from pyncette.core.record import Change, replace
from pyncette.core.schedule import Interval, Once
from pyncette.core.spec import Missed, Mode, Overlap, Policies
from tests.core.play import (
    AT_MOST_ONCE,
    DRAINED,
    EACH_MINUTE,
    HOUR,
    INSTANCE,
    LEASE,
    MINUTE,
    RAISED,
    REFUSED,
    STEADY,
    UNSTARTED,
    Play,
    at,
)

ONCE_FORBID = Policies(mode=Mode.AT_MOST_ONCE)


def test_at_most_once_the_start_is_written_and_the_schedule_moved_before_the_handler_is_called():
    play = Play(policies=ONCE_FORBID)

    plan = rules.begin(play.claim(at(1)), play.policies, at(1))

    (change,) = plan.changes
    assert change.after.due_at == at(2)
    assert change.after.state.started.scheduled_at == at(1)
    assert plan.run.record == change.after


def test_at_most_once_forbid_keeps_the_record_leased_until_the_outcome():
    play = Play(policies=ONCE_FORBID)
    held = play.start(1)

    play.renew(held, at(1.9))
    assert play.start(2.5) is None
    play.end(held, 2.6)

    assert play.counts == {"succeeded": 1}
    assert play.start(2.6).scheduled_at == at(2)


@pytest.mark.parametrize("overlap", [Overlap.FORBID, Overlap.ALLOW, Overlap.REPLACE])
def test_at_most_once_a_dead_worker_s_occurrence_is_lost_and_not_run_again(overlap):
    play = Play(schedule=Interval(HOUR), policies=replace(ONCE_FORBID, overlap=overlap))
    play.start(60)

    assert play.start(62) is None

    assert play.counts == {"lost": 1}
    assert len(play.calls) == 1
    assert play.start(120).scheduled_at == at(120)


@pytest.mark.parametrize("overlap", [Overlap.FORBID, Overlap.ALLOW])
@pytest.mark.parametrize("ended", [RAISED, RAISED._replace(retry_after=SECOND), REFUSED])
def test_at_most_once_what_raised_has_failed(overlap, ended):
    play = Play(policies=replace(ONCE_FORBID, overlap=overlap))

    play.run(1, ended)

    assert play.counts == {"failed": 1}
    assert play.start(1.9) is None


def test_at_most_once_a_run_that_a_drain_cancels_is_lost():
    play = Play(policies=ONCE_FORBID)

    play.run(1, DRAINED)

    assert play.counts == {"lost": 1}


@pytest.mark.parametrize("overlap", [Overlap.FORBID, Overlap.ALLOW])
def test_at_most_once_an_occurrence_whose_handler_was_not_called_is_released_and_runs(overlap):
    play = Play(policies=replace(ONCE_FORBID, overlap=overlap, starting_deadline=HOUR, missed=Missed.LATEST))

    play.end(play.start(3.5), 3.5, UNSTARTED)
    held = play.start(3.6)
    play.end(held, 3.6)

    assert held.scheduled_at == at(3)
    assert play.counts == {"succeeded": 1, "missed": 2}


@pytest.mark.parametrize("overlap", [Overlap.FORBID, Overlap.ALLOW])
def test_an_occurrence_claimed_ahead_and_released_before_it_is_due_waits_for_its_time(overlap):
    play = Play(policies=replace(ONCE_FORBID, overlap=overlap))

    play.end(play.start(1), 0.9, UNSTARTED)

    (claimable,) = [record.claimable_at for record in play.records.values() if record.due_at == at(1)]
    assert claimable == at(1)


SINCE_RELEASED = {
    "edited": lambda play: play.edit(3.7, schedule=Interval(2 * MINUTE)),
    "rescheduled": lambda play: play.reschedule(3.7, Interval(2 * MINUTE)),
    "overwritten": lambda play: play.overwrite(3.7, Interval(2 * MINUTE)),
    "suspended": lambda play: play.edit(3.7, suspend=True),
    "exhausted": lambda play: play.put(
        Change(
            play.record,
            replace(
                play.record, version=play.record.version + 1, state=replace(play.record.state, exhausted=True)
            ),
        )
    ),
}


@pytest.mark.parametrize("since_released", SINCE_RELEASED)
def test_at_most_once_a_released_side_run_is_withdrawn_if_its_schedule_names_it_no_longer(since_released):
    play = Play(policies=replace(ONCE_FORBID, overlap=Overlap.ALLOW))
    play.end(play.start(1), 1, UNSTARTED)
    (released,) = play.beside

    SINCE_RELEASED[since_released](play)

    assert play.start(3.8, released.key) is None
    assert play.called == [(1, 1)]
    assert play.beside == []
    assert play.counts == {"withdrawn": 1}


def released_side_run(**policies):
    """Start the first occurrence at most once beside its schedule, and release it unstarted."""
    play = Play(key=INSTANCE, policies=replace(ONCE_FORBID, overlap=Overlap.ALLOW, **policies))
    play.end(play.start(1), 1, UNSTARTED)
    (released,) = play.beside
    return play, released.key


def test_a_released_side_run_is_withdrawn_by_a_reschedule_that_keeps_the_sooner_time():
    play, key = released_side_run()

    play.reschedule(1.2, Interval(2 * MINUTE))

    assert play.due == 2
    assert play.start(1.5, key) is None
    assert play.counts == {"withdrawn": 1}


def test_a_released_side_run_is_withdrawn_by_an_exhaustion_that_has_ended():
    play, key = released_side_run()
    state = replace(play.record.state, exhausted=True)
    play.put(Change(play.record, replace(play.record, version=play.record.version + 1, state=state)))

    play.resume(1.2)

    assert play.start(1.5, key) is None


@pytest.mark.parametrize("args", ["{}", '{"a":1}'])
def test_a_released_side_run_runs_although_its_schedule_was_requested_again(args):
    play, key = released_side_run()

    play.reschedule(1.2, EACH_MINUTE, args)

    assert play.start(1.5, key).scheduled_at == at(1)


def test_a_released_side_run_is_withdrawn_if_its_template_is_suspended():
    play, key = released_side_run()
    suspended = policies_of(play.records[key], replace(play.policies, suspend=True))
    claimed = play.claim(at(1.5), key)

    plan = rules.with_parent(rules.begin(claimed, suspended, at(1.5)), play.record, at(1.5))

    assert plan.run is None


def test_a_released_side_run_is_withdrawn_once_its_resource_is_deleted():
    play, key = released_side_run()

    play.stop(1.2)

    assert play.start(1.5, key) is None


def test_a_released_side_run_is_withdrawn_once_it_lies_outside_of_the_window():
    play, key = released_side_run()

    play.edit(1.2, not_before=at(10))

    assert play.start(1.5, key) is None
    assert play.counts == {"withdrawn": 1}


def test_a_released_side_run_that_is_removed_is_counted_as_withdrawn():
    play, key = released_side_run()

    play.remove(1.2, key)

    assert play.counts == {"withdrawn": 1}


def released_one_off():
    """Start a one-off at most once, which removes its record, and release it unstarted."""
    play = Play(schedule=Once(at(1)), key=INSTANCE, policies=replace(ONCE_FORBID, overlap=Overlap.ALLOW))
    held = play.start(1)
    assert INSTANCE not in play.records
    play.end(held, 1, UNSTARTED)
    return play, held


def test_the_instance_of_a_released_one_off_is_restored_and_the_one_off_runs():
    play, held = released_one_off()

    assert (play.due, play.claimable, play.beside) == (1, 1, [])
    again = play.start(1.5)
    play.end(again, 1.6)

    assert again.scheduled_at == at(1)
    assert again.record.fence > held.record.fence
    assert INSTANCE not in play.records
    assert play.beside == []


def test_a_restored_one_off_does_not_bring_back_the_schedule_before_it():
    play, key = released_side_run()
    play.reschedule(1.2, Once(at(3)))
    held = play.start(3, INSTANCE)
    play.end(held, 3, UNSTARTED)

    assert play.start(3.5, key) is None
    assert play.start(3.5).scheduled_at == held.scheduled_at


def test_a_released_one_off_can_be_removed_and_rescheduled():
    play, _ = released_one_off()

    play.reschedule(1.2, Once(at(3)))
    assert play.due == 1
    play.remove(1.3)

    assert play.start(4) is None


def test_a_released_one_off_is_withdrawn_if_its_name_was_scheduled_again_during_its_start():
    play = Play(schedule=Once(at(1)), key=INSTANCE, policies=replace(ONCE_FORBID, overlap=Overlap.ALLOW))
    held = play.start(1)
    play.reschedule(1.1, Once(at(3)))

    play.end(held, 1.2, UNSTARTED)

    assert (play.due, play.beside) == (3, [])
    assert play.counts == {"withdrawn": 1}


def test_the_last_occurrence_in_a_window_is_released_and_runs():
    play = Play(key=INSTANCE, policies=replace(ONCE_FORBID, overlap=Overlap.ALLOW, not_after=at(1.5)))
    play.end(play.start(1), 1, UNSTARTED)

    assert play.start(1.2).scheduled_at == at(1)


def test_at_most_once_a_released_side_run_does_not_run_once_its_instance_is_removed():
    play = Play(key=INSTANCE, policies=replace(ONCE_FORBID, overlap=Overlap.ALLOW))
    play.end(play.start(1), 1, UNSTARTED)
    (released,) = play.beside

    play.remove(1.2)

    assert play.start(1.5, released.key) is None
    assert play.beside == []


def test_at_most_once_a_released_side_run_does_not_run_for_an_instance_that_was_created_again():
    play = Play(key=INSTANCE, policies=replace(ONCE_FORBID, overlap=Overlap.ALLOW))
    play.end(play.start(1), 1, UNSTARTED)
    (released,) = play.beside
    play.remove(1.2)
    play.reschedule(1.3, play.schedule)

    assert play.start(1.5, released.key) is None


@pytest.mark.parametrize("edit", [{"args": '{"a":1}'}, {"mode": Mode.AT_LEAST_ONCE}])
def test_at_most_once_a_released_side_run_runs_after_an_edit_that_leaves_its_schedule_alone(edit):
    play = Play(policies=replace(ONCE_FORBID, overlap=Overlap.ALLOW))
    play.end(play.start(1), 1, UNSTARTED)
    (released,) = play.beside
    play.edit(1.2, **edit)
    assert play.put(Change(released, edits.in_step(released, play.record, play.policies)))

    held = play.start(1.5, released.key)
    play.end(held, 1.6)

    assert held.scheduled_at == at(1)
    assert play.counts == {"succeeded": 1}


def test_an_edit_at_the_moment_of_the_start_of_a_released_side_run_makes_the_start_fail():
    play = Play(policies=replace(ONCE_FORBID, overlap=Overlap.ALLOW))
    play.end(play.start(1), 1, UNSTARTED)
    (released,) = play.beside
    claimed = play.claim(at(1.5), released.key)
    plan = rules.begin(claimed, play.policies, at(1.5))

    plan = rules.with_parent(plan, play.record, at(1.5))
    play.edit(1.5, schedule=Interval(2 * MINUTE))

    assert not play.put(plan.parent_move)


def test_at_most_once_a_claim_that_died_before_the_start_was_written_is_no_start():
    play = Play(policies=ONCE_FORBID)
    play.claim(at(1))

    held = play.start(1 + LEASE)

    assert (held.scheduled_at, held.attempt) == (at(1), 1)
    play.end(held, 2.1)
    assert play.record.state.summary.last_attempts == 1


def test_at_most_once_of_the_python_api_locks_nothing_while_it_runs():
    play = Play(policies=AT_MOST_ONCE, key=INSTANCE, own=False)

    first = play.start(1)
    assert play.record.lease is None
    assert play.start(2).scheduled_at == at(2)

    assert play.end(first, 2.5)


def test_at_most_once_an_edit_to_at_least_once_in_mid_run_does_not_run_it_again():
    play = Play(policies=ONCE_FORBID)
    play.start(1)

    play.edit(1.2, mode=Mode.AT_LEAST_ONCE)
    assert play.start(2.2) is None

    assert play.counts == {"lost": 1}
    assert len(play.calls) == 1


def test_at_most_once_an_edit_of_schedule_and_mode_in_mid_run_counts_from_its_own_time():
    play = Play(policies=ONCE_FORBID)
    held = play.start(1)

    play.edit(1.25, mode=Mode.AT_LEAST_ONCE, schedule=Interval(HOUR))
    play.end(held, 1.5)

    assert play.due == 61.25
    assert play.counts == {"succeeded": 1}


def test_at_most_once_an_edit_between_claim_and_start_loses_nothing_and_runs_once():
    play = Play(policies=ONCE_FORBID)
    claimed = play.claim(at(1))

    play.edit(1, args='{"new":1}')
    assert play.begin(claimed, at(1)) is None
    assert play.begin(play.record, at(1)) is None
    held = play.start(1)

    assert held.scheduled_at == at(1)
    assert bytes(held.record.spec.args) == b'{"new":1}'
    assert play.counts == {}


def test_at_most_once_an_edit_of_the_schedule_between_claim_and_start_runs_nothing_too_early():
    play = Play(policies=ONCE_FORBID)
    claimed = play.claim(at(1))

    play.edit(1.1, schedule=Interval(HOUR))
    assert play.begin(claimed, at(1.1)) is None
    assert play.begin(play.record, at(1.1)) is None

    assert (play.due, play.claimable) == (61.1, 61.1)
    assert play.record.lease is None
    assert play.calls == []


def test_an_edit_to_at_most_once_in_mid_run_lets_that_run_go_on_as_it_began():
    play = Play(policies=Policies(retry=STEADY))
    held = play.start(1)

    play.edit(1.2, mode=Mode.AT_MOST_ONCE)
    play.end(held, 1.3, RAISED)
    second = play.start(1.9)
    play.end(second, 1.9)

    assert play.called == [(1, 1), (1, 2)]
    assert play.counts == {"succeeded": 1}
    assert play.start(2).scheduled_at == at(2)


def test_an_edit_to_at_most_once_in_mid_run_does_not_make_the_completed_run_due_again():
    play = Play()
    held = play.start(1)

    play.edit(1.2, mode=Mode.AT_MOST_ONCE)
    play.end(held, 1.3)

    assert play.due == 2
