"""What a platform team does: installs, upgrades, goes back, removes, and makes mistakes, while tasks fire."""

import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import yaml

from tests.cluster.cluster import ROOT, Cluster
from tests.cluster.installation import CRDS, DATABASE, RELEASE, SECRET, Installation
from tests.cluster.kubectl import Kubectl, task
from tests.cluster.team import Team

DUE_EACH_SECOND = {"intervalSeconds": 1, "missedRunPolicy": "All"}

TASKS = 10

PLAIN = ROOT / "charts" / "kustomize"


@pytest.fixture
def job(team: Team) -> str:
    """A task that is due each second, and has run."""
    team.start_pool()
    team.schedule("job", **DUE_EACH_SECOND)
    team.wait_for_runs("job", 2)
    return "job"


def in_step(team: Team, job: str) -> None:
    """Fail if *job* missed a run, or had one twice."""
    account = team.account()
    assert account.missing(job, 1) == []
    assert account.more_than_once(job) == []


def test_an_upgrade_and_a_rollback_of_the_operator_restart_no_worker_and_miss_no_run(
    team: Team, operator: Installation, cluster: Cluster, operator_image: str, job: str
):
    workers = team.pods()
    image = cluster.image("pyncette-operator", "next")
    cluster.build(ROOT, image)
    values = operator.values({"logLevel": "DEBUG"})
    values["image"]["tag"] = "next"

    operator.ensure(values)
    assert operator.operator_pods()[0]["spec"]["containers"][0]["image"] == image
    team.wait_for_runs(job, 3)
    team.kubectl.patch("pyncettetask", job, {"spec": {"args": {"by": "next"}}})
    team.kubectl.wait_until("the edit counts", lambda: team.runs(job)[-1].args.get("by") == "next", 30)

    operator.rollback()
    assert operator.operator_pods()[0]["spec"]["containers"][0]["image"] == operator_image
    team.kubectl.patch("pyncettetask", job, {"spec": {"args": {"by": "first"}}})
    team.kubectl.wait_until("the edit counts", lambda: team.runs(job)[-1].args.get("by") == "first", 30)

    in_step(team, job)
    assert team.pods() == workers


def test_what_is_uninstalled_leaves_resources_and_schedules_and_the_next_installation_carries_on(
    team: Team, operator: Installation, job: str
):
    counted = team.task(job).count("succeeded")
    rows = operator.query("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")

    operator.uninstall()
    assert [crd for crd in CRDS if not team.kubectl.get("crd", crd)] == []
    assert team.task(job)
    assert operator.kubectl.get("pvc", DATABASE)
    operator.ensure()

    assert operator.query("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == rows
    team.wait_for_runs(job, 3, 90)
    seen = team.kubectl.wait_for_task(
        job, "counts on", lambda task: task.count("succeeded") > counted + 3, 90
    )
    assert seen.is_true("Ready")
    in_step(team, job)


def test_an_installation_under_another_name_carries_on(team: Team, operator: Installation, job: str):
    operator.uninstall()
    other = f"other-{DATABASE}"
    values = operator.values(crds={"enabled": False})
    values["backend"]["embedded"]["existingClaim"] = DATABASE
    with operator.database_at(other):
        team.kubectl.apply(operator.secret())
        operator.install("other", values)
        try:
            # Workers follow another password, and not another server: nobody is to be led away by a Secret.
            team.kubectl.run("rollout", "restart", "deployment/pyncette-default")
            team.wait_for_runs(job, 5)
            team.schedule("new")
            in_step(team, job)
        finally:
            operator.uninstall("other")


def test_two_operators_at_once_do_no_harm(team: Team, operator: Installation, job: str):
    values = operator.values(
        crds={"enabled": False},
        backend={},
        backends=[{"name": "default", "secretName": SECRET, "namespaces": ["*"], "tls": "Disabled"}],
    )
    operator.install("second", values)
    try:
        for number in range(1, 6):
            team.kubectl.patch("pyncettetask", job, {"spec": {"args": {"edit": number}}})
            team.kubectl.wait_until(
                f"edit {number} counts",
                lambda number=number: team.runs(job)[-1].args.get("edit") == number,
                30,
            )
        team.schedule("new")
        workers = team.pods()
        resting = _generation_of_workers(team)
        team.wait_for_runs(job, 10)
        # They agree on what they apply, and on what they say.
        assert _generation_of_workers(team) == resting
        assert team.pods() == workers
    finally:
        operator.uninstall("second")
    in_step(team, job)


def _generation_of_workers(team: Team) -> int:
    generation: int = team.kubectl.get("deployment", "pyncette-default")["metadata"]["generation"]
    return generation


def test_a_crd_that_is_deleted_by_mistake_and_put_back_loses_no_schedule(
    team: Team, operator: Installation, job: str
):
    team.schedule("rare", schedule="0 3 * * *")
    team.kubectl.annotate("pyncettetask", "rare", run_requested_at="1")
    team.wait_for_runs("rare", than=0)
    counted = team.kubectl.wait_for_task(
        "rare", "has counted it", lambda task: task.count("succeeded") == 1
    ).count("succeeded")
    spec = {name: team.task(name).object["spec"] for name in (job, "rare")}

    team.kubectl.run("delete", "crd", *CRDS)
    time.sleep(15)
    # Helm puts back what is missing of a release.
    operator.install(RELEASE, operator.values())
    team.kubectl.run("wait", "--for=condition=Established", "crd", *CRDS, "--timeout=30s")
    for name, wanted in spec.items():
        team.kubectl.apply(task(name, wanted.pop("handler"), **wanted))
    team.start_pool()

    team.kubectl.wait_until_ready(*spec, seconds=120)
    seen = team.kubectl.wait_for_task("rare", "counts on", lambda task: task.count("succeeded") >= counted)
    assert seen.count("succeeded") == counted
    team.wait_for_runs(job, 3)
    in_step(team, job)


CAREFUL = {"resyncSeconds": 5, "withdrawalGraceSeconds": 5, "sweep": {"least": 5, "sharePercent": 20}}


def scheduled(team: Team, operator: Installation, kubectl: Kubectl) -> tuple[set[str], str]:
    """Return the names of tasks that a careful operator has stored, and their realm."""
    operator.ensure(operator.values(CAREFUL))
    team.start_pool()
    names = {f"job-{number}" for number in range(TASKS)}
    for name in names:
        team.schedule(name, schedule="0 3 * * *", wait=False)
    kubectl.wait_until_ready(*names)
    realm = kubectl.pool().status["realm"]
    assert names <= operator.stored(realm)
    return names, realm


def test_tasks_deleted_while_nobody_looked_are_held_back_until_it_is_confirmed(
    team: Team, operator: Installation, kubectl: Kubectl
):
    names, realm = scheduled(team, operator, kubectl)

    with operator.away():
        kubectl.run("delete", "pyncettetasks", "--all")
    held = partial(operator.held_back, kubectl.namespace)
    operator.kubectl.wait_until("it says that it holds back", lambda: held() >= TASKS, 60)
    time.sleep(15)
    assert names <= operator.stored(realm)
    operator.command("sweep", "--namespace", kubectl.namespace, "--confirm", str(held()))

    operator.kubectl.wait_until("all are removed", lambda: not names & operator.stored(realm), 120)


def test_a_namespace_deleted_while_nobody_looked_needs_no_confirmation(
    team: Team, operator: Installation, kubectl: Kubectl
):
    names, realm = scheduled(team, operator, kubectl)

    with operator.away():
        kubectl.run("delete", "namespace", kubectl.namespace, "--timeout=120s", seconds=130)

    operator.kubectl.wait_until("all are removed", lambda: not names & operator.stored(realm), 120)


def test_in_namespaced_mode_one_of_two_namespaces_may_disappear(
    team: Team, operator: Installation, kubectl: Kubectl, job: str
):
    doomed = f"{kubectl.namespace}-b"
    kubectl.run("create", "namespace", doomed)
    kubectl.in_namespace(doomed).apply(operator.secret())
    operator.ensure(
        operator.values(namespaces=[kubectl.namespace, doomed], clusterId=operator.cluster_id(), backends=[])
    )
    for kind in ("clusterrole", "clusterrolebinding"):
        names = [found["metadata"]["name"] for found in kubectl.objects(kind)]
        assert [name for name in names if "pyncette" in name] == []
    kubectl.in_namespace(doomed).apply(task("there", "tick", intervalSeconds=1))
    kubectl.in_namespace(doomed).wait_for_task("there", "is seen", lambda task: task.is_current)

    kubectl.run("delete", "namespace", doomed, "--timeout=120s", seconds=130)

    time.sleep(20)
    operator.wait_until_ready()
    team.kubectl.patch("pyncettetask", job, {"spec": {"args": {"edited": True}}})
    team.kubectl.wait_until("the edit counts", lambda: team.runs(job)[-1].args.get("edited"), 60)
    in_step(team, job)
    assert settled_restarts(operator) <= 2


def settled_restarts(operator: Installation) -> int:
    """Return how often the operator was restarted, once that has not changed for 30 seconds."""
    restarts, deadline = -1, time.monotonic() + 180
    while (found := operator.restarts()) != restarts:
        assert time.monotonic() < deadline, f"restarted {found} times, and again"
        restarts = found
        time.sleep(30)
    return restarts


def test_plain_manifests_install_what_the_chart_does(
    operator: Installation, kubectl: Kubectl, operator_image: str, example: Sequence[str], tmp_path: Path
):
    operator.uninstall()
    name, tag = operator_image.rsplit(":", 1)
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(PLAIN, tmp_path.resolve())],
        "images": [{"name": "pyncette-operator", "newName": name, "newTag": tag}],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    plain = operator.kubectl
    with operator.other_database() as database:
        (tmp_path / "url").write_text(database.url)
        try:
            # By default, the certificate of the server is verified, by the authorities beside the URL.
            files = (f"--from-file=url={tmp_path}/url", f"--from-file=ca.crt={database.authority}")
            for namespace in (plain, kubectl):
                namespace.run("create", "secret", "generic", "pyncette-backend", *files)
            plain.run("apply", "--server-side", "--force-conflicts", "--kustomize", tmp_path)
            operator.wait_until_ready()

            # The backend is open to the namespaces with a label.
            kubectl.apply(*example)
            kubectl.wait_for_pool("is refused", lambda pool: pool.reason() == "BackendNotAllowed", "default")
            kubectl.run("label", "namespace", kubectl.namespace, "pyncette.dev/backend=default")
            kubectl.wait_until_ready("greeting", "daily-report", seconds=90)
            kubectl.wait_for_task("greeting", "has succeeded", lambda task: task.time("lastSuccessfulTime"))
        finally:
            kubectl.run("delete", "pyncettetasks,pyncetteworkerpools", "--all")
            plain.run("delete", "secret", "pyncette-backend")
            # The namespace and the CRDs stay, since others have them.
            plain.run("delete", "--filename", PLAIN / "operator.yaml")
