"""Only users who may create pods or Deployments may write a pool: the second policy of the chart, on a real API server."""

import pytest

from tests.apiserver import pool, refusal, status_of
from tests.apiserver.admission import POOLS, installed, until_refused

PODS = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["create"]}]
DEPLOYMENTS = [{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["create"]}]


@pytest.fixture(scope="module")
def release(apiserver, helm):
    with installed(apiserver, helm) as made:
        admin = apiserver.admin
        until_refused(lambda: admin.create(pool(made.namespace), dryRun="All"), made.denial("pools"))
        yield made


@pytest.fixture
def author(apiserver, release, namespace):
    """Somebody who may write pools, and nothing else."""
    return apiserver.account(namespace, rules=POOLS).client


def test_who_may_not_create_pods_writes_no_pool(release, namespace, author):
    refused = refusal(lambda: author.create(pool(namespace)))

    assert refused.status == 403
    assert release.denial("pools") in refused.message
    assert f"may create neither pods nor Deployments in the namespace {namespace}" in refused.message


@pytest.mark.parametrize("rights", [PODS, DEPLOYMENTS], ids=["pods", "deployments"])
def test_who_may_create_pods_elsewhere_writes_no_pool_here(apiserver, release, namespace, rights):
    with apiserver.fresh_namespace() as elsewhere:
        account = apiserver.account(elsewhere, rules=[*POOLS, *rights])
        subject = {"kind": "ServiceAccount", "name": account.name, "namespace": elsewhere}
        like = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "metadata": {"name": "pools", "namespace": namespace},
        }
        apiserver.admin.create({**like, "kind": "Role", "rules": POOLS})
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "pools"}
        apiserver.admin.create({**like, "kind": "RoleBinding", "roleRef": role, "subjects": [subject]})

        until_refused(lambda: account.client.create(pool(namespace)), release.denial("pools"))


@pytest.mark.parametrize("rights", [PODS, DEPLOYMENTS], ids=["pods", "deployments"])
def test_who_may_create_pods_or_deployments_writes_pools_with_any_account_of_the_namespace(
    apiserver, release, namespace, rights
):
    team = apiserver.account(namespace, rules=[*POOLS, *rights]).client

    made = team.create(pool(namespace, serviceAccountName="mine"))

    team.patch(made, {"spec": {"image": "example.org/tasks:2"}})


@pytest.mark.parametrize(
    "change",
    [
        {"metadata": {"labels": {"a": "b"}}},
        {"metadata": {"finalizers": ["example.org/a"]}},
        {"metadata": {"ownerReferences": []}},
    ],
    ids=lambda change: next(iter(change["metadata"])),
)
def test_who_leaves_the_spec_as_it_is_needs_no_right_on_pods(apiserver, release, namespace, author, change):
    made = apiserver.admin.create(pool(namespace))

    author.patch(made, change, dryRun="All")


def test_who_changes_the_spec_needs_the_right_on_pods(apiserver, release, namespace, author):
    made = apiserver.admin.create(pool(namespace))

    refused = refusal(lambda: author.patch(made, {"spec": {"image": "example.org/evil:1"}}))

    assert release.denial("pools") in refused.message


def test_an_autoscaler_scales_a_pool_without_a_right_on_pods(apiserver, release, namespace, author):
    made = apiserver.admin.create(pool(namespace))

    author.patch(made, {"spec": {"replicas": 3}}, "scale")

    assert apiserver.admin.read(made)["spec"]["replicas"] == 3


def test_a_pool_without_pods_needs_no_right_on_pods_and_never_has_any(release, namespace, author):
    made = author.create(pool(namespace, image=None, module=None, external=True))

    refused = refusal(
        lambda: author.patch(
            made, {"spec": {"external": None, "image": "example.org/evil:1", "module": "tasks"}}
        )
    )

    assert "external cannot be changed" in refused.message


def test_the_operator_writes_the_status_of_a_pool(apiserver, release, namespace):
    apiserver.admin.create(pool(namespace))

    release.operator.apply(
        status_of(pool(namespace), observedGeneration=1), "pyncette-operator", "status", force=True
    )


def test_nobody_writes_a_pool_in_the_namespace_of_the_operator(apiserver, release):
    refused = refusal(lambda: apiserver.admin.create(pool(release.namespace)))

    assert "a pool in the namespace of the operator" in refused.message
    assert "settings.allowPoolsInReleaseNamespace" in refused.message


def test_a_pool_in_the_namespace_of_the_operator_is_admitted_if_the_settings_allow_it(
    apiserver, release, helm
):
    with installed(apiserver, helm, {"settings": {"allowPoolsInReleaseNamespace": True}}) as made:
        apiserver.admin.create(pool(made.namespace), dryRun="All")
