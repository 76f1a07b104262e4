"""Pools of workers: rolled out, scaled, broken, evicted and killed, with an account of what ran meanwhile."""

import json
import time
from typing import Any
from urllib.parse import urlsplit

import pytest

from pyncette import __version__
from pyncette.coordination.permit_records import permit_partition
from tests.cluster.cluster import BreakableCluster
from tests.cluster.installation import URL_FILE, Installation
from tests.cluster.kubectl import KubectlRefusedError, Seen, pool, task
from tests.cluster.team import BEFORE, TEMPLATE, OtherReleases, Team

DUE_EACH_SECOND = {"intervalSeconds": 1, "missedRunPolicy": "All"}


def test_a_rollout_loses_nothing_and_starts_nothing_twice(team: Team):
    team.start_pool(replicas=2, drainSeconds=10)
    team.schedule("at-least-once", **DUE_EACH_SECOND)
    team.schedule("at-most-once", **DUE_EACH_SECOND, executionMode="AtMostOnce")
    team.schedule(
        "shorter-than-the-drain", "work", intervalSeconds=4, missedRunPolicy="All", args={"seconds": 3}
    )
    team.wait_for_runs("at-least-once", 5)

    team.start_pool(replicas=2, drainSeconds=10, image=team.images[1])
    team.wait_for_runs("at-least-once", 8)

    account = team.account()
    for name, every in (("at-least-once", 1), ("at-most-once", 1), ("shorter-than-the-drain", 4)):
        assert account.missing(name, every) == [], name
        assert account.more_than_once(name) == [], name
        assert {run.release for run in account.of(name)} == {"1", "2"}, name
        team.kubectl.wait_until(
            f"{name}: all ended", lambda name=name: not team.account().not_ended(name), 30
        )


def test_workers_of_the_release_before_do_all_that_is_asked_and_are_told_until_a_rollout_replaces_them(
    team: Team, operator: Installation, other_releases: OtherReleases
):
    team.start_pool(image=other_releases.before)
    team.schedule("at-least-once", **DUE_EACH_SECOND)
    team.schedule("at-most-once", **DUE_EACH_SECOND, executionMode="AtMostOnce")
    team.schedule("rare", schedule="0 3 1 1 *")
    team.wait_for_runs("at-least-once", 3)

    told = f"Running another release of the library than the operator's {__version__}: 1 of {BEFORE}."
    seen = team.kubectl.wait_for_pool("tells of them", lambda pool: told in _said_of_workers(pool))
    assert seen.is_true("Ready")
    assert _releases(operator, seen) == [BEFORE]
    team.kubectl.patch("pyncettetask", "at-least-once", {"spec": {"args": {"by": "an edit"}}})
    team.kubectl.wait_until(
        "the edit counts", lambda: team.runs("at-least-once")[-1].args.get("by") == "an edit", 30
    )
    team.kubectl.annotate("pyncettetask", "rare", run_requested_at="1")
    team.wait_for_runs("rare", than=0)

    team.start_pool(image=team.images[1])
    team.wait_for_runs("at-least-once", 3)

    seen = team.kubectl.wait_for_pool(
        "has none of them any more", lambda pool: _said_of_workers(pool) == "Registered workers: 1."
    )
    assert _releases(operator, seen) == [__version__]
    account = team.account()
    for name in ("at-least-once", "at-most-once"):
        assert account.missing(name, 1) == [], name
        assert account.more_than_once(name) == [], name
        assert {run.release for run in account.of(name)} == {"1", "2"}, name
    assert len(account.of("rare")) == 1


def _said_of_workers(pool: Seen) -> str:
    said: str = pool.condition("BackendReachable").get("message", "")
    return said


def _releases(operator: Installation, pool: Seen) -> list[str]:
    """Return of which releases the workers of *pool* are, as the command line tells it."""
    realm = pool.status["realm"]
    told = operator.command("workers", "--backend-file", URL_FILE, "--realm", realm, "--output", "json")
    return [worker["version"] for worker in json.loads(told)]


def test_a_library_that_cannot_work_on_the_tables_stops_nothing_and_is_told_with_what_to_do(
    team: Team, other_releases: OtherReleases
):
    team.start_pool(progressDeadlineSeconds=20)
    team.schedule("job", **DUE_EACH_SECOND)
    team.wait_for_runs("job", 2)

    team.start_pool(progressDeadlineSeconds=20, image=other_releases.too_old, wait=False)
    team.start_pool("newer", progressDeadlineSeconds=20, image=other_releases.too_new, wait=False)

    for name, advice in (
        ("default", "use a release that is as new as the one that changed them"),
        ("newer", "upgrade the operator"),
    ):
        seen = team.kubectl.wait_for_pool("is Stalled", lambda pool: pool.is_true("Stalled"), name)
        assert (
            f"release must be the operator's {__version__}, or one next to it"
            in seen.condition("Stalled")["message"]
        )
        logs = [
            team.kubectl.logs(pod["metadata"]["name"], "--tail=20") for pod in team.kubectl.worker_pods(name)
        ]
        assert any(advice in log for log in logs), logs
    team.wait_for_runs("job", 2)
    account = team.account()
    assert account.missing("job", 1) == []
    assert account.more_than_once("job") == []

    team.start_pool(progressDeadlineSeconds=20)
    assert team.task("job").is_true("Ready")


def test_a_run_longer_than_the_drain_is_tried_again_at_least_once_and_counted_as_lost_at_most_once(
    team: Team,
):
    team.start_pool(drainSeconds=3)
    long = {
        "executeAt": "2025-01-01T00:00:00Z",
        "startingDeadlineSeconds": 315_360_000,
        "args": {"seconds": 25},
    }
    team.schedule("retried", "work", **long)
    team.schedule("lost", "work", **long, executionMode="AtMostOnce")
    team.wait_for_runs("retried", than=0)
    team.wait_for_runs("lost", than=0)

    team.start_pool(drainSeconds=3, image=team.images[1])

    team.kubectl.wait_for_task("retried", "is completed", lambda task: task.count("succeeded") == 1, 120)
    team.kubectl.wait_for_task("lost", "is counted", lambda task: task.count("lost") == 1, 60)
    account = team.account()
    assert [run.release for run in account.of("retried")] == ["1", "2"]
    assert account.of("retried")[0].told_at is not None
    assert [run.release for run in account.of("lost")] == ["1"]


def test_scaled_to_zero_and_back_nothing_is_lost(team: Team):
    team.start_pool()
    team.schedule("job", **DUE_EACH_SECOND)
    team.wait_for_runs("job", 3)

    team.kubectl.run("scale", "pyncetteworkerpool", "default", "--replicas=0")
    seen = team.kubectl.wait_for_pool(
        "is scaled to zero", lambda pool: pool.reason() == "ScaledToZero" and pool.is_true("Ready")
    )
    assert seen.status["replicas"] == 0
    team.kubectl.wait_until("no worker is left", lambda: not team.pods(), 30)
    assert team.task("job").is_true("Ready")
    time.sleep(5)
    team.kubectl.run("scale", "pyncetteworkerpool", "default", "--replicas=2")
    team.kubectl.wait_for_pool(
        "is Ready", lambda pool: pool.is_true("Ready") and pool.status["readyReplicas"] == 2
    )

    team.wait_for_runs("job", 10)
    account = team.account()
    assert account.missing("job", 1) == []
    assert account.more_than_once("job") == []


def test_an_image_that_crashes_stops_nothing_and_is_told(team: Team):
    team.start_pool(progressDeadlineSeconds=20)
    team.schedule("job", **DUE_EACH_SECOND)
    team.wait_for_runs("job", 3)

    team.start_pool(progressDeadlineSeconds=20, module="no_such_module", wait=False)

    seen = team.kubectl.wait_for_pool("is Stalled", lambda pool: pool.is_true("Stalled"), seconds=90)
    assert seen.is_true("Available")
    assert seen.is_false("Ready")
    team.wait_for_runs("job", 3)
    assert team.account().missing("job", 1) == []

    team.start_pool(progressDeadlineSeconds=20)
    assert team.task("job").is_true("Ready")


def test_a_first_image_that_crashes_says_soon_what_to_check_and_leaves_tasks_waiting_until_it_is_repaired(
    team: Team,
):
    team.start_pool(module="no_such_module", wait=False)
    team.kubectl.apply(task("job", "tick", intervalSeconds=1))

    seen = team.kubectl.wait_for_task("job", "waits", lambda task: task.reason() == "HandlerPending")
    assert not seen.is_true("Stalled")
    told = team.kubectl.wait_for_pool(
        "says what to check",
        lambda pool: "kubectl describe pods" in pool.condition("Ready").get("message", ""),
    )
    assert told.reason() == "RollingOut"
    assert 'They need the key "url" of the Secret' in told.condition("Ready")["message"]
    team.kubectl.wait_for_task(
        "job",
        "points at its pool",
        lambda task: (
            "kubectl describe pyncetteworkerpool default" in task.condition("Ready").get("message", "")
        ),
    )
    team.kubectl.wait_until(
        "an Event tells it", lambda: "PodsNotReady" in team.kubectl.reasons("default"), 30
    )

    team.start_pool()
    team.kubectl.wait_until_ready("job")
    team.wait_for_runs("job")


def test_a_pool_that_is_deleted_makes_its_tasks_stuck_until_it_is_back(team: Team, operator: Installation):
    team.start_pool()
    team.schedule("job")
    manifest = team.kubectl.pool().object

    with team.kubectl.watching("pyncettetask", "job") as seen:
        team.kubectl.run("replace", "--force", "-f", "-", given=json.dumps(_bare(manifest)))
        team.kubectl.wait_for_pool("is Ready", lambda pool: pool.is_true("Ready"), seconds=120)
        team.kubectl.wait_until_ready("job")
        assert [version for version in seen() if version.is_true("Stalled")] == []
    assert "PoolNotFound" not in team.kubectl.reasons("job")

    team.kubectl.delete("pyncetteworkerpool", "default")
    team.kubectl.wait_for_task("job", "is not Ready", lambda task: task.reason() == "PoolNotFound", 40)
    with operator.away():
        pass
    gone = team.kubectl.wait_for_task("job", "is Stalled", lambda task: task.is_true("Stalled"), 60)
    assert gone.is_false("Ready")
    assert gone.reason() == "PoolNotFound"
    assert gone.condition("HandlerResolved")["status"] == "Unknown"
    team.kubectl.wait_until("an Event tells it", lambda: "PoolNotFound" in team.kubectl.reasons("job"), 30)

    team.start_pool()
    team.kubectl.wait_until_ready("job")
    team.wait_for_runs("job")


def _bare(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return an object as a user has it in a file."""
    name = {"name": manifest["metadata"]["name"]}
    return {"metadata": name, **{key: manifest[key] for key in ("apiVersion", "kind", "spec")}}


def test_a_task_and_its_image_changed_in_one_commit_become_healthy_without_ever_being_degraded(team: Team):
    team.start_pool()
    team.schedule("job")

    with team.kubectl.watching("pyncettetask", "job") as seen:
        # The task first, as an apply of a folder may have it.
        team.kubectl.apply(task("job", "later", intervalSeconds=1))
        team.kubectl.apply(pool(team.images[1], template=TEMPLATE, drainSeconds=5))
        team.kubectl.wait_for_task(
            "job", "is Ready", lambda task: task.is_true("Ready") and task.is_true("HandlerResolved"), 90
        )

        history = seen()
    assert len(history) > 1
    assert [version for version in history if version.is_true("Stalled")] == []
    team.kubectl.wait_until(
        "the new handler runs", lambda: [run for run in team.runs("job") if run.release == "2"]
    )


def test_workers_that_are_killed_without_a_word_lose_no_run_and_start_none_twice_that_may_run_once(
    team: Team, breakable_cluster: BreakableCluster
):
    team.start_pool(replicas=2)
    team.schedule(
        "at-least-once", "work", **DUE_EACH_SECOND, leaseDurationSeconds=5, concurrencyPolicy="Allow"
    )
    team.schedule("at-most-once", **DUE_EACH_SECOND, executionMode="AtMostOnce")
    team.wait_for_runs("at-least-once", 5)

    for _ in range(2):
        victim = team.kubectl.worker_pods()[0]
        breakable_cluster.kill_pod(victim["metadata"]["uid"])
        team.wait_for_runs("at-least-once", 5)
        team.kubectl.wait_for_pool("is Ready", lambda pool: pool.is_true("Ready"))

    team.kubectl.wait_until(
        "each one was ended by some attempt", lambda: not _ended_late(team, "at-least-once"), 60
    )
    account = team.account()
    assert account.missing("at-least-once", 1) == []
    assert account.more_than_once("at-most-once") == []


def _ended_late(team: Team, name: str) -> list[float]:
    """Times whose runs began more than some seconds ago, and did not end."""
    return [at for at in team.account().not_ended(name) if at < time.time() - 5]


def test_one_worker_is_evicted_and_the_next_is_refused_until_another_is_there(team: Team):
    team.start_pool(replicas=2)
    first, second = team.pods()

    _evict(team, first)
    with pytest.raises(KubectlRefusedError, match="disruption budget"):
        _evict(team, second)

    team.kubectl.wait_for_pool("is Ready again", lambda pool: pool.is_true("Ready") and len(team.pods()) == 2)
    team.kubectl.wait_until("the budget allows it", lambda: _evicted(team, second), 60)


def _evict(team: Team, name: str) -> None:
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": team.kubectl.namespace},
    }
    path = f"/api/v1/namespaces/{team.kubectl.namespace}/pods/{name}/eviction"
    team.kubectl.run("create", "--raw", path, "--filename", "-", given=json.dumps(eviction))


def _evicted(team: Team, name: str) -> bool:
    try:
        _evict(team, name)
    except KubectlRefusedError:
        return False
    return True


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"spec": {"hostNetwork": True}}, "hostNetwork"),
        ({"spec": {"volumes": [{"name": "root", "hostPath": {"path": "/"}}]}}, "hostPath"),
        ({"spec": {"containers": [{"name": "worker", "command": ["sh"]}]}}, "command"),
        ({"metadata": {"labels": {"pyncette.dev/pool": "other"}}}, "pyncette.dev/pool"),
    ],
)
def test_a_template_below_restricted_is_refused_with_what_is_wrong(team: Team, spec, path):
    team.start_pool(template=spec, wait=False)

    seen = team.kubectl.wait_for_pool("is refused", lambda pool: pool.is_true("Stalled"))

    assert path in seen.condition("Ready")["message"]
    assert team.pods() == []


def test_a_pool_shows_its_handlers_its_tasks_and_its_backend(team: Team):
    team.start_pool()
    team.schedule("job")

    seen: Seen = team.kubectl.wait_for_pool("counts its task", lambda pool: pool.status.get("tasks") == 1)

    assert {"tick", "work", "fail"} <= set(seen.status["handlers"])
    assert seen.is_true("BackendReachable")
    assert seen.status["realm"].endswith(f"/{team.kubectl.namespace}/default")


def test_the_url_of_the_backend_stands_in_no_argument_no_environment_and_no_log(team: Team, operator):
    team.start_pool()
    team.schedule("job")
    team.wait_for_runs("job")
    passwords = [urlsplit(url).password for url in (operator.url, operator.worker_url)]

    (worker,) = team.kubectl.worker_pods()
    texts = {
        "pod": json.dumps(worker),
        "log": team.kubectl.logs(worker["metadata"]["name"]),
        "operator": json.dumps(operator.operator_pods()),
        "log of the operator": operator.log(),
    }

    assert [where for where, text in texts.items() if any(password in text for password in passwords)] == []


TOLD_SECONDS = 30
"""From the moment when a worker could tell what is wrong with a task, until its condition does."""


def test_a_dynamic_task_with_other_partitions_than_its_module_stops_no_worker_and_is_fixed_by_the_right_number(
    team: Team,
):
    """Applied together with its pool, as the quick start does: it is in the backend before the first worker is."""
    wrong = task("users", "remind", dynamic=True, partitions=8)
    team.kubectl.apply(
        pool(team.images[0], template=TEMPLATE, drainSeconds=5),
        wrong,
        task("beat", "tick", intervalSeconds=1),
        task("enrolment", "enrol", intervalSeconds=5, args={"instances": 2}),
    )

    team.kubectl.wait_until_ready("beat", "enrolment", seconds=120)
    team.wait_for_runs("beat", 3)
    seen = team.kubectl.wait_for_task(
        "users", "is told", lambda task: task.reason() == "PartitionsDiffer", TOLD_SECONDS
    )
    assert "must be 1, as in the task module, not 8" in seen.condition("Ready")["message"]
    assert seen.is_false("Scheduled")
    team.kubectl.wait_for_task("users", "is Stalled", lambda task: task.is_true("Stalled"), TOLD_SECONDS + 10)
    assert _restarts(team) == 0
    # Nobody has had instances by another count, so the module's counts, and what it schedules runs.
    team.wait_for_runs("person-0", 1)

    team.kubectl.delete("pyncettetask", "users")
    team.kubectl.apply(task("users", "remind", dynamic=True, partitions=1))

    team.kubectl.wait_until_ready("users", seconds=TOLD_SECONDS)
    team.wait_for_runs("person-0", 2, than=len(team.runs("person-0")))
    assert _restarts(team) == 0
    account = team.account()
    assert account.missing("beat", 1) == []
    assert account.more_than_once("beat") == []


def _restarts(team: Team) -> int:
    return sum(
        status["restartCount"]
        for pod in team.kubectl.worker_pods()
        for status in pod["status"].get("containerStatuses", ())
    )


def test_permits_of_a_large_limit_are_created_as_needed_and_removed_with_their_task(
    team: Team, operator: Installation
):
    operator.ensure(
        operator.values({"resyncSeconds": 5, "withdrawalGraceSeconds": 5, "sweep": {"least": 10_000}})
    )
    team.start_pool(replicas=2)
    team.schedule("limited", intervalSeconds=1, maxConcurrentRuns=10_000, concurrencyPolicy="Allow")
    team.wait_for_runs("limited", 5)
    realm = f"{operator.cluster_id()}/{team.kubectl.namespace}/default"
    where = permit_partition(realm, "tick", "limited").handler

    def permits() -> int:
        (count,) = operator.query(
            "SELECT count(*) FROM pyncette_tasks_names AS name JOIN pyncette_tasks_partitions AS partition"
            f" ON partition.id = name.partition_id WHERE partition.handler = '{where}'"
        )
        return int(count)

    assert 1 <= permits() <= 50

    team.kubectl.delete("pyncettetask", "limited")

    team.kubectl.wait_until("its record is removed", lambda: "limited" not in operator.stored(realm), 60)
    team.kubectl.wait_until("no permit is left", lambda: permits() == 0, 10)
    time.sleep(5)  # live workers do not create them again
    assert permits() == 0
