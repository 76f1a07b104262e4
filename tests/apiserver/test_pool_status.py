"""That a rollout is over when kubectl says so, and that the API server takes what is told of a pool."""

import pytest

from pyncette.controller.status.events import Regarding
from pyncette.controller.status.pool_events import events_of_pool
from pyncette.controller.status.rollout import rolling_out
from pyncette.controller.workloads.pod_template import PoolBackend
from pyncette.controller.workloads.workloads import workloads_of
from pyncette.resources.pool import PoolStatus, PyncetteWorkerPool
from pyncette.resources.reading import read_stored
from tests.apiserver import pool as manifest_of_pool
from tests.controller.deployments import ROLLED_OUT, ROLLING_OUT
from tests.controller.test_pool_status import NOW, ROWS, told

POINTS = ROLLING_OUT | ROLLED_OUT


@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS)
def test_a_rollout_is_over_when_kubectl_says_so(apiserver, namespace, point):
    given = manifest_of_pool(namespace, "reports", replicas=point["spec"]["replicas"])
    given["metadata"]["uid"] = "0-0-1"
    pool = read_stored(PyncetteWorkerPool, given)
    deployment = workloads_of(pool, PoolBackend("default", "backend", "url"), "abc").deployment
    apiserver.admin.apply(deployment)
    # A second generation, as the points have it.
    apiserver.admin.patch(deployment, {"spec": {"revisionHistoryLimit": 5}})
    apiserver.admin.patch(deployment, {"status": point["status"]}, "status")

    stored = apiserver.admin.read(deployment)
    is_over = not rolling_out(stored)

    assert stored["metadata"]["generation"] == 2
    assert rolling_out(point) is not is_over
    asked = ("rollout", "status", "--watch=false", f"--namespace={namespace}", "deployment/pyncette-reports")
    is_late = any(
        each["reason"] == "ProgressDeadlineExceeded" for each in point["status"].get("conditions", ())
    )
    answer = apiserver.kubectl(*asked, succeeds=not is_late)
    assert ("successfully rolled out" in answer) is is_over


@pytest.mark.parametrize("known", [row[0] for row in ROWS.values()], ids=ROWS)
def test_the_api_server_takes_what_is_reported_of_a_pool(apiserver, namespace, known):
    pool = manifest_of_pool(namespace)
    stored = apiserver.admin.create(pool)
    status = told(**known).status
    name = {"name": "default", "namespace": namespace}
    part = {"apiVersion": pool["apiVersion"], "kind": pool["kind"], "metadata": name}
    told_as_json = status.model_dump(mode="json", by_alias=True, exclude_none=True)

    apiserver.admin.apply(part | {"status": told_as_json}, "pyncette-operator", "status", force=True)

    after = read_stored(PyncetteWorkerPool, apiserver.admin.read(pool))
    assert after.status == status
    for event in events_of_pool(
        Regarding(namespace, "default", stored["metadata"]["uid"]), PoolStatus(), status, NOW
    ):
        apiserver.admin.create(event)
