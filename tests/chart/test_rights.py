"""Who may do what: the operator as little as it can do with, and people no more than they had."""

import pytest

from pyncette.controller.permissions import PERMISSIONS, Scope
from tests.chart.rendering import EMBEDDED, ONE_BACKEND, SELECTED, TWO_NAMESPACES, Object, Rendering, render
from tests.servers.tools import Helm

pytestmark = pytest.mark.cluster

MODES = [
    pytest.param(ONE_BACKEND, id="cluster-wide"),
    pytest.param({**ONE_BACKEND, "clusterId": "blue"}, id="cluster-wide-with-an-id"),
    pytest.param(SELECTED, id="with-a-selector"),
    pytest.param(EMBEDDED, id="embedded"),
    pytest.param(TWO_NAMESPACES, id="namespaced"),
]


def grants(rules: list[Object]) -> set[tuple[str, str, str, str]]:
    """Return what *rules* grant: group, resource, name of the object ("" for any) and verb."""
    return {
        (group, resource, name, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames", [""])
        for verb in rule["verbs"]
    }


def of_the_table(*scopes: Scope) -> set[tuple[str, str, str, str]]:
    return {
        (one.group, resource, "", verb)
        for one in PERMISSIONS
        if one.scope in scopes
        for resource in one.resources
        for verb in one.verbs
    }


def the_operators(rendering: Rendering, kind: str) -> list[Object]:
    return [
        role
        for role in rendering.all(kind)
        if role["metadata"]["labels"]["app.kubernetes.io/component"] == "operator"
    ]


def test_the_operator_may_do_in_the_cluster_what_the_table_says(helm: Helm):
    (role,) = the_operators(render(helm, ONE_BACKEND), "ClusterRole")

    assert grants(role["rules"]) == of_the_table(Scope.NAMESPACE, Scope.CLUSTER)


def test_the_operator_lists_namespaces_only_for_a_selector(helm: Helm):
    (role,) = the_operators(render(helm, SELECTED), "ClusterRole")

    assert grants(role["rules"]) == of_the_table(Scope.NAMESPACE, Scope.CLUSTER, Scope.SELECTOR)


def test_with_namespaces_there_is_a_role_in_each_and_nothing_cluster_wide_at_all(helm: Helm):
    rendering = render(helm, TWO_NAMESPACES)

    assert not {"ClusterRole", "ClusterRoleBinding"} & rendering.kinds
    granted = {role["metadata"]["namespace"]: grants(role["rules"]) for role in rendering.all("Role")}
    assert granted == {
        "orders": of_the_table(Scope.NAMESPACE),
        "reports": of_the_table(Scope.NAMESPACE),
        "pyncette": of_the_table(Scope.RELEASE),
    }


AUTHENTICATED: Object = {
    "metrics": {"tls": {"secretName": "metrics-tls"}, "authentication": {"enabled": True}}
}


@pytest.mark.parametrize(
    ("values", "name"),
    [(ONE_BACKEND, "pyncette-operator-metrics"), (TWO_NAMESPACES, "pyncette-pyncette-operator-metrics")],
)
def test_the_operator_reviews_tokens_and_access_only_for_authenticated_metrics(helm: Helm, values, name):
    rendering = render(helm, values, AUTHENTICATED)
    (role,) = [one for one in rendering.all("ClusterRole") if one["metadata"]["name"] == name]
    (binding,) = [one for one in rendering.all("ClusterRoleBinding") if one["metadata"]["name"] == name]

    assert grants(role["rules"]) == of_the_table(Scope.METRICS)
    assert binding["roleRef"]["name"] == name
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": "pyncette-operator", "namespace": "pyncette"}
    ]
    reviewing = {"tokenreviews", "subjectaccessreviews"}
    for other in (values, {**values, "metrics": {"tls": {"secretName": "metrics-tls"}}}):
        assert not [rule for rule in render(helm, other).rules() if reviewing & set(rule["resources"])]


def test_a_reader_of_metrics_is_bound_to_a_role_that_allows_nothing_else(helm: Helm):
    rendering = render(helm, ONE_BACKEND, AUTHENTICATED)
    (reader,) = [one for one in rendering.all("ClusterRole") if one["metadata"]["name"].endswith("-reader")]

    assert reader["rules"] == [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]
    assert reader["metadata"]["name"] not in {
        one["roleRef"]["name"] for one in rendering.all("ClusterRoleBinding")
    }


def test_a_namespace_that_is_watched_and_is_that_of_the_release_has_one_role(helm: Helm):
    rendering = render(helm, TWO_NAMESPACES, namespace="orders")

    granted = {role["metadata"]["namespace"]: grants(role["rules"]) for role in rendering.all("Role")}
    assert set(granted) == {"orders", "reports"}
    assert granted["orders"] >= of_the_table(Scope.NAMESPACE, Scope.RELEASE)


@pytest.mark.parametrize("values", MODES)
def test_each_role_of_the_operator_is_bound_only_to_its_account(helm: Helm, values):
    rendering = render(helm, values)
    account = rendering.one("ServiceAccount")["metadata"]

    for kind in ("Role", "ClusterRole"):
        roles = {_place(role) for role in the_operators(rendering, kind)}
        bindings = rendering.all(f"{kind}Binding")
        assert {(one["metadata"].get("namespace"), one["roleRef"]["name"]) for one in bindings} == roles
        for binding in bindings:
            assert binding["roleRef"]["kind"] == kind
            assert binding["subjects"] == [
                {"kind": "ServiceAccount", "name": account["name"], "namespace": account["namespace"]}
            ]
    assert rendering.pod["spec"]["serviceAccountName"] == account["name"]


@pytest.mark.parametrize("values", MODES)
def test_no_rule_has_a_wildcard_or_reaches_secrets_pods_crds_or_roles(helm: Helm, values):
    forbidden = {
        "secrets", "configmaps", "pods", "pods/exec", "pods/log", "serviceaccounts/token", "nodes", "roles",
        "clusterroles", "rolebindings", "clusterrolebindings", "customresourcedefinitions",
    }  # fmt: skip

    for rule in render(helm, values).rules():
        assert not any("*" in part for key in ("apiGroups", "resources", "verbs") for part in rule[key])
        assert forbidden.isdisjoint(rule["resources"])
        assert {"escalate", "bind", "impersonate", "approve", "sign"}.isdisjoint(rule["verbs"])
        assert "nonResourceURLs" not in rule


def test_people_read_both_kinds_edit_tasks_and_administer_pools(helm: Helm):
    added = {
        label.rpartition("-")[2]: grants(role["rules"])
        for role in render(helm, ONE_BACKEND).all("ClusterRole")
        for label in role["metadata"]["labels"]
        if "aggregate-to" in label
    }

    assert set(added) == {"view", "edit", "admin"}
    reading = {"get", "list", "watch"}
    writing = {"create", "update", "patch", "delete", "deletecollection"}
    assert added["view"] == _on("pyncettetasks", reading) | _on("pyncetteworkerpools", reading)
    assert added["edit"] == _on("pyncettetasks", writing)
    assert added["admin"] == _on("pyncetteworkerpools", writing) | _on(
        "pyncetteworkerpools/scale", {"get", "update", "patch"}
    )


def test_only_the_operator_may_write_the_status(helm: Helm):
    rendering = render(helm, ONE_BACKEND)

    having = {
        role["metadata"]["labels"]["app.kubernetes.io/component"]
        for role in rendering.all("ClusterRole")
        for one in grants(role["rules"])
        if one[1].endswith("/status")
    }
    assert having == {"operator"}


def test_rights_of_people_and_of_the_operator_can_be_left_to_others(helm: Helm):
    assert not the_operators(render(helm, ONE_BACKEND, {"rbac": {"create": False}}), "ClusterRole")
    without = render(helm, ONE_BACKEND, {"rbac": {"aggregate": False}})
    assert the_operators(without, "ClusterRole") == without.all("ClusterRole")


def test_only_the_operators_pod_gets_a_token(helm: Helm):
    rendering = render(helm, EMBEDDED)

    assert rendering.one("ServiceAccount")["automountServiceAccountToken"] is False
    assert rendering.pod["spec"]["automountServiceAccountToken"] is True
    assert rendering.one("StatefulSet")["spec"]["template"]["spec"]["automountServiceAccountToken"] is False


def test_an_account_of_the_users_is_taken_instead(helm: Helm):
    rendering = render(helm, ONE_BACKEND, {"serviceAccount": {"create": False, "name": "mine"}})

    assert not rendering.all("ServiceAccount")
    assert rendering.pod["spec"]["serviceAccountName"] == "mine"
    assert rendering.one("ClusterRoleBinding")["subjects"][0]["name"] == "mine"


def _place(role: Object) -> tuple[str | None, str]:
    return role["metadata"].get("namespace"), role["metadata"]["name"]


def _on(resource: str, verbs: set[str]) -> set[tuple[str, str, str, str]]:
    return {("pyncette.dev", resource, "", verb) for verb in verbs}
