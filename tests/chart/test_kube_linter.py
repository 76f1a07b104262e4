"""
The rules that kube-linter checks by default hold for each workload, whatever the values: of the chart and of a pool.

The names are those of https://docs.kubelinter.io (version 0.6.8). Each rule also finds a workload that breaks it.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from pyncette.controller.workloads.pod_template import PoolBackend
from pyncette.controller.workloads.workloads import Workloads, workloads_of
from pyncette.resources.pool import PyncetteWorkerPool
from tests.chart.rendering import Object, merged, render
from tests.chart.test_objects import MATRIX
from tests.resources import accepted, manifest
from tests.servers.tools import Helm

pytestmark = pytest.mark.cluster

Part = dict[str, Any]


class Case(NamedTuple):
    """A workload, and all objects that are created with it."""

    workload: Object
    objects: list[Object]

    @property
    def pod(self) -> Part:
        return self.workload["spec"]["template"]["spec"]

    @property
    def labels(self) -> dict[str, str]:
        return self.workload["spec"]["template"]["metadata"]["labels"]

    @property
    def containers(self) -> list[Part]:
        return [*self.pod.get("initContainers", []), *self.pod["containers"]]

    def all(self, kind: str) -> list[Object]:
        namespace = self.workload["metadata"]["namespace"]
        return [
            one for one in self.objects if one["kind"] == kind and one["metadata"]["namespace"] == namespace
        ]


Holds = Callable[[Case], bool]


# --- The rules -------------------------------------------------------------------------------------------------------


def for_each_container(holds: Callable[[Part], bool]) -> Holds:
    return lambda case: all(holds(container) for container in case.containers)


def in_context(name: str, case: Case, container: Part) -> Any:
    """The value of a field of the container's security context, or else of the pod's."""
    return container.get("securityContext", {}).get(name, case.pod.get("securityContext", {}).get(name))


def has_pods(case: Case) -> bool:
    services = case.all("Service")
    pods = [
        one["spec"]["template"]["metadata"]["labels"]
        for one in (case.workload, *case.objects)
        if is_workload(one)
    ]
    return all(
        any(service["spec"]["selector"].items() <= labels.items() for labels in pods) for service in services
    )


def is_workload(one: Object) -> bool:
    return one["kind"] in {"Deployment", "StatefulSet"}


def mounts_no_host_path(case: Case) -> bool:
    return not [volume for volume in case.pod.get("volumes", []) if "hostPath" in volume]


def shares_not(name: str) -> Holds:
    return lambda case: not case.pod.get(name)


def drops_net_raw(container: Part) -> bool:
    return bool({"ALL", "NET_RAW"} & set(container["securityContext"]["capabilities"]["drop"]))


def has_each_variable_once(container: Part) -> bool:
    names = [variable["name"] for variable in container.get("env", [])]
    return len(names) == len(set(names))


def has_no_literal_secret(container: Part) -> bool:
    return not [
        variable
        for variable in container.get("env", [])
        if "secret" in variable["name"].lower() and variable.get("value")
    ]


PORT_NAME = re.compile(r"(?=[-a-z0-9]{1,15}$)(?=.*[a-z])(?!.*--)[a-z0-9](.*[a-z0-9])?")


def is_port(port: str | int) -> bool:
    return 0 < port < 65_536 if isinstance(port, int) else PORT_NAME.fullmatch(port) is not None


def names_valid_ports(case: Case) -> bool:
    named = [port["name"] for container in case.containers for port in container.get("ports", [])]
    targets = [port["targetPort"] for service in case.all("Service") for port in service["spec"]["ports"]]
    return all(map(is_port, [*named, *targets]))


def names_a_version(container: Part) -> bool:
    image = container["image"]
    return "@sha256:" in image or (":" in image.rpartition("/")[2] and not image.endswith(":latest"))


def probes_a_port_of_its(probe: str) -> Holds:
    def holds(container: Part) -> bool:
        ports = {port[field] for port in container.get("ports", []) for field in ("name", "containerPort")}
        given = container.get(probe, {})
        asked = {given[action]["port"] for action in ("httpGet", "tcpSocket") if action in given}
        return asked <= ports

    return for_each_container(holds)


def selects_its_pods(case: Case) -> bool:
    return case.workload["spec"]["selector"]["matchLabels"].items() <= case.labels.items()


def is_spread(case: Case) -> bool:
    """Workers are spread by topologySpreadConstraints, which replaced anti-affinity for that; all others are one pod."""
    spread = {constraint["topologyKey"] for constraint in case.pod.get("topologySpreadConstraints", [])}
    return case.workload["spec"]["replicas"] < 2 or "kubernetes.io/hostname" in spread


def has_a_current_api(case: Case) -> bool:
    return not case.workload["apiVersion"].startswith("extensions/")


def has_an_account(case: Case) -> bool:
    accounts = {account["metadata"]["name"] for account in case.all("ServiceAccount")}
    return case.pod.get("serviceAccountName", "default") in accounts | {"default"}


def budgets_of(case: Case) -> Iterator[Part]:
    for one in case.all("PodDisruptionBudget"):
        if one["spec"]["selector"]["matchLabels"].items() <= case.labels.items():
            yield one["spec"]


def budget_lets_pods_go(case: Case) -> bool:
    return all(budget.get("maxUnavailable") not in (0, "0%") for budget in budgets_of(case))


def budget_is_below_the_replicas(case: Case) -> bool:
    replicas = case.workload["spec"]["replicas"]
    return all(budget.get("minAvailable", 0) < replicas for budget in budgets_of(case))


def budget_lets_broken_pods_go(case: Case) -> bool:
    return all(budget.get("unhealthyPodEvictionPolicy") == "AlwaysAllow" for budget in budgets_of(case))


def escalates_nothing(container: Part) -> bool:
    context = container["securityContext"]
    return context["allowPrivilegeEscalation"] is False and "SYS_ADMIN" not in context["capabilities"].get(
        "add", []
    )


def runs_as_another_than_root(case: Case) -> bool:
    return all(
        in_context("runAsNonRoot", case, container) is True and in_context("runAsUser", case, container) != 0
        for container in case.containers
    )


def offers_no_ssh(container: Part) -> bool:
    return 22 not in {port["containerPort"] for port in container.get("ports", [])}


def sets_no_sysctls(case: Case) -> bool:
    return not case.pod.get("securityContext", {}).get("sysctls")


def has_resource(part: str, name: str) -> Holds:
    return for_each_container(lambda container: name in container.get("resources", {}).get(part, {}))


# --- What breaks them ------------------------------------------------------------------------------------------------

Breach = Callable[[Case], Any]


def in_container(**fields: Any) -> Breach:
    """Merge *fields* into a container."""

    def breach(case: Case) -> None:
        container = case.pod["containers"][0]
        container.update(merged(container, fields))

    return breach


def in_pod(**fields: Any) -> Breach:
    return lambda case: case.pod.update(merged(case.pod, fields))


def in_budget(**fields: Any) -> Breach:
    def breach(case: Case) -> None:
        for budget in budgets_of(case):
            budget.update(fields)

    return breach


def add_service(**spec: Any) -> Breach:
    namespaced = {"namespace": "shop", "name": "any"}
    return lambda case: case.objects.append({"kind": "Service", "metadata": namespaced, "spec": spec})


class Rule(NamedTuple):
    """One rule."""

    holds: Holds
    breach: Breach
    """A change of the workload of a pool after which it no longer holds."""
    exempt: Mapping[str, str] = MappingProxyType({})
    """Values for which it is not checked, by a part of their name, with the reason."""


NO_RESOURCES = {
    "nothing": "the values remove the resources of the operator",
    "empty-dir": "the values remove the resources of PostgreSQL",
}

RULES = {
    "dangling-service": Rule(has_pods, add_service(selector={"a": "b"}, ports=[])),
    "deprecated-service-account-field": Rule(shares_not("serviceAccount"), in_pod(serviceAccount="a")),
    "docker-sock": Rule(mounts_no_host_path, in_pod(volumes=[{"hostPath": {"path": "/run/docker.sock"}}])),
    "drop-net-raw-capability": Rule(
        for_each_container(drops_net_raw), in_container(securityContext={"capabilities": {"drop": []}})
    ),
    "duplicate-env-var": Rule(
        for_each_container(has_each_variable_once), in_container(env=[{"name": "A"}, {"name": "A"}])
    ),
    "env-var-secret": Rule(
        for_each_container(has_no_literal_secret), in_container(env=[{"name": "MY_SECRET", "value": "a"}])
    ),
    "host-ipc": Rule(shares_not("hostIPC"), in_pod(hostIPC=True)),
    "host-network": Rule(shares_not("hostNetwork"), in_pod(hostNetwork=True)),
    "host-pid": Rule(shares_not("hostPID"), in_pod(hostPID=True)),
    "invalid-target-ports": Rule(
        names_valid_ports, add_service(selector={}, ports=[{"targetPort": "much-too-long-a-name"}])
    ),
    "latest-tag": Rule(for_each_container(names_a_version), in_container(image="example.org:5000/a:latest")),
    "liveness-port": Rule(
        probes_a_port_of_its("livenessProbe"), in_container(livenessProbe={"httpGet": {"port": 1}})
    ),
    "mismatching-selector": Rule(selects_its_pods, lambda case: case.labels.clear()),
    "no-anti-affinity": Rule(is_spread, in_pod(topologySpreadConstraints=[])),
    "no-extensions-v1beta": Rule(
        has_a_current_api, lambda case: case.workload.update(apiVersion="extensions/v1beta1")
    ),
    "no-read-only-root-fs": Rule(
        for_each_container(lambda container: container["securityContext"]["readOnlyRootFilesystem"]),
        in_container(securityContext={"readOnlyRootFilesystem": False}),
    ),
    "non-existent-service-account": Rule(
        has_an_account,
        in_pod(serviceAccountName="other"),
        {"nothing": "the values name an account that exists"},
    ),
    "pdb-max-unavailable": Rule(budget_lets_pods_go, in_budget(maxUnavailable=0)),
    "pdb-min-available": Rule(budget_is_below_the_replicas, in_budget(minAvailable=2)),
    "pdb-unhealthy-pod-eviction-policy": Rule(
        budget_lets_broken_pods_go, in_budget(unhealthyPodEvictionPolicy="IfHealthyBudget")
    ),
    "privilege-escalation-container": Rule(
        for_each_container(escalates_nothing),
        in_container(securityContext={"allowPrivilegeEscalation": True}),
    ),
    "privileged-container": Rule(
        for_each_container(lambda container: not container["securityContext"].get("privileged")),
        in_container(securityContext={"privileged": True}),
    ),
    "readiness-port": Rule(
        probes_a_port_of_its("readinessProbe"), in_container(readinessProbe={"tcpSocket": {"port": "a"}})
    ),
    "run-as-non-root": Rule(runs_as_another_than_root, in_container(securityContext={"runAsUser": 0})),
    "sensitive-host-mounts": Rule(mounts_no_host_path, in_pod(volumes=[{"hostPath": {"path": "/etc"}}])),
    "ssh-port": Rule(for_each_container(offers_no_ssh), in_container(ports=[{"containerPort": 22}])),
    "startup-port": Rule(
        probes_a_port_of_its("startupProbe"), in_container(startupProbe={"httpGet": {"port": "a"}})
    ),
    "unsafe-sysctls": Rule(sets_no_sysctls, in_pod(securityContext={"sysctls": [{"name": "net.a"}]})),
    "unset-cpu-requirements": Rule(
        has_resource("requests", "cpu"), lambda case: case.pod["containers"][0].pop("resources"), NO_RESOURCES
    ),
    "unset-memory-requirements": Rule(
        has_resource("limits", "memory"),
        lambda case: case.pod["containers"][0].pop("resources"),
        NO_RESOURCES,
    ),
}


def of_a_pool() -> Case:
    """The objects of a pool with two workers and no template."""
    pool = manifest(kind="PyncetteWorkerPool", name="a", image="example.org/a:1", module="a", replicas=2)
    pool["metadata"]["uid"] = "1"
    made = workloads_of(accepted(PyncetteWorkerPool, pool), PoolBackend("default", "b", "url"), "c/shop/a")
    assert isinstance(made, Workloads)
    objects = deepcopy(list(made.manifests()))
    return Case(objects[-1], objects)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_holds_for_the_workloads_of_the_chart_whatever_the_values(helm: Helm, name):
    rule = RULES[name]
    checked = 0
    for parameter in MATRIX:
        if any(part in str(parameter.id) for part in rule.exempt):
            continue
        (values,) = parameter.values
        objects = render(helm, *values).objects
        for workload in filter(is_workload, objects):
            assert rule.holds(Case(workload, objects)), (parameter.id, workload["metadata"]["name"])
            checked += 1
    assert checked >= 12


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_rule_holds_for_the_workers_of_a_pool(rule):
    assert rule.holds(of_a_pool())


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_rule_finds_a_workload_that_breaks_it(rule):
    case = of_a_pool()

    rule.breach(case)

    assert not rule.holds(case)
