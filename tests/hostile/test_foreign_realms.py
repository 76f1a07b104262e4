"""Records that a tenant writes into its own database affect no other tenant."""

import logging

import pytest

from tests.controller.world import TASKS
from tests.hostile.tenants import CLUSTER, DAY, Tenants, forged, forged_dead_letter

HOME = f"{CLUSTER}/shop/default"


@pytest.fixture
def world():
    world = Tenants()
    world.pool("shop")
    world.pool("billing")
    yield world
    world.close()


def attacked(world, *records):
    """Have billing write *records*, and the operator see them."""
    world.put("billing", *records)
    world.start()
    world.run(10)
    return world


def test_a_record_on_the_database_of_another_tenant_is_not_carried_over(world):
    home = forged(world, due_at=world.now, version=2**63 - 1, fence=2**63 - 1)
    attacked(world, home, forged_dead_letter(world, home))

    world.task("shop", args={"to": "staff"})
    world.settle()

    (record,) = world.on("shop").values()
    assert bytes(record.spec.args) == b'{"to":"staff"}'
    assert record.due_at > world.now + DAY
    assert record.version < world.now + DAY
    assert world.condition("Scheduled", "shop/payroll")["status"] == "True"


def test_a_record_on_the_database_of_another_tenant_is_left_as_it_is(world):
    home = forged(world)
    dead_letter = forged_dead_letter(world, home)
    attacked(world, home, dead_letter)

    world.task("shop")
    world.settle()
    world.api.remove(TASKS, "shop/payroll")
    world.settle()

    assert list(world.on("billing").values()) == [home, dead_letter]


def test_a_database_that_refuses_writes_delays_no_task_of_another_tenant(world):
    world.task("shop", "old")
    attacked(world, forged(world), forged(world, name="old"))
    world.backends["billing"].refuses_writes = True

    world.task("shop")
    world.api.edit(TASKS, "shop/old", args={"n": 1})
    world.run(10)

    assert {*world.on("shop")} == {"payroll", "old"}
    assert world.api.stored(TASKS, "shop/old")["status"]["observedGeneration"] == 2
    assert world.condition("Scheduled", "shop/payroll")["status"] == "True"


def test_a_database_that_answers_no_write_delays_no_task_of_another_tenant(world):
    world.backends["billing"].loses_writes = True
    for number in range(20):
        world.task("billing", f"task-{number}")
    world.task("shop")
    world.start()
    world.run(600)

    world.backends["shop"].loses_writes = True
    world.api.edit(TASKS, "shop/payroll", args={"n": 1})
    world.run(2)
    world.backends["shop"].loses_writes = False
    world.run(5)

    assert bytes(world.on("shop")["payroll"].spec.args) == b'{"n":1}'


def test_tasks_that_never_existed_hold_back_no_removal_of_another_tenant(world):
    world.task("shop")
    world.run(0)
    attacked(world, *(forged(world, name=f"task-{number}") for number in range(50)))

    world.api.remove(TASKS, "shop/payroll")
    world.settle()

    assert sum(world.operator.held_back.values()) == 0
    assert all(record.state.withdrawn_at for record in world.on("shop").values())


def test_foreign_realms_are_counted_and_each_is_reported_once(world, caplog):
    caplog.set_level(logging.WARNING)
    attacked(world, forged(world))
    world.run(30)
    first = warnings(caplog)

    world.put("billing", forged(world, pool="other"))
    world.run(30)

    assert [record.realms for record in first] == [[HOME]]
    assert [record.realms for record in warnings(caplog)] == [[HOME], [f"{CLUSTER}/shop/other"]]
    assert counted(world, "billing") == 2
    assert counted(world, "shop") == 0


def warnings(caplog):
    return [record for record in caplog.records if "ignored the records of realms" in record.message]


def counted(world, backend):
    labels = {"backend": backend}
    return world.operator.metrics.registry.get_sample_value("pyncette_operator_foreign_realms", labels)


@pytest.mark.parametrize(
    ("namespace", "name"), [("", "payroll"), ("shop", ".."), ("a/../b", "payroll"), ("shop", "pay roll")]
)
def test_a_record_with_an_impossible_name_is_no_task(namespace, name):
    world = Tenants(namespaces={"shop": ["*"]})
    world.pool("shop")
    world.put("shop", forged(world, namespace=namespace, name=name))
    world.start()
    world.api.forget_calls()

    world.settle()

    assert world.api.count("get", TASKS) == 0
    world.close()


@pytest.fixture
def shared():
    """One database that the settings name twice, for a namespace each."""
    world = Tenants()
    world.backends["billing"].memory = world.backends["shop"].memory
    for namespace in ("shop", "billing"):
        world.pool(namespace)
        world.task(namespace)
    world.start()
    world.settle()
    yield world
    world.close()


def both(world):
    return [*world.on("shop", "shop").values(), *world.on("shop", "billing").values()]


def test_a_database_with_two_names_is_open_to_the_namespaces_of_both(shared):
    before = both(shared)
    assert len(before) == 2

    shared.restart()
    shared.settle()
    assert both(shared) == before
    assert counted(shared, "shop") == 0

    for namespace in ("shop", "billing"):
        shared.api.remove(TASKS, f"{namespace}/payroll")
    shared.settle()
    assert all(record.state.withdrawn_at for record in both(shared))


def test_a_database_is_scanned_again_once_another_name_opens_it_to_more_namespaces(shared):
    (before,) = shared.on("shop", "billing").values()
    shared.backends["billing"].is_away = True
    shared.kill()
    shared.api.edit(TASKS, "billing/payroll", handler="other")
    shared.start()
    shared.run(10)

    shared.backends["billing"].is_away = False
    shared.settle()

    (after,) = shared.on("shop", "billing").values()
    assert after.key.partition.handler == "other"
    assert after.state.created_version == before.state.created_version
