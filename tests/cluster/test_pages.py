"""A platform team that does what the pages say, from the installation to its removal."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import ROOT, BreakableCluster
from tests.cluster.installation import NAMESPACE, Installation
from tests.cluster.quick_start import Shell, commands, section
from tests.pages import DOCS, blocks

INSTALL = DOCS / "how-to" / "install.md"
OPERATE = DOCS / "how-to" / "operate.md"
OBSERVE = DOCS / "how-to" / "observe.md"
SECURITY = DOCS / "how-to" / "security.md"
TROUBLESHOOT = DOCS / "how-to" / "troubleshoot.md"

EXAMPLE = ROOT / "examples" / "kubernetes"

TEAM = "shop"
"""The namespace of an application team, on the pages."""


@pytest.fixture
def played(
    breakable_cluster: BreakableCluster,
    release: Installation,
    postgres_image: str,
    example_image: str,
    shell: Shell,
    tmp_path: Path,
) -> Iterator["Played"]:
    """An installation with the values of the page, on a cluster where there was none, and an application team's tasks."""
    release.clear()
    build, _push = commands(section(INSTALL, "Install the operator"))[:2]
    image = build.split()[3]
    breakable_cluster.build(ROOT, image)
    values = next(block.text for block in blocks(INSTALL, "yaml"))
    name = "secretName: pyncette-backend\n"
    assert name in values
    # The page takes a database for granted whose certificate the system's authorities vouch for.
    (tmp_path / "values.yaml").write_text(values.replace(name, f"{name}    tls: Disabled\n"))
    namespace, *secret_and_install = commands(section(INSTALL, "With Helm"))
    shell.run(namespace)
    try:
        with release.other_database() as database:
            (tmp_path / "url.txt").write_text(database.url)
            played = Played(
                shell,
                {
                    "=url.txt": f"={tmp_path}/url.txt",
                    "--values values.yaml": f"--values {tmp_path}/values.yaml",
                },
            )
            shell.run(f"kubectl create namespace {TEAM}")
            for command in (*secret_and_install, *commands(section(INSTALL, "Check the installation"))):
                played.run(command)
            shell.run(f"kubectl -n {TEAM} apply -f {EXAMPLE}")
            shell.run(
                f"kubectl -n {TEAM} wait --for=condition=Ready pyncetteworkerpool/default --timeout=90s"
            )
            yield played
    finally:
        release.clear()
        release.kubectl.run("delete", "--ignore-not-found", "namespace", TEAM)


class Played:
    """A shell for commands in which something stands for what each reader has: a URL, a file."""

    def __init__(self, shell: Shell, stands_for: dict[str, str]) -> None:
        self.shell = shell
        self._stands_for = stands_for

    def run(self, command: str) -> str:
        for shown, meant in self._stands_for.items():
            command = command.replace(shown, meant)
        return self.shell.run(command)


def test_what_the_pages_tell_to_type_does_what_they_say(played: Played, release: Installation):
    kubectl = release.kubectl.in_namespace(TEAM)
    kubectl.wait_for_task("greeting", "has succeeded", lambda task: task.time("lastSuccessfulTime"))

    # Security, first, so that all that follows is restricted.
    (label,) = commands(section(SECURITY, "Pods"))
    played.run(label)

    # Observe.
    tasks, pools, described, history = commands(section(OBSERVE, "At a glance"))
    assert "daily-report" in played.run(tasks)
    assert "default" in played.run(pools)
    played.run(described)
    played.run(history)
    for command in (*commands(section(OBSERVE, "Events")), *commands(section(OBSERVE, "Logs"))):
        played.run(command)

    # Troubleshoot.
    for command in commands(TROUBLESHOOT.read_text()):
        name = "default" if "pyncetteworkerpool" in command else "greeting"
        played.run(command.replace("NAME", name))
    kubectl.wait_for_task(
        "greeting",
        "has done what was asked",
        lambda task: all(
            task.status.get(f"lastHandled{asked}Request") for asked in ("Run", "Resume", "Redrive")
        ),
    )

    # Operate.
    (scale,) = commands(section(OPERATE, "Scale"))
    played.run(scale)
    kubectl.wait_until("four workers run", lambda: len(kubectl.worker_pods()) == 4)
    (autoscaler,) = (block.text for block in blocks(OPERATE, "yaml"))
    kubectl.run("apply", "--dry-run=server", "--filename", "-", given=autoscaler)
    for restart in commands(section(OPERATE, "Rotate a credential")):
        played.run(restart)
    release.wait_until_ready()
    kubectl.run("rollout", "status", "deployment/pyncette-default", "--timeout=120s", seconds=130)

    stop_operator, stop_workers, start = commands(section(OPERATE, "Back up and restore"))
    played.run(stop_operator)
    played.run(stop_workers)
    kubectl.wait_until("no worker runs", lambda: not kubectl.objects("pods", "pyncette.dev/pool=default"), 90)
    played.run(start)
    kubectl.wait_until("four workers run again", lambda: len(kubectl.worker_pods()) == 4, 90)

    (upgrade,), (back,) = commands(section(OPERATE, "Upgrade")), commands(section(OPERATE, "Roll back"))
    workers = {pod["metadata"]["name"] for pod in kubectl.worker_pods()}
    played.run(upgrade)
    played.run(back)
    assert {pod["metadata"]["name"] for pod in kubectl.worker_pods()} == workers

    look, _confirm = commands(section(OPERATE, "Removals that are held back"))
    assert "nothing is held back" in played.run(look)

    for command in commands(section(OPERATE, "Delete everything")):
        played.run(command)
    kubectl.wait_until("its workers are gone", lambda: not kubectl.worker_pods(), 90)
    assert not release.kubectl.get("namespace", NAMESPACE)
