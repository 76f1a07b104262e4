"""A pool in the namespace of the operator has no workers, or ones that use nothing of the operator."""

import pytest

from pyncette.controller.cluster.api import DEPLOYMENTS, ObjectName
from tests.controller.fake_api import pool
from tests.controller.world import POOLS, World

RELEASE = "pyncette"
ALLOWED = {"allowPoolsInReleaseNamespace": True, "ownSecrets": ["registry"]}


def backend(**given):
    return {"name": "default", "urlFile": "default", "namespaces": ["*"], **given}


@pytest.fixture
def world_of():
    made = []

    def make(**settings):
        world = World(**settings)
        made.append(world)
        world.start()
        return world

    yield make
    for world in made:
        world.close()


def created(world, namespace=RELEASE, **spec):
    """The Deployment of a new pool, and the pool's condition."""
    world.api.create(pool(namespace=namespace, **spec))
    world.run(10)
    deployment = world.api.stored(DEPLOYMENTS, ObjectName(namespace, "pyncette-default"))
    conditions = world.api.stored(POOLS, ObjectName(namespace, "default"))["status"].get("conditions", ())
    return deployment, next((one for one in conditions if one["type"] == "Stalled"), None)


def test_a_pool_in_the_namespace_of_the_operator_has_no_workers_and_says_where_they_may_be(world_of):
    deployment, stalled = created(world_of())

    assert deployment is None
    assert stalled["reason"] == "NamespaceRefused"
    assert stalled["message"] == (
        "metadata.namespace: pyncette is the namespace of the operator, where a pool could use its ServiceAccount and its "
        "Secrets; create the pool in another namespace, or set allowPoolsInReleaseNamespace in the operator's settings. "
        "Until then there are no workers."
    )


def test_a_pool_elsewhere_has_workers_under_the_same_account_name(world_of):
    deployment, stalled = created(world_of(), "shop", serviceAccountName="pyncette-operator")

    assert deployment["spec"]["template"]["spec"]["serviceAccountName"] == "pyncette-operator"
    assert stalled is None


def test_a_pool_without_pods_may_be_in_the_namespace_of_the_operator(world_of):
    deployment, stalled = created(world_of(), image=None, module=None, external=True)

    assert deployment is None
    assert stalled is None


def test_the_workers_of_a_pool_that_is_no_longer_allowed_stay_as_they_are(world_of):
    world = world_of(backends=[backend(workerSecretName="workers")], **ALLOWED)
    deployment, _ = created(world)
    world.kill()
    world.settings = world.settings.model_copy(update={"allow_pools_in_release_namespace": False})

    world.start()
    world.run(10)
    world.api.edit(POOLS, ObjectName(RELEASE, "default"), image="registry.example/tasks:2")
    world.run(10)

    there = world.api.stored(DEPLOYMENTS, ObjectName(RELEASE, "pyncette-default"))
    assert there["spec"] == deployment["spec"]


def test_where_the_settings_allow_it_workers_read_a_secret_of_their_own(world_of):
    deployment, stalled = created(world_of(backends=[backend(workerSecretName="workers")], **ALLOWED))

    (volume,) = [
        one for one in deployment["spec"]["template"]["spec"]["volumes"] if one["name"] == "pyncette-backend"
    ]
    assert {source["secret"]["name"] for source in volume["projected"]["sources"]} == {"workers"}
    assert stalled is None


def test_even_then_no_worker_reads_the_url_of_the_operator(world_of):
    deployment, stalled = created(world_of(backends=[backend()], **ALLOWED))

    assert deployment is None
    assert "pyncette-backend is a Secret of the operator" in stalled["message"]
    assert "workerSecretName" in stalled["message"]


def test_even_then_no_worker_runs_as_the_operator(world_of):
    world = world_of(backends=[backend(workerSecretName="workers")], **ALLOWED)
    deployment, stalled = created(world, serviceAccountName="pyncette-operator")

    assert deployment is None
    assert stalled["message"].startswith(
        "spec.serviceAccountName: pyncette-operator is the ServiceAccount of"
    )


CONTEXT = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def beside(**fields):
    return [{"name": "a", "image": "example.org/a:1", "securityContext": CONTEXT, **fields}]


@pytest.mark.parametrize("secret", ["pyncette-backend", "other-backend", "registry"])
@pytest.mark.parametrize(
    ("path", "part"),
    [
        (
            "spec.template.spec.volumes[name=x].secret.secretName",
            lambda name: {"volumes": [{"name": "x", "secret": {"secretName": name}}]},
        ),
        (
            "spec.template.spec.volumes[name=x].projected.sources[0].secret.name",
            lambda name: {"volumes": [{"name": "x", "projected": {"sources": [{"secret": {"name": name}}]}}]},
        ),
        (
            "spec.template.spec.volumes[name=x].csi.nodePublishSecretRef.name",
            lambda name: {
                "volumes": [{"name": "x", "csi": {"driver": "d", "nodePublishSecretRef": {"name": name}}}]
            },
        ),
        (
            "spec.template.spec.containers[name=a].env[name=X].valueFrom.secretKeyRef.name",
            lambda name: {
                "containers": beside(
                    env=[{"name": "X", "valueFrom": {"secretKeyRef": {"name": name, "key": "url"}}}]
                )
            },
        ),
        (
            "spec.template.spec.initContainers[name=a].envFrom[0].secretRef.name",
            lambda name: {"initContainers": beside(envFrom=[{"secretRef": {"name": name}}])},
        ),
    ],
)
def test_even_then_no_template_reads_a_secret_of_the_operator(world_of, secret, path, part):
    backends = [
        backend(workerSecretName="workers"),
        backend(name="other", urlFile="default", secretName="other-backend"),
    ]
    deployment, stalled = created(world_of(backends=backends, **ALLOWED), template={"spec": part(secret)})

    assert deployment is None
    assert stalled["message"].startswith(f"{path}: {secret} is a Secret of the operator")


def test_a_template_may_read_any_other_secret(world_of):
    world = world_of(backends=[backend(workerSecretName="workers")], **ALLOWED)
    part = {"volumes": [{"name": "x", "secret": {"secretName": "mine"}}]}

    deployment, stalled = created(world, template={"spec": part})

    assert deployment is not None
    assert stalled is None
