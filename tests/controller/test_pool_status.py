"""What the status of a pool says, row by row of the design's rules, and what Flux reads there."""

from datetime import UTC, datetime

import pytest

from pyncette import __version__
from pyncette.clock import SECOND
from pyncette.controller.cluster.api import ObjectName
from pyncette.controller.status.differences import Difference, differs
from pyncette.controller.status.observed import Access
from pyncette.controller.status.pool_context import (
    RELEASE_CHARACTERS_MAX,
    RELEASES_NAMED_MAX,
    PoolEnvironment,
    StoredPool,
)
from pyncette.controller.status.pool_phase import SETTLING
from pyncette.controller.status.pool_status import LOOK_AGAIN, points_to_pods, status_of_pool
from pyncette.controller.status.rollout import rolling_out
from pyncette.controller.workloads.pod_template import PoolBackend
from pyncette.coordination.members import Member
from pyncette.core.times import instant_of
from pyncette.resources.pool import HANDLERS_MAX, PyncetteWorkerPool
from pyncette.resources.reading import Problem, Refusal, read_stored, written
from tests.controller.deployments import (
    COMPLETE,
    DONE,
    LATE,
    NEW,
    NONE,
    ROLLED_OUT,
    ROLLING_OUT,
    STARTING,
    deployment,
)
from tests.controller.kstatus import kstatus
from tests.resources import accepted, manifest

NOW = instant_of(datetime(2030, 1, 1, tzinfo=UTC))
BACKEND = PoolBackend("default", "pyncette-backend", "url")
WORKER = Member("w-1", ("send_report",), slots=100)
UNSEEN = StoredPool(ObjectName("shop", "reports"), 2)
REFUSAL = Refusal((Problem(("spec", "template", "spec", "hostNetwork"), "no", "TemplateRefused"),))


def pool(**spec):
    given = {"image": "example.org/tasks:1", "module": "tasks"} | spec
    return accepted(PyncetteWorkerPool, manifest("PyncetteWorkerPool", "reports", **given))


EXTERNAL = pool(external=True)


def told(pool_=None, seen=UNSEEN, at=0, **known):
    """The status after *at* seconds."""
    around = {
        "backend": BACKEND,
        "realm": "abc/shop/reports",
        "deployment": DONE,
        "members": (WORKER,),
    } | known
    return status_of_pool(pool_ or pool(), seen, PoolEnvironment(NOW + at * SECOND, **around))


def then(seen, told_):
    return seen._replace(status=told_.status)


def condition(told_, kind):
    return next((item for item in told_.status.conditions if item.type == kind), None)


def ready(told_):
    found = condition(told_, "Ready")
    return found.status, found.reason


def flux(told_, generation=2):
    written_ = told_.status.model_dump(mode="json", by_alias=True, exclude_none=True)
    return kstatus({"metadata": {"generation": generation}, "status": written_})


ROWS = {
    "all is rolled out": ({}, "True", "RolledOut", "Current"),
    "its Deployment is about to be made": (
        {"deployment": None, "members": ()},
        "False",
        "RollingOut",
        "InProgress",
    ),
    "nobody has looked at its Deployment": (
        {"deployment": NEW, "members": ()},
        "False",
        "RollingOut",
        "InProgress",
    ),
    "workers start": ({"deployment": STARTING, "members": ()}, "False", "RollingOut", "InProgress"),
    "workers are replaced": (
        {"deployment": deployment(3, updated=1, there=4, available=1)},
        "False",
        "RollingOut",
        "InProgress",
    ),
    "the rollout is past its deadline": (
        {"deployment": deployment(updated=1, available=0, reason=LATE)},
        "False",
        "ProgressDeadlineExceeded",
        "Failed",
    ),
    "no workers are wanted": ({"deployment": NONE, "members": ()}, "True", "ScaledToZero", "Current"),
    "no workers are wanted, and some are left": (
        {"deployment": deployment(0, there=1, ready=1)},
        "False",
        "RollingOut",
        "InProgress",
    ),
    "workers are no longer ready": (
        {"deployment": deployment(updated=1, available=0, reason=COMPLETE)},
        "False",
        "WorkersUnavailable",
        "InProgress",
    ),
    "workers are no longer ready, as their backend is away": (
        {
            "deployment": deployment(updated=1, available=0, reason=COMPLETE),
            "access": Access.DOWN,
            "members": None,
        },
        "False",
        "BackendUnreachable",
        "InProgress",
    ),
    "the backend is away from the operator alone": (
        {"access": Access.DOWN, "members": None},
        "True",
        "RolledOut",
        "Current",
    ),
    "the backend is not allowed": ({"access": Access.REFUSED}, "False", "BackendNotAllowed", "Failed"),
    "there is no such backend": (
        {"access": Access.UNKNOWN, "backend": None},
        "False",
        "BackendNotFound",
        "Failed",
    ),
    "the API server refuses its Deployment": ({"refused": "too long"}, "False", "ApplyRefused", "Failed"),
    "its template is refused": ({"pool_": REFUSAL}, "False", "TemplateRefused", "Failed"),
    "it is being deleted": ({"seen": UNSEEN._replace(deleting=True)}, "False", "Terminating", "InProgress"),
    "others run a worker": (
        {"pool_": EXTERNAL, "deployment": None},
        "True",
        "WorkersRegistered",
        "Current",
    ),
    "others run no worker": (
        {"pool_": EXTERNAL, "deployment": None, "members": ()},
        "Unknown",
        "NoWorker",
        "InProgress",
    ),
    "nobody knows whether others run a worker": (
        {"pool_": EXTERNAL, "deployment": None, "members": None, "access": Access.DOWN},
        "Unknown",
        "BackendUnreachable",
        "InProgress",
    ),
}


@pytest.mark.parametrize(("known", "holds", "reason", "seen_by_flux"), ROWS.values(), ids=ROWS)
def test_ready_of_a_pool_in_each_case(known, holds, reason, seen_by_flux):
    said = told(**known)

    assert ready(said) == (holds, reason)
    assert flux(said) == seen_by_flux
    assert said.status.observed_generation == 2


@pytest.mark.parametrize("known", [row[0] for row in ROWS.values()], ids=ROWS)
def test_the_same_is_reported_when_the_same_is_known(known):
    seen = known.get("seen", UNSEEN)
    first = told(**known)

    second = told(**known | {"seen": then(seen, first)}, at=0)
    third = told(**known | {"seen": then(seen, second)}, at=1)

    assert second.status == first.status
    assert third.status == first.status


@pytest.mark.parametrize("known", [row[0] for row in ROWS.values()], ids=ROWS)
def test_what_is_reported_is_what_the_schema_takes(known):
    whole = pool().model_copy(update={"status": told(**known).status})

    assert read_stored(PyncetteWorkerPool, written(whole)) == whole


# --- Rollouts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ROLLING_OUT.values(), ids=ROLLING_OUT)
def test_a_rollout_is_under_way_with(given):
    assert rolling_out(given)


@pytest.mark.parametrize("given", ROLLED_OUT.values(), ids=ROLLED_OUT)
def test_a_rollout_is_over_with(given):
    assert not rolling_out(given)


def test_a_rollout_begins_before_there_is_a_deployment():
    assert rolling_out(None)


def test_a_rollout_reports_how_far_it_is_and_why_pods_cannot_be_made():
    said = told(deployment=deployment(4, updated=1, there=5, available=1, trouble="exceeded quota: compute"))

    assert condition(said, "Ready").message == (
        "1 of 4 workers is ready. 1 of 4 workers is started from the current spec. "
        "4 older workers run until they are replaced. Pods cannot be created: exceeded quota: compute."
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (deployment(updated=1, available=0), "The worker is not ready."),
        (deployment(3, updated=3, available=0), "None of 3 workers is ready."),
        (deployment(3, updated=3, available=1), "1 of 3 workers is ready."),
        (deployment(3, updated=3, available=2), "2 of 3 workers are ready."),
        (
            deployment(1, updated=0, there=1, available=1),
            "1 of 1 worker is ready. The worker is not started from the current spec. 1 older worker runs until it is replaced.",
        ),
    ],
)
def test_a_rollout_says_first_how_many_workers_are_ready(given, message):
    assert condition(told(deployment=given, members=()), "Ready").message == message


@pytest.mark.parametrize(("count", "message"), [(1, "The worker is ready."), (2, "All 2 workers are ready.")])
def test_workers_that_are_ready_are_counted_in_the_right_number(count, message):
    said = told(pool(replicas=count), deployment=deployment(count, updated=count, reason=COMPLETE))

    assert condition(said, "Ready").message == message
    assert condition(said, "Available").message == (
        "1 worker is ready." if count == 1 else "2 workers are ready."
    )


def test_a_pod_that_is_not_ready_for_half_a_minute_brings_what_to_check():
    first = told(deployment=STARTING, members=())
    assert not points_to_pods(first.status)
    assert first.again_at == NOW + 30 * SECOND
    nearly = told(seen=then(UNSEEN, first), at=29, deployment=STARTING, members=())
    assert not points_to_pods(nearly.status)

    late = told(seen=then(UNSEEN, first), at=30, deployment=STARTING, members=())

    assert ready(late) == ("False", "RollingOut")
    message = condition(late, "Ready").message
    assert message.startswith("The worker is not ready. See kubectl describe pods -n shop")
    assert 'the key "url" of the Secret "pyncette-backend" in this namespace' in message
    assert points_to_pods(late.status)
    assert condition(late, "Reconciling").message == message


def test_a_rollout_that_makes_progress_says_nothing_to_check_however_long_it_takes():
    first = told(deployment=deployment(9, updated=3, available=1), members=())
    comes_on = deployment(9, updated=5, available=4, progressed_at="2030-01-01T00:04:45Z")

    going = told(seen=then(UNSEEN, first), at=300, deployment=comes_on, members=())
    stands = told(seen=then(UNSEEN, first), at=315, deployment=comes_on, members=())

    assert not points_to_pods(going.status)
    assert points_to_pods(stands.status)


def test_a_rollout_that_is_stalled_names_what_the_operator_cannot_see():
    said = told(pool(progressDeadlineSeconds=60), deployment=deployment(updated=1, available=0, reason=LATE))

    message = condition(said, "Stalled").message
    assert "made no progress for 60 s" in message
    assert 'the key "url" of the Secret "pyncette-backend" in this namespace' in message
    assert "kubectl describe pods -n shop -l pyncette.dev/pool=reports" in message
    assert f"release must be the operator's {__version__}, or one next to it" in message


def test_workers_that_fail_later_have_as_long_as_a_rollout_until_the_pool_is_stalled():
    failed = deployment(updated=1, available=0, reason=COMPLETE)
    well = then(UNSEEN, told())

    fails = told(seen=well, deployment=failed, at=10)
    still = told(seen=then(well, fails), deployment=failed, at=609)
    stuck = told(seen=then(well, still), deployment=failed, at=610)
    stays = told(seen=then(well, stuck), deployment=failed, at=611)

    assert (
        fails.again_at == NOW + 10 * SECOND + LOOK_AGAIN
    )  # it has a member more than workers that are ready
    assert [flux(each) for each in (fails, still, stuck, stays)] == [
        "InProgress",
        "InProgress",
        "Failed",
        "Failed",
    ]
    assert ready(stays) == ("False", "WorkersUnavailable")
    assert flux(told(seen=then(well, stays), at=612)) == "Current"


def test_the_time_that_a_backend_is_unavailable_is_not_the_workers():
    failed = deployment(updated=1, available=0, reason=COMPLETE)
    away = {"deployment": failed, "access": Access.DOWN, "members": None}
    well = then(UNSEEN, told())

    gone = told(seen=well, at=10, **away)
    hours_later = told(seen=then(well, gone), at=10_000, **away)
    back = told(seen=then(well, hours_later), deployment=failed, at=10_001)
    soon = told(seen=then(well, back), deployment=failed, at=10_002)
    late = told(seen=then(well, soon), deployment=failed, at=10_601)

    assert [flux(each) for each in (gone, hours_later, back, soon, late)] == [*["InProgress"] * 4, "Failed"]


def test_an_edit_ends_a_stall():
    late = deployment(updated=1, available=0, reason=LATE)
    stuck = told(deployment=late)

    edited = StoredPool(UNSEEN.name, 3, stuck.status)

    assert flux(told(seen=edited, deployment=STARTING, at=5), 3) == "InProgress"


# --- The backend -----------------------------------------------------------------------------------------------------


def test_workers_that_are_ready_and_registered_nowhere_work_on_another_database():
    first = told(members=())
    later = told(seen=then(UNSEEN, first), members=(), at=59)
    stuck = told(seen=then(UNSEEN, later), members=(), at=60)
    stays = told(seen=then(UNSEEN, stuck), members=(), at=61)

    assert [flux(each) for each in (first, later, stuck, stays)] == [
        "InProgress",
        "InProgress",
        "Failed",
        "Failed",
    ]
    assert condition(first, "BackendReachable").status == "Unknown"
    assert (condition(stays, "BackendReachable").status, ready(stays)[1]) == ("False", "WorkersElsewhere")
    assert 'the Secret "pyncette-backend"' in condition(stays, "Stalled").message
    assert flux(told(seen=then(UNSEEN, stays), at=62)) == "Current"


def test_workers_have_time_to_register_however_long_the_rollout_took():
    starts = told(deployment=STARTING, members=())

    ready_at_last = told(seen=then(UNSEEN, starts), members=(), at=500)

    assert flux(ready_at_last) == "InProgress"
    assert ready_at_last.again_at == NOW + 500 * SECOND + LOOK_AGAIN
    assert SETTLING > LOOK_AGAIN


BACKENDS = {
    "a worker is registered": ({}, "True", "WorkersRegistered"),
    "no worker runs": ({"deployment": NONE, "members": ()}, "Unknown", "NoWorker"),
    "it is away": ({"access": Access.DOWN, "members": None}, "False", "BackendUnreachable"),
    "it is not allowed": ({"access": Access.REFUSED}, "False", "BackendNotAllowed"),
    "it is not known": ({"access": Access.UNKNOWN}, "False", "BackendNotFound"),
    "it could not be asked just now": ({"members": None}, "Unknown", "NoWorker"),
}


def test_a_backend_that_is_unavailable_is_reported_with_the_error_of_the_log():
    fault = 'PostgreSQL at db:5432/x: authentication failed: password authentication failed for user "shop"'

    said = told(access=Access.DOWN, members=None, fault=fault)

    assert condition(said, "BackendReachable").message == (
        f'The backend "default" cannot be used by the operator: {fault}. Workers that can reach it keep running.'
    )


@pytest.mark.parametrize(("known", "holds", "reason"), BACKENDS.values(), ids=BACKENDS)
def test_backend_reachable_in_each_case(known, holds, reason):
    found = condition(told(**known), "BackendReachable")

    assert (found.status, found.reason) == (holds, reason)


def test_workers_of_the_operators_release_are_just_counted():
    said = condition(told(members=(WORKER, WORKER)), "BackendReachable")

    assert said.message == "Registered workers: 2."


@pytest.mark.parametrize("spec", [{}, {"external": True}], ids=["its own", "external"])
def test_workers_of_other_releases_are_well_and_told_by_release(spec):
    members = tuple(
        Member(f"w-{number}", version=release)
        for number, release in enumerate(("0.0.9", __version__, "0.0.9", "99.0.0"))
    )

    said = told(pool(**spec), members=members)

    assert ready(said)[0] == "True"
    assert condition(said, "BackendReachable").message == (
        "Registered workers: 4. Running another release of the library than the operator's "
        f"{__version__}: 2 of 0.0.9, 1 of 99.0.0. Releases next to each other work together: rebuild the image before the "
        "next upgrade of the operator, or upgrade the operator if it is the older one."
    )


def test_of_what_workers_call_their_release_no_more_is_reported_than_can_be_read():
    many = tuple(Member(f"w-{number}", version=f"{number}" * 1_000) for number in range(9))

    message = condition(told(members=many), "BackendReachable").message

    assert f": 1 of {'0' * (RELEASE_CHARACTERS_MAX - 1)}…, 1 of 1" in message
    assert message.count("1 of ") == RELEASES_NAMED_MAX
    assert ", …. Releases next" in message


AVAILABILITY = {
    "a worker is ready": ({}, "True", "WorkersReady"),
    "one of three is": ({"deployment": deployment(3, updated=1)}, "True", "WorkersReady"),
    "none is": ({"deployment": STARTING}, "False", "NoWorkerReady"),
    "none is wanted": ({"deployment": NONE}, "False", "ScaledToZero"),
    "there is no Deployment": ({"deployment": None}, "False", "NoWorkerReady"),
    "others run one": ({"pool_": EXTERNAL}, "True", "WorkersReady"),
    "others run none": ({"pool_": EXTERNAL, "members": ()}, "False", "NoWorkerReady"),
    "nobody knows": ({"pool_": EXTERNAL, "members": None}, "Unknown", "BackendUnreachable"),
    "the spec is refused, and workers go on": ({"pool_": REFUSAL}, "True", "WorkersReady"),
}


@pytest.mark.parametrize(("known", "holds", "reason"), AVAILABILITY.values(), ids=AVAILABILITY)
def test_available_in_each_case(known, holds, reason):
    found = condition(told(**known), "Available")

    assert (found.status, found.reason) == (holds, reason)


@pytest.mark.parametrize(
    ("known", "tail"),
    [
        ({"pool_": REFUSAL}, "current workers keep running."),
        ({"refused": "no"}, "current workers keep running."),
        ({"refused": "no", "deployment": None}, "there are no workers."),
        ({"access": Access.REFUSED, "deployment": None}, "there are no workers."),
    ],
)
def test_a_stalled_object_says_what_runs_in_the_meantime(known, tail):
    assert condition(told(**known), "Stalled").message.endswith(tail)


# --- Conditions and numbers ------------------------------------------------------------------------------------------


def test_a_condition_keeps_the_time_of_its_last_transition():
    first = told(deployment=STARTING, members=())
    second = told(
        seen=then(UNSEEN, first), deployment=deployment(2, updated=1, available=0), members=(), at=5
    )
    third = told(seen=then(UNSEEN, second), at=9)

    assert condition(second, "Ready").last_transition_time == condition(first, "Ready").last_transition_time
    assert condition(second, "Reconciling").last_transition_time == datetime(2030, 1, 1, tzinfo=UTC)
    assert condition(third, "Ready").last_transition_time == datetime(2030, 1, 1, 0, 0, 9, tzinfo=UTC)


def test_the_default_of_the_schema_is_no_time_of_a_transition():
    said = told(EXTERNAL, members=())

    assert condition(said, "Ready").last_transition_time == datetime(2030, 1, 1, tzinfo=UTC)


def test_times_are_reported_in_whole_seconds():
    said = status_of_pool(pool(), UNSEEN, PoolEnvironment(NOW + 999_999, deployment=DONE, members=(WORKER,)))

    assert condition(said, "Ready").last_transition_time == datetime(2030, 1, 1, tzinfo=UTC)


def test_a_long_message_is_cut():
    said = told(Refusal((Problem(("spec",), "x" * 9000),)))

    message = condition(said, "Stalled").message
    assert 4000 < len(message) <= 4096
    assert message.endswith("x… Until then its current workers keep running.")


def test_numbers_are_those_of_the_deployment_and_the_backend():
    status = told(deployment=deployment(3, updated=2, there=4, ready=3), tasks=7, due=5).status

    assert (status.replicas, status.ready_replicas) == (4, 3)
    assert (status.tasks, status.due) == (7, 5)
    assert status.selector == "pyncette.dev/pool=reports"
    assert status.realm == "abc/shop/reports"


def test_numbers_of_an_external_pool_are_those_of_its_members():
    known = told(EXTERNAL, deployment=None, members=(WORKER, WORKER))
    unknown = told(EXTERNAL, seen=then(UNSEEN, known), deployment=None, members=None)

    assert (known.status.replicas, known.status.ready_replicas, known.status.selector) == (2, 2, None)
    assert (unknown.status.replicas, unknown.status.ready_replicas) == (2, 2)


def test_handlers_are_those_of_all_workers_in_order_and_only_such_as_a_task_can_name():
    members = (Member("a", ("b", "a")), Member("b", ("c", "b", "not a name", "x" * 999)))

    assert told(members=members).status.handlers == ("a", "b", "c")
    assert told(members=()).status.handlers == ()


def test_handlers_stay_while_the_backend_cannot_be_read():
    seen = then(UNSEEN, told())

    assert told(seen=seen, members=None, access=Access.DOWN).status.handlers == ("send_report",)


def test_no_more_handlers_are_listed_than_a_status_may_hold():
    many = (Member("a", tuple(f"h{number:05}" for number in range(HANDLERS_MAX + 5))),)

    assert len(told(members=many).status.handlers) == HANDLERS_MAX


@pytest.mark.parametrize(
    ("known", "seconds"),
    [
        ({}, None),
        ({"members": (WORKER, WORKER)}, 10),
        ({"members": None}, None),
        ({"deployment": NONE, "members": ()}, None),
        ({"deployment": NONE}, 10),
        ({"pool_": EXTERNAL, "members": ()}, 10),
        ({"pool_": EXTERNAL, "members": (WORKER, WORKER)}, None),
    ],
)
def test_it_is_reconciled_again_while_the_backend_knows_of_too_few_or_too_many(known, seconds):
    assert told(**known).again_at == (None if seconds is None else NOW + seconds * SECOND)


# --- Whether it has to be written ------------------------------------------------------------------------------------


DIFFERENCES = {
    "nothing": ({}, Difference.NONE),
    "what waits": ({"due": 5, "tasks": 2}, Difference.REST),
    "a handler": ({"members": (Member("w-1", ("other",)),)}, Difference.OUTCOMES),
    "a worker of before that is left": (
        {"deployment": deployment(updated=1, there=2, available=0)},
        Difference.CONDITIONS,
    ),
    "its scale": ({"deployment": deployment(3, updated=3, reason=COMPLETE)}, Difference.OUTCOMES),
    "whether it is stuck": ({"refused": "no"}, Difference.CONDITIONS),
}


@pytest.mark.parametrize(("known", "difference"), DIFFERENCES.values(), ids=DIFFERENCES)
def test_a_status_is_the_more_urgent_the_more_there_is_to_it_and_differs_by(known, difference):
    before = told()
    stored = before.status.model_dump(mode="json", by_alias=True, exclude_none=True)

    assert differs(stored, told(seen=then(UNSEEN, before), at=5, **known).status) is difference


def test_a_status_of_another_generation_or_of_another_release_is_written_at_once():
    status = told().status
    stored = status.model_dump(mode="json", by_alias=True, exclude_none=True)

    assert differs(stored | {"observedGeneration": 1}, status) is Difference.GENERATION
    assert differs({}, status) is Difference.GENERATION
    assert differs({"handlers": 5}, status) is Difference.GENERATION
    assert differs(stored | {"brandNew": 1}, status) is Difference.NONE


def test_a_copied_database_is_reported_and_leaves_the_pool_ready():
    report = told(is_copy=True)

    found = condition(report, "DatabaseCopied")

    assert (found.status, found.reason) == ("True", "DatabaseCopied")
    assert "pyncette migrate --new-identity" in found.message
    assert ready(report) == ("True", "RolledOut")
    assert condition(told(), "DatabaseCopied") is None
