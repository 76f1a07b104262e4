"""A database whose writes take long delays nobody but those whose tasks are there."""

import pytest

from tests.controller.world import TASKS
from tests.hostile.tenants import Tenants, forged

STATEMENT_SECONDS = 10
"""How long a statement may take, by the settings of a connection."""

SOON = 8
"""Seconds in which an edit shows."""


@pytest.fixture
def world_of():
    made = []

    def make(namespaces):
        made.append(Tenants(namespaces=namespaces))
        return made[-1]

    yield make
    for world in made:
        world.close()


def edit(world, name):
    """Edit a task of shop, and return whether that shows soon."""
    world.api.edit(TASKS, name, args={"n": 1})
    world.run(SOON)
    stored = world.api.stored(TASKS, name)
    return stored["status"]["observedGeneration"] == stored["metadata"]["generation"]


def test_a_team_with_many_namespaces_on_a_slow_database_delays_no_edit_of_another(world_of):
    teams = [f"billing-{number}" for number in range(8)]
    world = world_of({"shop": ["shop"], "billing": teams})
    world.pool("shop")
    world.task("shop")
    for team in teams:
        world.pool(team, backend="billing")
    world.start()
    world.run(20)

    world.backends["billing"].write_seconds = lambda _: STATEMENT_SECONDS
    for team in teams:
        for number in range(20):
            world.task(team, f"task-{number}")
    world.run(1)

    assert edit(world, "shop/payroll")


def test_unlisted_records_that_are_locked_delay_no_edit_of_the_task_whose_names_they_have(world_of):
    world = world_of({"own": ["shop"], "shared": ["shop", "billing"]})
    world.pool("shop", backend="own")
    names = [f"task-{number}" for number in range(20)]
    for name in names:
        world.task("shop", name)
    world.start()
    world.run(20)

    shared = world.backends["shared"]
    shared.write_seconds = lambda key: STATEMENT_SECONDS if "/shop/" in key.partition.realm else 0
    world.put("shared", *(forged(world, name=name, handler=f"h{n}") for name in names for n in range(20)))
    world.run(10)

    assert edit(world, "shop/task-0")
    assert edit(world, "shop/task-19")


def test_unlisted_records_that_were_locked_are_stopped_once_they_are_not(world_of):
    world = world_of({"own": ["shop"], "shared": ["shop", "billing"]})
    world.pool("shop", backend="own")
    world.task("shop")
    world.start()
    world.run(20)
    world.backends["shared"].write_seconds = lambda _: STATEMENT_SECONDS
    world.put("shared", forged(world))
    world.run(30)
    assert world.on("shared")["payroll"].state.withdrawn_at is None

    world.backends["shared"].write_seconds = lambda _: 0
    world.settle()

    assert world.on("shared")["payroll"].state.withdrawn_at is not None
