"""The NetworkPolicies: who gets in, and where operator and workers get to if that is limited."""

import pytest
import yaml

from pyncette.controller.workloads.pod_template import PoolBackend
from pyncette.controller.workloads.workloads import Workloads, workloads_of
from pyncette.resources.pool import PyncetteWorkerPool
from tests.chart.rendering import (
    EMBEDDED,
    ONE_BACKEND,
    ROOT,
    TWO_NAMESPACES,
    Object,
    Rendering,
    merged,
    render,
)
from tests.resources import accepted, manifest
from tests.servers.tools import Helm, HelmRefusedError

pytestmark = pytest.mark.cluster

WORKERS = {
    "matchLabels": {
        "app.kubernetes.io/name": "pyncette-worker",
        "app.kubernetes.io/managed-by": "pyncette-operator",
    }
}
EVERY_POD = [{"namespaceSelector": {}}]
PROMETHEUS = [{"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}]
DNS = {
    "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}],
    "to": [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}},
        {"ipBlock": {"cidr": "169.254.20.10/32"}},
    ],
}


def metrics_from(peers: list[Object]) -> list[Object]:
    return [{"ports": [{"port": "metrics", "protocol": "TCP"}], "from": peers}]


def policy(helm: Helm, component: str, *values: Object) -> Object:
    return render(helm, *values).one("NetworkPolicy", component)["spec"]


def of_workers(rendering: Rendering) -> dict[str, Object]:
    """The specs of the policies of workers, by namespace."""
    return {
        one["metadata"]["namespace"]: one["spec"]
        for one in rendering.all("NetworkPolicy")
        if one["metadata"]["labels"]["app.kubernetes.io/component"] == "workers"
    }


def worker_pod() -> Object:
    pool = manifest(kind="PyncetteWorkerPool", name="default", image="i", module="tasks")
    pool["metadata"]["uid"] = "1"
    made = workloads_of(
        accepted(PyncetteWorkerPool, pool), PoolBackend("default", "s", "url"), "a/shop/default"
    )
    assert isinstance(made, Workloads)
    return made.deployment["spec"]["template"]


def test_the_operator_lets_in_readers_of_metrics_from_the_cluster_and_nobody_else(helm: Helm):
    spec = policy(helm, "operator", ONE_BACKEND)

    assert spec["policyTypes"] == ["Ingress"]
    assert spec["ingress"] == metrics_from(EVERY_POD)


def test_metrics_can_be_kept_to_those_who_collect_them(helm: Helm):
    values = merged(TWO_NAMESPACES, {"networkPolicy": {"metricsFrom": PROMETHEUS}})

    assert policy(helm, "operator", values)["ingress"] == metrics_from(PROMETHEUS)
    assert [spec["ingress"] for spec in of_workers(render(helm, values)).values()] == [
        metrics_from(PROMETHEUS)
    ] * 2


def test_without_readers_of_metrics_nobody_is_let_in(helm: Helm):
    values = merged(TWO_NAMESPACES, {"networkPolicy": {"metricsFrom": []}})

    assert policy(helm, "operator", values)["ingress"] == []
    assert [spec["ingress"] for spec in of_workers(render(helm, values)).values()] == [[], []]


def test_without_metrics_there_is_no_way_in_for_them(helm: Helm):
    assert policy(helm, "operator", ONE_BACKEND, {"metrics": {"enabled": False}})["ingress"] == []


def test_rules_of_the_user_are_added(helm: Helm):
    rule = {"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": "health"}]}

    spec = policy(helm, "operator", ONE_BACKEND, {"networkPolicy": {"extraIngress": [rule]}})

    assert spec["ingress"] == [*metrics_from(EVERY_POD), rule]


def test_there_are_no_policies_if_they_are_turned_off(helm: Helm):
    off = {"networkPolicy": {"enabled": False, "workers": {"namespaces": ["shop"]}}}

    assert not render(helm, EMBEDDED, off).all("NetworkPolicy")


# --- Workers ---------------------------------------------------------------------------------------------------------


def test_there_is_a_policy_for_workers_in_each_namespace_of_the_operator(helm: Helm):
    found = of_workers(render(helm, TWO_NAMESPACES))

    assert list(found) == ["orders", "reports"]
    for spec in found.values():
        assert spec == {
            "podSelector": WORKERS,
            "policyTypes": ["Ingress"],
            "ingress": metrics_from(EVERY_POD),
        }


def test_for_a_whole_cluster_there_is_a_policy_in_the_namespaces_that_are_listed(helm: Helm):
    listed = {"networkPolicy": {"workers": {"namespaces": ["shop", "orders"]}}}

    assert of_workers(render(helm, ONE_BACKEND)) == {}
    assert list(of_workers(render(helm, ONE_BACKEND, listed))) == ["shop", "orders"]
    assert list(of_workers(render(helm, TWO_NAMESPACES, listed))) == ["orders", "reports", "shop"]


def test_the_policy_that_a_team_applies_selects_what_that_of_the_chart_does(helm: Helm):
    example = yaml.safe_load((ROOT / "examples" / "policies" / "network.yaml").read_text())
    peers = example["spec"]["ingress"][0]["from"]

    found = of_workers(render(helm, TWO_NAMESPACES, {"networkPolicy": {"metricsFrom": peers}}))

    assert example["spec"] == found["orders"]


def test_the_policies_of_workers_select_the_pods_of_pools_and_name_one_of_their_ports():
    pod = worker_pod()
    example = yaml.safe_load((ROOT / "examples" / "policies" / "network.yaml").read_text())["spec"]

    assert WORKERS["matchLabels"].items() <= pod["metadata"]["labels"].items()
    names = {port["name"] for container in pod["spec"]["containers"] for port in container["ports"]}
    assert {port["port"] for rule in example["ingress"] for port in rule["ports"]} <= names


# --- Egress ----------------------------------------------------------------------------------------------------------

SERVERS = [
    {"cidr": "10.1.2.3/32", "ports": [6443]},
    {"cidr": "fd00::/8"},
    {"namespace": "databases", "ports": [5432, 6379]},
]
SERVER_RULES = [
    {"to": [{"ipBlock": {"cidr": "10.1.2.3/32"}}], "ports": [{"port": 6443, "protocol": "TCP"}]},
    {"to": [{"ipBlock": {"cidr": "fd00::/8"}}]},
    {
        "to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "databases"}}}],
        "ports": [{"port": 5432, "protocol": "TCP"}, {"port": 6379, "protocol": "TCP"}],
    },
]


def test_the_egress_of_the_operator_is_limited_to_dns_and_servers_if_that_is_asked_for(helm: Helm):
    values = {"networkPolicy": {"egress": {"enabled": True, "to": SERVERS}}}

    spec = policy(helm, "operator", ONE_BACKEND, values)

    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert spec["egress"] == [DNS, *SERVER_RULES]


def test_the_egress_of_workers_is_limited_to_dns_and_servers_if_that_is_asked_for(helm: Helm):
    values = {"networkPolicy": {"workers": {"egress": {"enabled": True, "to": SERVERS}}}}

    found = of_workers(render(helm, TWO_NAMESPACES, values))

    assert [spec["policyTypes"] for spec in found.values()] == [["Ingress", "Egress"]] * 2
    assert [spec["egress"] for spec in found.values()] == [[DNS, *SERVER_RULES]] * 2
    assert "egress" not in policy(helm, "operator", TWO_NAMESPACES, values)


def test_the_embedded_postgresql_is_among_the_servers(helm: Helm):
    values = merged(
        EMBEDDED,
        {
            "networkPolicy": {
                "egress": {"enabled": True, "to": SERVERS[:1]},
                "workers": {"namespaces": ["shop"], "egress": {"enabled": True}},
            }
        },
    )
    rendering = render(helm, values)

    _, ours, *_ = rendering.one("NetworkPolicy", "operator")["spec"]["egress"]
    _, theirs = of_workers(rendering)["shop"]["egress"]

    pod = rendering.one("StatefulSet")["spec"]["template"]
    (peer,) = ours["to"]
    assert ours == theirs
    assert peer["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert peer["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": "pyncette"}}
    assert [port["port"] for port in ours["ports"]] == [5432]


def test_dns_can_be_elsewhere(helm: Helm):
    peers = [{"ipBlock": {"cidr": "10.0.0.10/32"}}]
    egress = {"enabled": True, "to": SERVERS}

    def rule(dns: list[Object]) -> Object:
        return policy(helm, "operator", ONE_BACKEND, {"networkPolicy": {"egress": {**egress, "dns": dns}}})[
            "egress"
        ][0]

    assert rule(peers)["to"] == peers
    assert "to" not in rule([])


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"egress": {"enabled": True}}, "would cut off the operator from the API server"),
        (
            {"workers": {"egress": {"enabled": True, "to": SERVERS}}},
            "the chart knows no namespace of workers",
        ),
        (
            {"workers": {"namespaces": ["shop"], "egress": {"enabled": True}}},
            "would cut off the workers from their backend",
        ),
        ({"egress": {"to": [{"ports": [1]}]}}, "networkPolicy"),
        ({"egress": {"to": [{"cidr": "10.0.0.1/32", "namespace": "a"}]}}, "networkPolicy"),
        ({"egress": {"to": [{"cidr": "10.0.0.1"}]}}, "networkPolicy"),
        ({"egress": {"to": [{"namespace": "a", "ports": [0]}]}}, "networkPolicy"),
    ],
)
def test_an_egress_that_makes_no_sense_is_refused(helm: Helm, values, sentence):
    with pytest.raises(HelmRefusedError, match=sentence):
        render(helm, ONE_BACKEND, {"networkPolicy": values})


# --- The embedded PostgreSQL -----------------------------------------------------------------------------------------


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
    rendering = render(helm, values)
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
    rendering = render(helm, EMBEDDED)
    pods = {"operator": rendering.pod, "postgresql": rendering.one("StatefulSet")["spec"]["template"]}

    for component, pod in pods.items():
        names = {port["name"] for container in pod["spec"]["containers"] for port in container["ports"]}
        rules = rendering.one("NetworkPolicy", component)["spec"]["ingress"]
        assert {port["port"] for rule in rules for port in rule["ports"]} <= names
