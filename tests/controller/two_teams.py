"""A simulated world with two teams on one backend: the namespace a has many tasks, and the namespace b has one."""

from pyncette.controller.cluster.api import ObjectName
from tests.controller.fake_api import pool, task
from tests.controller.world import World

REPORT = ObjectName("b", "report")
"""The task of the namespace b."""


def world_of_two_teams(tasks):
    """Return a world, not started yet, with so many *tasks* in the namespace a: task-0 and so on."""
    world = World("first")
    for namespace in "ab":
        world.api.create(
            pool(namespace=namespace, external=True, image=None, module=None, backendRef={"name": "first"})
        )
    for number in range(tasks):
        world.api.create(task(f"task-{number}", "a"))
    world.api.create(task(REPORT.name, REPORT.namespace))
    return world
