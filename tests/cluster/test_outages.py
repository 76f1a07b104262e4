"""Outages of each part: schedules go on firing, and what came to nothing meanwhile is made up for."""

import time
from concurrent.futures import ThreadPoolExecutor

from tests.cluster.cluster import BreakableCluster
from tests.cluster.installation import DATABASE, Installation
from tests.cluster.team import Team

OUTAGE_SECONDS = 120

DUE_EACH_SECOND = {"intervalSeconds": 1, "missedRunPolicy": "All"}


def test_with_operator_and_api_server_away_for_two_minutes_no_run_is_missed_and_none_is_late(
    team: Team, operator: Installation, breakable_cluster: BreakableCluster
):
    team.start_pool()
    team.schedule("job", **DUE_EACH_SECOND)
    team.wait_for_runs("job", 3)

    with operator.away():
        began_at = time.time()
        with breakable_cluster.stopped("kube-apiserver"):
            time.sleep(OUTAGE_SECONDS)
        ended_at = time.time()

    account = team.account()
    during = [run for run in account.of("job") if began_at < run.started_at < ended_at]
    assert len(during) >= OUTAGE_SECONDS - 2
    assert account.missing("job", 1) == []
    assert account.more_than_once("job") == []
    # The machine is busy, so a few may be; none waited for anything to come back.
    assert max(run.late for run in during) < 5
    team.kubectl.wait_for_task(
        "job", "has caught up", lambda task: task.count("succeeded") >= len(account.of("job")), 90
    )


def test_an_api_server_that_comes_back_finds_the_operator_ready_again_and_none_the_wiser(
    team: Team, operator: Installation, breakable_cluster: BreakableCluster
):
    team.start_pool()
    team.schedule("job")

    with breakable_cluster.stopped("kube-apiserver"):
        time.sleep(20)
    operator.wait_until_ready()
    edited_at = time.time()
    team.kubectl.patch("pyncettetask", "job", {"spec": {"args": {"edited": True}}})

    team.kubectl.wait_until(
        "the edit counts", lambda: [run for run in team.runs("job") if run.args], seconds=90
    )
    print(f"{time.time() - edited_at:.1f} s from the edit to its run")


def test_a_backend_that_restarts_under_load_loses_nothing(team: Team, operator: Installation):
    jobs = [f"job-{number}" for number in range(20)]
    team.start_pool(replicas=2)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda job: team.schedule(job, wait=False, **DUE_EACH_SECOND), jobs))
    team.kubectl.wait_until_ready(*jobs)
    workers = team.pods()

    for grace in ("--grace-period=30", "--grace-period=1"):
        operator.kubectl.delete("pod", f"{DATABASE}-0", grace)
        operator.kubectl.run("rollout", "status", f"statefulset/{DATABASE}", "--timeout=90s")
        team.wait_for_runs("job-0", 5, 90)

    team.kubectl.wait_for_pool("is Ready", lambda pool: pool.is_true("Ready"))
    for job in jobs:
        team.kubectl.wait_until(f"{job} has no gap", lambda job=job: team.account().missing(job, 1) == [], 60)
        assert team.account().more_than_once(job) == [] or team.account().not_ended(job) == []
    # A restart would not have brought the backend back.
    assert team.pods() == workers
    assert operator.restarts() == 0


def test_a_password_that_is_changed_is_followed_without_a_restart(team: Team, operator: Installation):
    team.start_pool()
    team.schedule("job", **DUE_EACH_SECOND)
    team.wait_for_runs("job", 2)
    workers, before = team.pods(), operator.url

    operator.lock_out()
    said = "password authentication failed for user"
    lost = team.kubectl.wait_for_pool(
        "has the words of the server",
        lambda pool: said in pool.condition("BackendReachable").get("message", ""),
    )
    team.schedule("locked-out", wait=False)
    waits = team.kubectl.wait_for_task(
        "locked-out",
        "has the words of the server",
        lambda task: said in task.condition("Ready").get("message", ""),
    )
    assert waits.reason() == "BackendUnreachable"
    password = before.partition("@")[0].rpartition(":")[2]
    assert password not in f"{lost}{waits}{operator.log()}"

    operator.change_password()
    try:
        team.kubectl.apply(operator.secret())
        operator.disconnect_everybody()

        # The kubelet takes up to a minute and a half to bring a Secret to a pod that has it mounted, and to each at another time.
        team.wait_for_runs("job", 5, 180)
        assert operator.url != before
        assert team.account().missing("job", 1) == []
        assert team.pods() == workers
        team.schedule("another", wait=False)
        team.kubectl.wait_until_ready("another", seconds=180)
    finally:
        operator.wait_until_ready()


def test_a_database_that_is_away_is_told_by_the_pool_and_not_by_the_task(team: Team, operator: Installation):
    team.start_pool()
    team.schedule("job", **DUE_EACH_SECOND)

    with operator.database_away():
        team.kubectl.wait_for_pool("is not Ready", lambda pool: pool.is_false("Ready"))
        assert team.task("job").is_true("Ready")
        team.schedule("new", wait=False)
        seen = team.kubectl.wait_for_task("new", "waits for the backend", lambda task: task.is_false("Ready"))
        assert seen.is_true("Reconciling")
        assert not seen.is_true("Stalled")

    team.kubectl.wait_until_ready("new", seconds=120)
    team.wait_for_runs("job", 3, 90)
