"""The port, on a real API server: what the controller relies on is so."""

import asyncio

import pytest

from pyncette.controller.cluster.api import (
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    FIELD_MANAGER,
    PAGE,
    POOLS,
    SERVICE_ACCOUNTS,
    TASKS,
    ApiUnavailableError,
    ConflictError,
    ForbiddenError,
    NoSuchKindError,
    NoSuchObjectError,
    ObjectName,
    RefusedError,
)
from pyncette.controller.cluster.client import FIRST_PAGE_OBJECTS, Kubernetes
from pyncette.controller.cluster.credentials import Credentials
from pyncette.controller.cluster.reduction import reduced
from tests.apiserver import pool, task


@pytest.fixture
async def api(apiserver):
    async with Kubernetes(Credentials(str(apiserver.kubeconfig))) as api:
        yield api


@pytest.fixture
def report(namespace):
    return ObjectName(namespace, "report")


async def do(what, *args, **kwargs):
    """Call what blocks."""
    return await asyncio.to_thread(what, *args, **kwargs)


def status(body, **fields):
    kept = {key: body["metadata"][key] for key in ("name", "namespace", "resourceVersion")}
    return {"apiVersion": body["apiVersion"], "kind": body["kind"], "metadata": kept, "status": fields}


def without_version(body):
    del body["metadata"]["resourceVersion"]
    return body


def condition(**parts):
    return {"type": "Ready", "status": "True", "reason": "Scheduled", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z", **parts}  # fmt: skip


def deployment(namespace, **spec):
    pod = {"metadata": {"labels": {"app": "it"}}, "spec": {"containers": [{"name": "worker", "image": "it"}]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "pyncette-default", "namespace": namespace},
        "spec": {"selector": {"matchLabels": {"app": "it"}}, "template": pod, **spec},
    }


# --- Reading ---------------------------------------------------------------------------------------------------------


async def test_an_object_is_read_and_reduced(api, apiserver, namespace, report):
    made = await do(apiserver.admin.create, task(namespace))

    read = await api.get(TASKS, report)

    assert read == reduced(TASKS, made)
    assert (read["spec"], read["status"]) == (made["spec"], made["status"])


async def test_a_list_comes_in_pages_of_one_version(api, apiserver, namespace):
    documents = "\n---\n".join(
        f"{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: a{number}, namespace: {namespace},"
        f" labels: {{odd: '{number % 2}'}}}}}}"
        for number in range(PAGE + 1)
    )
    await do(apiserver.kubectl, "create", "-f", "-", stdin=documents)

    pages = [page async for page in api.list(SERVICE_ACCOUNTS, namespace)]
    odd = [item async for page in api.list(SERVICE_ACCOUNTS, namespace, "odd=1") for item in page.items]

    assert [len(page.items) for page in pages] == [
        FIRST_PAGE_OBJECTS,
        PAGE + 1 - FIRST_PAGE_OBJECTS,
    ]  # small ones, as it shows
    assert len({page.resource_version for page in pages}) == 1
    assert {item["kind"] for page in pages for item in page.items} == {"ServiceAccount"}
    assert len(odd) == PAGE // 2


async def test_versions_are_numbers_that_grow(api, apiserver, namespace, report):
    made = await do(apiserver.admin.create, task(namespace))
    changed = await do(apiserver.admin.patch, task(namespace), {"spec": {"suspend": True}})
    [page] = [page async for page in api.list(TASKS, namespace)]

    versions = [
        made["metadata"]["resourceVersion"],
        changed["metadata"]["resourceVersion"],
        page.resource_version,
    ]
    assert [int(version) for version in versions] == sorted(map(int, versions))


async def test_an_object_that_is_not_there_is_named(api, report):
    with pytest.raises(NoSuchObjectError):
        await api.get(TASKS, report)
    with pytest.raises(NoSuchObjectError):
        await api.get(DEPLOYMENTS, report)
    with pytest.raises(NoSuchObjectError):
        await api.get(TASKS, ObjectName("no-such-namespace", "report"))


async def test_a_kind_without_its_crd_is_no_missing_object(own_apiserver):
    async with Kubernetes(Credentials(str(own_apiserver.kubeconfig))) as api:
        assert await api.served() == {TASKS.plural, POOLS.plural}
        await do(own_apiserver.admin.create, task("default"))
        await do(own_apiserver.remove)

        assert await api.served() == frozenset()
        with pytest.raises(NoSuchKindError):
            await api.get(TASKS, ObjectName("default", "report"))
        with pytest.raises(NoSuchKindError):
            [page async for page in api.list(TASKS, None)]

        await do(own_apiserver.stop)
        with pytest.raises(ApiUnavailableError):
            await api.served()


async def test_a_namespace_has_a_uid(api, apiserver, namespace):
    found = await do(
        apiserver.admin.read, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    )

    assert await api.uid_of_namespace(namespace) == found["metadata"]["uid"]
    with pytest.raises(NoSuchObjectError):
        await api.uid_of_namespace("no-such-namespace")


async def test_a_namespace_that_is_not_there_is_ending(api, namespace):
    assert not await api.is_namespace_ending(namespace)
    assert await api.is_namespace_ending("no-such-namespace")


async def test_namespaces_are_found_by_their_labels(api, apiserver, namespace):
    where = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    labels = {"example.org/tenant": namespace, "other": "x"}
    assert await api.namespaces_with(f"example.org/tenant={namespace}") == frozenset()

    await do(apiserver.admin.patch, where, {"metadata": {"labels": labels}})

    assert await api.namespaces_with(f"example.org/tenant={namespace},other=x") == {namespace}
    assert await api.namespaces_with(f"example.org/tenant={namespace},other=y") == frozenset()


# --- Applying --------------------------------------------------------------------------------------------------------


async def test_what_is_applied_is_there_and_is_ours(api, apiserver, namespace):
    made = await api.apply(deployment(namespace, replicas=1))
    again = await api.apply(deployment(namespace, replicas=1))

    assert made["spec"]["replicas"] == 1
    assert again["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
    assert [entry["manager"] for entry in made["metadata"]["managedFields"]] == [FIELD_MANAGER]


async def test_ours_is_set_by_force_and_what_others_set_stays(api, apiserver, namespace):
    await api.apply(deployment(namespace, replicas=1))
    await do(apiserver.admin.patch, deployment(namespace), {"spec": {"replicas": 5, "minReadySeconds": 7}})

    after = await api.apply(deployment(namespace, replicas=1))

    assert (after["spec"]["replicas"], after["spec"]["minReadySeconds"]) == (1, 7)


async def test_a_dry_run_writes_nothing(api, namespace):
    tried = await api.apply(deployment(namespace, replicas=1), dry_run=True)

    assert tried["spec"]["replicas"] == 1
    with pytest.raises(NoSuchObjectError):
        await api.get(DEPLOYMENTS, ObjectName(namespace, "pyncette-default"))


async def test_what_is_refused_says_why(api, namespace):
    with pytest.raises(RefusedError, match=r"spec\.replicas.*greater than or equal to 0"):
        await api.apply(deployment(namespace, replicas=-1))
    with pytest.raises(RefusedError, match="replicas"):
        await api.apply(deployment(namespace, replicas="many"))


async def test_nothing_is_applied_to_a_namespace_that_is_not_there(api):
    with pytest.raises(NoSuchObjectError):
        await api.apply(deployment("no-such-namespace"))


async def test_an_object_that_came_again_is_not_applied_over(api, namespace):
    made = await api.apply(deployment(namespace))
    other = deployment(namespace)
    other["metadata"]["uid"] = "00000000-0000-4000-8000-000000000000"

    with pytest.raises(ConflictError):
        await api.apply(other)

    assert (await api.get(DEPLOYMENTS, ObjectName(namespace, "pyncette-default")))["metadata"]["uid"] == made[
        "metadata"
    ]["uid"]


# --- The status ------------------------------------------------------------------------------------------------------


async def test_a_status_changes_neither_spec_nor_generation(api, apiserver, namespace, report):
    made = await do(apiserver.admin.create, task(namespace))

    written = await api.apply_status(
        {**status(made, observedGeneration=1, conditions=[condition()]), "spec": {"handler": "another"}}
    )

    assert written["status"]["conditions"] == [condition()]
    assert written["spec"] == made["spec"]
    assert written["metadata"]["generation"] == made["metadata"]["generation"]
    assert int(written["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])


async def test_a_status_that_says_the_same_is_no_event(api, apiserver, namespace):
    made = await do(apiserver.admin.create, task(namespace))
    first = await api.apply_status(status(made, observedGeneration=1, active=2))

    again = await api.apply_status(status(first, observedGeneration=1, active=2))

    assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


async def test_a_status_computed_from_an_older_object_conflicts(api, apiserver, namespace):
    made = await do(apiserver.admin.create, task(namespace))
    await do(apiserver.admin.patch, task(namespace), {"spec": {"suspend": True}})

    with pytest.raises(ConflictError):
        await api.apply_status(status(made, observedGeneration=1))


async def test_a_status_makes_no_object(api, apiserver, namespace):
    made = await do(apiserver.admin.create, task(namespace))
    await do(apiserver.admin.delete, task(namespace))

    with pytest.raises(NoSuchObjectError):
        await api.apply_status(without_version(status(made, observedGeneration=1)))
    with pytest.raises((NoSuchObjectError, ConflictError)):
        await api.apply_status(status(made, observedGeneration=1))


async def test_a_status_that_no_schema_allows_is_refused(api, apiserver, namespace):
    made = await do(apiserver.admin.create, task(namespace))

    with pytest.raises(RefusedError, match="observedGeneration"):
        await api.apply_status(status(made, observedGeneration=-5))


async def test_a_field_of_the_status_that_is_no_longer_said_goes(api, apiserver, namespace):
    made = await do(apiserver.admin.create, task(namespace))
    first = await api.apply_status(
        status(made, observedGeneration=1, active=1, lastScheduleTime="2026-01-01T00:00:00Z")
    )

    second = await api.apply_status(status(first, observedGeneration=1, active=1))

    assert "lastScheduleTime" not in second["status"]


# --- Rights ----------------------------------------------------------------------------------------------------------


async def test_what_is_not_allowed_is_known_beforehand_and_told_afterwards(apiserver, namespace, report):
    rules = [
        {"apiGroups": ["pyncette.dev"], "resources": ["pyncettetasks"], "verbs": ["get", "list"]},
        {"apiGroups": ["pyncette.dev"], "resources": ["pyncettetasks/status"], "verbs": ["patch"]},
    ]
    account = await do(apiserver.account, namespace, rules=rules)
    await do(apiserver.admin.create, task(namespace))

    async with Kubernetes(Credentials(str(account.kubeconfig))) as api:
        asked = {
            ("get", TASKS, namespace): True,
            ("patch", TASKS, namespace): False,
            ("patch", TASKS._replace(plural="pyncettetasks/status"), namespace): True,
            ("list", POOLS, namespace): False,
            ("list", TASKS, None): False,
            ("create", DISRUPTION_BUDGETS, namespace): False,
        }
        assert {question: await api.may(*question) for question in asked} == asked
        made = await api.get(TASKS, report)
        await api.apply_status(status(made, observedGeneration=1))
        with pytest.raises(ForbiddenError):
            await api.apply(deployment(namespace))
        with pytest.raises(ForbiddenError):
            [page async for page in api.list(TASKS, None)]
        with pytest.raises(ForbiddenError):
            await api.create_event(namespace, event(made))


async def test_a_pod_logs_in_with_its_service_account(apiserver, namespace, tmp_path, monkeypatch):
    account = await do(apiserver.account, namespace, cluster_roles=["view"])
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(apiserver.port))
    (tmp_path / "token").write_text(account.token)

    async with Kubernetes(Credentials(None, str(tmp_path / "token"), str(apiserver.authority))) as api:
        assert await api.served() == {TASKS.plural, POOLS.plural}


# --- Events ----------------------------------------------------------------------------------------------------------


def event(of):
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": "report.", "namespace": of["metadata"]["namespace"]},
        "involvedObject": {
            "apiVersion": of["apiVersion"],
            "kind": of["kind"],
            "name": of["metadata"]["name"],
            "namespace": of["metadata"]["namespace"],
            "uid": of["metadata"]["uid"],
        },
        "type": "Normal",
        "reason": "Scheduled",
        "message": "It is scheduled.",
    }


async def test_an_event_is_shown_by_kubectl_describe(api, apiserver, namespace):
    made = await do(apiserver.admin.create, pool(namespace))

    await api.create_event(namespace, event(made))

    assert "It is scheduled." in await do(
        apiserver.kubectl, "describe", "pyncetteworkerpool", "default", "-n", namespace
    )


async def test_a_server_that_does_not_answer_is_unavailable(own_apiserver):
    async with Kubernetes(Credentials(str(own_apiserver.kubeconfig)), request_seconds=1.0) as api:
        with own_apiserver.frozen(), pytest.raises(ApiUnavailableError, match="no response within"):
            await api.served()
        with own_apiserver.stopped(), pytest.raises(ApiUnavailableError):
            await api.served()

        assert await api.served()
