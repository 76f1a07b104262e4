"""That the objects of a pool are taken by the API server, and are written again only when something is not as it was."""

import pytest
from hypothesis import HealthCheck, assume, given, settings

from pyncette.controller.cluster.api import RefusedError
from pyncette.controller.cluster.client import Kubernetes
from pyncette.controller.cluster.credentials import Credentials
from pyncette.controller.workloads.drift import covers
from pyncette.controller.workloads.pod_template import PoolBackend
from pyncette.controller.workloads.workloads import claimed_elsewhere, workloads_of
from pyncette.resources.pool import PyncetteWorkerPool
from pyncette.resources.reading import Refusal
from tests.apiserver import pool as manifest_of_pool
from tests.controller.pod_parts import UP_TO_STANDARD, parts
from tests.resources import accepted
from tests.servers import ApiError

BACKEND = PoolBackend("default", "pyncette-backend", "url")
MANAGER = "pyncette-operator"


def workloads(namespace, name="default", **spec):
    given = manifest_of_pool(namespace, name, **spec)
    given["metadata"]["uid"] = "0-0-1"
    made = workloads_of(accepted(PyncetteWorkerPool, given), BACKEND, f"abc/{namespace}/{name}")
    assert not isinstance(made, Refusal), [str(problem) for problem in made.problems]
    return made


def applied(apiserver, manifest):
    return apiserver.admin.apply(manifest, MANAGER, force=True)


@pytest.fixture
def objects(apiserver, namespace):
    """The objects of a pool that says little, applied."""
    manifests = list(workloads(namespace).manifests())
    for manifest in manifests:
        applied(apiserver, manifest)
    return manifests


def test_the_objects_of_a_pool_are_taken_and_have_then_all_that_is_wanted(apiserver, objects):
    assert [each["kind"] for each in objects] == ["ServiceAccount", "PodDisruptionBudget", "Deployment"]
    for manifest in objects:
        assert covers(apiserver.admin.read(manifest), manifest)


def test_a_second_application_writes_nothing(apiserver, objects):
    for manifest in objects:
        before = apiserver.admin.read(manifest)

        assert applied(apiserver, manifest) == before


def test_the_longest_name_of_a_pool_is_short_enough_for_all_its_objects(apiserver, namespace):
    for manifest in workloads(namespace, "a" * 30 + ".b." + "c" * 30).manifests():
        applied(apiserver, manifest)


def test_an_item_of_a_list_is_compared_like_an_object(apiserver, namespace, objects):
    for manifest in objects:
        [listed] = apiserver.admin.list(
            manifest["apiVersion"], manifest["kind"], namespace, labelSelector="pyncette.dev/pool=default"
        )

        assert covers(listed, manifest)


DRIFTS = {
    "the scale": ("Deployment", {"spec": {"replicas": 5}}),
    "the strategy": ("Deployment", {"spec": {"strategy": {"rollingUpdate": {"maxSurge": 1}}}}),
    "an image": (
        "Deployment",
        {"spec": {"template": {"spec": {"containers": [{"name": "worker", "image": "x"}]}}}},
    ),
    "a label": ("Deployment", {"metadata": {"labels": {"pyncette.dev/pool": "other"}}}),
    "the mark": ("Deployment", {"metadata": {"annotations": {"pyncette.dev/applied": None}}}),
    "the owner": ("PodDisruptionBudget", {"metadata": {"ownerReferences": None}}),
    "the budget": ("PodDisruptionBudget", {"spec": {"maxUnavailable": 2}}),
    "an unhealthy pod's eviction": ("PodDisruptionBudget", {"spec": {"unhealthyPodEvictionPolicy": None}}),
    "the token": ("ServiceAccount", {"automountServiceAccountToken": None}),
    "a token": ("ServiceAccount", {"automountServiceAccountToken": True}),
}


@pytest.mark.parametrize(("kind", "change"), DRIFTS.values(), ids=DRIFTS)
def test_what_someone_else_changed_is_noticed_and_set_right(apiserver, objects, kind, change):
    [manifest] = [each for each in objects if each["kind"] == kind]

    apiserver.admin.patch(manifest, change)

    assert not covers(apiserver.admin.read(manifest), manifest)
    assert covers(applied(apiserver, manifest), manifest)


def test_what_someone_else_added_is_left_alone(apiserver, objects):
    deployment = objects[-1]
    restart = {"kubectl.kubernetes.io/restartedAt": "2030-01-01T00:00:00Z"}

    apiserver.admin.patch(deployment, {"spec": {"template": {"metadata": {"annotations": restart}}}})

    assert covers(apiserver.admin.read(deployment), deployment)
    after = applied(apiserver, deployment)["spec"]["template"]["metadata"]["annotations"]
    assert after.items() >= restart.items()


def test_what_is_no_longer_wanted_is_noticed_and_goes(apiserver, namespace):
    template = {
        "spec": {
            "nodeSelector": {"disk": "fast"},
            "containers": [{"name": "worker", "env": [{"name": "A", "value": "1"}]}],
        }
    }
    before = workloads(namespace, template=template).deployment
    after = workloads(namespace).deployment
    applied(apiserver, before)

    assert not covers(apiserver.admin.read(after), after)

    left = applied(apiserver, after)["spec"]["template"]["spec"]
    assert "nodeSelector" not in left
    assert "A" not in {each["name"] for each in left["containers"][0]["env"]}


@pytest.mark.parametrize("spec", UP_TO_STANDARD.values(), ids=UP_TO_STANDARD)
def test_a_template_is_taken_and_compared_with(apiserver, namespace, spec):
    deployment = workloads(namespace, template={"spec": spec}).deployment

    assert covers(applied(apiserver, deployment), deployment)


def test_a_pool_that_was_restored_with_another_uid_takes_its_objects_over(apiserver, namespace, objects):
    given = manifest_of_pool(namespace)
    given["metadata"]["uid"] = "0-0-2"
    restored = accepted(PyncetteWorkerPool, given)

    for manifest in workloads_of(restored, BACKEND, f"abc/{namespace}/default").manifests():
        there = apiserver.admin.read(manifest)
        assert claimed_elsewhere(there, restored) is None
        assert not covers(there, manifest)
        [owner] = applied(apiserver, manifest)["metadata"]["ownerReferences"]
        assert owner["uid"] == "0-0-2"


NOT_OF_THE_FORM = {
    "an unknown field": {"spec": {"nodeSelektor": {}}},
    "a number for a text": {"spec": {"containers": [{"name": "worker", "env": [{"name": "A", "value": 5}]}]}},
    "a text for a number": {"spec": {"securityContext": {"fsGroup": "x"}}},
    "a text for a list": {"spec": {"initContainers": "x"}},
    "what is no quantity": {
        "spec": {"containers": [{"name": "worker", "resources": {"limits": {"cpu": "much"}}}]}
    },
    "an item twice": {"spec": {"hostAliases": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.1"}]}},
    "what a Deployment cannot have": {"spec": {"restartPolicy": "Never"}},
}


@pytest.mark.parametrize("template", NOT_OF_THE_FORM.values(), ids=NOT_OF_THE_FORM)
async def test_a_template_that_is_not_of_the_form_is_refused_by_the_api_server_for_good(
    apiserver, namespace, template
):
    deployment = workloads(namespace, template=template).deployment

    async with Kubernetes(Credentials(str(apiserver.kubeconfig))) as api:
        with pytest.raises(RefusedError, match=r"spec\.template\.spec|quantities"):
            await api.apply(deployment)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(part=parts())
def test_any_template_that_is_taken_is_not_written_again(apiserver, namespace, part):
    pool = accepted(PyncetteWorkerPool, manifest_of_pool(namespace, template=part))
    pool = pool.model_copy(update={"metadata": pool.metadata.model_copy(update={"uid": "0-0-1"})})
    made = workloads_of(pool, BACKEND, "abc")
    assume(not isinstance(made, Refusal))
    try:
        answer = applied(apiserver, made.deployment)
    except ApiError as error:
        if (
            error.reason == "Invalid"
        ):  # two containers with the same name, mounts of volumes that are not there
            return
        raise

    assert covers(answer, made.deployment)
    assert covers(apiserver.admin.read(made.deployment), made.deployment)
