"""What the operator measures of its pools: what waits for workers, and nothing that waits for a person."""

import pytest

from pyncette.clock import SECOND
from pyncette.controller.status.task_phase import PENDING_MAX
from tests.controller.bench import task
from tests.controller.fake_api import pool
from tests.controller.world import POOLS, TASKS, World

LOOK_SECONDS = 5
"""The operator polls every two seconds, and writes of a status wait for half a second."""

POOL = {"namespace": "default", "pool": "default", "backend": "default"}


@pytest.fixture
def world():
    world = World(resyncSeconds=3600)  # what is counted is not counted then
    world.api.create(pool("default", external=True, image=None, module=None))
    world.start()
    world.run(LOOK_SECONDS)
    yield world
    world.close()


def value(world, name, **labels):
    return world.operator.metrics.registry.get_sample_value(f"pyncette_operator_{name}", labels)


def stalled(world):
    return value(world, "tasks", condition="Stalled", status="True")


def test_a_pool_without_workers_is_late_until_it_is_deleted(world):
    world.api.create(task(intervalSeconds=10))
    world.run(100)

    assert value(world, "due", **POOL) == 1
    assert 80 <= value(world, "lateness_seconds", **POOL) <= 100

    world.api.remove(POOLS, "default")
    world.run(LOOK_SECONDS)
    assert value(world, "due", **POOL) is None
    assert value(world, "lateness_seconds", **POOL) is None


def test_a_task_that_is_stalled_makes_no_pool_late_and_is_counted_before_any_resync(world):
    world.api.create(task(handler="sned", intervalSeconds=10))
    world.run(100)
    assert value(world, "due", **POOL) == 1
    assert stalled(world) is None

    world.run(PENDING_MAX / SECOND)
    assert stalled(world) == 1
    assert value(world, "due", **POOL) == 0
    assert value(world, "lateness_seconds", **POOL) == 0

    world.api.remove(TASKS, "report")
    world.run(LOOK_SECONDS)
    assert stalled(world) is None


def test_tasks_that_are_deleted_and_held_back_make_no_pool_late(world):
    names = [f"report-{number}" for number in range(30)]
    for name in names:
        world.api.create(task(name, intervalSeconds=10))
    world.run(100)
    assert value(world, "due", **POOL) == 30

    for name in names[:20]:
        world.api.remove(TASKS, name)
    world.run(LOOK_SECONDS)

    assert value(world, "withdrawals_held_back") == 20
    assert value(world, "due", **POOL) == 10
