"""What the status of a PyncetteTask says of its record."""

from datetime import UTC, datetime

import pytest

from pyncette.clock import SECOND
from pyncette.core import edits
from pyncette.core.record import Counts, Lease, Outcome, Owner, Summary, replace
from pyncette.core.times import datetime_of, instant_of
from pyncette.mirror.conversion import to_key, to_spec
from pyncette.mirror.status import status_of
from pyncette.resources.resource import AWAITED
from pyncette.resources.task_status import Instances
from tests.resources import task

MINUTE = 60 * SECOND
EIGHT = instant_of(datetime(2030, 1, 1, 8, 0, tzinfo=UTC))


def record_of(given, now=EIGHT):
    spec = to_spec(given)
    return edits.created(
        to_key(given, "prod/shop/default"), spec, spec.policies, now, owner=Owner("5f6e", 4, "hash")
    )


def claimed(record, now, length=MINUTE):
    """The record as a claim leaves it."""
    return replace(
        record,
        version=record.version + 1,
        fence=record.fence + 1,
        attempt=record.attempt + 1,
        began_at=record.began_at or now,
        claimable_at=now + length,
        lease=Lease("lease", "worker-1", now + length),
    )


def clock(at):
    return f"{at:%H:%M:%S}" if at else None


def clocks(times):
    return [clock(at) for at in times]


def test_a_new_record_shows_its_next_times_and_its_generation():
    status = status_of(record_of(task(schedule="0 12 * * *")), EIGHT)

    assert status.observed_generation == 4
    assert status.next_schedule_time == datetime(2030, 1, 1, 12, tzinfo=UTC)
    assert [at.day for at in status.upcoming_schedule_times] == [1, 2, 3, 4, 5]
    assert (status.active, status.last_run, status.last_schedule_time) == (0, None, None)


def test_the_times_are_nominal_and_lie_in_the_window():
    given = task(schedule="0 * * * *", jitterSeconds=600, notAfter="2030-01-01T10:00:00Z")

    status = status_of(record_of(given), EIGHT)

    assert clocks(status.upcoming_schedule_times) == ["09:00:00", "10:00:00"]


def test_an_occurrence_that_no_worker_took_is_still_the_next_one_and_only_later_ones_are_upcoming():
    record = record_of(task(intervalSeconds=60))

    status = status_of(record, EIGHT + 3600 * SECOND + 1)

    assert clock(status.next_schedule_time) == "08:01:00"
    assert clocks(status.upcoming_schedule_times)[:2] == ["09:01:00", "09:02:00"]


WRITE_INTERVAL = 30 * SECOND


@pytest.mark.parametrize(
    "given",
    [
        task(intervalSeconds=1),
        task(intervalSeconds=5),
        task(intervalSeconds=29),
        task(intervalSeconds=59),
        task(schedule="* * * * * */7"),
    ],
)
def test_a_schedule_that_is_due_often_shows_a_time_that_stays_ahead_until_the_next_write(given):
    record = record_of(given)
    period = max(
        1, (status_of(record, EIGHT).upcoming_schedule_times[1] - datetime_of(record.due_at)).seconds
    )

    status = status_of(record, EIGHT, write_interval=WRITE_INTERVAL)

    shown = instant_of(status.next_schedule_time)
    assert (
        EIGHT + WRITE_INTERVAL + period * SECOND < shown <= EIGHT + WRITE_INTERVAL + (3 * period + 6) * SECOND
    )
    assert status.upcoming_schedule_times[0] == status.next_schedule_time
    assert (shown - record.due_at) % (period * SECOND) == 0
    # It follows from the record alone: time that passes is no reason for another write.
    assert status_of(record, record.due_at - 1, write_interval=WRITE_INTERVAL) == status_of(
        record, EIGHT, write_interval=WRITE_INTERVAL
    )


@pytest.mark.parametrize(
    "given", [task(intervalSeconds=60), task(schedule="0 12 * * *"), task(executeAt="2030-01-01T09:00:00Z")]
)
def test_a_schedule_that_is_due_seldom_shows_its_very_next_time(given):
    record = record_of(given)

    assert status_of(record, EIGHT, write_interval=WRITE_INTERVAL) == status_of(record, EIGHT)


def test_a_task_that_no_worker_claims_shows_the_time_that_has_passed_however_often_it_is_due():
    record = record_of(task(intervalSeconds=5))
    now = record.due_at + 31 * SECOND

    assert (
        instant_of(status_of(record, now, write_interval=WRITE_INTERVAL).next_schedule_time) == record.due_at
    )


def test_the_last_times_of_a_window_are_shown_as_they_are():
    record = record_of(task(intervalSeconds=5, notAfter="2030-01-01T08:00:20Z"))

    assert (
        instant_of(status_of(record, EIGHT, write_interval=WRITE_INTERVAL).next_schedule_time)
        == record.due_at
    )


def test_a_year_of_missed_seconds_costs_nothing():
    record = record_of(task(schedule="* * * * * *"))

    status = status_of(record, EIGHT + 365 * 86_400 * SECOND)

    assert status.upcoming_schedule_times[0] == datetime(2031, 1, 1, 8, 0, 1, tzinfo=UTC)


def test_a_run_under_way_is_active_and_what_comes_after_it_is_next():
    record = claimed(record_of(task(intervalSeconds=60)), EIGHT + MINUTE)

    status = status_of(record, EIGHT + MINUTE + SECOND)

    assert status.active == 1
    assert clock(status.last_schedule_time) == "08:01:00"
    assert clock(status.next_schedule_time) == "08:02:00"


def test_after_a_gap_the_run_under_way_is_the_one_that_was_chosen():
    record = claimed(record_of(task(intervalSeconds=60)), EIGHT + 10 * MINUTE)

    status = status_of(record, EIGHT + 10 * MINUTE + SECOND)

    assert clock(status.last_schedule_time) == "08:10:00"
    assert clock(status.next_schedule_time) == "08:11:00"


def test_a_run_whose_lease_expired_is_not_active():
    record = claimed(record_of(task()), EIGHT + MINUTE, length=SECOND)

    assert status_of(record, EIGHT + MINUTE + SECOND).active == 0


def test_side_runs_are_active_too():
    assert status_of(record_of(task()), EIGHT, side_runs=2).active == 2


@pytest.mark.parametrize(
    "hold",
    [
        lambda record: replace(record, state=replace(record.state, exhausted=True)),
        lambda record: replace(record, state=replace(record.state, withdrawn_at=EIGHT)),
        lambda record: record_of(task(suspend=True)),
    ],
    ids=["exhausted", "withdrawn", "suspended"],
)
def test_what_stands_still_has_no_next_time(hold):
    status = status_of(hold(record_of(task())), EIGHT)

    assert (status.next_schedule_time, status.upcoming_schedule_times) == (None, ())


def test_a_one_off_has_one_time_and_then_none():
    record = record_of(task(executeAt="2030-01-01T09:00:00Z"))

    before = status_of(record, EIGHT)
    during = status_of(claimed(record, EIGHT + 60 * MINUTE), EIGHT + 61 * MINUTE)
    after = status_of(replace(record, due_at=None, claimable_at=None), EIGHT + 62 * MINUTE)

    assert clocks(before.upcoming_schedule_times) == ["09:00:00"]
    assert (during.next_schedule_time, clock(during.last_schedule_time)) == (None, "09:00:00")
    assert after.next_schedule_time is None


def test_a_template_has_instances_and_no_times():
    status = status_of(record_of(task(dynamic=True)), EIGHT, instances=Instances(total=7))

    assert written_status(status)["instances"] == {"total": 7}
    assert status.next_schedule_time is None


def test_the_last_run_and_the_counts_are_reported():
    summary = Summary(
        last_scheduled_at=EIGHT,
        last_started_at=EIGHT + SECOND,
        last_ended_at=EIGHT + 2 * SECOND,
        last_outcome=Outcome.DEAD_LETTERED,
        last_attempts=5,
        last_worker="worker-1",
        last_message="no such host",
        last_success_at=EIGHT - MINUTE,
        last_failure_at=EIGHT + 2 * SECOND,
        consecutive_failures=3,
        counts=Counts(
            succeeded=1, failed=2, dead_lettered=3, missed=4, skipped=5, replaced=6, lost=7, withdrawn=8
        ),
    )
    record = record_of(task())
    record = replace(record, state=replace(record.state, summary=summary))

    status = written_status(status_of(record, EIGHT + MINUTE, last_run_id="0ab1"))

    assert status["lastRun"] == {
        "id": "0ab1",
        "scheduledTime": "2030-01-01T08:00:00Z",
        "startTime": "2030-01-01T08:00:01Z",
        "completionTime": "2030-01-01T08:00:02Z",
        "outcome": "DeadLettered",
        "attempts": 5,
        "worker": "worker-1",
        "message": "no such host",
    }
    assert status["lastSuccessfulTime"] == "2030-01-01T07:59:00Z"
    assert status["lastFailureTime"] == "2030-01-01T08:00:02Z"
    assert status["consecutiveFailures"] == 3
    assert list(status["runCounts"].values()) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_times_are_whole_seconds_as_a_cronjobs_are_and_those_of_the_last_run_exact():
    odd = EIGHT + 123_456
    record = claimed(record_of(task(schedule=None, intervalSeconds=5), odd), odd + 5 * SECOND)
    summary = Summary(
        last_scheduled_at=odd,
        last_started_at=odd + 1,
        last_ended_at=odd + 2,
        last_outcome=Outcome.SUCCEEDED,
        last_success_at=odd + 2,
        last_failure_at=odd + 3,
    )
    record = replace(record, state=replace(record.state, summary=summary))

    status = status_of(record, odd + 6 * SECOND).model_dump(mode="json", by_alias=True, exclude_none=True)

    assert status["lastScheduleTime"] == "2030-01-01T08:00:05Z"
    assert status["nextScheduleTime"] == "2030-01-01T08:00:10Z"
    assert status["upcomingScheduleTimes"][1] == "2030-01-01T08:00:15Z"
    assert status["lastSuccessfulTime"] == status["lastFailureTime"] == "2030-01-01T08:00:00Z"
    assert status["lastRun"]["scheduledTime"] == "2030-01-01T08:00:00.123456Z"
    assert status["lastRun"]["startTime"] == "2030-01-01T08:00:00.123457Z"
    assert status["lastRun"]["completionTime"] == "2030-01-01T08:00:00.123458Z"


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_of_the_core_is_one_of_the_status(outcome):
    record = record_of(task())
    record = replace(record, state=replace(record.state, summary=Summary(last_outcome=outcome)))

    name = status_of(record, EIGHT).last_run.outcome

    assert name == outcome.name.title().replace("_", "")


def test_what_is_too_long_for_a_status_is_cut():
    record = record_of(task())
    summary = Summary(last_outcome=Outcome.FAILED, last_worker="w" * 999, last_message="m" * 9999)
    record = replace(record, state=replace(record.state, summary=summary))

    last = status_of(record, EIGHT).last_run

    assert (len(last.worker), len(last.message)) == (253, 1024)


def test_conditions_are_those_of_the_caller():
    assert status_of(record_of(task()), EIGHT).conditions == ()
    assert status_of(record_of(task()), EIGHT, conditions=[AWAITED]).conditions == (AWAITED,)


def test_the_same_record_at_the_same_time_gives_the_same_status():
    assert status_of(record_of(task()), EIGHT) == status_of(record_of(task()), EIGHT)


def test_instants_survive_the_way_to_datetimes_and_back():
    assert instant_of(datetime_of(EIGHT + 7)) == EIGHT + 7


def written_status(status):
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)
