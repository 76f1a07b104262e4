"""The API server in memory keeps the promises of a real one that the controller lives on."""

import pytest

from pyncette.controller.cluster.api import (
    DEPLOYMENTS,
    POOLS,
    TASKS,
    ApiUnavailableError,
    ConflictError,
    ForbiddenError,
    NoSuchKindError,
    NoSuchObjectError,
    ObjectName,
    RefusedError,
)
from tests.controller.fake_api import CrashError, FakeApi, pool, task

REPORT = ObjectName("default", "report")


@pytest.fixture
def api():
    return FakeApi()


def version(body):
    return int(body["metadata"]["resourceVersion"])


def status(body, **fields):
    metadata = {key: body["metadata"][key] for key in ("name", "namespace", "resourceVersion")}
    return {
        "apiVersion": body["apiVersion"],
        "kind": body["kind"],
        "metadata": metadata,
        "status": {"observedGeneration": 1, **fields},
    }


def deployment(**spec):
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "pyncette-default",
            "namespace": "default",
            "labels": {"app.kubernetes.io/managed-by": "pyncette-operator"},
        },
        "spec": spec,
    }


async def names(api, kind=TASKS, namespace=None, labels=""):
    return [
        item["metadata"]["name"] async for page in api.list(kind, namespace, labels) for item in page.items
    ]


async def test_a_spec_counts_a_generation_and_a_status_does_not(api):
    created = api.create(task())

    edited = api.edit(TASKS, "report", suspend=True)
    written = await api.apply_status(status(edited))

    assert [body["metadata"]["generation"] for body in (created, edited, written)] == [1, 2, 2]
    assert version(created) < version(edited) < version(written)


async def test_a_write_that_changes_nothing_is_no_event(api):
    api.create(task())
    seen = []
    api.watch(lambda *event: seen.append(event[1]))
    first = await api.apply_status(status(api.stored(TASKS, "report")))

    again = await api.apply_status(status(first))

    assert version(again) == version(first)
    assert seen == [None, "MODIFIED"]


async def test_a_status_of_an_older_version_conflicts(api):
    old = api.create(task())
    api.edit(TASKS, "report", suspend=True)

    with pytest.raises(ConflictError):
        await api.apply_status(status(old))


async def test_a_status_makes_no_object(api):
    old = api.create(task())
    api.remove(TASKS, "report")

    with pytest.raises(NoSuchObjectError):
        await api.apply_status(status(old))


async def test_an_object_that_comes_again_has_another_uid(api):
    first = api.create(task())
    api.remove(TASKS, "report")

    second = api.create(task())

    assert first["metadata"]["uid"] != second["metadata"]["uid"]


async def test_what_an_owner_had_goes_with_it(api):
    owner = api.create(pool())
    owned = deployment(replicas=1)
    owned["metadata"]["ownerReferences"] = [{"uid": owner["metadata"]["uid"]}]
    await api.apply(owned)

    api.remove(POOLS, "default")

    assert api.names(DEPLOYMENTS) == []


async def test_what_is_no_longer_applied_goes_and_what_others_set_stays(api):
    await api.apply(deployment(replicas=1, paused=True))
    api.edit(DEPLOYMENTS, "pyncette-default", minReadySeconds=5)

    after = await api.apply(deployment(replicas=2))

    assert after["spec"] == {"replicas": 2, "minReadySeconds": 5}


async def test_lists_with_a_key_are_merged_by_it(api):
    await api.apply(deployment(containers=[{"name": "worker", "image": "a", "tty": True}]))
    api.edit(
        DEPLOYMENTS,
        "pyncette-default",
        containers=[{"name": "worker", "image": "a", "tty": True, "stdin": True}, {"name": "mesh"}],
    )

    after = await api.apply(deployment(containers=[{"name": "worker", "image": "b"}]))

    assert after["spec"]["containers"] == [{"name": "worker", "image": "b", "stdin": True}, {"name": "mesh"}]


async def test_a_dry_run_writes_nothing(api):
    body = await api.apply(deployment(replicas=1), dry_run=True)

    assert body["spec"] == {"replicas": 1}
    assert api.names(DEPLOYMENTS) == []
    assert api.writes == []


async def test_what_is_refused_is_not_stored(api):
    api.refuses = lambda manifest: (
        "replicas must not be negative" if manifest["spec"]["replicas"] < 0 else None
    )

    with pytest.raises(RefusedError, match="must not be negative"):
        await api.apply(deployment(replicas=-1))

    assert api.names(DEPLOYMENTS) == []


async def test_a_list_comes_in_pages_of_one_version(api):
    for number in range(1001):
        api.create(task(f"t{number}"))

    pages = [page async for page in api.list(TASKS, None)]

    assert [len(page.items) for page in pages] == [500, 500, 1]
    assert len({page.resource_version for page in pages}) == 1


async def test_a_list_can_break_off_half_way(api):
    for number in range(501):
        api.create(task(f"t{number}"))
    api.fail("list", after_pages=1)

    with pytest.raises(ApiUnavailableError):
        await names(api)

    assert len(await names(api)) == 501


async def test_a_list_is_of_one_namespace_and_of_what_has_the_labels(api):
    api.create(task())
    api.create(task("other", "elsewhere"))
    api.label(TASKS, "report", team="a")

    assert await names(api, namespace="elsewhere") == ["other"]
    assert await names(api, labels="team=a") == ["report"]


async def test_a_list_may_show_the_past(api):
    api.create(task())
    api.freeze_lists()
    api.remove(TASKS, "report")

    assert await names(api) == ["report"]
    api.thaw_lists()
    assert await names(api) == []


async def test_an_object_with_a_finalizer_is_marked_first(api):
    api.create({**task(), "metadata": {**task()["metadata"], "finalizers": ["somebody/else"]}})

    api.remove(TASKS, "report")
    marked = api.stored(TASKS, "report")
    api.put(task())

    assert "deletionTimestamp" in marked["metadata"]
    assert api.stored(TASKS, "report") is None


async def test_without_its_crd_a_kind_is_not_served(api):
    api.create(task())
    api.remove_crd(TASKS)

    assert await api.served() == {POOLS.plural}
    with pytest.raises(NoSuchKindError):
        await api.get(TASKS, REPORT)
    with pytest.raises(NoSuchKindError):
        await names(api)


async def test_what_is_forbidden_says_so(api):
    api.create(task())
    api.forbidden.add(("get", TASKS.plural, "default"))

    assert not await api.may("get", TASKS, "default")
    assert await api.may("get", TASKS, "elsewhere")
    with pytest.raises(ForbiddenError):
        await api.get(TASKS, REPORT)


async def test_an_answer_may_be_lost_after_the_deed(api):
    body = api.create(task())
    api.fail("apply_status", done=True)

    with pytest.raises(ApiUnavailableError):
        await api.apply_status(status(body))

    assert api.stored(TASKS, "report")["status"]["observedGeneration"] == 1


async def test_the_process_may_end_after_a_write(api):
    body = api.create(task())
    api.crash_after = 1

    with pytest.raises(CrashError):
        await api.apply_status(status(body))

    assert api.stored(TASKS, "report")["status"]["observedGeneration"] == 1


async def test_events_may_be_held_lost_and_told_again(api):
    seen = []
    api.watch(lambda _, change, body: seen.append((change, body["metadata"]["name"])))
    api.hold_events()
    api.create(task())
    assert seen == []

    api.release_events()
    api.replay(*api.history)
    api.hold_events()
    api.remove(TASKS, "report")
    api.release_events(lost=True)

    assert seen == [("ADDED", "report"), ("ADDED", "report")]


async def test_nothing_answers_while_it_is_down(api):
    seen = []
    api.watch(lambda _, change, body: seen.append((change, body["metadata"]["name"])))
    with api.down():
        api.create(task())
        with pytest.raises(ApiUnavailableError):
            await api.served()
        assert seen == []

    assert seen == [(None, "report")]
    assert await api.served()


async def test_what_is_handed_out_is_a_copy(api):
    api.create(task())

    body = await api.get(TASKS, REPORT)
    body["spec"]["handler"] = "another"

    assert api.stored(TASKS, "report")["spec"]["handler"] == "send"
