"""A status is written only when it changed, and the more urgent a change is, the sooner."""

import pytest

from pyncette.controller.status.differences import Difference, differs
from pyncette.core.record import Outcome, Requests, replace
from pyncette.resources.task_status import TaskStatus
from tests.controller.scene import MINUTE, OTHERS, Scene, stored


def seen():
    return Scene().mirror().ended(Outcome.SUCCEEDED).look()


def difference(before, after):
    return differs(stored(before), after.status)


def test_what_was_stored_and_read_back_is_no_difference():
    task = seen()
    before = stored(task.status)

    assert differs(before, task.later(1).look().status) is Difference.NONE


def test_nulls_defaults_and_the_order_of_conditions_are_no_difference():
    task = seen()
    given = stored(task.status)
    given["lastFailureTime"] = None
    given["conditions"].reverse()
    del given["consecutiveFailures"], given["runCounts"]["failed"]

    assert differs(given, task.status) is Difference.NONE


@pytest.mark.parametrize("digits", ["", ".000000", ".000000000", ".0000009"])
def test_instants_are_compared_to_the_microsecond(digits):
    task = seen()
    given = stored(task.status)
    time = given["nextScheduleTime"]
    assert time.endswith("00Z")
    given["nextScheduleTime"] = time.replace("Z", f"{digits}Z")

    assert differs(given, task.status) is Difference.NONE


def test_a_field_of_a_later_release_is_no_difference():
    task = seen()

    assert differs(stored(task.status) | {"brandNew": 1}, task.status) is Difference.NONE


@pytest.mark.parametrize("given", [{}, stored(TaskStatus()), {"conditions": "none"}, {"active": -1}])
def test_what_the_operator_has_not_written_or_cannot_read_is_written_first(given):
    assert differs(given, seen().status) is Difference.GENERATION


def test_a_new_generation_comes_before_all_else():
    task = seen()
    before = task.status

    assert difference(before, task.edit().mirror().failed().look()) is Difference.GENERATION


def test_a_condition_comes_before_an_outcome():
    task = seen()
    before = task.status

    assert difference(before, task.failed().look()) is Difference.CONDITIONS


def test_a_condition_that_appears_or_goes_is_a_difference_of_conditions():
    task = seen()
    before = task.status
    waiting = task.to_pool(members=(OTHERS,)).look().status

    assert differs(stored(before), waiting) is Difference.CONDITIONS
    assert differs(stored(waiting), before) is Difference.CONDITIONS


def test_the_next_failure_of_a_failing_task_is_an_outcome_whatever_its_message():
    task = seen().failed("one").look()
    before = task.status

    assert difference(before, task.later(MINUTE).failed("two").look()) is Difference.OUTCOMES


def test_a_requested_run_that_has_begun_is_waited_for():
    task = seen()
    before = task.status
    state = replace(task.record.state, handled=Requests(run="now"))
    task.record = replace(task.record, state=state)

    assert difference(before, task.look()) is Difference.REQUESTS


def test_a_message_that_says_more_is_an_outcome():
    task = seen().to_pool(members=(OTHERS,)).look()
    before = task.status
    others = OTHERS.__class__("worker-3", handlers=("sender", "sends"))

    assert difference(before, task.to_pool(members=(others,)).look()) is Difference.OUTCOMES


def test_times_to_come_and_what_runs_come_last():
    task = seen()
    before = task.status

    assert difference(before, task.later(3 * MINUTE).look()) is Difference.REST
    before = task.status
    task.observed = task.observed._replace(side_runs=1)
    assert difference(before, task.look()) is Difference.REST
