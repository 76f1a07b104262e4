"""The image alone, before any operator: what it needs of a cluster, and what it does not bring."""

import json
import re

import pytest

from tests.cluster.cluster import ROOT
from tests.cluster.kubectl import Kubectl

RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}

ENDS = ("Succeeded", "Failed")


def pod(name, image, *arguments, command=None, **security):
    container = {
        "name": "it",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": list(arguments),
        "securityContext": {**RESTRICTED, **security},
        **({"command": command} if command else {}),
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "containers": [container],
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
        },
    }


def run(kubectl: Kubectl, image, *arguments, **options):
    """Run a container to its end, and return its exit code and what it printed."""
    kubectl.apply(pod("it", image, *arguments, **options))

    def ended():
        status = kubectl.get("pod", "it")["status"]
        return status if status["phase"] in ENDS else None

    status = kubectl.wait_until("the container has ended", ended)
    said = kubectl.logs("it")
    kubectl.delete("pod", "it", "--now")
    return status["containerStatuses"][0]["state"]["terminated"]["exitCode"], said


USERS = pytest.mark.parametrize(
    "security",
    [
        pytest.param({}, id="as_it_says"),
        pytest.param({"runAsUser": 1_000_730_000, "runAsGroup": 0}, id="whom_nobody_knows"),
    ],
)


@USERS
def test_it_runs_as_any_user_on_a_root_that_is_read_only(kubectl, operator_image, security):
    code, said = run(kubectl, operator_image, "--version", **security)

    assert (code, said.split(",")[0]) == (0, "pyncette")


@USERS
def test_what_asks_for_the_name_of_the_user_gets_an_answer(kubectl, operator_image, security):
    """kopf does, and so do asyncpg and kubernetes_asyncio, of users that /etc/passwd need not know."""
    asks = (
        "import getpass, json, os, pathlib; from kopf._core.engines.peering import detect_own_id;"
        "print(json.dumps([os.getuid(), getpass.getuser(), str(pathlib.Path.home()), detect_own_id(manual=False)]))"
    )

    code, said = run(kubectl, operator_image, "-c", asks, command=["python"], **security)

    assert code == 0, said
    user, name, home, identity = json.loads(said)
    assert user == security.get("runAsUser", 65532)
    assert (name, home) == ("pyncette", "/nonexistent")
    assert identity


@USERS
def test_a_worker_of_an_image_from_it_runs_what_is_due(kubectl, example_image, security):
    """On a store in memory, with a task that its manifest would schedule: what the image brings is all that it takes."""
    script = (
        "import asyncio, datetime, tasks\n"
        "async def main():\n"
        "    async with tasks.app.create() as context:\n"
        "        print(sorted(tasks.app.tasks))\n"
        "asyncio.run(main())"
    )

    code, said = run(kubectl, example_image, "-c", script, command=["python"], **security)

    assert code == 0, said
    assert "['greet', 'send_report']" in said


def test_nothing_in_it_installs_or_builds_anything(kubectl, operator_image):
    looks = (
        "import importlib.util, json, shutil;"
        "tools = [t for t in ('pip', 'pip3', 'uv', 'gcc', 'cc', 'make', 'hatch') if shutil.which(t)];"
        "modules = [m for m in ('pip', 'ensurepip', 'setuptools', 'hatchling') if importlib.util.find_spec(m)];"
        "print(json.dumps(tools + modules))"
    )

    code, said = run(kubectl, operator_image, "-c", looks, command=["python"])

    assert (code, json.loads(said)) == (0, [])


def test_every_extra_is_in_it(kubectl, operator_image):
    imports = "import aioboto3, asyncmy, asyncpg, hiredis, kopf, kubernetes_asyncio, prometheus_client, redis"

    code, said = run(kubectl, operator_image, "-c", imports, command=["python"])

    assert (code, said) == (0, "")


def test_no_bytecode_is_left_to_be_made_at_each_start(kubectl, operator_image):
    """The root is read-only, so that what is not there would be made again by each worker."""
    compiles = (
        "import sys; import pyncette.cli.worker, asyncpg, kopf;"
        "print([m.__name__ for m in sys.modules.values() if getattr(m, '__cached__', None)"
        " and m.__file__.endswith('.py') and not __import__('os').path.exists(m.__cached__)])"
    )

    code, said = run(kubectl, operator_image, "-c", compiles, command=["python"])

    assert (code, said.strip()) == (0, "[]")


def test_packages_are_added_as_the_readme_of_the_example_says(cluster, kubectl, operator_image, tmp_path):
    readme = (ROOT / "examples" / "kubernetes" / "README.md").read_text()
    (dockerfile,) = re.findall(r"```dockerfile\n(.*?)```", readme, re.DOTALL)
    ours = "docker.io/library/pyncette-operator:latest"
    assert ours in dockerfile
    (tmp_path / "Dockerfile").write_text(dockerfile.replace(ours, operator_image))
    (tmp_path / "requirements.txt").write_text("tabulate==0.9.0\n")
    (tmp_path / "tasks.py").write_text("import tabulate, pyncette\nprint(tabulate.__version__)\n")
    image = cluster.image("with-packages")

    cluster.build(tmp_path, image)
    code, said = run(kubectl, image, "-c", "import tasks", command=["python"])

    assert (code, said.strip()) == (0, "0.9.0")
