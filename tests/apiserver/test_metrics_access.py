"""The metrics of the operator are shown to those whom a real API server lets read them, with the role of the chart."""

import asyncio
import ssl
import time
from contextlib import asynccontextmanager, closing
from http.client import HTTPSConnection

import pytest
from prometheus_client import CollectorRegistry, Counter

from pyncette.cli.operator_metrics import operator_metrics
from pyncette.controller.cluster.client import Kubernetes
from pyncette.controller.cluster.credentials import Credentials
from pyncette.controller.settings import OperatorSettings
from tests.apiserver.admission import IN_EFFECT_SECONDS_MAX, installed
from tests.apiserver.operating import OperatorProcess
from tests.servers.certificates import make_certificate
from tests.servers.tools import Helm

pytestmark = pytest.mark.cluster

VALUES = {"metrics": {"tls": {"secretName": "metrics-tls"}, "authentication": {"enabled": True}}}

READY_SECONDS_MAX = 120


@pytest.fixture(scope="module")
def release(apiserver, helm: Helm):
    with installed(apiserver, helm, VALUES) as release:
        yield release


@pytest.fixture
def folder(tmp_path):
    made = make_certificate(tmp_path)
    made.file.rename(tmp_path / "tls.crt")
    made.key.rename(tmp_path / "tls.key")
    return tmp_path


def read_metrics(folder, port, token):
    """Return the status of the answer, and whether it has metrics."""
    context = ssl.create_default_context(cafile=folder / "tls.crt")
    with closing(HTTPSConnection("localhost", port, timeout=20, context=context)) as connection:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        connection.request("GET", "/metrics", headers=headers)
        answer = connection.getresponse()
        return answer.status, b"# TYPE" in answer.read()


@asynccontextmanager
async def served(folder, kubeconfig, **options):
    """Serve metrics with the credentials of *kubeconfig*, and yield a function that reads them."""
    settings = OperatorSettings.model_validate(
        {
            "backends": [{"namespaces": ["*"]}],
            "metrics": 0,
            "metricsCertificate": str(folder),
            "metricsAuthentication": True,
        }
    )
    registry = CollectorRegistry()
    Counter("writes", "Writes", registry=registry).inc()
    async with Kubernetes(Credentials(str(kubeconfig)), **options) as api:
        with operator_metrics(settings, api, registry) as server:
            yield lambda token: asyncio.to_thread(read_metrics, folder, server.port, token)


@pytest.fixture
async def read(apiserver, release, folder):
    """Read metrics that are served with the account of the operator."""
    kubeconfig = apiserver.kubeconfig_of(apiserver.token_of(release.namespace, release.account))
    async with served(folder, kubeconfig) as read:
        yield read


async def answer_other_than(status, read, token):
    """Read until the answer is another: what was decided before is forgotten, and what was changed is in effect."""
    for _ in range(IN_EFFECT_SECONDS_MAX):
        answer = await read(token)
        if answer[0] != status:
            break
        await asyncio.sleep(1)
    return answer


async def test_an_account_with_the_role_of_the_chart_for_readers_reads_the_metrics(
    apiserver, namespace, release, read
):
    reader = apiserver.account(namespace)
    role = f"{release.account}-metrics-reader"
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": f"{namespace}-reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": reader.name, "namespace": namespace}],
    }
    apiserver.admin.create(binding)
    try:
        assert await answer_other_than(403, read, reader.token) == (200, True)
    finally:
        apiserver.admin.delete(binding)


async def test_an_account_without_the_right_is_refused(apiserver, namespace, read):
    assert await read(apiserver.account(namespace).token) == (403, False)


@pytest.mark.parametrize("token", [None, "guessed", "e30.e30.e30"])
async def test_nobody_reads_the_metrics_without_a_token_of_the_cluster(read, token):
    assert await read(token) == (401, False)


async def test_a_token_of_an_account_that_was_deleted_is_refused(apiserver, namespace, read):
    account = apiserver.account(namespace)
    apiserver.admin.delete(
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": account.name, "namespace": namespace},
        }
    )

    assert await read(account.token) == (401, False)


async def test_without_the_role_of_the_chart_the_operator_lets_nobody_in(apiserver, namespace, folder):
    without = apiserver.account(namespace)
    async with served(folder, without.kubeconfig) as read:
        assert await read(apiserver.token) == (503, False)


async def test_while_the_api_server_hangs_nobody_new_is_let_in(own_apiserver, folder):
    async with served(folder, own_apiserver.kubeconfig) as read:
        with own_apiserver.frozen():
            assert await read(own_apiserver.token) == (503, False)
        assert await answer_other_than(503, read, own_apiserver.token) == (200, True)


def test_the_process_of_the_operator_asks_for_a_token_and_answers_probes_without_one(
    apiserver, release, folder
):
    kubeconfig = apiserver.kubeconfig_of(apiserver.token_of(release.namespace, release.account))
    settings = {
        "releaseNamespace": release.namespace,
        "metricsCertificate": str(folder),
        "metricsAuthentication": True,
    }
    with OperatorProcess(folder, kubeconfig, f"sqlite:///{folder}/tasks.db", **settings) as operator:
        end = time.monotonic() + READY_SECONDS_MAX
        while not operator.is_ready():
            assert time.monotonic() < end, operator.log.read_text()
            time.sleep(0.2)

        assert read_metrics(folder, operator.metrics_port, None) == (401, False)
        assert read_metrics(folder, operator.metrics_port, apiserver.token) == (200, True)
