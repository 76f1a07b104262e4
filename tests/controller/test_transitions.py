"""Which changes of a task's status are worth an Event, and what that says."""

import pytest
from msgspec import structs

from pyncette.clock import SECOND
from pyncette.controller.status.events import MESSAGE_BYTES_MAX, Regarding
from pyncette.controller.status.observed import Access
from pyncette.controller.status.task_events import events_of
from pyncette.core.record import Outcome, Requests, replace
from tests.controller.scene import MINUTE, OTHERS, Scene

TASK = Regarding("shop", "report", "uid-1")
UNKNOWN = {"members": (OTHERS,)}


class Watched(Scene):
    """A task whose Events are collected, look by look; one that is there already by its name is not made again."""

    def __init__(self, **spec):
        self.events = {}
        super().__init__(**spec)

    def look(self):
        before = self.status
        super().look()
        self.new = [
            event
            for event in events_of(TASK, before, self.status, self.now, "operator-0")
            if event["metadata"]["name"] not in self.events
        ]
        self.events |= {event["metadata"]["name"]: event for event in self.new}
        return self

    @property
    def told(self):
        return [f"{event['type']} {event['reason']}" for event in self.new]


def well(**spec):
    """A task that was seen before, and has been Ready."""
    task = Watched(**spec).mirror().look()
    assert task.told == []
    return task.later(MINUTE)


@pytest.mark.parametrize("spec", [{}, {"suspend": True}, {"dynamic": True}])
def test_the_first_sight_of_a_task_that_is_well_is_no_event(spec):
    assert Watched(**spec).mirror().look().told == []


def test_the_first_sight_of_a_task_that_has_run_and_failed_is_no_event():
    assert Watched().mirror().failed().look().told == []


def test_a_bad_spec_is_reported_at_first_sight_since_someone_waits_for_it():
    assert Watched(schedule="0 0 31 2 *").look().told == ["Warning InvalidSchedule"]


def test_an_edit_that_was_taken_over_is_no_event_even_if_it_took_a_moment():
    task = well()

    assert task.edit(args={"n": 1}).look().told == []
    assert task.mirror().look().told == []


def test_what_stays_is_reported_once():
    task = well().to_pool(**UNKNOWN)

    assert task.look().told == ["Normal HandlerPending"]
    assert task.later(30 * SECOND).look().told == ["Warning HandlerNotFound"]
    assert task.later(30 * MINUTE).look().told == []


def test_a_task_that_is_well_again_says_so():
    task = well().to_pool(**UNKNOWN).look().later(30 * SECOND).look()

    assert task.to_pool(members=Scene().pool.members).look().told == ["Normal Scheduled"]


def test_a_fresh_install_makes_no_event_for_each_task_however_long_it_waits():
    task = Watched().to_pool(access=Access.DOWN, members=None).look()
    task.later(MINUTE).to_pool(access=Access.OPEN).look()
    task.later(MINUTE).to_pool(members=(), rolling_out=True).mirror().look()
    task.later(MINUTE).to_pool(members=Scene().pool.members, rolling_out=False).look()
    task.later(MINUTE).ended(Outcome.SUCCEEDED).look()

    assert (task.ready, task.events) == ("True Scheduled", {})


def test_a_backend_that_keeps_an_edit_away_is_reported():
    task = well().edit()
    record, task.record = task.record, None

    assert task.to_pool(access=Access.DOWN).look().told == ["Warning BackendUnreachable"]
    task.record = record
    assert task.to_pool(access=Access.OPEN).mirror().look().told == []


def test_suspension_by_the_spec_and_its_end_are_reported():
    task = well()

    assert task.edit(suspend=True).mirror().look().told == ["Normal Suspended"]
    assert task.edit().mirror().look().told == ["Normal Scheduled"]


def test_a_task_that_fails_each_minute_is_reported_once_and_once_more_when_it_succeeds():
    task = well()

    told = [task.failed(f"ValueError: {n}").later(MINUTE).look().told for n in range(60)]
    assert [item for item in told if item] == [["Warning RunFailed"]]

    assert task.ended(Outcome.SUCCEEDED).look().told == ["Normal RunSucceeded"]


def test_a_task_that_fails_every_other_minute_makes_two_events_in_ten_minutes():
    task = well()

    for _ in range(30):
        task.failed().later(MINUTE).look()
        task.ended(Outcome.SUCCEEDED).later(MINUTE).look()

    assert len(task.events) <= 2 * 7


def test_exhaustion_is_one_event_and_not_two():
    task = well(onExhausted="Suspend")

    assert task.failed(exhausted=True).look().told == ["Warning RetriesExhausted"]


def test_the_first_dead_letter_is_reported_also_while_runs_fail_anyway():
    task = well(onExhausted="DeadLetter").failed()
    assert task.look().told == ["Warning RunFailed"]

    assert task.ended(Outcome.DEAD_LETTERED).look().told == ["Warning DeadLettered"]
    assert task.later(30 * MINUTE).ended(Outcome.DEAD_LETTERED).look().told == []


def test_what_was_asked_for_is_reported_each_time():
    task = well()

    def handled(**requests):
        state = replace(task.record.state, handled=Requests(**requests))
        task.record = replace(task.record, state=state)
        return task.look().told

    assert handled(run="1") == ["Normal RunRequested"]
    assert handled(run="1") == []
    assert handled(run="2", redrive="1") == ["Normal RunRequested", "Normal RedriveRequested"]


def test_the_same_meaning_has_the_same_name_and_another_object_another():
    before = well()
    after = well().to_pool(**UNKNOWN).look()

    def name(regarding=TASK, later=0):
        (event,) = events_of(regarding, before.status, after.status, after.now + later)
        return event["metadata"]["name"]

    assert name() == name(later=SECOND)
    assert name() != name(Regarding("shop", "report", "uid-2"))
    assert name() != name(later=10 * MINUTE)
    assert len(name(Regarding("shop", "r" * 253, "uid-1"))) == 253


def test_an_event_is_about_the_object_and_names_who_reports():
    (event,) = well().to_pool(**UNKNOWN).look().new

    assert event["involvedObject"] == {
        "apiVersion": "pyncette.dev/v1alpha1",
        "kind": "PyncetteTask",
        "namespace": "shop",
        "name": "report",
        "uid": "uid-1",
    }
    assert event["metadata"]["namespace"] == "shop"
    assert event["metadata"]["name"].startswith("report.")
    assert (event["apiVersion"], event["kind"], event["count"]) == ("v1", "Event", 1)
    assert (event["reportingComponent"], event["reportingInstance"]) == (
        "pyncette.dev/operator",
        "operator-0",
    )
    assert event["firstTimestamp"] == event["lastTimestamp"] == "2030-01-01T08:01:00Z"


def test_a_message_is_cut_between_two_characters():
    (event,) = well().failed("é" * 1000).look().new

    assert event["message"].endswith("é…")
    assert MESSAGE_BYTES_MAX - 4 <= len(event["message"].encode()) <= MESSAGE_BYTES_MAX


HOSTILE = "no\n\x1b]52;c;cm0gLXJm\x07\x9b2J\u202e\u2028end\0"
SHOWN = r"no \x1b]52;c;cm0gLXJm\x07\x9b2J\u202e end\x00"


def test_an_event_and_the_status_quote_a_run_in_characters_that_are_shown_as_themselves():
    task = well().failed(HOSTILE).look()

    (event,) = task.new
    assert event["message"] == SHOWN
    assert task.condition("RunsHealthy").message == SHOWN
    assert task.status.last_run.message == SHOWN


def test_an_event_echoes_a_request_in_characters_that_are_shown_as_themselves():
    task = well()
    asked = Requests(run=HOSTILE)
    task.record = replace(task.record, state=replace(task.record.state, handled=asked))

    (event,) = task.look().new

    assert event["message"].isprintable()
    assert task.status.last_handled_run_request.isprintable()


def test_a_condition_quotes_the_names_of_workers_in_characters_that_are_shown_as_themselves():
    stranger = structs.replace(OTHERS, handlers=(HOSTILE,), version=HOSTILE)

    task = well().to_pool(members=(stranger,)).look()

    assert SHOWN.split(" ")[1] in task.condition("HandlerResolved").message
    assert all(condition.message.isprintable() for condition in task.status.conditions)
