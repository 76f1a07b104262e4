"""The commands about tasks know the backend and the realm of a pool where the operator's settings are, as in its pod."""

import asyncio
import datetime
import json

import pytest
import yaml
from click.testing import CliRunner

from pyncette import Pyncette
from pyncette.cli.commands import cli
from pyncette.cli.failures import ExitCode
from pyncette.store.backend import read_backend
from tests.apiserver import pool

IN_A_YEAR = datetime.timedelta(days=365)


class Pod:
    """What there is in the operator's pod: settings, a URL for each backend, and credentials of its account."""

    def __init__(self, folder, kubeconfig, **settings):
        self._folder = folder
        names = ("default", "other")
        for name in names:
            (folder / name).write_text(self._url(name))
        backends = [{"name": name, "urlFile": str(folder / name), "namespaces": ["*"]} for name in names]
        self.settings = folder / "operator.yaml"
        self.settings.write_text(yaml.safe_dump({"backends": backends, **settings}))
        self._environment = {
            "KUBECONFIG": str(kubeconfig),
            "PYNCETTE_OPERATOR_CONFIG": str(self.settings),
            "PYNCETTE_BACKEND": None,
            "PYNCETTE_REALM": None,
        }

    def schedule(self, name, realm, backend="default"):
        """Have a dynamic task *name* with an instance in *realm*."""

        async def run():
            app = Pyncette()
            task = app.dynamic_task(name=name)(_handle)
            new_store = read_backend(self._url(backend)).new_store
            async with app.create(new_store=new_store, realm=realm) as context:
                at = datetime.datetime.now(datetime.UTC) + IN_A_YEAR
                await context.schedule_task(task, "ada", execute_at=at)

        asyncio.run(run())

    def run(self, *arguments, **environment):
        return CliRunner(env={**self._environment, **environment}).invoke(cli, arguments)

    def tasks(self, *arguments):
        """Return the names of the tasks that `pyncette tasks` lists."""
        done = self.run("tasks", "--output", "json", *arguments)
        assert done.exit_code == ExitCode.DONE, done.output
        assert done.stderr == ""
        return [task["name"] for task in json.loads(done.stdout)]

    def refusal(self, *arguments, code=ExitCode.USAGE, **environment):
        done = self.run(*arguments, **environment)
        assert done.exit_code == code, done.output
        return done.stderr

    def _url(self, backend):
        return f"sqlite:///{self._folder / backend}.db"


async def _handle(context):
    del context


@pytest.fixture
def pod(apiserver, tmp_path):
    return Pod(tmp_path, apiserver.kubeconfig, clusterId="east")


def test_the_tasks_of_a_pool_are_found_by_its_namespace_and_its_name(pod, apiserver, namespace):
    for name in ("default", "reports"):
        apiserver.admin.create(pool(namespace, name))
        pod.schedule(f"of-{name}", f"east/{namespace}/{name}")

    assert pod.tasks("--namespace", namespace) == ["of-default"]
    assert pod.tasks("--namespace", namespace, "--pool", "reports") == ["of-reports"]


def test_the_backend_is_the_one_that_the_pool_names(pod, apiserver, namespace):
    apiserver.admin.create(pool(namespace, backendRef={"name": "other"}))
    pod.schedule("elsewhere", f"east/{namespace}/default", backend="other")

    assert pod.tasks("--namespace", namespace) == ["elsewhere"]


def test_without_a_cluster_id_it_is_the_uid_of_kube_system(apiserver, namespace, tmp_path):
    pod = Pod(tmp_path, apiserver.kubeconfig)
    apiserver.admin.create(pool(namespace))
    kube_system = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system"}}
    uid = apiserver.admin.read(kube_system)["metadata"]["uid"]
    pod.schedule("remind", f"{uid}/{namespace}/default")

    assert pod.tasks("--namespace", namespace) == ["remind"]


def test_the_operators_account_may_read_it(apiserver, namespace, tmp_path):
    reading = [
        {"apiGroups": ["pyncette.dev"], "resources": ["pyncetteworkerpools"], "verbs": ["list"]},
    ]
    account = apiserver.account(namespace, rules=reading)
    pod = Pod(tmp_path, account.kubeconfig, clusterId="east", namespaces=[namespace])
    apiserver.admin.create(pool(namespace))
    pod.schedule("remind", f"east/{namespace}/default")

    assert pod.tasks("--namespace", namespace) == ["remind"]
    assert "forbidden" in pod.refusal("tasks", "--namespace", "default", code=ExitCode.FAILED)


@pytest.mark.parametrize(
    ("command", "printed"),
    [
        (("runs", "remind/ada"), ""),
        (("workers",), ""),
        (("resume", "remind"), "remind: 0 resumed"),
        (("redrive", "remind"), "remind: 0 dead letters redriven"),
        (("purge", "remind"), "remind"),
        (("run", "remind/ada", "--timeout", "0"), "has not ended after 0 s"),
    ],
)
def test_each_command_about_tasks_takes_a_pool(pod, apiserver, namespace, command, printed):
    apiserver.admin.create(pool(namespace))
    pod.schedule("remind", f"east/{namespace}/default")

    done = pod.run(*command, "--namespace", namespace)

    assert "not found" not in done.output
    assert printed in done.output


def test_a_missing_pool_is_reported_with_the_nearest_name(pod, apiserver, namespace):
    assert "which has no pools" in pod.refusal("tasks", "--namespace", namespace)
    apiserver.admin.create(pool(namespace, "reports"))

    said = pod.refusal("tasks", "--namespace", namespace, "--pool", "report")

    assert f"pool report not found in the namespace {namespace}; did you mean --pool reports?" in said
    assert "choose one with --pool: reports" in pod.refusal("tasks", "--namespace", namespace)


def test_a_backend_that_is_not_in_the_settings_is_reported(pod, apiserver, namespace):
    apiserver.admin.create(pool(namespace, backendRef={"name": "gone"}))

    assert "the backend gone" in pod.refusal("tasks", "--namespace", namespace)


@pytest.mark.parametrize("other", ["--path", "--backend", "--backend-file", "--realm"])
def test_a_pool_and_another_backend_are_refused(pod, tmp_path, other):
    (tmp_path / "url").write_text("sqlite:///a.db")
    value = {"--backend": "sqlite:///a.db", "--backend-file": str(tmp_path / "url")}.get(other, ".")

    assert f"--namespace and {other} " in pod.refusal("tasks", "--namespace", "shop", other, value)


def test_a_pool_without_a_namespace_is_refused(pod):
    assert "--pool needs --namespace" in pod.refusal("tasks", "--pool", "reports")
    assert "must not be empty" in pod.refusal("tasks", "--namespace", "")
    assert "must not be empty" in pod.refusal("tasks", "--namespace", "shop", "--pool", "")


def test_without_the_settings_the_error_says_where_they_are(pod, tmp_path):
    elsewhere = str(tmp_path / "nowhere.yaml")

    said = pod.refusal("tasks", "--namespace", "shop", PYNCETTE_OPERATOR_CONFIG=elsewhere)

    assert f"{elsewhere} was not found" in said
    assert "kubectl exec deployment/pyncette-operator -- pyncette" in said
