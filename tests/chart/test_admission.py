"""The admission policies are there by default, and where a release may not create them, the administrator gets them."""

import pytest

from tests.chart.rendering import EMBEDDED, ONE_BACKEND, SELECTED, TWO_NAMESPACES, render
from tests.servers.tools import Helm, HelmRefusedError
from tools.render_plain import NAME, NAMESPACED, POLICIES, policies

pytestmark = pytest.mark.cluster

POLICY, BINDING = "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"


def test_for_all_namespaces_both_policies_are_created_and_each_is_bound_so_that_it_denies(helm: Helm):
    rendering = render(helm, ONE_BACKEND)

    names = {one["metadata"]["name"] for one in rendering.all(POLICY)}
    assert names == {"pyncette-operator-writes", "pyncette-operator-pools"}
    assert {one["spec"]["policyName"] for one in rendering.all(BINDING)} == names
    for one in rendering.all(POLICY):
        assert one["spec"]["failurePolicy"] == "Fail"
    for one in rendering.all(BINDING):
        assert one["spec"]["validationActions"] == ["Deny"]
        assert "matchResources" not in one["spec"]


def test_for_some_namespaces_a_release_creates_none_unless_it_may(helm: Helm):
    assert POLICY not in render(helm, TWO_NAMESPACES).kinds

    rendering = render(helm, TWO_NAMESPACES, {"admissionPolicies": {"withNamespaces": True}})

    pools = next(one for one in rendering.all(BINDING) if one["metadata"]["name"].endswith("-pools"))
    (expression,) = pools["spec"]["matchResources"]["namespaceSelector"]["matchExpressions"]
    assert expression["values"] == ["orders", "reports"]


def test_they_can_be_left_out(helm: Helm):
    rendering = render(helm, ONE_BACKEND, {"admissionPolicies": {"enabled": False}})

    assert not {POLICY, BINDING} & rendering.kinds


@pytest.mark.parametrize("account", [{}, {"create": False, "name": "mine"}])
def test_the_policy_is_about_the_account_that_the_pod_runs_as(helm: Helm, account):
    rendering = render(helm, ONE_BACKEND, {"serviceAccount": account}, namespace="platform")

    writes = next(one for one in rendering.all(POLICY) if one["metadata"]["name"].endswith("-writes"))
    (condition,) = writes["spec"]["matchConditions"]
    name = rendering.pod["spec"]["serviceAccountName"]
    assert condition["expression"] == f"request.userInfo.username == 'system:serviceaccount:platform:{name}'"


def test_the_policy_covers_all_that_the_role_lets_the_operator_create(helm: Helm):
    rendering = render(helm, ONE_BACKEND)

    created = {
        (group, resource)
        for rule in rendering.rules()
        if "create" in rule["verbs"] and rule["apiGroups"] != ["pyncette.dev"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    writes = next(one for one in rendering.all(POLICY) if one["metadata"]["name"].endswith("-writes"))
    covered = {
        (group, resource)
        for rule in writes["spec"]["matchConstraints"]["resourceRules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert created == covered | {("", "events")}


SHOP = {"name": "shop", "secretName": "a", "namespaces": ["shop"]}
BOTH = {"name": "both", "secretName": "b", "namespaces": ["shop", "billing"]}
ALL = {"name": "all", "secretName": "c", "namespaces": ["*"]}
IN_TWO = {
    "clusterId": "blue",
    "namespaces": ["orders", "shop"],
    "admissionPolicies": {"withNamespaces": True},
}


@pytest.mark.parametrize(
    ("values", "expressions"),
    [
        ({"backends": [SHOP]}, ["request.namespace in ['shop']"]),
        ({"backends": [SHOP, BOTH]}, ["request.namespace in ['shop','billing']"]),
        ({"backends": [SHOP, ALL]}, []),
        (EMBEDDED, ["request.namespace in ['shop']"]),
        ({"backends": [BOTH], **IN_TWO}, ["request.namespace in ['shop']"]),
        ({"backends": [ALL], **IN_TWO}, ["request.namespace in ['orders','shop']"]),
        (SELECTED, ["namespaceObject.metadata.?labels[?'example.org/tenant'] == optional.of('true')"]),
    ],
)
def test_workers_are_limited_to_the_namespaces_that_the_backends_are_open_to(helm: Helm, values, expressions):
    rendering = render(helm, values)

    writes = next(one for one in rendering.all(POLICY) if one["metadata"]["name"].endswith("-writes"))
    assert [
        one["expression"] for one in writes["spec"]["validations"] if "is open to" in one.get("message", "")
    ] == expressions


@pytest.mark.parametrize("labels", [{"a' || true || 'b": "true"}, {"a": "' || true || 'x"}])
def test_a_label_cannot_end_the_expression_that_asks_for_it(helm: Helm, labels):
    with pytest.raises(HelmRefusedError, match=r"'.* true .*' does not match pattern"):
        render(helm, ONE_BACKEND, {"admissionPolicies": {"namespaceLabels": labels}})


def test_the_manifest_for_the_administrator_is_what_the_chart_makes_today(helm: Helm):
    made = policies(render(helm, NAMESPACED, release=NAME, namespace=NAME).objects)

    assert POLICIES.read_text() == made, "not current: run `make plain`"
