"""The operator holds only the parts of an object that decisions need, within the limits of a task."""

import json

import msgspec
import pytest

from pyncette.controller.cluster.api import DEPLOYMENTS, POOLS, TASKS
from pyncette.controller.cluster.decoding import decode
from pyncette.controller.cluster.reduction import (
    DROPPED,
    NESTING_MAX,
    StoredObject,
    is_incomplete,
    large_parts,
    read_reduced,
    reduced,
    without_parts,
)
from pyncette.controller.cluster.watch_session import reduced_event, reduced_list
from pyncette.resources.arguments import ARGS_BYTES_MAX
from pyncette.resources.pool import PyncetteWorkerPool
from pyncette.resources.reading import Refusal
from pyncette.resources.task import PyncetteTask
from tests.controller.fake_api import pool, task

MEGABYTE = 2**20

compact = json.JSONEncoder(separators=(",", ":")).encode
SMALL = 4096
"""Bytes of a reduced object that was one megabyte."""


def stored(kind, body):
    """An object as the client decodes it: its parts are still JSON."""
    return msgspec.json.decode(compact(body), type=StoredObject).reduced(kind)


DEEP = [NESTING_MAX - 1, 900, 950, 960, 970, 980, 990, 1500, 9990]
"""Nested levels in a template: the decoder's limit is about 1,000, and the API server's limit is 10,000."""


def nested(levels):
    """The JSON of a pool whose template has so many levels within its spec."""
    text = compact(pool(template={"spec": {"deep": "DEEP"}}))
    return text.replace('"DEEP"', '{"a":' * levels + "1" + "}" * levels)


def stored_text(kind, text):
    """An object whose JSON is *text*, as the client decodes it."""
    return decode(text.encode(), StoredObject).reduced(kind)


def size_of(manifest):
    return len(msgspec.json.encode(manifest))


def labelled(**metadata):
    body = task()
    return {**body, "metadata": {**body["metadata"], **metadata}}


LARGE = {
    "a text in args": task(args={"a": "x" * MEGABYTE}),
    "nested args": task(args={"a": [[[]]] * (MEGABYTE // 7)}),
    "a field that no release has": task(other="x" * MEGABYTE),
    "managed fields": labelled(managedFields=[{"fieldsV1": {"f:a": "x" * MEGABYTE}}]),
    "owners": labelled(ownerReferences=[{"uid": "x" * 1000}] * 1000),
    "finalizers": labelled(finalizers=["example.org/" + "x" * 50] * 20_000),
    "labels of others": labelled(labels={f"example.org/{number}": "x" * 63 for number in range(10_000)}),
    "labels of our prefix": labelled(labels={f"pyncette.dev/{number}": "x" * 63 for number in range(10_000)}),
    "an annotation of ours": labelled(annotations={"pyncette.dev/run-requested-at": "x" * MEGABYTE}),
    "a status": {**task(), "status": {"lastRun": {"message": "x" * MEGABYTE}}},
}


@pytest.mark.parametrize("body", LARGE.values(), ids=LARGE)
def test_an_object_of_a_megabyte_is_held_in_some_kilobytes(body):
    for manifest in (reduced(TASKS, body), stored(TASKS, body)):
        assert size_of(manifest) < SMALL
        assert manifest["metadata"]["name"] == "report"
        assert manifest["spec"]["handler"] == "send"


def test_a_small_object_keeps_what_decisions_need():
    body = labelled(annotations={"pyncette.dev/run-requested-at": "now", "other": "x"}, uid="1", generation=2)
    body |= {"spec": {**body["spec"], "args": {"to": ["a", None]}}, "status": {"active": 1}}

    for manifest in (reduced(TASKS, body), stored(TASKS, body), reduced(TASKS, stored(TASKS, body))):
        assert manifest["spec"] == body["spec"]
        assert manifest["status"] == {"active": 1}
        assert manifest["metadata"]["annotations"] == {"pyncette.dev/run-requested-at": "now"}
        assert DROPPED not in manifest


def test_arguments_are_measured_as_they_are_stored_and_not_as_the_api_server_escapes_them():
    args = {"a": "<" * (ARGS_BYTES_MAX - len('{"a":""}'))}
    text = compact(task(args=args)).replace("<", "\\u003c")

    manifest = msgspec.json.decode(text, type=StoredObject).reduced(TASKS)

    assert manifest["spec"]["args"] == args


def test_too_large_arguments_are_reported_with_their_size_and_the_limit():
    refused = read_reduced(TASKS, PyncetteTask, stored(TASKS, task(args={"a": "x" * MEGABYTE})))

    assert isinstance(refused, Refusal)
    (problem,) = refused.problems
    assert problem.reason == "ArgumentsTooLarge"
    assert str(problem).startswith("spec.args: take 1,048,584 bytes as JSON, 16,384 are allowed")


def test_a_template_that_is_too_large_is_reported_with_the_limit():
    body = pool(template={"spec": {"containers": [{"name": "worker", "args": ["x" * 100_000]}]}})

    refused = read_reduced(POOLS, PyncetteWorkerPool, stored(POOLS, body))

    assert isinstance(refused, Refusal)
    (problem,) = refused.problems
    assert problem.reason == "TooLarge"
    assert "65,536 are allowed" in str(problem)


def test_a_field_beyond_all_limits_is_reported():
    refused = read_reduced(TASKS, PyncetteTask, stored(TASKS, task(other="x" * MEGABYTE)))

    assert isinstance(refused, Refusal)
    assert [problem.path for problem in refused.problems] == [("spec", "other")]


@pytest.mark.parametrize("levels", DEEP)
def test_a_template_that_is_nested_too_deeply_is_reported_with_the_limit(levels):
    (refused,) = {
        read_reduced(POOLS, PyncetteWorkerPool, manifest)
        for manifest in (
            stored_text(POOLS, nested(levels)),
            reduced(POOLS, stored_text(POOLS, nested(levels))),
        )
    }

    assert isinstance(refused, Refusal)
    assert [str(problem) for problem in refused.problems] == [
        f"spec.template: is nested in more than {NESTING_MAX} levels"
    ]


def test_a_template_with_as_many_levels_as_are_allowed_is_kept():
    manifest = stored_text(POOLS, nested(NESTING_MAX - 2))

    assert manifest["spec"]["template"]["spec"]["deep"]
    assert not isinstance(read_reduced(POOLS, PyncetteWorkerPool, manifest), Refusal)


def test_a_tenant_cannot_forge_a_dropped_part():
    manifest = stored(TASKS, {**task(), DROPPED: {"args": 10**9}})

    assert DROPPED not in manifest
    assert not isinstance(read_reduced(TASKS, PyncetteTask, manifest), Refusal)


def test_a_large_part_can_be_left_out_and_read_again():
    small, large, excessive = (
        reduced(TASKS, task(args={"a": "x" * size})) for size in (100, 10_000, MEGABYTE)
    )

    assert large_parts(small) == large_parts(excessive) == {}
    assert size_of(without_parts(large, large_parts(large))) < SMALL
    assert is_incomplete(TASKS, without_parts(large, large_parts(large)))
    assert not is_incomplete(TASKS, large)
    assert not is_incomplete(TASKS, excessive)


def test_a_deployment_keeps_only_its_scale_and_its_status():
    body = {
        "metadata": {"name": "a", "namespace": "b", "labels": {"pyncette.dev/pool": "default"}},
        "spec": {"replicas": 3, "template": {"spec": {"x": "x" * MEGABYTE}}},
        "status": {"readyReplicas": 2},
    }

    manifest = stored(DEPLOYMENTS, body)

    assert (manifest["spec"], manifest["status"]) == ({"replicas": 3}, {"readyReplicas": 2})
    assert manifest["metadata"]["labels"] == {"pyncette.dev/pool": "default"}


# --- What kopf gets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["ADDED", "MODIFIED", "DELETED"])
async def test_an_event_is_reduced_before_kopf_decodes_it(change):
    line = compact({"type": change, "object": task(args={"a": "x" * MEGABYTE})}).encode()

    event = json.loads(await reduced_event(line))

    assert event["type"] == change
    assert event["object"] == reduced(TASKS, task(args={"a": "x" * MEGABYTE}))


@pytest.mark.parametrize(
    "event",
    [
        {"type": "BOOKMARK", "object": {**task(), "metadata": {"resourceVersion": "7"}, "spec": {}}},
        {"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1", "code": 410}},
    ],
    ids=lambda event: event["type"],
)
async def test_an_event_about_the_watch_itself_stays_as_it_is(event):
    line = compact(event).encode()

    assert await reduced_event(line) == line


async def test_a_list_is_reduced_and_any_other_document_is_not():
    page = {
        "apiVersion": TASKS.api_version,
        "kind": "PyncetteTaskList",
        "metadata": {"resourceVersion": "7", "continue": "more"},
        "items": [task(args={"a": "x" * MEGABYTE})],
    }
    resources = {"kind": "APIResourceList", "apiVersion": "v1", "resources": [{"name": "pyncettetasks"}]}

    read = await reduced_list(compact(page).encode())

    assert read["items"] == [reduced(TASKS, page["items"][0])]
    assert read["metadata"] == page["metadata"]
    assert await reduced_list(compact(resources).encode()) == resources


@pytest.mark.parametrize("levels", DEEP)
async def test_an_object_that_is_nested_too_deeply_neither_ends_the_watch_nor_hides_its_neighbours(levels):
    line = f'{{"type": "ADDED", "object": {nested(levels)}}}'.encode()
    neighbour = pool("neighbour")
    page = compact({"apiVersion": POOLS.api_version, "kind": "PyncetteWorkerPoolList", "metadata": {}})
    page = page[:-1] + f', "items": [{nested(levels)}, {compact(neighbour)}]}}'

    event = json.loads(await reduced_event(line))
    listed = await reduced_list(page.encode())

    assert event["object"] == listed["items"][0] == stored_text(POOLS, nested(levels))
    assert listed["items"][1] == reduced(POOLS, neighbour)
