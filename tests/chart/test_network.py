"""The NetworkPolicies, where they are asked for: who gets in, and what the operator gets to."""

import pytest

from tests.chart.rendering import EMBEDDED, ONE_BACKEND, Object, merged, render
from tests.servers.tools import Helm

pytestmark = pytest.mark.cluster

ON: Object = {"networkPolicy": {"enabled": True}}
WORKERS = {
    "matchLabels": {
        "app.kubernetes.io/name": "pyncette-worker",
        "app.kubernetes.io/managed-by": "pyncette-operator",
    }
}


def policy(helm: Helm, component: str, *values: Object) -> Object:
    return render(helm, ON, *values).one("NetworkPolicy", component)["spec"]


def test_the_operator_is_asked_for_health_and_metrics_alone(helm: Helm):
    spec = policy(helm, "operator", ONE_BACKEND)

    assert spec["policyTypes"] == ["Ingress"]
    assert [port["port"] for rule in spec["ingress"] for port in rule["ports"]] == ["health", "metrics"]


def test_metrics_can_be_kept_to_those_who_collect_them_and_health_stays_open_to_the_kubelet(helm: Helm):
    peers = [{"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}]

    health, metrics = policy(helm, "operator", ONE_BACKEND, {"networkPolicy": {"metricsFrom": peers}})[
        "ingress"
    ]

    assert "from" not in health
    assert metrics["from"] == peers


def test_without_metrics_there_is_no_way_in_for_them(helm: Helm):
    (rule,) = policy(helm, "operator", ONE_BACKEND, {"metrics": {"enabled": False}})["ingress"]

    assert [port["port"] for port in rule["ports"]] == ["health"]


def test_what_the_operator_may_call_is_limited_to_names_and_ports_if_that_is_asked_for(helm: Helm):
    values = {"networkPolicy": {"egress": {"enabled": True, "ports": [6443, 5432]}}}

    spec = policy(helm, "operator", ONE_BACKEND, values)

    assert spec["policyTypes"] == ["Ingress", "Egress"]
    names, servers = spec["egress"]
    assert names["ports"] == [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]
    assert servers["ports"] == [{"port": 6443, "protocol": "TCP"}, {"port": 5432, "protocol": "TCP"}]


def named(*namespaces: str) -> Object:
    return {
        "matchExpressions": [
            {"key": "kubernetes.io/metadata.name", "operator": "In", "values": list(namespaces)}
        ]
    }


@pytest.mark.parametrize(
    ("namespaces", "where"),
    [(["orders"], named("orders")), (["orders", "reports"], named("orders", "reports")), (["*"], {})],
)
def test_the_embedded_postgresql_lets_in_the_operator_and_workers_of_where_it_is_open_to(
    helm: Helm, namespaces, where
):
    values = merged(EMBEDDED, {"backend": {"embedded": {"namespaces": namespaces}}})
    rendering = render(helm, ON, values)
    spec = rendering.one("NetworkPolicy", "postgresql")["spec"]

    (rule,) = spec["ingress"]
    operator, workers = rule["from"]
    assert [port["port"] for port in rule["ports"]] == ["postgresql"]
    assert operator["podSelector"]["matchLabels"].items() <= rendering.pod["metadata"]["labels"].items()
    assert workers == {"podSelector": WORKERS, "namespaceSelector": where}


def test_the_embedded_postgresql_has_no_egress(helm: Helm):
    spec = policy(helm, "postgresql", EMBEDDED)

    assert "Egress" in spec["policyTypes"]
    assert spec["egress"] == []


def test_ports_that_policies_name_are_those_of_the_containers(helm: Helm):
    rendering = render(helm, ON, EMBEDDED)
    pods = {"operator": rendering.pod, "postgresql": rendering.one("StatefulSet")["spec"]["template"]}

    for component, pod in pods.items():
        names = {port["name"] for container in pod["spec"]["containers"] for port in container["ports"]}
        rules = rendering.one("NetworkPolicy", component)["spec"]["ingress"]
        assert {port["port"] for rule in rules for port in rule["ports"]} <= names
