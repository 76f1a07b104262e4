"""The first minutes: README's quick start word for word, and what examples/kubernetes shows of a task."""

import json
import re
import shlex
import sys
import time
from pathlib import Path

from tests.cluster.cluster import ROOT, BreakableCluster
from tests.cluster.installation import CRDS, NAMESPACE, Installation
from tests.cluster.kubectl import Kubectl
from tests.cluster.quick_start import Shell, commands, files, section

README = ROOT / "README.md"
TUTORIAL = ROOT / "docs" / "tutorial" / "kubernetes.md"

TEAM = "shop"
"""The namespace of an application team, on both pages."""

ASKED_SECONDS_MAX = 5
"""From the request for a run to its outcome in the status, beside the time that the run takes."""

READY_SECONDS_MAX = 60
"""From `kubectl apply` to a task that is ready, and has succeeded."""


def full(image: str) -> str:
    return f"docker.io/library/{image}"


def play_images(cluster: BreakableCluster, texts: list[str], folder: Path = ROOT) -> None:
    """Build by the cluster's own means what is built by Docker in *folder*, and hold what is loaded to it."""
    words = [shlex.split(text) for text in texts]
    built = []
    for docker, build, tag, image, context in words[:-1]:
        assert (docker, build, tag) == ("docker", "build", "-t")
        cluster.build(folder / context, full(image))
        built.append(image)
    assert words[-1] == ["kind", "load", "docker-image", *built]


def test_the_quick_start_of_the_readme_goes_as_it_says_command_by_command(
    breakable_cluster: BreakableCluster, release: Installation, postgres_image: str, shell: Shell
):
    release.clear()
    assert postgres_image == full("postgres:18")
    play_images(breakable_cluster, commands(section(README, "Build the images")))
    installing = commands(section(README, "Install the operator"))
    apply, ready, succeeded, shown, logged = commands(section(README, "Apply a pool and two tasks"))
    asked, ran, described = commands(section(README, "Run a task now"))
    cleaning = commands(section(README, "Clean up"))

    began_at = time.monotonic()
    for command in installing:
        shell.run(command)
    applied_at = time.monotonic()
    for command in (apply, ready, succeeded):
        shell.run(command)
    assert time.monotonic() - applied_at < READY_SECONDS_MAX

    header, *rows = shell.run(shown).splitlines()
    assert header.split()[:5] == ["NAME", "SCHEDULE", "HANDLER", "SUSPEND", "READY"]
    assert [row.split()[0] for row in rows] == ["daily-report", "greeting"]
    (greeting,) = [row for row in rows if row.startswith("greeting ")]
    assert "greet " in greeting
    assert "True" in greeting
    assert "Hello, Kubernetes!" in shell.run(logged)

    asked_at = time.monotonic()
    shell.run(asked)
    shell.run(ran)
    waited = time.monotonic() - asked_at
    assert re.search(r"Outcome: +Succeeded", shell.run(described))
    took = release.kubectl.in_namespace(TEAM).task("daily-report").last_run_seconds()
    assert waited < took + ASKED_SECONDS_MAX

    for command in cleaning:
        shell.run(command)
    assert time.monotonic() - began_at < 300
    assert [name for name in (NAMESPACE, TEAM) if release.kubectl.get("namespace", name)] == []
    assert [crd for crd in CRDS if release.kubectl.get("crd", crd)] == []


def test_the_tutorial_goes_as_it_says_on_a_cluster(
    breakable_cluster: BreakableCluster,
    release: Installation,
    postgres_image: str,
    shell: Shell,
    tmp_path: Path,
):
    release.clear()
    play_images(breakable_cluster, commands(section(README, "Build the images")))
    for command in commands(section(README, "Install the operator")):
        shell.run(command)
    check, *images, apply = commands(section(TUTORIAL, "A pool and a task"))
    folder = tmp_path / "balcony"
    mistaken, stalled, told, fixed, ready = commands(section(TUTORIAL, "Make a mistake"))
    (changed,) = commands(section(TUTORIAL, "Change it while it runs"))
    suspend, ask, delete = commands(section(TUTORIAL, "Suspend it, then delete it"))

    shell.run(f"cd {tmp_path}")
    for command in commands(section(TUTORIAL, "A handler in an image")):
        shell.run(command)
    for name, text in files(TUTORIAL.read_text()).items():
        (folder / name).write_text(text)
    assert "no problems" in shell.run(f"{Path(sys.executable).parent}/{check}")
    play_images(breakable_cluster, images, folder)
    shell.run(apply)
    *waiting, shown, logged = commands(section(TUTORIAL, "Watch it"))
    for command in waiting:
        shell.run(command)
    assert "balcony" in shell.run(shown)
    assert '"message": "watering the tomatoes"' in shell.run(logged)

    kubectl = release.kubectl.in_namespace(TEAM)
    manifest = folder / "balcony.yaml"
    right = manifest.read_text().replace("tomatoes", "basil")
    manifest.write_text(right)
    shell.run(changed)
    kubectl.wait_until("the edit counts", lambda: "watering the basil" in shell.run(logged), 30)

    manifest.write_text(right.replace("water", "watr"))
    shell.run(mistaken)
    shell.run(stalled)
    assert "water" in shell.run(told).replace("watr", "")
    manifest.write_text(right)
    shell.run(fixed)
    shell.run(ready)

    shell.run(suspend)
    shell.run(ask)
    kubectl.wait_for_task(
        "balcony", "has done what was asked", lambda task: task.status.get("lastHandledRunRequest")
    )
    shell.run(delete)
    release.clear()
    release.kubectl.run("delete", "namespace", TEAM)


def test_a_task_is_ready_with_a_next_time_and_a_last_success_within_a_minute_of_its_apply(
    operator: Installation, kubectl: Kubectl, example: list[str]
):
    kubectl.apply(operator.secret())
    began_at = time.monotonic()

    kubectl.apply(*example)
    kubectl.wait_until_ready("greeting", "daily-report")
    seen = kubectl.wait_for_task("greeting", "has succeeded", lambda task: task.time("lastSuccessfulTime"))

    assert time.monotonic() - began_at < READY_SECONDS_MAX
    assert seen.time("nextScheduleTime") is not None
    # The pod's own account tells the realm, since no clusterId is configured.
    stored = json.loads(operator.command("tasks", "--namespace", kubectl.namespace, "--output", "json"))
    assert {task["name"] for task in stored} >= {"daily-report", "greeting"}

    kubectl.run("delete", "pyncettetasks,pyncetteworkerpools", "--all")

    kubectl.wait_until("its workers are gone", lambda: not kubectl.worker_pods())
