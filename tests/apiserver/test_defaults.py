"""What the API server fills in, and what it drops."""

import pytest

from pyncette.resources.pool import PyncetteWorkerPool
from pyncette.resources.reading import read, written
from pyncette.resources.task import PyncetteTask
from tests.apiserver import pool, refusal, task


@pytest.mark.parametrize(("model", "made"), [(PyncetteTask, task), (PyncetteWorkerPool, pool)])
def test_what_is_left_out_is_filled_in_with_what_python_would_assume(apiserver, namespace, model, made):
    stored = apiserver.admin.create(made(namespace))

    assert stored["spec"] == written(read(model, made(namespace)))["spec"]


def test_an_object_that_was_just_created_waits_for_the_operator(apiserver, namespace):
    for made in (task(namespace), pool(namespace)):
        apiserver.admin.create(made)

        status = apiserver.admin.read(made)["status"]

        assert status["observedGeneration"] == -1
        assert [(said["type"], said["status"], said["reason"]) for said in status["conditions"]] == [
            ("Ready", "Unknown", "Pending")
        ]


def test_what_is_within_an_object_that_is_given_in_part_is_filled_in(apiserver, namespace):
    stored = apiserver.admin.create(task(namespace, retryPolicy={"maxAttempts": 3}, workerPoolRef={}))

    assert stored["spec"]["retryPolicy"] == {
        "maxAttempts": 3,
        "initialBackoffSeconds": 5,
        "maxBackoffSeconds": 300,
    }
    assert stored["spec"]["workerPoolRef"] == {"name": "default"}


def test_a_retry_policy_is_not_filled_in_since_one_that_is_given_is_refused_at_most_once(
    apiserver, namespace
):
    assert "retryPolicy" not in apiserver.admin.create(task(namespace))["spec"]


def test_an_unknown_field_is_refused_where_kubectl_asks_and_dropped_where_it_does_not(apiserver, namespace):
    misspelt = task(namespace, tiemZone="UTC")

    assert 'unknown field "spec.tiemZone"' in refusal(lambda: apiserver.admin.create(misspelt)).message
    assert "tiemZone" not in apiserver.admin.create(misspelt, fieldValidation="Ignore")["spec"]
