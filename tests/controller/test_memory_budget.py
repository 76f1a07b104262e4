"""The records of a database take a bounded part of the operator's memory, and block no other namespace."""

import logging
from contextlib import ExitStack, closing

import msgspec
import pytest

from pyncette.controller.cluster.api import ObjectName
from pyncette.controller.metrics import OVERFULL
from pyncette.controller.reconcile.memory_budget import MEBIBYTE, MemoryBudget, MemoryLimits, TotalMemory
from pyncette.coordination.members import MEMBERS_MAX, MEMBERS_REALM, members
from pyncette.core.record import Key, Lease, Owner, Partition, Record, State, replace
from pyncette.core.spec import Spec
from pyncette.mirror.conversion import realm_of
from pyncette.store.base import ARGS_BYTES_MAX
from pyncette.store.memory import MemoryBackend, MemoryStore
from tests.controller.fake_api import pool, task
from tests.controller.scene import EIGHT
from tests.controller.world import CLUSTER, POOLS, TASKS, World

LARGE = msgspec.Raw(b'"' + b"x" * (ARGS_BYTES_MAX - 2) + b'"')


@pytest.fixture
def world_of():
    """One backend with a pool and a task in each of some namespaces."""
    with ExitStack() as worlds:

        def make(*namespaces, mebibytes=1, backends=(), **settings):
            limits = {"recordMebibytesPerNamespace": mebibytes, "recordMebibytesPerBackend": 3} | settings
            world = worlds.enter_context(closing(World(*backends, **limits)))
            for namespace in namespaces:
                world.api.create_namespace(namespace)
                world.api.create(pool(namespace=namespace, external=True, image=None, module=None))
                world.api.create(task("report", namespace))
            return world

        yield make


@pytest.fixture
def world(world_of):
    return world_of("billing", "shop")


def fill(world, namespace="billing", handler="send", records=100, backend="default"):
    """Write so many large *records* to the realm of *namespace*, as its tenants can."""
    backend = world.backends[backend]
    partition = Partition(realm_of(CLUSTER, namespace, "default"), handler)
    shelf = backend.memory.shelf(partition)
    for number in range(records):
        key = Key(partition, f"a-{number:05}")
        owner = Owner(f"uid-{number}", 1, "hash", key.task)
        shelf.put(
            Record(
                key, Spec(args=LARGE), EIGHT, EIGHT, None, EIGHT, None, 60_000_000, state=State(owner=owner)
            )
        )
    return shelf


def cached(world):
    mirrored = world.operator._mirrored
    return sum(
        len(observed.record.spec.args) for name in mirrored.names() for observed in mirrored.records(name)
    )


def condition(world, namespace, kind, of=TASKS, name="report"):
    stored = world.api.stored(of, ObjectName(namespace, name))
    return next(one for one in stored["status"]["conditions"] if one["type"] == kind)


def backend_reachable(world, namespace):
    found = condition(world, namespace, "BackendReachable", POOLS, "default")
    return found["status"], found["reason"]


def test_a_namespace_with_too_many_records_takes_no_more_memory_and_is_reported(world, caplog):
    world.start()
    world.settle()
    fill(world)

    with caplog.at_level(logging.WARNING):
        world.settle()

    assert cached(world) < MEBIBYTE
    assert backend_reachable(world, "billing") == ("False", "TooManyRecords")
    assert world.operator.metrics.registry.get_sample_value(OVERFULL.full_name, {"backend": "default"}) == 1
    assert sum("take too much memory" in entry.getMessage() for entry in caplog.records) == 1


def test_another_namespace_on_the_same_backend_goes_on(world):
    world.start()
    world.settle()
    fill(world)
    world.settle()

    world.api.edit(TASKS, ObjectName("shop", "report"), args={"to": "finance"})
    world.api.create(task("new", "shop"))
    world.settle()

    assert condition(world, "shop", "Scheduled")["observedGeneration"] == 2
    assert condition(world, "shop", "Scheduled", name="new")["status"] == "True"
    assert backend_reachable(world, "shop") != ("False", "TooManyRecords")


def test_tasks_of_an_overfull_namespace_keep_their_status_and_new_ones_report_the_reason(world):
    world.start()
    world.settle()
    before = world.api.stored(TASKS, ObjectName("billing", "report"))["status"]
    fill(world)
    world.settle()
    world.api.create(task("new", "billing"))
    world.settle()

    assert world.api.stored(TASKS, ObjectName("billing", "report"))["status"] == before
    stalled = condition(world, "billing", "Stalled", name="new")
    assert stalled["reason"] == "TooManyRecords"
    assert "recordMebibytesPerNamespace" in stalled["message"]


def test_a_namespace_recovers_once_its_records_fit(world):
    world.start()
    world.settle()
    shelf = fill(world)
    world.settle()
    world.api.create(task("new", "billing"))
    world.settle()

    for key in list(shelf.records):
        if key.task.startswith("a-"):
            shelf.remove(key)
    world.settle()

    assert backend_reachable(world, "billing") != ("False", "TooManyRecords")
    assert condition(world, "billing", "Scheduled", name="new")["status"] == "True"


def test_namespaces_without_a_pool_do_not_take_the_memory_of_those_with_one(world):
    world.start()
    world.settle()
    for number in range(8):
        namespace = f"aaa-{number}"
        fill(world, namespace, records=20)
        registration = Key(
            Partition(f"pyncette:pools/{CLUSTER}", realm_of(CLUSTER, namespace, "default")), "pool"
        )
        (first, *_) = world.backends["default"].records()
        world.backends["default"].memory.shelf(registration.partition).put(
            replace(first, key=registration, claimable_at=None, lease=None)
        )
    world.api.create(task("new", "shop"))

    world.settle()

    assert cached(world) < 3 * MEBIBYTE
    assert condition(world, "shop", "Scheduled", name="new")["status"] == "True"


def test_namespaces_that_are_scanned_one_by_one_share_the_memory_of_their_backend(world_of):
    teams = [f"team-{number}" for number in range(4)]
    world = world_of(*teams, mebibytes=2)
    world.start()
    world.settle()
    for team in teams:
        fill(world, team, records=1_500_000 // ARGS_BYTES_MAX)

    world.settle()

    reasons = [backend_reachable(world, team)[1] for team in teams]
    assert 2 * MEBIBYTE < cached(world) < 3 * MEBIBYTE
    assert 1 <= reasons.count("TooManyRecords") <= 2


def test_memory_that_a_namespace_frees_is_available_to_others(world_of):
    world = world_of("billing", "reports", "shop", mebibytes=2)
    world.start()
    world.settle()
    shelves = [fill(world, team, records=1_500_000 // ARGS_BYTES_MAX) for team in ("billing", "reports")]
    world.settle()
    for shelf in shelves:
        for key in list(shelf.records):
            if key.task.startswith("a-"):
                shelf.remove(key)

    fill(world, "shop", records=1_500_000 // ARGS_BYTES_MAX)
    world.settle()

    assert backend_reachable(world, "shop")[1] != "TooManyRecords"
    assert cached(world) > MEBIBYTE


def test_a_scan_that_is_under_way_forgets_the_namespace_that_gives_way():
    total = TotalMemory(10, lambda backend, namespace: budgets[backend].evict(namespace))
    budgets = {name: MemoryBudget(MemoryLimits(), name, total) for name in ("first", "second")}
    scan = budgets["first"].scan(None, ())
    assert scan.admits("billing", 8)
    scan.found[ObjectName("billing", "report")] = {}

    assert budgets["second"].scan("shop", ()).admits("shop", 4)

    assert scan.found == {}
    assert not scan.admits("billing", 1)
    scan.end()
    assert budgets["first"].taken("billing") == 0


@pytest.fixture
def several(world_of):
    """Four teams, with a backend each, whose records together have the memory of two of them."""
    teams = [f"team-{number}" for number in range(4)]
    world = world_of(backends=teams, mebibytes=1, recordMebibytes=2)
    for team in teams:
        world.api.create_namespace(team)
        manifest = pool(namespace=team, external=True, image=None, module=None, backendRef={"name": team})
        world.api.create(manifest)
        world.api.create(task("report", team))
    world.start()
    world.settle()
    return world


def reasons(world):
    return [backend_reachable(world, f"team-{number}")[1] for number in range(4)]


def test_any_number_of_full_databases_take_a_bounded_part_of_the_memory(several):
    for number in range(4):
        fill(several, f"team-{number}", backend=f"team-{number}")

    several.run(120)

    assert cached(several) < 2 * MEBIBYTE
    assert reasons(several) == ["TooManyRecords"] * 4


def test_a_team_with_few_records_keeps_its_memory_however_much_others_have(several):
    for number in range(3):
        fill(several, f"team-{number}", backend=f"team-{number}")
    several.run(120)

    fill(several, "team-3", records=5, backend="team-3")
    several.api.create(task("new", "team-3"))
    several.run(120)

    assert cached(several) < 2 * MEBIBYTE
    assert reasons(several)[3] != "TooManyRecords"
    assert condition(several, "team-3", "Scheduled", name="new")["status"] == "True"
    assert len([name for name in several.operator._mirrored.names() if name.namespace == "team-3"]) == 7


def test_memory_that_another_backend_no_longer_takes_is_free_again(several):
    shelves = [fill(several, f"team-{number}", backend=f"team-{number}") for number in range(4)]
    several.run(120)
    for shelf in shelves[1:]:
        for key in list(shelf.records):
            if key.task.startswith("a-"):
                shelf.remove(key)
    for key in list(shelves[0].records)[20:]:
        shelves[0].remove(key)

    several.run(240)

    assert "TooManyRecords" not in reasons(several)


async def test_a_realm_with_any_number_of_members_is_not_read_to_its_end(caplog):
    backend = MemoryBackend(lambda: EIGHT)
    partition = Partition(MEMBERS_REALM, "realm")
    told = msgspec.Raw(b'{"handlers":["send"],"version":"1","reader":1,"slots":1,"startedAt":0}')
    for number in range(MEMBERS_MAX + 500):
        backend.shelf(partition).put(
            Record(
                Key(partition, "worker", f"w-{number:05}"), Spec(args=told), EIGHT, EIGHT, None, EIGHT, None, 60,
                lease=Lease("lease", "worker", EIGHT + 60),
            )
        )  # fmt: skip

    found = await members(MemoryStore(backend), "realm", EIGHT)

    assert len(found) == MEMBERS_MAX
    assert "a realm has more members than are read" in caplog.text
