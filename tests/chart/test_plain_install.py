"""The plain manifests are what the chart installs, for those who have no Helm."""

import pytest
import yaml

from tests.chart.rendering import ROOT, Object, render
from tests.servers.kubernetes import ApiServer
from tests.servers.tools import Helm
from tools.render_plain import NAME, OF_HELM, TARGET, VALUES, plain

pytestmark = pytest.mark.cluster

FOLDER = ROOT / "charts" / "kustomize"


@pytest.fixture(scope="module")
def built(apiserver: ApiServer) -> list[Object]:
    """What `kubectl apply -k` would send."""
    return list(yaml.safe_load_all(apiserver.kubectl("kustomize", str(FOLDER))))


def test_the_manifests_are_what_the_chart_makes_today(helm: Helm):
    made = plain(render(helm, VALUES, release=NAME, namespace=NAME).objects)

    assert TARGET.read_text() == made, "not current: run `make plain`"


def test_they_install_what_the_chart_installs_by_default_and_the_namespace(helm: Helm, built):
    by_chart = render(helm, VALUES, {"crds": {"enabled": True}}, release=NAME, namespace=NAME).objects

    assert {_key(one) for one in built} == {_key(one) for one in by_chart} | {("Namespace", None, NAME)}
    wanted = {_key(one): one for one in by_chart}
    for one in built:
        if one["kind"] == "CustomResourceDefinition":
            assert one["spec"] == wanted[_key(one)]["spec"]
        elif one["kind"] != "Namespace":
            assert one == _without_helm(wanted[_key(one)])


def test_the_namespace_takes_no_pod_that_is_not_restricted(built):
    (namespace,) = [one for one in built if one["kind"] == "Namespace"]

    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_nothing_in_them_says_that_helm_manages_it(built):
    assert "helm" not in str([one for one in built if one["kind"] != "CustomResourceDefinition"]).lower()


def test_the_api_server_takes_them(apiserver: ApiServer):
    try:
        applied = apiserver.kubectl("apply", "--kustomize", str(FOLDER))
        again = apiserver.kubectl("apply", "--kustomize", str(FOLDER))
    finally:
        apiserver.kubectl("delete", "--filename", str(TARGET), "--ignore-not-found", "--wait=false")

    assert "deployment.apps/pyncette-operator created" in applied
    assert "created" not in again


def _key(one: Object) -> tuple[str, str | None, str]:
    return one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]


def _without_helm(part):
    if isinstance(part, dict):
        return {name: _without_helm(inner) for name, inner in part.items() if name not in OF_HELM}
    return [_without_helm(inner) for inner in part] if isinstance(part, list) else part
