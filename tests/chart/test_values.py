"""Values that are wrong are refused before anything is installed, with what to write instead."""

import json

import jsonschema
import pytest
import yaml

from tests.chart.rendering import (
    CHART,
    EMBEDDED,
    ONE_BACKEND,
    SELECTED,
    TWO_NAMESPACES,
    Object,
    merged,
    render,
)
from tests.servers.tools import Helm, HelmRefusedError

pytestmark = pytest.mark.cluster

SCHEMA: Object = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS: Object = yaml.safe_load((CHART / "values.yaml").read_text())


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"backend": {"embeded": {"enabled": True}}}, "embeded"),
        ({"replicas": 2}, "replicas"),
        ({"crds": {"install": True}}, "install"),
        ({"backends": [{"name": "default", "secret": "x"}]}, "secret"),
        ({"backends": [{"name": "default", "secretName": "x", "url": "postgresql://a:b@c/d"}]}, "url"),
        ({"settings": {"sweep": {"confirmed": 3}}}, "confirmed"),
        ({"imagePullSecrets": ["pull"]}, "imagePullSecrets"),
        ({"extraEnv": [{"name": "A", "valu": "b"}]}, "valu"),
    ],
)
def test_what_is_misspelt_or_is_no_value_of_the_chart_is_refused_and_named(helm: Helm, values, complaint):
    with pytest.raises(HelmRefusedError, match=complaint):
        render(helm, ONE_BACKEND, values)


@pytest.mark.parametrize(
    "values",
    [
        {"image": {"tag": 1.10}},
        {"clusterId": 12},
        {"clusterId": "a/b"},
        {"podAnnotations": {"a": 1}},
        {"podLabels": {"a": True}},
        {"nodeSelector": {"gpu": True}},
        {"extraEnv": [{"name": "A", "value": 1}]},
        {"settings": {"resyncSeconds": "300"}},
        {"settings": {"resyncSeconds": 0}},
        {"settings": {"logLevel": "debug"}},
        {"namespaces": ["Orders"], "clusterId": "blue"},
        {"namespaces": ["orders", "orders"], "clusterId": "blue"},
        {"backends": [{"name": "default", "secretName": "x", "migrate": "auto"}]},
        {"backends": [{"name": "../x", "secretName": "x"}]},
        {"backends": [{"name": "default", "secretName": ""}]},
        {"backends": [{"name": "default", "secretName": "x", "namespaceSelector": {"matchLabels": {}}}]},
        {"backends": [{"name": "a", "secretName": "x", "namespaceSelector": {"matchExpressions": []}}]},
        {"image": {"digest": "latest"}},
        {"fullnameOverride": "Big"},
        {"fullnameOverride": "f" * 64},
    ],
    ids=json.dumps,
)
def test_what_kubernetes_or_the_operator_would_refuse_later_is_refused_now(helm: Helm, values):
    with pytest.raises(HelmRefusedError, match="values don't meet the specifications of the schema"):
        render(helm, ONE_BACKEND, values)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "No backend is configured. Pass a Secret"),
        (
            {"backend": {"embedded": {"enabled": True, "namespaces": ["shop"]}}},
            "backend.embedded.secretName is required",
        ),
        (
            {"backends": [{"name": "default", "secretName": "x"}]},
            'The backend "default" is open to no namespace. List the namespaces whose pools may use it',
        ),
        (
            {"backend": {"embedded": {"enabled": True, "secretName": "x"}}},
            'The backend "default" is open to no namespace',
        ),
        (
            {"backends": [{**SELECTED["backends"][0], "namespaces": ["shop"]}]},
            "has namespaces and a namespaceSelector. Remove one of them",
        ),
        (
            merged(SELECTED, {"namespaces": ["orders"], "clusterId": "blue"}),
            "needs the right to list the namespaces of the cluster",
        ),
        (merged(ONE_BACKEND, EMBEDDED), 'Two backends have the name "default"'),
        (merged(ONE_BACKEND, {"namespaces": ["orders"]}), "clusterId is required"),
        (
            merged(ONE_BACKEND, {"namespaces": ["orders"], "clusterId": "blue"}),
            'No pool can use the backend "default": it is open only to shop',
        ),
        (merged(ONE_BACKEND, {"serviceAccount": {"create": False}}), "serviceAccount.name is required"),
        (
            merged(EMBEDDED, {"backend": {"embedded": {"emptyDir": True, "existingClaim": "mine"}}}),
            "is mutually exclusive with existingClaim",
        ),
        (
            merged(EMBEDDED, {"backend": {"embedded": {"emptyDir": True, "storageClass": ""}}}),
            "is mutually exclusive with existingClaim",
        ),
        (
            merged(ONE_BACKEND, {"serviceMonitor": {"enabled": True}, "metrics": {"enabled": False}}),
            "serviceMonitor.enabled requires metrics.enabled",
        ),
        (
            merged(ONE_BACKEND, {"metrics": {"authentication": {"enabled": True}}}),
            "metrics.authentication.enabled requires metrics.tls.secretName",
        ),
    ],
)
def test_values_that_do_not_go_together_are_refused_with_a_sentence(helm: Helm, values, sentence):
    with pytest.raises(HelmRefusedError) as refused:
        render(helm, values)

    assert sentence in str(refused.value)


def test_the_defaults_are_values_of_the_schema():
    jsonschema.validate(DEFAULTS, SCHEMA)


def test_nothing_is_open_but_what_is_handed_through_to_kubernetes():
    handed_through = {
        "affinity", "backend.embedded.podSecurityContext", "backend.embedded.resources",
        "backend.embedded.securityContext", "podMonitor.endpoint", "podSecurityContext", "resources", "securityContext",
        "serviceMonitor.endpoint", "settings.workers.resources",
    }  # fmt: skip
    lists_of_kubernetes = {
        "extraEnvFrom[]", "extraVolumes[]", "extraVolumeMounts[]", "tolerations[]", "topologySpreadConstraints[]",
        "networkPolicy.metricsFrom[]", "networkPolicy.extraIngress[]", "networkPolicy.extraEgress[]",
        "networkPolicy.extraBackendIngress[]", "networkPolicy.egress.dns[]", "extraEnv[].valueFrom",
    }  # fmt: skip

    assert set(_open(SCHEMA, "")) == handed_through | lists_of_kubernetes | {"global"}


def test_each_value_is_described_where_an_editor_shows_it():
    assert not list(_undescribed(SCHEMA, ""))


def test_as_a_part_of_another_chart_it_takes_what_helm_hands_down(helm: Helm):
    assert render(helm, ONE_BACKEND, {"global": {"anything": 1}, "enabled": True}).all("Deployment")


@pytest.mark.parametrize("values", [ONE_BACKEND, EMBEDDED, TWO_NAMESPACES])
def test_a_value_that_is_null_takes_a_default_away_and_breaks_nothing(helm: Helm, values):
    context = {"runAsUser": None, "runAsGroup": None, "fsGroup": None}

    rendering = render(helm, values, {"podSecurityContext": context, "resources": {"limits": None}})

    assert rendering.pod["spec"]["securityContext"] == {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert set(rendering.container["resources"]) == {"requests"}


def _open(schema, path):
    """Yield where the schema lets in what it does not know."""
    if "object" in (schema.get("type"), *schema.get("type", ())):
        if schema.get("additionalProperties", True) is True:
            yield path
        for name, inner in schema.get("properties", {}).items():
            yield from _open(inner, f"{path}.{name}".lstrip("."))
    if "items" in schema:
        yield from _open(schema["items"], f"{path}[]")


def _undescribed(schema, path):
    for name, inner in schema.get("properties", {}).items():
        if "properties" not in inner and "description" not in inner:
            yield f"{path}.{name}"
        yield from _undescribed(inner, f"{path}.{name}")
