"""The largest objects that the schema allows, and what the API server itself says to larger ones."""

from pyncette.resources.arguments import ARGS_BYTES_MAX, ARGS_KEYS_MAX
from pyncette.resources.pool import PyncetteWorkerPool
from pyncette.resources.reading import Refusal, read, read_stored
from pyncette.resources.resource import CONDITIONS_MAX
from pyncette.resources.task import PyncetteTask
from tests.apiserver import pool, refusal, task
from tests.apiserver.objects import largest
from tools.custom_resources import open_api_schema


def test_the_largest_task_that_the_schema_allows_is_accepted_with_the_largest_status(apiserver, namespace):
    schema = open_api_schema(PyncetteTask)["properties"]
    # The operator allows 16 KiB in all, which the API server cannot count: it takes the first level alone at its bounds.
    args = {f"{number:02}": "x" * ARGS_BYTES_MAX for number in range(ARGS_KEYS_MAX)}
    spec = {
        **largest(schema["spec"]),
        "args": args,
        "dynamic": False,
        "partitions": 1,
        "deletionPolicy": "Retain",
        "retryPolicy": None,
        "intervalSeconds": None,
        "executeAt": None,
        "notBefore": None,
        "timeZone": "A" * 64,
    }
    name = "n" * 253

    apiserver.admin.create(task(namespace, name, **spec))
    apiserver.admin.replace(
        {**apiserver.admin.read(task(namespace, name)), "status": largest(schema["status"])}, "status"
    )

    stored = apiserver.admin.read(task(namespace, name))
    assert stored["spec"]["args"] == args
    assert len(stored["status"]["conditions"]) == CONDITIONS_MAX
    assert isinstance(read_stored(PyncetteTask, stored), Refusal)


def test_the_largest_pool_that_the_schema_allows_is_accepted_with_the_largest_status(apiserver, namespace):
    schema = open_api_schema(PyncetteWorkerPool)["properties"]
    name = "n" * 63

    apiserver.admin.create(pool(namespace, name, **largest(schema["spec"])))
    apiserver.admin.replace(
        {**apiserver.admin.read(pool(namespace, name)), "status": largest(schema["status"])}, "status"
    )

    stored = apiserver.admin.read(pool(namespace, name))
    assert len(stored["status"]["handlers"]) == 1000
    assert not isinstance(read_stored(PyncetteWorkerPool, stored), Refusal)


def test_what_is_larger_than_a_request_may_be_is_refused_by_the_api_server_itself(apiserver, namespace):
    """50 texts of 16,384 characters of two bytes are within the schema, and more than the 1.5 MiB that etcd takes."""
    args = {f"{number:02}": "ü" * ARGS_BYTES_MAX for number in range(50)}

    refused = refusal(lambda: apiserver.admin.create(task(namespace, args=args)))

    assert "etcdserver: request is too large" in refused.message
    assert isinstance(read(PyncetteTask, task(namespace, args=args)), Refusal)
