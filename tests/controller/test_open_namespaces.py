"""A backend with a selector is open to the namespaces that have its labels, as soon as they have them."""

import asyncio

import pytest

from pyncette.controller.cluster.api import DEPLOYMENTS, ApiUnavailableError, ObjectName
from pyncette.controller.intervals import DEFAULT
from pyncette.controller.reconcile.open_namespaces import OpenNamespaces
from pyncette.controller.settings import BackendSettings
from tests.controller.fake_api import FakeApi, pool, task
from tests.controller.world import POOLS, RESYNC_SECONDS, World

SELECTOR = {"matchLabels": {"example.org/tenant": "true"}}
LABELS = SELECTOR["matchLabels"]
SHOP = ObjectName("shop", "default")


@pytest.fixture
def world():
    backend = {"name": "default", "urlFile": "default", "namespaceSelector": SELECTOR}
    world = World(backends=[backend])
    world.api.create_namespace("shop")
    yield world
    world.close()


def stalled(world):
    conditions = world.api.stored(POOLS, SHOP)["status"].get("conditions", ())
    return next((one["reason"] for one in conditions if one["type"] == "Stalled"), None)


def has_workers(world):
    return world.api.stored(DEPLOYMENTS, ObjectName("shop", "pyncette-default")) is not None


def test_a_pool_in_a_namespace_with_the_labels_has_workers(world):
    world.api.namespace_labels["shop"] = {**LABELS, "other": "x"}
    world.api.create(pool(namespace="shop"))
    world.start()
    world.run(10)

    assert has_workers(world)
    assert stalled(world) is None


def test_a_pool_in_another_namespace_is_refused_until_the_namespace_gets_the_labels(world):
    world.api.create(pool(namespace="shop"))
    world.start()
    world.run(20)
    assert not has_workers(world)
    assert stalled(world) == "BackendNotAllowed"

    world.api.namespace_labels["shop"] = LABELS
    world.run(DEFAULT.namespaces + 5)

    assert has_workers(world)
    assert stalled(world) is None


def test_a_namespace_that_comes_with_its_labels_its_pool_and_its_task_is_never_refused(world):
    world.start()
    world.run(15)
    world.api.create_namespace("billing")
    world.api.namespace_labels["billing"] = LABELS
    world.api.create(pool(namespace="billing"))
    world.api.create(task(namespace="billing"))
    world.run(3)

    assert world.api.stored(DEPLOYMENTS, ObjectName("billing", "pyncette-default"))
    assert not [event for event in world.api.events if event["reason"] == "BackendNotAllowed"]


def test_a_namespace_that_loses_its_labels_keeps_its_workers_and_its_records(world):
    world.api.namespace_labels["shop"] = LABELS
    world.api.create(pool(namespace="shop"))
    world.api.create(task(namespace="shop"))
    world.start()
    world.run(20)
    before = tasks_stored(world)
    assert before

    del world.api.namespace_labels["shop"]
    world.run(3 * RESYNC_SECONDS)

    assert stalled(world) == "BackendNotAllowed"
    assert has_workers(world)
    assert tasks_stored(world) == before
    world.api.namespace_labels["shop"] = LABELS
    world.run(2 * RESYNC_SECONDS)
    assert stalled(world) is None
    assert tasks_stored(world) == before


def tasks_stored(world):
    """The records of the task, as they are."""
    return [record for record in world.backends["default"].records() if record.key.task == "report"]


def test_while_the_api_server_does_not_tell_nothing_is_closed(world):
    world.api.namespace_labels["shop"] = LABELS
    world.api.create(pool(namespace="shop"))
    world.start()
    world.run(20)

    world.api.fail("namespaces_with", ApiUnavailableError("away"), times=float("inf"))
    world.run(10 * DEFAULT.namespaces)

    assert stalled(world) is None


def test_at_the_start_nothing_is_decided_before_the_api_server_has_told(world):
    world.api.namespace_labels["shop"] = LABELS
    world.api.create(pool(namespace="shop"))
    world.api.fail("namespaces_with", ApiUnavailableError("away"), times=5)
    world.start()
    world.run(60)

    assert has_workers(world)
    assert not [event for event in world.api.events if event["reason"] == "BackendNotAllowed"]


def test_without_a_selector_no_namespaces_are_read():
    world = World("first")
    try:
        world.api.create(pool(namespace="shop", backendRef={"name": "first"}))
        world.start()
        world.run(60)
        assert world.api.count("namespaces_with") == 0
    finally:
        world.close()


# --- By itself -------------------------------------------------------------------------------------------------------


def named(**given):
    return BackendSettings.model_validate(given)


def test_a_backend_with_a_selector_belongs_to_no_namespace_alone():
    namespaces = OpenNamespaces(
        [named(name="a", namespaces=["shop"]), named(name="b", namespaceSelector=SELECTOR)]
    )

    assert namespaces.is_exclusive(["a"], "shop")
    assert not namespaces.is_exclusive(["a"], "billing")
    assert not namespaces.is_exclusive(["a", "b"], "shop")
    assert not namespaces.is_exclusive(["b"], "shop")
    assert not namespaces.is_exclusive([], "shop")


async def test_concurrent_reads_for_many_namespaces_share_two_reads_at_most():
    api = FakeApi()
    namespaces = OpenNamespaces([named(name="b", namespaceSelector=SELECTOR)])

    await asyncio.gather(*(namespaces.read_for(api, f"namespace-{number}") for number in range(50)))
    await asyncio.gather(*(namespaces.read_for(api, f"namespace-{number}") for number in range(50)))

    assert api.count("namespaces_with") <= 2


async def test_what_changes_is_reported_once():
    api = FakeApi()
    namespaces = OpenNamespaces([named(name="b", namespaceSelector=SELECTOR)])
    api.create_namespace("shop")
    api.namespace_labels["shop"] = LABELS

    assert await namespaces.read(api) == {"b": {"shop"}}
    assert await namespaces.read(api) == {}
    del api.namespace_labels["shop"]
    assert await namespaces.read_for(api, "shop") == {}  # known, until the next read
    assert await namespaces.read(api) == {"b": {"shop"}}
    assert not namespaces.is_open("b", "shop")
