"""The records of a deleted pool are found by its namespace, its name and the name of its backend."""

import asyncio
import json

import pytest
from click.testing import CliRunner

from pyncette import Pyncette
from pyncette.cli.commands import cli
from pyncette.cli.failures import ExitCode
from pyncette.store.backend import read_backend


@pytest.fixture
def pod(tmp_path):
    """Run a command as in the operator's pod, whose settings name two backends. No API server can be reached."""
    backends = []
    for name in ("default", "other"):
        (tmp_path / name).write_text(f"sqlite:///{tmp_path / name}.db")
        backends.append({"name": name, "urlFile": str(tmp_path / name), "namespaces": ["*"]})
        asyncio.run(schedule(f"sqlite:///{tmp_path / name}.db", f"of-{name}"))
    (tmp_path / "operator.yaml").write_text(json.dumps({"clusterId": "east", "backends": backends}))
    variables = {
        "PYNCETTE_OPERATOR_CONFIG": str(tmp_path / "operator.yaml"),
        "KUBECONFIG": str(tmp_path / "none"),
        "PYNCETTE_BACKEND": None,
        "PYNCETTE_REALM": None,
    }
    return lambda *arguments: CliRunner(env=variables).invoke(cli, arguments)


async def schedule(url, name):
    app = Pyncette()

    @app.task(name=name, schedule="0 9 * * *")
    async def handle(context):
        pass

    async with app.create(new_store=read_backend(url).new_store, realm="east/shop/default"):
        pass


@pytest.mark.parametrize("backend", ["default", "other"])
def test_the_tasks_of_a_deleted_pool_are_found_by_the_name_of_its_backend(pod, backend):
    done = pod("tasks", "--namespace", "shop", "--pool-backend", backend, "-o", "json")

    assert done.exit_code == ExitCode.DONE, done.output
    assert [task["name"] for task in json.loads(done.stdout)] == [f"of-{backend}"]


def test_the_backend_of_a_pool_is_checked_in_its_realm(pod):
    done = pod("check", "--namespace", "shop", "--pool-backend", "other", "-o", "json")

    assert done.exit_code == ExitCode.DONE, done.output
    assert json.loads(done.stdout)["backend"].endswith("other.db")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--namespace", "shop", "--pool-backend", "othr"), "; did you mean other?"),
        (("--namespace", "shop", "--pool-backend", "x"), "; choose one of default, other"),
        (("--pool-backend", "other"), "--pool-backend needs --namespace"),
        (("--pool", "reports"), "--pool needs --namespace"),
        (("--namespace", "shop", "--realm", "r"), "--namespace and --realm are mutually exclusive"),
    ],
)
@pytest.mark.parametrize("command", ["tasks", "check"])
def test_what_selects_no_pool_is_refused(pod, command, options, sentence):
    done = pod(command, *options)

    assert done.exit_code == ExitCode.USAGE
    assert sentence in done.stderr
