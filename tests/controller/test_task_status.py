"""What the status of a PyncetteTask says: the table of its states, row by row, and what leads from one to the other."""

from datetime import timedelta

import pytest

from pyncette.clock import SECOND
from pyncette.controller.reasons import Reason
from pyncette.controller.status.observed import Access
from pyncette.controller.status.task_status import CONDITIONS
from pyncette.coordination.members import Member
from pyncette.core.record import Outcome, Requests, Started, replace
from pyncette.core.times import datetime_of
from pyncette.resources.modelling import INVALID
from pyncette.resources.reading import UNKNOWN_FIELD
from pyncette.resources.resource import AWAITED, CONDITION_CHARACTERS_MAX
from tests.controller.kstatus import CURRENT, FAILED, IN_PROGRESS, TERMINATING, kstatus
from tests.controller.scene import EIGHT, KNOWING, MINUTE, NO_WORKERS, OTHERS, POOL, Scene

DAY = 86_400 * SECOND
ONCE = {"executeAt": "2030-01-01T08:01:00Z"}
NEVER = {"schedule": "0 0 31 2 *"}
UNKNOWN = {"members": (OTHERS,)}
DELETED = {"exists": False, "access": Access.UNKNOWN, "members": None, "wanted": None}
POOL_INVALID = {"invalid": True, "access": Access.UNKNOWN, "members": None, "problem": "has an invalid spec"}


def mirrored(**spec):
    return Scene(**spec).mirror()


def settled(**spec):
    """A task that has been Ready for a day."""
    return mirrored(**spec).look().later(DAY)


def exhausted():
    return mirrored(onExhausted="Suspend").failed(exhausted=True)


def unknown_for(duration, scene=None):
    """A task whose handler no worker of its pool, which does not roll out, has registered for so long."""
    return (scene or mirrored()).to_pool(**UNKNOWN).look().later(duration)


def pending_for(duration, **pool):
    """A task whose handler may be about to come, and has not for so long."""
    return mirrored().to_pool(**pool).look().later(duration)


def without_pool(duration):
    return Scene().to_pool(exists=False, members=None, wanted=None).look().later(duration)


def deleted_for(duration, scene=None):
    """A task whose pool was there, and was deleted so long ago."""
    return (scene or settled()).look().to_pool(**DELETED).look().later(duration)


def down(scene):
    """The same while the backend does not answer."""
    scene.record = None
    return scene.to_pool(access=Access.DOWN, members=None)


def moving():
    scene = settled().edit(handler="tidy_up")
    scene.observed = scene.observed._replace(moving=True)
    return scene


def taken():
    scene = Scene(dynamic=True)
    scene.observed = scene.observed._replace(taken_by="reminders")
    return scene


def missed():
    scene = Scene(executeAt="2030-01-01T07:00:00Z").mirror()
    assert scene.record.state.summary.counts.missed == 1
    return scene


WELL, UNDER_WAY, STUCK = ("True", False, False), ("False", True, False), ("False", False, True)

ROWS = [
    # a state of the resource, what leads to it, Ready with its reason, Reconciling and Stalled, what Flux sees
    ("mirrored, next run known", mirrored, "Scheduled", WELL, CURRENT),
    ("mirrored, a template", lambda: mirrored(dynamic=True), "Scheduled", WELL, CURRENT),
    ("not yet written to the backend", Scene, "Mirroring", UNDER_WAY, IN_PROGRESS),
    (
        "an edit not yet written",
        lambda: settled().edit(handler="tidy_up"),
        "Mirroring",
        UNDER_WAY,
        IN_PROGRESS,
    ),
    (
        "not in the backend, which is down",
        lambda: down(Scene()),
        "BackendUnreachable",
        UNDER_WAY,
        IN_PROGRESS,
    ),
    (
        "an edit, and the backend is down",
        lambda: down(settled().edit()),
        "BackendUnreachable",
        UNDER_WAY,
        IN_PROGRESS,
    ),
    (
        "unknown, the pool rolls out",
        lambda: pending_for(0, rolling_out=True, **UNKNOWN),
        "HandlerPending",
        UNDER_WAY,
        IN_PROGRESS,
    ),
    (
        "unknown, it has no worker yet",
        lambda: pending_for(0, members=()),
        "HandlerPending",
        UNDER_WAY,
        IN_PROGRESS,
    ),
    ("the pool was never there", lambda: without_pool(0), "PoolNotFound", UNDER_WAY, IN_PROGRESS),
    ("its pool was deleted just now", lambda: deleted_for(0), "PoolNotFound", UNDER_WAY, IN_PROGRESS),
    ("so for nearly 30 s", lambda: deleted_for(30 * SECOND - 1), "PoolNotFound", UNDER_WAY, IN_PROGRESS),
    ("its pool was deleted", lambda: deleted_for(30 * SECOND), "PoolNotFound", STUCK, FAILED),
    (
        "an edit after its pool was deleted",
        lambda: deleted_for(DAY).look().edit().look().later(30 * SECOND),
        "PoolNotFound",
        STUCK,
        FAILED,
    ),
    (
        "suspended, and its pool was deleted",
        lambda: deleted_for(DAY, mirrored(suspend=True)),
        "Suspended",
        WELL,
        CURRENT,
    ),
    (
        "finished, and its pool was deleted",
        lambda: deleted_for(DAY, mirrored(**ONCE).finished()),
        "Completed",
        WELL,
        CURRENT,
    ),
    ("its pool has become invalid", lambda: settled().to_pool(**POOL_INVALID), "Scheduled", WELL, CURRENT),
    (
        "the pool is invalid",
        lambda: Scene().to_pool(**POOL_INVALID),
        "HandlerPending",
        UNDER_WAY,
        IN_PROGRESS,
    ),
    (
        "so for nearly 10 minutes",
        lambda: pending_for(10 * MINUTE - 1, members=()),
        "HandlerPending",
        UNDER_WAY,
        IN_PROGRESS,
    ),
    (
        "rolling out for 10 minutes",
        lambda: pending_for(10 * MINUTE, rolling_out=True, **UNKNOWN),
        "HandlerDeadlineExceeded",
        STUCK,
        FAILED,
    ),
    (
        "without a worker for 10 minutes",
        lambda: pending_for(10 * MINUTE, members=()),
        "HandlerDeadlineExceeded",
        STUCK,
        FAILED,
    ),
    ("absent for 10 minutes", lambda: without_pool(10 * MINUTE), "PoolNotFound", STUCK, FAILED),
    (
        "unknown to all current workers, just now",
        lambda: unknown_for(0),
        "HandlerPending",
        UNDER_WAY,
        IN_PROGRESS,
    ),
    ("so for nearly 30 s", lambda: unknown_for(30 * SECOND - 1), "HandlerPending", UNDER_WAY, IN_PROGRESS),
    ("so for 30 s", lambda: unknown_for(30 * SECOND), "HandlerNotFound", STUCK, FAILED),
    ("impossible cron", lambda: Scene(**NEVER), "InvalidSchedule", STUCK, FAILED),
    (
        "unknown time zone",
        lambda: Scene(schedule="0 1 * * *", timeZone="Mars/Olympus"),
        "UnknownTimeZone",
        STUCK,
        FAILED,
    ),
    ("a handler with a NUL", lambda: Scene(handler="send\0"), "InvalidName", STUCK, FAILED),
    ("too large arguments", lambda: Scene(args={"a": "x" * 20_000}), "ArgumentsTooLarge", STUCK, FAILED),
    ("a value that is no longer allowed", lambda: Scene(leaseDurationSeconds=-1), "Invalid", STUCK, FAILED),
    (
        "backend not allowed",
        lambda: Scene().to_pool(access=Access.REFUSED),
        "BackendNotAllowed",
        STUCK,
        FAILED,
    ),
    ("no such backend", lambda: Scene().to_pool(access=Access.UNKNOWN), "BackendNotFound", STUCK, FAILED),
    ("the handler has a dynamic task already", taken, "HandlerTaken", STUCK, FAILED),
    ("suspended by the spec", lambda: mirrored(suspend=True), "Suspended", WELL, CURRENT),
    (
        "suspended, and the handler unknown",
        lambda: unknown_for(DAY, mirrored(suspend=True)),
        "Suspended",
        WELL,
        CURRENT,
    ),
    ("suspended by exhaustion", exhausted, "RetriesExhausted", STUCK, FAILED),
    ("one-off to come", lambda: mirrored(**ONCE), "Scheduled", WELL, CURRENT),
    ("one-off in progress", lambda: mirrored(**ONCE).later(MINUTE).claimed(), "Scheduled", WELL, CURRENT),
    ("one-off finished", lambda: mirrored(**ONCE).finished(), "Completed", WELL, CURRENT),
    (
        "finished, and the handler gone",
        lambda: unknown_for(DAY, mirrored(**ONCE).finished()),
        "Completed",
        WELL,
        CURRENT,
    ),
    ("one-off missed", missed, "Missed", WELL, CURRENT),
    ("last run failed", lambda: mirrored().failed(), "Scheduled", WELL, CURRENT),
    ("moving to another handler", moving, "Moving", UNDER_WAY, IN_PROGRESS),
]


@pytest.mark.parametrize(
    ("scene", "reason", "conditions", "flux"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_each_state_of_a_task_is_reported_as_the_table_has_it(scene, reason, conditions, flux):
    task = scene().look()

    ready, reconciling, stalled = conditions
    assert task.ready == f"{ready} {reason}", task.condition("Ready").message
    assert task.said("Reconciling") == (f"True {reason}" if reconciling else None)
    assert task.said("Stalled") == (f"True {reason}" if stalled else None)
    assert task.seen_by_flux == flux


def test_an_object_that_was_just_created_is_in_progress():
    task = Scene()

    assert (task.ready, task.said("Reconciling"), task.said("Stalled")) == ("Unknown Pending", None, None)
    assert task.seen_by_flux == IN_PROGRESS


@pytest.mark.parametrize("word", [AWAITED.reason, INVALID, UNKNOWN_FIELD])
def test_the_reasons_that_resources_give_by_themselves_are_known(word):
    assert Reason.of(word) is not None


def test_an_object_that_is_being_deleted_says_so():
    task = settled()
    task.deleting = True

    assert task.look().ready == "False Terminating"
    assert task.seen_by_flux == TERMINATING
    assert "runs until its finalizers are removed" in task.condition("Ready").message


def test_the_oracle_distinguishes_the_states_of_an_object_as_kstatus_does():
    def seen(observed, *conditions, **metadata):
        status = {
            "observedGeneration": observed,
            "conditions": [dict(zip(("type", "status"), c, strict=True)) for c in conditions],
        }
        return kstatus({"metadata": {"generation": 2} | metadata, "status": status})

    assert seen(1, ("Ready", "True")) == IN_PROGRESS
    assert seen(2, ("Ready", "True"), ("Reconciling", "False"), ("Stalled", "False")) == CURRENT
    assert seen(2, ("Ready", "True"), ("Stalled", "True")) == FAILED
    assert seen(2, ("Ready", "False")) == IN_PROGRESS
    assert seen(2) == CURRENT
    assert seen(2, deletionTimestamp="2030-01-01T08:00:00Z") == TERMINATING


@pytest.mark.parametrize("scene", [row[1] for row in ROWS], ids=[row[0] for row in ROWS])
def test_a_second_pass_over_the_same_input_reports_the_same(scene):
    task = scene().look()
    first, again_at = task.status, task.again_at

    task.look()

    assert (task.status, task.again_at) == (first, again_at)


@pytest.mark.parametrize("scene", [row[1] for row in ROWS], ids=[row[0] for row in ROWS])
def test_every_condition_is_a_known_one_with_a_known_reason_and_of_this_generation(scene):
    task = scene().look()

    kinds = [condition.type for condition in task.status.conditions]
    assert kinds == [kind for kind in CONDITIONS if kind in kinds]
    assert set(CONDITIONS) - set(kinds) <= {"Reconciling", "Stalled"}
    assert all(Reason.of(condition.reason) for condition in task.status.conditions)
    assert task.status.observed_generation == task.generation
    assert task.condition("Ready").observed_generation == task.generation


@pytest.mark.parametrize("scene", [row[1] for row in ROWS], ids=[row[0] for row in ROWS])
def test_whatever_was_wrong_it_becomes_well_once_all_is_as_it_should_be(scene):
    task = scene().look().later(DAY)

    task.record = None
    task.observed = task.observed._replace(moving=False, taken_by=None)
    task.pool = Scene().pool
    task.edit().mirror().look()

    assert task.ready == "True Scheduled"
    assert task.seen_by_flux == CURRENT


# --- A dynamic task and the partitions of its module ------------------------------------------------------------------


def dynamic(partitions, *members, **facts):
    """A dynamic task of so many partitions that was mirrored, and whose pool has the *members*."""
    task = Scene(dynamic=True, partitions=partitions).to_pool(members=members).mirror()
    task.observed = task.observed._replace(**facts)
    return task.look()


def knows(count, name="worker-1", refused=()):
    """A worker whose module spreads the instances of "send" over *count* partitions."""
    counts = None if count is None else (("send", count),)
    return Member(name, handlers=("send",), partitions=counts, refused=refused)


def test_a_dynamic_task_with_other_partitions_than_the_module_is_reported_at_once_and_stalled_after_half_a_minute():
    task = dynamic(8, knows(1))

    assert task.ready == "False PartitionsDiffer"
    assert "spec.partitions: must be 1, as in the task module, not 8" in task.condition("Ready").message
    assert "delete this task, and apply it again with that number" in task.condition("Ready").message
    assert task.said("Scheduled") == "False PartitionsDiffer"
    assert task.seen_by_flux == IN_PROGRESS
    task.now = task.again_at
    assert task.look().said("Stalled") == "True PartitionsDiffer"
    assert task.seen_by_flux == FAILED


def test_it_stays_reported_while_no_worker_runs_and_is_well_once_the_module_has_its_partitions():
    task = dynamic(8, knows(1)).later(MINUTE).look()

    assert task.to_pool(members=()).look().ready == "False PartitionsDiffer"
    assert task.to_pool(members=(knows(8),)).look().ready == "True Scheduled"


@pytest.mark.parametrize("members", [(knows(8),), (knows(None),), (knows(1), knows(8, "worker-2"))])
def test_partitions_that_one_worker_has_or_may_have_are_right(members):
    assert dynamic(8, *members).ready == "True Scheduled"


def test_a_suspended_dynamic_task_is_reported_as_well():
    task = dynamic(8, knows(1)).edit(dynamic=True, partitions=8, suspend=True).mirror().look()

    assert task.ready == "False PartitionsDiffer"
    assert task.said("Suspended") == "True Suspended"


def test_a_rollout_is_waited_for_since_it_may_bring_the_count():
    task = Scene(dynamic=True, partitions=8).to_pool(members=(knows(1),), rolling_out=True).mirror().look()

    assert task.ready == "False HandlerPending"
    assert "must be 1" in task.condition("Ready").message
    assert task.later(9 * MINUTE).look().seen_by_flux == IN_PROGRESS


@pytest.mark.parametrize("partitions", [None, 4])
def test_a_handler_that_all_workers_refuse_is_reported_with_the_stored_count(partitions):
    """Also at a task with a schedule of its own that runs the handler of a template."""
    spec = {"intervalSeconds": 60} if partitions is None else {"dynamic": True, "partitions": 4}
    task = Scene(**spec).to_pool(members=(knows(4, refused=("send",)),)).mirror()
    if partitions is not None:
        task.record = replace(task.record, spec=replace(task.record.spec, partitions=8))

    task.look().later(MINUTE).look()

    assert task.said("Stalled") == "True PartitionsDiffer"
    assert 'refuse the handler "send"' in task.condition("Ready").message
    assert ("stored in 8 partitions" in task.condition("Ready").message) is (partitions is not None)


def test_a_worker_that_is_about_to_accept_a_handler_is_not_reported():
    """Its status could then not be corrected for half a minute."""
    assert dynamic(4, knows(4, refused=("send",))).ready == "True Scheduled"


def test_a_worker_that_serves_a_handler_is_enough_though_another_refuses_it():
    members = (knows(4), knows(4, "worker-2", refused=("send",)))

    assert dynamic(4, *members).ready == "True Scheduled"


def test_a_dynamic_task_whose_handler_has_no_instances_is_reported():
    member = Member("worker-1", handlers=("send", "other"), partitions=(("other", 1),))

    task = dynamic(1, member).later(MINUTE).look()

    assert task.said("Stalled") == "True HandlerNotDynamic"
    assert "declare it with @app.dynamic_task()" in task.condition("Ready").message


def test_instances_in_unpolled_partitions_are_reported():
    task = dynamic(1, knows(1), strays=(5, 7))

    assert task.said("Stalled") == "True PartitionsDiffer"
    assert "Instances in unpolled partitions (5, 7) do not run" in task.condition("Ready").message


# --- Arguments -------------------------------------------------------------------------------------------------------

TAKES_A_NUMBER = b"""{"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"],
                     "additionalProperties": false}"""


def with_arguments(args, schema=TAKES_A_NUMBER, rolling_out=False, **spec):
    schemas = {"send": schema}
    task = Scene(args=args, **(spec or {"schedule": "0 9 * * *"}))
    return task.to_pool(members=(KNOWING,), schemas=schemas, rolling_out=rolling_out).mirror().look()


def test_arguments_that_the_handler_takes_are_no_problem():
    assert with_arguments({"number": 3}).ready == "True Scheduled"


def test_arguments_that_the_handler_does_not_take_stall_a_task():
    task = with_arguments({"nmber": 3}).later(MINUTE).look()

    assert task.said("HandlerResolved") == "False ArgumentsInvalid"
    assert task.said("Stalled") == "True ArgumentsInvalid"
    message = task.condition("Ready").message
    assert "spec.args: the argument number is missing" in message
    assert "spec.args.nmber: unknown argument; did you mean number?" in message


def test_a_rollout_is_waited_for_since_it_may_bring_a_handler_that_takes_the_arguments():
    task = with_arguments({"number": "three"}, rolling_out=True)

    assert task.ready == "False HandlerPending"
    assert "spec.args.number: 'three' is not of type 'integer'" in task.condition("Ready").message


def test_a_dynamic_task_may_leave_arguments_to_its_instances_and_its_own_must_be_valid():
    members = (knows(1),)
    task = Scene(dynamic=True, args={}).to_pool(members=members, schemas={"send": TAKES_A_NUMBER}).mirror()
    wrong = Scene(dynamic=True, args={"number": "x"})
    wrong = wrong.to_pool(members=members, schemas={"send": TAKES_A_NUMBER}).mirror().look()

    assert task.look().ready == "True Scheduled"
    assert wrong.said("HandlerResolved") == "False ArgumentsInvalid"


@pytest.mark.parametrize("schema", [b"", b"[]", b'{"type": 7}', b'{"type": "object"}'])
def test_a_schema_that_says_nothing_about_the_arguments_is_no_problem(schema):
    assert with_arguments({"any": 1}, schema=schema).ready == "True Scheduled"


# --- A handler that nobody knows -------------------------------------------------------------------------------------


def test_a_task_and_its_image_changed_in_one_commit_become_well_without_ever_having_failed():
    task = settled()
    seen = []

    def look():
        seen.append(task.look().seen_by_flux)

    task.edit(handler="greet").to_pool(**UNKNOWN).mirror()
    look()
    task.later(20 * SECOND).to_pool(rolling_out=True)
    look()
    task.later(9 * MINUTE)
    look()
    task.to_pool(rolling_out=False)  # the last new worker is ready a little before it is known of
    look()
    task.later(5 * SECOND).to_pool(members=(Member("worker-3", handlers=("greet",)),))
    look()

    assert seen == [IN_PROGRESS] * 4 + [CURRENT]


def test_the_operator_requests_a_pass_when_the_wait_is_over_and_never_else():
    assert unknown_for(0).look().again_at == EIGHT + 30 * SECOND
    assert pending_for(0, members=()).look().again_at == EIGHT + 10 * MINUTE
    assert without_pool(0).look().again_at == EIGHT + 10 * MINUTE
    for scene in (mirrored(), unknown_for(30 * SECOND), exhausted(), down(Scene()), moving()):
        assert scene.look().again_at is None


def test_a_pass_at_the_requested_time_finds_the_task_stalled():
    task = unknown_for(0).look()
    task.now = task.again_at

    assert task.look().ready == "False HandlerNotFound"


def test_an_operator_that_restarts_or_reconciles_often_does_not_begin_the_wait_again():
    task = pending_for(0, members=())

    for _ in range(9):
        assert task.later(MINUTE).look().ready == "False HandlerPending"

    assert task.later(MINUTE).look().ready == "False HandlerDeadlineExceeded"


def test_the_time_that_the_backend_was_unavailable_is_not_the_pools():
    task = down(Scene()).look().later(DAY)

    task.to_pool(access=Access.OPEN, members=()).mirror().look()

    assert task.ready == "False HandlerPending"
    assert task.again_at == task.now + 10 * MINUTE


def test_a_new_generation_is_waited_for_from_its_own_time():
    task = pending_for(9 * MINUTE, members=()).look()

    task.edit(args={"n": 1}).mirror().look()

    assert task.again_at == task.now + 10 * MINUTE
    assert task.later(9 * MINUTE).look().ready == "False HandlerPending"
    stalled = unknown_for(DAY).look()
    assert stalled.ready == "False HandlerNotFound"
    assert stalled.edit(handler="greet").mirror().look().ready == "False HandlerPending"


def test_a_stalled_object_stays_so_until_something_changes():
    task = unknown_for(DAY).look()

    for _ in range(3):
        assert task.later(MINUTE).look().ready == "False HandlerNotFound"

    assert task.to_pool(rolling_out=True).look().ready == "False HandlerPending"
    assert task.to_pool(members=(KNOWING,)).look().ready == "True Scheduled"


def test_an_unknown_handler_is_reported_with_the_nearest_name_and_how_to_fix_it():
    message = unknown_for(DAY).look().condition("Stalled").message

    assert 'no handler "send" is registered; did you mean sent?' in message
    assert 'the pool "default"' in message
    assert "Correct spec.handler" in message


def test_one_worker_that_knows_the_handler_is_enough():
    task = mirrored().to_pool(members=(OTHERS, KNOWING), rolling_out=True).look()

    assert task.said("HandlerResolved") == "True HandlerRegistered"
    assert task.ready == "True Scheduled"


def test_a_handler_that_a_rollout_took_away_stalls_the_task_after_a_while():
    task = settled().to_pool(**UNKNOWN).look()

    assert task.ready == "False HandlerPending"
    assert task.later(30 * SECOND).look().ready == "False HandlerNotFound"


# --- Workers and backends that are away ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "away",
    [{"members": ()}, {"members": None}, {"members": (), "rolling_out": True}, {"members": (), "wanted": 0}],
)
def test_without_a_worker_the_last_answer_stays_and_ready_too(away):
    task = settled().to_pool(**away).look()

    assert task.said("HandlerResolved") == "True HandlerRegistered"
    assert task.ready == "True Scheduled"


def test_without_a_worker_an_edited_task_is_well_and_its_handler_unknown():
    task = settled().to_pool(members=()).edit(handler="greet").mirror().look()

    assert task.said("HandlerResolved") == "Unknown NoWorker"
    assert task.ready == "True Scheduled"


def test_a_pool_that_is_to_have_no_workers_is_not_waited_for():
    task = mirrored().to_pool(members=(), wanted=0).look()

    assert (task.ready, task.said("HandlerResolved")) == ("True Scheduled", "Unknown NoWorker")
    task.to_pool(wanted=1, rolling_out=True).look()
    assert task.ready == "True Scheduled"


@pytest.mark.parametrize(
    "scene",
    [
        settled,
        lambda: mirrored(suspend=True).look(),
        lambda: mirrored(**ONCE).finished().look(),
        lambda: exhausted().look(),
        lambda: unknown_for(DAY).look(),
        lambda: mirrored(dynamic=True).look(),
    ],
)
def test_once_mirrored_nothing_changes_while_the_backend_is_unavailable(scene):
    task = scene()
    task.pool = task.pool._replace(members=task.pool.members)
    before = task.status

    down(task).later(DAY).look()

    assert task.status == before


def test_a_pool_that_was_deleted_is_reported_and_no_worker_is_said_to_know_the_handler():
    task = deleted_for(30 * SECOND).look()

    assert task.said("HandlerResolved") == "Unknown PoolNotFound"
    assert task.said("Scheduled") == "True Mirrored"
    for kind in ("Ready", "Stalled"):
        message = task.condition(kind).message
        assert 'There is no PyncetteWorkerPool "default" in this namespace' in message
        assert "was deleted" in message


def test_an_operator_that_restarts_reports_a_deleted_pool_as_before():
    task = deleted_for(20 * SECOND).look()

    task.record = None  # which the new process has not read yet
    assert task.later(9 * SECOND).look().ready == "False PoolNotFound"
    assert not task.said("Stalled")

    assert task.later(SECOND).look().said("Stalled") == "True PoolNotFound"
    task.later(DAY).look()
    assert task.said("Stalled") == "True PoolNotFound"


def test_a_pool_that_is_replaced_within_seconds_never_stalls_its_tasks():
    task = deleted_for(5 * SECOND)

    task.pool = NO_WORKERS
    task.look()
    assert task.ready == "False HandlerPending"
    task.pool = POOL

    assert task.later(30 * SECOND).look().ready == "True Scheduled"
    assert not task.said("Stalled")


def test_the_time_that_workers_were_waited_for_is_not_that_of_a_deleted_pool():
    task = pending_for(5 * MINUTE, members=()).look()

    task.to_pool(**DELETED).look()

    assert task.said("Reconciling") == "True PoolNotFound"
    assert task.later(30 * SECOND - 1).look().said("Stalled") is None


def test_a_pool_that_comes_back_makes_its_tasks_well_once_a_worker_is_there():
    task = deleted_for(DAY).look()
    assert task.said("Stalled")

    task.pool = NO_WORKERS
    assert task.look().ready == "False HandlerPending"
    assert not task.said("Stalled")
    task.pool = POOL

    assert task.look().ready == "True Scheduled"


def test_a_task_without_a_worker_points_to_the_problem_of_its_pool():
    problem = "is stalled (ProgressDeadlineExceeded). See kubectl describe pyncetteworkerpool default -n shop"
    task = mirrored().to_pool(members=(), problem=problem).look()

    assert task.condition("Ready").message == (
        'The pool "default" has no worker yet. It is stalled (ProgressDeadlineExceeded). '
        "See kubectl describe pyncetteworkerpool default -n shop."
    )


def test_a_backend_that_cannot_be_used_is_reported_with_the_error_of_the_log():
    fault = 'PostgreSQL at db:5432/x: authentication failed: password authentication failed for user "shop"'
    task = down(Scene()).to_pool(fault=fault).look()

    assert fault in task.condition("Ready").message
    assert ".." not in task.condition("Ready").message


def test_a_backend_that_lost_everything_does_not_count_as_unavailable():
    task = settled()
    task.record = None

    assert task.look().said("Scheduled") == "False Mirroring"


def test_the_record_of_another_object_with_the_same_name_is_not_this_ones():
    task = settled()
    task.uid = "uid-2"

    assert task.look().said("Scheduled") == "False Mirroring"


def test_a_record_that_was_stopped_does_not_hold_a_generation():
    task = settled()
    task.record = replace(task.record, state=replace(task.record.state, withdrawn_at=EIGHT))

    assert task.look().ready == "False Mirroring"


# --- A spec that is refused ------------------------------------------------------------------------------------------


def test_a_refused_spec_says_all_that_is_wrong_and_what_goes_on():
    task = settled().edit(schedule="0 0 31 2 *", intervalSeconds=60).look()

    message = task.condition("Stalled").message
    assert "spec.intervalSeconds" in message
    assert "keep one of them" in message
    assert message.endswith("Until then generation 1 stays in effect.")
    assert task.status.next_schedule_time == datetime_of(task.record.due_at)


@pytest.mark.parametrize(
    "spec", [{"schedule": "* * * * * * * *"}, {"schedule": "0 0 31 2 *"}, {"schedule": "gibberish"}]
)
def test_a_refused_spec_ends_its_sentences_once_and_names_no_library(spec):
    for task in (Scene(**spec).look(), settled().edit(**spec).look()):
        message = task.condition("Ready").message
        assert ".." not in message
        assert "?." not in message
        assert "iterator" not in message


def test_a_refused_spec_still_has_its_handler_resolved():
    assert Scene(**NEVER).look().said("HandlerResolved") == "True HandlerRegistered"
    assert Scene(**NEVER).to_pool(**UNKNOWN).look().said("HandlerResolved") == "False HandlerNotFound"
    assert Scene(handler="pkg:tick").look().said("HandlerResolved") == "Unknown Invalid"


def test_a_near_miss_ends_with_its_question_mark():
    assert "did you mean sent? Correct" in unknown_for(DAY).look().condition("Ready").message


def test_a_refused_spec_that_nothing_came_before_says_that_nothing_runs():
    assert Scene(**NEVER).look().condition("Ready").message.endswith("It does not run until then.")


def test_a_message_never_grows_beyond_what_the_schema_allows():
    task = Scene(schedule="x" * 900, handler="y" * 5000, timeZone="z" * 5000).look()

    message = task.condition("Ready").message
    assert len(message) <= CONDITION_CHARACTERS_MAX
    assert message.endswith("It does not run until then.")


def test_a_record_whose_schedule_can_no_longer_be_read_harms_nothing_else():
    task = settled(schedule="0 1 * * *", timeZone="Europe/Dublin")
    before = task.status.next_schedule_time
    broken = replace(task.record.spec, schedule=replace(task.record.spec.schedule, zone="Gone/Zone"))
    task.record = replace(task.record, spec=broken)

    task.edit(schedule="0 1 * * *", timeZone="Gone/Zone").look()

    assert task.ready == "False UnknownTimeZone"
    assert task.status.next_schedule_time == before


# --- How it runs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcomes", "said"),
    [
        ([], "Unknown NoRunYet"),
        ([Outcome.SUCCEEDED], "True RunSucceeded"),
        ([Outcome.SUCCEEDED, Outcome.FAILED], "False RunFailed"),
        ([Outcome.FAILED, Outcome.SUCCEEDED], "True RunSucceeded"),
        ([Outcome.DEAD_LETTERED], "False DeadLettered"),
        ([Outcome.LOST], "False RunLost"),
        ([Outcome.FAILED, Outcome.REPLACED], "False RunFailed"),
        ([Outcome.REPLACED], "True RunSucceeded"),
    ],
)
def test_runs_are_healthy_unless_one_failed_since_the_last_success(outcomes, said):
    task = mirrored()
    for outcome in outcomes:
        task.ended(outcome)

    assert task.look().said("RunsHealthy") == said
    assert task.ready == "True Scheduled"


def test_a_failure_is_reported_with_the_message_of_the_run():
    assert mirrored().failed("ValueError: no").look().condition("RunsHealthy").message == "ValueError: no"


def test_exhaustion_says_why_and_how_it_ends():
    task = exhausted().look()

    assert task.said("Suspended") == "True RetriesExhausted"
    message = task.condition("Stalled").message
    assert "ValueError: no" in message
    assert "pyncette.dev/resume-requested-at" in message


def test_suspension_by_the_spec_counts_before_exhaustion_since_its_end_ends_both():
    task = mirrored(suspend=True, onExhausted="Suspend").failed(exhausted=True).look()

    assert task.ready == "True Suspended"


def test_a_finished_one_off_stays_completed_whatever_is_run_on_demand():
    task = mirrored(**ONCE).finished().look()
    summary = replace(task.record.state.summary, last_scheduled_at=EIGHT + DAY)
    task.record = replace(task.record, state=replace(task.record.state, summary=summary))

    assert task.look().ready == "True Completed"


def test_a_one_off_is_not_completed_before_its_run_is_over():
    at_most_once = mirrored(**ONCE, executionMode="AtMostOnce")
    started = Started(at_most_once.record.due_at, EIGHT, at_most_once=True)
    state = replace(at_most_once.record.state, started=started)
    at_most_once.record = replace(at_most_once.record, due_at=None, state=state)
    overlapping = mirrored(**ONCE, concurrencyPolicy="Allow")
    overlapping.record = replace(overlapping.record, due_at=None, claimable_at=None)
    overlapping.observed = overlapping.observed._replace(side_runs=1)

    assert at_most_once.look().ready == "True Scheduled"
    assert overlapping.look().ready == "True Scheduled"


def test_a_schedule_without_a_further_time_is_completed():
    task = mirrored(notAfter="2030-01-01T08:30:00Z")
    task.finished().look()

    assert task.ready == "True Completed"
    assert "notAfter" in task.condition("Ready").message


def test_a_template_shows_its_instances_and_no_times():
    task = mirrored(dynamic=True).look()

    assert task.status.next_schedule_time is None
    assert "through the API" in task.condition("Ready").message


def test_what_was_handled_is_what_the_record_remembers():
    task = mirrored()
    task.record = replace(task.record, state=replace(task.record.state, handled=Requests(run="now")))

    status = task.look().status

    assert (status.last_handled_run_request, status.last_handled_resume_request) == ("now", None)


# --- Transitions -----------------------------------------------------------------------------------------------------


def test_a_condition_keeps_its_time_while_its_status_stays():
    task = mirrored().look()
    first = task.condition("Ready").last_transition_time

    task.later(DAY).edit(suspend=True).mirror().look()

    ready = task.condition("Ready")
    assert (ready.reason, ready.last_transition_time) == ("Suspended", first)
    assert ready.observed_generation == 2


def test_times_of_conditions_are_whole_seconds_as_kubernetes_writes_them():
    task = unknown_for(123_456).look()
    task.edit().later(1).look()

    assert task.condition("Reconciling").last_transition_time.microsecond == 0


def test_a_condition_takes_the_time_when_its_status_changes():
    task = settled().failed().look()

    assert task.condition("RunsHealthy").last_transition_time == datetime_of(task.now)
    assert task.condition("Ready").last_transition_time == datetime_of(task.now) - timedelta(days=1)
