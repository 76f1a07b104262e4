"""The policies in examples/policies, and those of the chart with namespaces, do what their first lines say, on a real API server."""

import time
from pathlib import Path

import pytest
import yaml

from tests.apiserver import pool, refusal, task
from tests.apiserver.admission import POOLS, installed, objects_of_pool
from tests.apiserver.admission import until_refused as until_denied
from tests.servers import ApiError

POLICIES = Path(__file__).resolve().parents[2] / "examples" / "policies"

REQUESTED, AUTHOR = "pyncette.dev/run-requested-at", "pyncette.dev/requested-by"

SECONDS_MAX = 60
"""A policy is in effect some seconds after it was created."""


def documents(name):
    return list(yaml.safe_load_all((POLICIES / name).read_text()))


@pytest.fixture
def tenant(apiserver, namespace):
    """A namespace to which the policies apply; those of other tests are left alone."""
    where = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    apiserver.admin.patch(where, {"metadata": {"labels": {"example.org/tenant": "true"}}})
    return namespace


@pytest.fixture
def applied(apiserver):
    """A function that applies a file of policies, until the end of the test."""
    there = []

    def apply(name):
        there.extend(apiserver.admin.create(document) for document in documents(name))

    yield apply
    for document in reversed(there):
        apiserver.admin.delete(document)


def until(holds):
    """Wait until the policy is in effect. Before that, the API server may be about to learn the schema of its objects."""
    end = time.monotonic() + SECONDS_MAX
    error = None
    while time.monotonic() < end:
        try:
            if holds():
                return
        except ApiError as unavailable:
            error = unavailable
        time.sleep(0.2)
    raise AssertionError(f"the policy is not in effect: {error}")


def until_refused(ask):
    """Return what the API server says of something that it is about to refuse."""
    messages = []

    def is_refused():
        try:
            ask()
        except ApiError as error:
            messages.append(error.message)
        return bool(messages)

    until(is_refused)
    return messages[0]


def with_pod(**spec):
    return {"template": {"spec": spec}}


def test_pools_may_name_the_registries_and_the_priority_classes_of_the_policy(apiserver, tenant, applied):
    applied("pools.yaml")

    def create(image="registry.example.com/tasks:1", **spec):
        return apiserver.admin.create(pool(tenant, image=image, **spec), dryRun="All")

    message = until_refused(lambda: create("docker.io/miner:1"))
    assert (
        "images must come from registry.example.com/ or ghcr.io/example/, and not docker.io/miner:1"
        in message
    )
    assert (
        "not registry.example.com.evil.org/a"
        in refusal(lambda: create("registry.example.com.evil.org/a")).message
    )
    for part in ("containers", "initContainers"):
        sidecar = [{"name": "sidecar", "image": "docker.io/miner:1"}]
        assert (
            "docker.io/miner:1"
            in refusal(lambda part=part, it=sidecar: create(**with_pod(**{part: it}))).message
        )
    critical = with_pod(priorityClassName="system-node-critical")
    assert "priorityClassName must be one of batch" in refusal(lambda: create(**critical)).message

    create()
    create("ghcr.io/example/tasks:1", **with_pod(priorityClassName="batch", containers=[{"name": "worker"}]))
    create(None, module=None, external=True)


def test_who_requests_a_run_is_recorded_and_nobody_can_write_another_name(apiserver, tenant, applied):
    applied("requested-by.yaml")
    made = apiserver.admin.create(task(tenant))
    ann, bob = (apiserver.admin.impersonating(name, "system:masters") for name in ("ann", "bob"))

    def annotate(client, **annotations):
        body = client.patch(made, {"metadata": {"annotations": annotations}})
        return body["metadata"].get("annotations", {})

    until(lambda: annotate(ann, **{REQUESTED: str(time.time())}).get(AUTHOR) == "ann")

    assert annotate(bob, other="x")[AUTHOR] == "ann"
    assert annotate(bob, **{AUTHOR: "ann"})[AUTHOR] == "ann"
    assert annotate(bob, **{AUTHOR: "somebody-else"})[AUTHOR] == "bob"
    assert annotate(ann, **{REQUESTED: "again", AUTHOR: "bob"})[AUTHOR] == "ann"
    assert annotate(bob, **{AUTHOR: None})[AUTHOR] == "bob"
    assert AUTHOR not in apiserver.admin.create(task(tenant, "quiet"))["metadata"].get("annotations", {})


@pytest.mark.parametrize("file", ["quota.yaml", "network.yaml"])
def test_a_file_for_a_namespace_is_accepted_as_it_is(apiserver, namespace, file):
    (given,) = documents(file)

    made = apiserver.admin.create(
        {**given, "metadata": {**given["metadata"], "namespace": namespace}}, dryRun="All"
    )

    assert made["spec"] == given["spec"]


def test_for_namespaced_mode_the_administrator_creates_the_same_policies(apiserver, helm, namespace):
    values = {
        "namespaces": [namespace],
        "clusterId": "east",
        "admissionPolicies": {"withNamespaces": True},
    }
    with installed(apiserver, helm, values) as made, apiserver.fresh_namespace() as elsewhere:
        deployment = objects_of_pool(namespace)["Deployment"]
        made.operator.apply(deployment, "pyncette-operator", dryRun="All")
        author = apiserver.account(namespace, rules=POOLS).client
        until_denied(lambda: author.create(pool(namespace), dryRun="All"), made.denial("pools"))

        # Another operator may serve other namespaces.
        apiserver.account(elsewhere, rules=POOLS).client.create(pool(elsewhere), dryRun="All")
