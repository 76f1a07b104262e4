"""What is installed is what Kubernetes understands, whatever the values."""

import itertools
import re

import pytest
import yaml
from kubernetes_validate import validate

from pyncette import __version__
from pyncette.controller.workloads.pod_template import pool_labels
from pyncette.resources.pool import PyncetteWorkerPool
from tests.chart.rendering import CHART, EMBEDDED, ONE_BACKEND, ROOT, TWO_NAMESPACES, Rendering, render
from tests.resources import manifest
from tests.servers.tools import Helm

pytestmark = pytest.mark.cluster

KUBERNETES = ("1.30", "1.37")
"""The oldest that Chart.yaml admits, and the newest that there are schemas of."""

OF_PROMETHEUS = "monitoring.coreos.com/v1"
"""An API of somebody else, of which no schemas are at hand: what is rendered is checked field by field elsewhere."""

EVERYTHING = {
    "commonLabels": {"team": "platform", "numeric": "1"},
    "image": {"repository": "registry.example.org:5000/pyncette", "tag": "1.10"},
    "imagePullSecrets": [{"name": "pull"}],
    "settings": {"withdrawalGraceSeconds": 31_536_000, "sweep": {"confirm": 1_000_000}},
    "serviceAccount": {"annotations": {"example.org/role": "true"}, "labels": {"a": "1"}},
    "deploymentAnnotations": {"a": "1"},
    "deploymentLabels": {"b": "2"},
    "podAnnotations": {"c": "3"},
    "podLabels": {"d": "4"},
    "extraArgs": ["--config", "/etc/pyncette/operator.yaml"],
    "extraEnv": [
        {"name": "A", "value": "1"},
        {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
    ],
    "extraEnvFrom": [{"secretRef": {"name": "env"}}],
    "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
    "extraVolumeMounts": [{"name": "ca", "mountPath": "/ca", "readOnly": True}],
    "priorityClassName": "system-cluster-critical",
    "runtimeClassName": "gvisor",
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "Exists"}]}]
            }
        }
    },
    "tolerations": [{"key": "dedicated", "operator": "Exists"}],
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway"}
    ],
    "metrics": {
        "tls": {"secretName": "metrics-tls"},
        "authentication": {"enabled": True},
        "service": {"annotations": {"prometheus.io/scrape": "true"}, "labels": {"e": "5"}},
    },
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "podMonitor": {"enabled": True},
    "prometheusRule": {"enabled": True},
    "dashboard": {"enabled": True},
    "networkPolicy": {
        "enabled": True,
        "metricsFrom": [{"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}],
        "egress": {"enabled": True, "to": [{"cidr": "10.1.2.3/32", "ports": [6443]}]},
        "workers": {
            "namespaces": ["orders", "shop"],
            "egress": {"enabled": True, "to": [{"namespace": "databases"}]},
        },
        "extraIngress": [{"ports": [{"port": 1}]}],
        "extraEgress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}],
        "extraBackendIngress": [{"from": [{"podSelector": {}}]}],
    },
}
"""A value other than the default wherever there is room for one."""

MODES = {"cluster-wide": ONE_BACKEND, "namespaced": TWO_NAMESPACES}
BACKENDS = {
    "no-postgresql": {},
    "claim": {
        "backend": {"embedded": {**EMBEDDED["backend"]["embedded"], "name": "trial", "namespaces": ["*"]}}
    },
    "own-claim": {
        "backend": {
            "embedded": {
                **EMBEDDED["backend"]["embedded"],
                "name": "trial",
                "namespaces": ["*"],
                "existingClaim": "mine",
            }
        }
    },
    "empty-dir": {
        "backend": {
            "embedded": {
                **EMBEDDED["backend"]["embedded"],
                "name": "trial",
                "namespaces": ["*"],
                "emptyDir": True,
                "resources": {},
            }
        }
    },
}
MORE = {
    "plain": {},
    "everything": EVERYTHING,
    "nothing": {
        "crds": {"enabled": False},
        "metrics": {"enabled": False},
        "rbac": {"create": False},
        "serviceAccount": {"create": False, "name": "mine"},
        "resources": {},
        "networkPolicy": {"enabled": False},
    },
}
MATRIX = [
    pytest.param((mode, backend, more), id=f"{name}-{other}-{last}")
    for (name, mode), (other, backend), (last, more) in itertools.product(
        MODES.items(), BACKENDS.items(), MORE.items()
    )
]


@pytest.fixture(scope="module")
def everything(helm: Helm) -> Rendering:
    return render(helm, ONE_BACKEND, BACKENDS["claim"], EVERYTHING)


@pytest.mark.parametrize("values", MATRIX)
def test_each_object_is_what_the_schemas_of_kubernetes_allow_and_no_field_is_misspelt(helm: Helm, values):
    rendering = render(helm, *values)

    for one in rendering.objects:
        for version in KUBERNETES:
            if one["apiVersion"] != OF_PROMETHEUS:
                validate(one, version, strict=True)


def test_a_misspelt_field_would_be_noticed(helm: Helm):
    deployment = render(helm, ONE_BACKEND).one("Deployment")
    deployment["spec"]["template"]["spec"]["tolerationz"] = []

    with pytest.raises(Exception, match="tolerationz"):
        validate(deployment, KUBERNETES[-1], strict=True)


@pytest.mark.parametrize("values", MATRIX)
def test_no_two_objects_are_the_same_one_and_each_stands_in_a_namespace_if_it_can(helm: Helm, values):
    rendering = render(helm, *values)

    cluster_wide = {
        "ClusterRole",
        "ClusterRoleBinding",
        "CustomResourceDefinition",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    }
    keys = []
    for one in rendering.objects:
        assert ("namespace" in one["metadata"]) == (one["kind"] not in cluster_wide)
        keys.append((one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]))
    assert len(keys) == len(set(keys))


def test_the_chart_passes_helms_own_checks_as_it_is_and_with_everything_on(helm: Helm):
    for values in ({}, ONE_BACKEND, EMBEDDED, TWO_NAMESPACES, {**ONE_BACKEND, **EVERYTHING}):
        assert "1 chart(s) linted, 0 chart(s) failed" in helm.lint(CHART, values)


def test_chart_and_package_have_one_version(everything: Rendering):
    text = (CHART / "Chart.yaml").read_text()

    assert re.search(r"^version: (.+)$", text, re.MULTILINE)[1] == __version__
    assert re.search(r'^appVersion: "(.+)"$', text, re.MULTILINE)[1] == __version__


def test_the_crds_are_those_of_the_repository_and_are_kept(helm: Helm):
    rendering = render(helm, ONE_BACKEND)

    for crd in rendering.all("CustomResourceDefinition"):
        wanted = (ROOT / "crds" / f"{crd['spec']['names']['plural']}.yaml").read_text()
        assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
        assert crd["spec"] == yaml.safe_load(wanted)["spec"]
    assert {crd["metadata"]["name"] for crd in rendering.all("CustomResourceDefinition")} == {
        "pyncettetasks.pyncette.dev",
        "pyncetteworkerpools.pyncette.dev",
    }


def test_the_crds_go_with_the_release_only_if_that_is_asked_for(helm: Helm):
    rendering = render(helm, ONE_BACKEND, {"crds": {"keep": False}})

    for crd in rendering.all("CustomResourceDefinition"):
        assert "helm.sh/resource-policy" not in crd["metadata"].get("annotations", {})


def test_a_second_release_can_leave_the_crds_to_the_first(helm: Helm):
    assert not render(helm, ONE_BACKEND, {"crds": {"enabled": False}}).all("CustomResourceDefinition")


@pytest.mark.parametrize("values", MATRIX)
def test_no_custom_resource_is_installed_since_its_crd_would_not_be_there_yet(helm: Helm, values):
    assert not [one for one in render(helm, *values).objects if one["apiVersion"].startswith("pyncette.dev/")]


LONGEST = "a" + "-long-name" * 5 + "-z"
assert len(LONGEST) == 53, "the longest that Helm allows"


@pytest.mark.parametrize(
    ("release", "values"),
    [
        ("x", {}),
        ("pyncette", {}),
        ("1", {}),
        ("1e3", {}),
        ("true", {}),
        (LONGEST, {}),
        (LONGEST, {"nameOverride": "n" * 63}),
        ("x", {"nameOverride": "n" * 63}),
        ("x", {"fullnameOverride": "f" * 63}),
        ("x", {"fullnameOverride": "f" * 30 + "-" + "f" * 32}),
        ("x", {"fullnameOverride": "short"}),
    ],
)
def test_names_and_labels_fit_however_long_those_of_the_release_are(helm: Helm, release, values):
    rendering = render(helm, ONE_BACKEND, BACKENDS["claim"], EVERYTHING, values, release=release)

    for one in rendering.objects:
        if one["kind"] != "CustomResourceDefinition":
            assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", one["metadata"]["name"]), one["metadata"][
                "name"
            ]
            assert len(one["metadata"]["name"]) <= (52 if one["kind"] == "StatefulSet" else 63)
        for name, value in _labels(one):
            assert isinstance(value, str), (name, value)
            assert re.fullmatch(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?", value), (name, value)
            assert len(value) <= 63, (name, value)
        if one["apiVersion"] != OF_PROMETHEUS:
            validate(one, KUBERNETES[-1], strict=True)


def test_long_names_that_differ_at_their_end_still_differ_when_they_were_cut(helm: Helm):
    names = [
        {
            one["metadata"]["name"]
            for one in render(helm, ONE_BACKEND, BACKENDS["claim"], release=release).objects
            if one["kind"] in {"Service", "StatefulSet", "Deployment"}
        }
        for release in (LONGEST, LONGEST[:-1] + "y")
    ]

    assert [len(those) for those in names] == [3, 3]
    assert names[0].isdisjoint(names[1])


@pytest.mark.parametrize(
    ("release", "name"),
    [
        ("pyncette", "pyncette-operator"),
        ("pyncette-operator", "pyncette-operator"),
        ("blue", "blue-pyncette-operator"),
        ("pyncette-operator-blue", "pyncette-operator-blue"),
        ("1-pyncette-operator", "pyncette-operator-1-pyncette-operator"),
        ("7", "pyncette-operator-7"),
    ],
)
def test_objects_are_named_after_the_release_without_saying_it_twice(helm: Helm, release, name):
    assert render(helm, ONE_BACKEND, release=release).one("Deployment")["metadata"]["name"] == name


def test_selectors_match_the_pods_that_they_are_for_and_no_others(helm: Helm):
    rendering = render(helm, ONE_BACKEND, BACKENDS["claim"], EVERYTHING)
    pods = {
        "operator": rendering.pod["metadata"]["labels"],
        "postgresql": rendering.one("StatefulSet")["spec"]["template"]["metadata"]["labels"],
        "workers": pool_labels(
            PyncetteWorkerPool.model_validate(
                manifest("PyncetteWorkerPool", "default", image="i", module="m")
            )
        ),
    }

    for one in [*rendering.all("Service"), *rendering.all("NetworkPolicy"), *rendering.all("Deployment")]:
        selector = one["spec"].get("selector") or one["spec"]["podSelector"]
        wanted = selector.get("matchLabels", selector)
        component = one["metadata"]["labels"]["app.kubernetes.io/component"]
        assert [name for name, labels in pods.items() if wanted.items() <= labels.items()] == [component]


def test_labels_of_a_user_are_added_and_take_nothing_away(everything: Rendering):
    for one in everything.objects:
        if one["kind"] != "CustomResourceDefinition":
            assert one["metadata"]["labels"]["numeric"] == "1"
            assert one["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm"
    assert everything.pod["metadata"]["labels"]["d"] == "4"
    assert everything.pod["metadata"]["annotations"]["c"] == "3"


def test_a_label_of_a_user_cannot_take_a_pod_from_its_selector(helm: Helm):
    values = {"podLabels": {"app.kubernetes.io/component": "mine"}, "commonLabels": {"helm.sh/chart": "mine"}}

    labels = render(helm, ONE_BACKEND, values).pod["metadata"]["labels"]

    assert labels["app.kubernetes.io/component"] == "operator"
    assert labels["helm.sh/chart"] == f"pyncette-operator-{__version__}"


def _labels(one):
    yield from one["metadata"]["labels"].items()
    template = one.get("spec", {}).get("template", {})
    yield from template.get("metadata", {}).get("labels", {}).items()
    selector = one.get("spec", {}).get("selector") or {}
    yield from (selector.get("matchLabels", selector) or {}).items()
