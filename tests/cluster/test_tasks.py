"""What an application team does with its tasks, on a cluster where everything works."""

import json
import time
from datetime import UTC, datetime, timedelta

import pytest

from tests.cluster.installation import Installation
from tests.cluster.kubectl import Kubectl, KubectlRefusedError, task
from tests.cluster.team import Team

AT_ONCE_SECONDS = 5
"""From a deletion until nothing more is started: the operator waits for two seconds whether more goes, and workers claim a little ahead."""

TEMPLATE_SECONDS = 25
"""Until workers have seen a change of a template: they look each twenty seconds where nothing else makes them."""


def in_seconds(seconds: float) -> str:
    return f"{datetime.now(UTC) + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%SZ}"


@pytest.fixture
def team(operator: Installation, module_team: Team) -> Team:
    """One with a pool that is Ready, which all of these tests share."""
    del operator
    return module_team


def test_a_cron_task_says_when_next_and_how_last_and_runs_then(team: Team):
    team.schedule("each-second", schedule="* * * * * *", timeZone="Europe/Dublin")

    seen = team.kubectl.wait_for_task(
        "each-second", "tells of a success", lambda task: task.time("lastSuccessfulTime"), 60
    )

    assert seen.time("nextScheduleTime") is not None
    assert len(seen.status["upcomingScheduleTimes"]) == 5
    assert seen.status["lastRun"]["outcome"] == "Succeeded"
    assert (
        seen.status["lastRun"]["worker"] in team.pods()[0]
        or team.pods()[0] in seen.status["lastRun"]["worker"]
    )
    assert seen.is_true("HandlerResolved")
    assert seen.is_true("Scheduled")
    assert all(run.scheduled_at == round(run.scheduled_at) for run in team.runs("each-second"))


def test_an_interval_runs_in_step_and_late_by_little(team: Team):
    team.schedule("often", intervalSeconds=1)

    runs = team.wait_for_runs("often", 10)

    account = team.account()
    assert account.missing("often", 1) == []
    assert account.more_than_once("often") == []
    assert sorted(run.late for run in runs)[len(runs) // 2] < 1


def test_a_one_off_runs_once_and_is_completed(team: Team):
    team.schedule("once", executeAt=in_seconds(3))

    team.kubectl.wait_for_task("once", "is completed", lambda task: task.reason() == "Completed")

    time.sleep(3)
    assert len(team.runs("once")) == 1
    assert team.task("once").is_true("Ready")
    assert team.task("once").time("nextScheduleTime") is None


def test_a_template_counts_its_instances_and_suspends_them_all(team: Team):
    people = {f"person-{number}" for number in range(5)}
    team.schedule("enrolment", "enrol", executeAt=in_seconds(1), args={"instances": len(people)})
    team.kubectl.wait_until("all are enrolled, and run", lambda: people <= _who_ran(team, 0))

    team.schedule("reminders", "remind", dynamic=True)
    seen = team.kubectl.wait_for_task("reminders", "counts them", lambda task: task.status.get("instances"))
    assert seen.status["instances"]["total"] == len(people)
    assert seen.time("nextScheduleTime") is None

    team.kubectl.patch("pyncettetask", "reminders", {"spec": {"suspend": True}})
    team.kubectl.wait_for_task("reminders", "is suspended", lambda task: task.reason() == "Suspended")
    time.sleep(TEMPLATE_SECONDS)
    suspended_at = time.time()
    time.sleep(5)
    assert _who_ran(team, suspended_at) == set()

    team.kubectl.patch("pyncettetask", "reminders", {"spec": {"suspend": False}})
    team.kubectl.wait_until("all go on", lambda: people <= _who_ran(team, suspended_at), TEMPLATE_SECONDS)


def _who_ran(team: Team, since: float) -> set[str]:
    """Return the instances that have run since then."""
    return {
        run.task for run in team.account().runs if run.started_at > since and run.task.startswith("person-")
    }


def test_a_failure_is_told_with_its_message_and_leaves_the_task_ready(team: Team):
    team.schedule(
        "fails", "fail", intervalSeconds=5, args={"message": "no paper"}, retryPolicy={"maxAttempts": 1}
    )

    seen = team.kubectl.wait_for_task("fails", "has failed", lambda task: task.is_false("RunsHealthy"))

    assert seen.is_true("Ready")
    assert "no paper" in seen.status["lastRun"]["message"]
    assert seen.count("failed") >= 1
    team.kubectl.wait_until("an Event tells it", lambda: "RunFailed" in team.kubectl.reasons("fails"), 10)


def test_an_occurrence_that_fails_is_tried_again(team: Team):
    team.schedule(
        "again",
        "fail",
        executeAt=in_seconds(2),
        args={"times": 2},
        retryPolicy={"maxAttempts": 5, "initialBackoffSeconds": 1},
    )

    team.kubectl.wait_for_task("again", "is completed", lambda task: task.reason() == "Completed")

    assert [run.attempt for run in team.runs("again")] == [1, 2, 3]
    assert team.task("again").count("succeeded") == 1


def test_retries_that_are_spent_suspend_a_task_until_it_is_resumed(team: Team):
    team.schedule("fragile", "fail", intervalSeconds=2, retryPolicy={"maxAttempts": 1}, onExhausted="Suspend")
    team.kubectl.wait_for_task("fragile", "is suspended", lambda task: task.reason() == "RetriesExhausted")
    assert team.task("fragile").is_true("Stalled")
    before = len(team.runs("fragile"))

    team.kubectl.annotate("pyncettetask", "fragile", resume_requested_at="1")

    team.kubectl.wait_until("it runs again", lambda: len(team.runs("fragile")) > before, 30)


def test_an_extra_run_begins_within_two_seconds_of_the_annotation_that_asks_for_it(team: Team):
    team.schedule("nightly", schedule="0 3 * * *")
    next_time = team.task("nightly").time("nextScheduleTime")

    asked_at = time.time()
    team.kubectl.annotate("pyncettetask", "nightly", run_requested_at="first")
    (run,) = team.wait_for_runs("nightly", than=0)

    assert run.started_at - asked_at < 2
    seen = team.kubectl.wait_for_task("nightly", "echoes it", lambda task: "first" in str(task.status), 60)
    assert seen.time("nextScheduleTime") == next_time


def test_a_suspended_task_does_not_run_unless_it_is_asked_to_and_resumes_from_then(team: Team):
    team.schedule("pausing")
    team.wait_for_runs("pausing", 2)

    team.kubectl.patch("pyncettetask", "pausing", {"spec": {"suspend": True}})
    team.kubectl.wait_for_task(
        "pausing", "is suspended", lambda task: task.is_current and task.reason() == "Suspended"
    )
    suspended_at = time.time()
    time.sleep(4)
    assert [run for run in team.runs("pausing") if run.started_at > suspended_at + 0.5] == []
    before = len(team.runs("pausing"))
    team.kubectl.annotate("pyncettetask", "pausing", run_requested_at="1")
    team.wait_for_runs("pausing", than=before)
    resumed_at = time.time()
    team.kubectl.patch("pyncettetask", "pausing", {"spec": {"suspend": False}})

    runs = team.wait_for_runs("pausing", 3)
    # Nothing of the pause is made up for.
    late = [run for run in runs if suspended_at + 1 < run.scheduled_at < resumed_at]
    assert len(late) == 1, late  # the one that was asked for


def test_suspend_suspends_although_the_rest_of_the_spec_is_invalid(team: Team):
    team.schedule("hurried")
    team.wait_for_runs("hurried", 2)

    wrong = {"intervalSeconds": None, "schedule": "gibberish"}
    team.kubectl.patch("pyncettetask", "hurried", {"spec": {"suspend": True, **wrong}})
    seen = team.kubectl.wait_for_task("hurried", "is suspended", lambda task: task.is_true("Suspended"))
    suspended_at = time.time()
    assert seen.reason() == "InvalidSchedule"
    assert "generation 1 is suspended" in seen.condition("Ready")["message"]
    time.sleep(3)
    assert [run for run in team.runs("hurried") if run.started_at > suspended_at + 0.5] == []

    team.kubectl.patch("pyncettetask", "hurried", {"spec": {"suspend": None}})
    team.wait_for_runs("hurried", 2)
    assert team.task("hurried").is_false("Ready")
    assert team.task("hurried").is_false("Suspended")


def test_the_end_of_a_requested_run_shows_within_two_seconds_however_often_runs_are_requested(team: Team):
    team.schedule("impatient", schedule="0 3 * * *")

    for number in range(1, 7):
        team.kubectl.annotate("pyncettetask", "impatient", run_requested_at=str(number))
        team.kubectl.wait_for_task(
            "impatient", "tells of the run", lambda task, number=number: task.count("succeeded") == number
        )

        seen = json.loads(
            team.kubectl.run("get", "pyncettetask", "impatient", "-o", "json", "--show-managed-fields")
        )
        ended_at = datetime.fromisoformat(seen["status"]["lastRun"]["completionTime"])
        written_at = max(
            datetime.fromisoformat(entry["time"])
            for entry in seen["metadata"]["managedFields"]
            if entry.get("subresource") == "status"
        )
        # The API server tells whole seconds, rounded down.
        assert (written_at - ended_at).total_seconds() <= 2, number
        assert not seen["status"].get("active")


def test_the_next_time_of_a_task_that_runs_every_second_is_not_in_the_past(team: Team):
    team.schedule("brisk", intervalSeconds=1)
    team.wait_for_runs("brisk", 10)

    before = len(team.runs("brisk"))
    while len(team.runs("brisk")) < before + 20:
        asked_at = datetime.now(UTC)
        told = team.task("brisk").time("nextScheduleTime")
        assert told is not None
        assert told >= asked_at - timedelta(seconds=1)


def test_an_edit_counts_from_its_own_time_and_does_not_move_what_it_does_not_touch(team: Team):
    team.schedule("report", intervalSeconds=3600, args={"version": 1})
    next_time = team.task("report").time("nextScheduleTime")

    team.kubectl.patch("pyncettetask", "report", {"spec": {"args": {"version": 2}}})
    seen = team.kubectl.wait_for_task("report", "is mirrored", lambda task: task.is_true("Ready"), 10)
    assert seen.time("nextScheduleTime") == next_time
    team.kubectl.patch("pyncettetask", "report", {"spec": {"intervalSeconds": 2}})

    runs = team.wait_for_runs("report", 2)
    assert {run.args["version"] for run in runs} == {2}


def test_a_deleted_task_stops_at_once_and_one_of_its_name_carries_on(team: Team):
    team.schedule("job")
    team.wait_for_runs("job", 3)
    in_step = team.runs("job")[-1].scheduled_at
    uid = team.task("job").object["metadata"]["uid"]

    team.kubectl.delete("pyncettetask", "job")
    deleted_at = time.time()
    time.sleep(AT_ONCE_SECONDS + 3)
    assert [run for run in team.runs("job") if run.started_at > deleted_at + AT_ONCE_SECONDS] == []
    team.schedule("job")

    assert team.task("job").object["metadata"]["uid"] != uid
    run = team.wait_for_runs("job", 2)[-1]
    assert (run.scheduled_at - in_step) % 1 == pytest.approx(0, abs=0.001) or (
        run.scheduled_at - in_step
    ) % 1 > 0.999
    seen = team.kubectl.wait_for_task(
        "job", "counts on", lambda task: task.count("succeeded") >= len(team.runs("job")) - 2, 60
    )
    assert seen.count("succeeded") > 3


def test_a_finished_one_off_that_is_restored_with_a_new_uid_is_not_run_again(team: Team):
    team.schedule("restored", executeAt=in_seconds(2), startingDeadlineSeconds=3600)
    team.kubectl.wait_for_task("restored", "is completed", lambda task: task.reason() == "Completed")
    stored = team.task("restored").object
    restored = task("restored", "tick", **stored["spec"])

    team.kubectl.delete("pyncettetask", "restored")
    team.kubectl.apply(restored)

    team.kubectl.wait_for_task(
        "restored", "is completed again", lambda task: task.is_current and task.reason() == "Completed"
    )
    time.sleep(3)
    assert len(team.runs("restored")) == 1


@pytest.mark.parametrize(
    ("name", "spec", "reason", "message"),
    [
        ("unknown-handler", {"handler": "tickk"}, "HandlerNotFound", "tick"),
        ("impossible", {"schedule": "0 0 30 2 *"}, "InvalidSchedule", ""),
        (
            "unknown-zone",
            {"schedule": "0 0 * * *", "timeZone": "Europe/Dubln"},
            "UnknownTimeZone",
            "Europe/Dublin",
        ),
        ("too-large", {"args": {str(n): "x" * 4000 for n in range(5)}}, "ArgumentsTooLarge", "16"),
    ],
)
def test_a_bad_spec_is_shown_with_what_to_do_and_well_once_it_is_repaired(
    team: Team, name, spec, reason, message
):
    spec = {"handler": "tick", **spec}
    if "schedule" not in spec:
        spec["intervalSeconds"] = 2
    team.kubectl.apply(task(name, spec.pop("handler"), **spec))

    seen = team.kubectl.wait_for_task(
        name, f"is Stalled for {reason}", lambda task: task.is_true("Stalled") and task.reason() == reason, 60
    )
    assert seen.is_false("Ready")
    assert message in seen.condition("Ready")["message"]
    team.kubectl.wait_until("an Event tells it", lambda: reason in team.kubectl.reasons(name), 30)

    # A replacement, since an apply keeps fields that others wrote.
    team.kubectl.apply(
        {
            **task(name, "tick", intervalSeconds=2),
            "spec": {
                "handler": "tick",
                "intervalSeconds": 2,
                "schedule": None,
                "timeZone": None,
                "args": None,
            },
        }
    )
    team.kubectl.wait_until_ready(name, seconds=30)
    team.wait_for_runs(name)


def test_a_spec_that_is_no_spec_is_refused_at_once_by_the_api_server(team: Team):
    with pytest.raises(KubectlRefusedError, match="are mutually exclusive: keep one of them"):
        team.kubectl.apply(task("both", "tick", schedule="* * * * *", intervalSeconds=5))


def test_a_task_cannot_name_the_pool_of_another_namespace(team: Team, kubectl: Kubectl):
    other = f"{kubectl.namespace}-b"
    kubectl.run("create", "namespace", other)
    try:
        elsewhere = kubectl.in_namespace(other)
        elsewhere.apply(task("stray", "tick", intervalSeconds=1))

        seen = elsewhere.wait_for_task(
            "stray", "waits for a pool of its own", lambda task: task.is_false("Ready")
        )

        assert seen.reason() == "PoolNotFound"
        time.sleep(3)
        assert team.runs("stray") == []
    finally:
        kubectl.run("delete", "namespace", other, "--wait=false")


def test_a_pool_cannot_use_a_backend_that_is_not_open_to_its_namespace(team: Team):
    team.start_pool("private", backendRef={"name": "private"}, wait=False)
    team.kubectl.apply(task("stray", "tick", intervalSeconds=1, workerPoolRef={"name": "private"}))

    team.kubectl.wait_for_pool(
        "is refused", lambda pool: pool.is_true("Stalled") and pool.reason() == "BackendNotAllowed", "private"
    )
    team.kubectl.wait_for_task("stray", "is refused", lambda task: task.reason() == "BackendNotAllowed")
    assert team.pods("private") == []
    assert team.runs("stray") == []
