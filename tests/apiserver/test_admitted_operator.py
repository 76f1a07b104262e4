"""The operator works with its own token while the admission policies of the chart are in effect."""

import time

import pytest

from tests.apiserver import pool
from tests.apiserver.admission import installed, objects_of_pool
from tests.apiserver.operating import OperatorProcess

DONE_SECONDS_MAX = 60


@pytest.fixture
def release(apiserver, helm, tmp_path):
    """A release whose operator runs, outside of a pod."""
    with installed(apiserver, helm) as made:
        kubeconfig = apiserver.kubeconfig_of(apiserver.token_of(made.namespace, made.account))
        settings = {"releaseNamespace": made.namespace}
        backend = f"sqlite:///{tmp_path}/tasks.db"
        with OperatorProcess(tmp_path, kubeconfig, backend, **settings):
            yield made


def until(holds):
    """Wait until it *holds*, and return what it returned."""
    end = time.monotonic() + DONE_SECONDS_MAX
    while not (found := holds()):
        assert time.monotonic() < end
        time.sleep(0.2)
    return found


def stalled(apiserver, manifest):
    conditions = apiserver.admin.read(manifest).get("status", {}).get("conditions", ())
    return next((one for one in conditions if (one["type"], one["status"]) == ("Stalled", "True")), None)


def test_the_operator_applies_all_objects_of_a_pool_and_changes_them(apiserver, release, namespace):
    made = apiserver.admin.create(pool(namespace))
    objects = objects_of_pool(namespace).values()
    until(lambda: all(apiserver.admin.exists(manifest) for manifest in objects))

    apiserver.admin.patch(made, {"spec": {"replicas": 3}})

    deployment = objects_of_pool(namespace)["Deployment"]
    until(lambda: apiserver.admin.read(deployment)["spec"]["replicas"] == 3)
    assert stalled(apiserver, made) is None


def test_a_pool_with_an_account_that_the_operator_may_not_use_says_how_to_allow_it(
    apiserver, release, namespace
):
    made = apiserver.admin.create(pool(namespace, serviceAccountName="shop-tasks"))

    condition = until(lambda: stalled(apiserver, made))

    assert condition["reason"] == "ApplyRefused"
    assert (
        "workers may run as pyncette-default, and not as the ServiceAccount shop-tasks"
        in condition["message"]
    )
    assert f"give {release.namespace}/{release.account} the verb use on it" in condition["message"]
