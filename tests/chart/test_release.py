"""Releases on a real API server: installed, upgraded, uninstalled, and installed again."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.chart.rendering import CHART, EMBEDDED, ONE_BACKEND, ROOT, TWO_NAMESPACES, Object, render
from tests.servers import MissingServerError
from tests.servers.kubernetes import ApiServer, open_apiserver, wait_until
from tests.servers.tools import Helm, HelmRefusedError

pytestmark = pytest.mark.cluster

FOLDER = str(ROOT / "crds")

CRDS = {"pyncettetasks.pyncette.dev", "pyncetteworkerpools.pyncette.dev"}

TASK: Object = {
    "apiVersion": "pyncette.dev/v1alpha1",
    "kind": "PyncetteTask",
    "metadata": {"name": "kept", "namespace": "pyncette"},
    "spec": {"handler": "hello", "schedule": "@hourly"},
}


@pytest.fixture(scope="module")
def bare_apiserver() -> Iterator[ApiServer]:
    """An API server without our CRDs, which each test leaves as empty as it was."""
    try:
        server = open_apiserver()
    except MissingServerError as missing:
        pytest.fail(str(missing), pytrace=False)
    with server:
        for name in ("pyncette", "orders", "reports"):
            server.kubectl("create", "namespace", name)
        server.kubectl("label", "namespace", "pyncette", "pod-security.kubernetes.io/enforce=restricted")
        yield server


class Releases:
    """Helm on that API server, in the namespace pyncette."""

    def __init__(self, helm: Helm, bare_apiserver: ApiServer) -> None:
        self._helm = helm
        self._cluster = bare_apiserver

    def install(self, values: Object, *options: str, release: str = "pyncette") -> str:
        return self._with(values, "install", release, CHART, *options)

    def upgrade(self, values: Object, *options: str, release: str = "pyncette") -> str:
        return self._with(values, "upgrade", release, CHART, *options)

    def uninstall(self, release: str = "pyncette") -> str:
        # Nothing collects what has lost its owner here, so waiting for it would not end.
        return self._run("uninstall", release, "--cascade=background", "--wait=hookOnly")

    def names(self) -> list[str]:
        return [one["name"] for one in json.loads(self._run("list", "--output=json"))]

    def _with(self, values: Object, *arguments) -> str:
        path = self._helm.home / "values.yaml"
        path.write_text(yaml.safe_dump(values))
        return self._run(*arguments, "--values", path, "--wait=hookOnly")

    def _run(self, *arguments) -> str:
        return self._helm.run(*arguments, "--namespace=pyncette", kubeconfig=self._cluster.kubeconfig)


@pytest.fixture
def releases(helm: Helm, bare_apiserver: ApiServer) -> Iterator[Releases]:
    releases = Releases(helm, bare_apiserver)
    yield releases
    for name in releases.names():
        releases.uninstall(name)
    for crd in crds(bare_apiserver):
        # An API server empties a kind before it goes, and may take minutes for that if the kind was just changed.
        bare_apiserver.kubectl("delete", crd, "--all", "--all-namespaces")
        bare_apiserver.kubectl("delete", "crd", crd)
    bare_apiserver.kubectl("delete", "pvc", "--all", "--namespace=pyncette", "--wait=false")


def crds(bare_apiserver: ApiServer) -> set[str]:
    return (
        set(bare_apiserver.kubectl("get", "crd", "--output=jsonpath={.items[*].metadata.name}").split())
        & CRDS
    )


@pytest.mark.parametrize(
    "values", [ONE_BACKEND, EMBEDDED, TWO_NAMESPACES], ids=["plain", "embedded", "namespaced"]
)
def test_the_api_server_takes_a_release_and_warns_of_nothing(releases: Releases, values):
    said = releases.install(values)

    assert "warning" not in said.lower()
    assert "STATUS: deployed" in said


@pytest.mark.parametrize("values", [ONE_BACKEND, EMBEDDED])
def test_its_pods_are_let_into_a_namespace_that_takes_restricted_ones_alone(
    helm: Helm, bare_apiserver: ApiServer, values
):
    bare_apiserver.kubectl("create", "serviceaccount", "pyncette-operator", "--namespace=pyncette")
    bare_apiserver.kubectl("create", "serviceaccount", "default", "--namespace=pyncette")
    try:
        for one in [*render(helm, values).all("Deployment"), *render(helm, values).all("StatefulSet")]:
            template = one["spec"]["template"]
            pod = {"apiVersion": "v1", "kind": "Pod", **template}
            pod["metadata"] = {**template["metadata"], "name": "tried", "namespace": "pyncette"}

            bare_apiserver.kubectl("create", "--dry-run=server", "--filename=-", stdin=json.dumps(pod))

            pod["spec"]["containers"][0]["securityContext"].pop("capabilities")
            refused = bare_apiserver.kubectl(
                "create", "--dry-run=server", "--filename=-", stdin=json.dumps(pod), succeeds=False
            )
            assert "violates PodSecurity" in refused
    finally:
        bare_apiserver.kubectl(
            "delete", "serviceaccount", "pyncette-operator", "default", "--namespace=pyncette"
        )


def test_tasks_outlive_the_release_and_the_next_one_takes_them_up(
    releases: Releases, bare_apiserver: ApiServer
):
    releases.install(ONE_BACKEND)
    bare_apiserver.kubectl("apply", "--filename=-", stdin=json.dumps(TASK))

    releases.uninstall()

    assert crds(bare_apiserver) == CRDS
    releases.install(ONE_BACKEND)
    assert "kept" in bare_apiserver.kubectl("get", "pyncettetasks", "--namespace=pyncette")


def test_a_release_of_another_name_takes_the_crds_over_if_told_so_or_leaves_them_alone(
    releases: Releases, bare_apiserver: ApiServer
):
    releases.install(ONE_BACKEND)
    bare_apiserver.kubectl("apply", "--filename=-", stdin=json.dumps(TASK))
    releases.uninstall()

    with pytest.raises(HelmRefusedError, match="cannot be imported into the current release"):
        releases.install(ONE_BACKEND, release="blue")

    releases.install({**ONE_BACKEND, "crds": {"enabled": False}}, release="blue")
    releases.uninstall("blue")
    releases.install(ONE_BACKEND, "--take-ownership", release="blue")
    assert "kept" in bare_apiserver.kubectl("get", "pyncettetasks", "--namespace=pyncette")


def test_the_crds_are_upgraded_with_the_chart(releases: Releases, bare_apiserver: ApiServer):
    releases.install(ONE_BACKEND)
    stale = [{"op": "remove", "path": "/spec/names/shortNames"}]
    bare_apiserver.kubectl(
        "patch", "crd", "pyncettetasks.pyncette.dev", "--type=json", f"--patch={json.dumps(stale)}"
    )

    releases.upgrade({**ONE_BACKEND, "commonLabels": {"upgraded": "yes"}}, "--force-conflicts")

    assert _short_names(bare_apiserver) == '["pyt"]'


@pytest.mark.parametrize("option", ["--filename", "--kustomize"])
@pytest.mark.parametrize("side", [(), ("--server-side",)], ids=["client-side", "server-side"])
def test_kubectl_applies_the_folder_of_crds_as_it_stands(
    releases: Releases, bare_apiserver: ApiServer, side, option
):
    created = bare_apiserver.kubectl("apply", *side, option, FOLDER)
    again = bare_apiserver.kubectl("apply", *side, option, FOLDER)

    assert crds(bare_apiserver) == CRDS
    assert len(created.splitlines()) == len(again.splitlines()) == len(CRDS)


@pytest.mark.parametrize(
    "side", [(), ("--server-side", "--force-conflicts")], ids=["client-side", "server-side"]
)
def test_kubectl_upgrades_crds_that_helm_installed_and_the_release_lets_go_of_them(
    releases: Releases, bare_apiserver: ApiServer, newer_crds: str, side
):
    releases.install(ONE_BACKEND)
    bare_apiserver.kubectl("apply", "--filename=-", stdin=json.dumps(TASK))

    bare_apiserver.kubectl("apply", *side, "--filename", newer_crds)
    releases.upgrade({**ONE_BACKEND, "crds": {"enabled": False}})

    assert _short_names(bare_apiserver) == '["pyt","newer"]'
    assert "kept" in bare_apiserver.kubectl("get", "pyncettetasks", "--namespace=pyncette")


def test_a_server_side_apply_over_crds_of_helm_has_to_be_forced(
    releases: Releases, bare_apiserver: ApiServer, newer_crds: str
):
    releases.install(ONE_BACKEND)

    refused = bare_apiserver.kubectl("apply", "--server-side", "--filename", newer_crds, succeeds=False)

    assert "--force-conflicts" in refused
    assert _short_names(bare_apiserver) == '["pyt"]'


@pytest.fixture
def newer_crds(tmp_path: Path) -> str:
    """The folder of CRDs as a later release might bring it."""
    folder = tmp_path / "crds"
    shutil.copytree(FOLDER, folder)
    path = folder / "pyncettetasks.yaml"
    crd = yaml.safe_load(path.read_text())
    crd["spec"]["names"]["shortNames"].append("newer")
    path.write_text(yaml.safe_dump(crd))
    return str(folder)


def test_crds_that_are_not_to_be_kept_go_with_the_release(releases: Releases, bare_apiserver: ApiServer):
    releases.install({**ONE_BACKEND, "crds": {"keep": False}})

    releases.uninstall()

    wait_until(lambda: not crds(bare_apiserver), lambda: f"{crds(bare_apiserver)} are still there", 60)


def test_the_claim_of_the_embedded_postgresql_outlives_the_release(
    releases: Releases, bare_apiserver: ApiServer
):
    releases.install(EMBEDDED)
    before = _claim(bare_apiserver)

    releases.uninstall()
    assert _claim(bare_apiserver) == before

    releases.install(EMBEDDED)
    assert _claim(bare_apiserver) == before


def test_two_releases_stand_beside_each_other(releases: Releases):
    releases.install({**TWO_NAMESPACES, "clusterId": "blue"}, release="blue")
    releases.install({**TWO_NAMESPACES, "clusterId": "green", "crds": {"enabled": False}}, release="green")

    assert releases.names() == ["blue", "green"]


def test_the_api_server_reads_the_rights_as_they_were_meant(releases: Releases, bare_apiserver: ApiServer):
    releases.install(TWO_NAMESPACES)

    def allowed(verb: str, what: str, namespace: str) -> bool:
        resource, _, subresource = what.partition("/")
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": "system:serviceaccount:pyncette:pyncette-operator",
                "resourceAttributes": {
                    "namespace": namespace,
                    "verb": verb,
                    "group": resource.partition(".")[2],
                    "resource": resource.partition(".")[0],
                    "subresource": subresource,
                },
            },
        }
        said = bare_apiserver.kubectl("create", "--filename=-", "--output=json", stdin=json.dumps(review))
        return bool(json.loads(said)["status"]["allowed"])

    def places(verb: str, what: str) -> list[str]:
        return [where for where in ("orders", "reports", "pyncette", "default") if allowed(verb, what, where)]

    # The API server learns of roles by a watch: for a moment it knows those of the release before.
    reading = ("watch", "pyncettetasks.pyncette.dev")
    wait_until(
        lambda: places(*reading) == ["orders", "reports"], lambda: f"reads tasks in {places(*reading)}", 30
    )
    assert places("patch", "pyncettetasks.pyncette.dev/status") == ["orders", "reports"]
    assert places("create", "deployments.apps") == ["orders", "reports"]
    assert places("create", "events") == ["orders", "reports", "pyncette"]
    for verb, what in (
        ("patch", "pyncettetasks.pyncette.dev"),
        ("get", "secrets"),
        ("list", "pods"),
        ("patch", "customresourcedefinitions.apiextensions.k8s.io"),
    ):
        assert places(verb, what) == []


def _short_names(bare_apiserver: ApiServer) -> str:
    return bare_apiserver.kubectl(
        "get", "crd", "pyncettetasks.pyncette.dev", "--output=jsonpath={.spec.names.shortNames}"
    )


def _claim(bare_apiserver: ApiServer) -> str:
    return bare_apiserver.kubectl(
        "get", "pvc", "--namespace=pyncette", "--output=jsonpath={.items[*].metadata.uid}"
    )
