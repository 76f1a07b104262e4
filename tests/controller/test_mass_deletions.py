"""A mass deletion is held back in its own namespace alone, and a proved deletion needs no confirmation."""

from contextlib import ExitStack, closing

import pytest

from pyncette.controller.cluster.api import TASKS, ForbiddenError, ObjectName
from pyncette.controller.reconcile.sweep import PROOF_SECONDS
from tests.controller.fake_api import pool, task
from tests.controller.test_faults import confirm
from tests.controller.world import POOLS, World

YEARLY = "0 12 24 12 *"

AT_ONCE = 10.0
"""Seconds: deletions of two seconds are one event."""


@pytest.fixture
def world_of():
    with ExitStack() as worlds:

        def make(*, teams="ab", tasks=30, backends=("first",), **settings):
            """Return a world with so many tasks in the namespace of each team; the teams use the backends in turn."""
            world = worlds.enter_context(closing(World(*backends, **settings)))
            for number, namespace in enumerate(teams):
                backend = {"name": backends[number % len(backends)]}
                world.api.create(
                    pool(namespace=namespace, external=True, image=None, module=None, backendRef=backend)
                )
                for name in names(tasks):
                    world.api.create(task(name, namespace, schedule=YEARLY))
            world.start()
            world.run(60)
            return world

        yield make


def names(count):
    return [f"task-{number:02}" for number in range(count)]


def delete(world, namespace, count):
    for name in names(count):
        world.api.remove(TASKS, ObjectName(namespace, name))


def running(world, namespace):
    """Return how many records of a namespace are not stopped."""
    return sum(
        record.key.partition.realm.split("/")[1:2] == [namespace] and record.state.withdrawn_at is None
        for backend in world.backends.values()
        for record in backend.records()
    )


def held_events(world, namespace):
    return [
        event
        for event in world.api.events
        if event["reason"] == "RemovalsHeldBack" and event["metadata"]["namespace"] == namespace
    ]


def test_a_mass_deletion_by_one_team_does_not_keep_the_task_running_that_another_deleted(world_of):
    world = world_of()
    delete(world, "a", 20)
    world.run(AT_ONCE)

    delete(world, "b", 1)
    world.run(AT_ONCE)

    assert (running(world, "a"), running(world, "b")) == (30, 29)
    assert sum(world.operator.held_back.values()) == 20


def test_deletions_of_one_team_without_a_pause_do_not_delay_that_of_another(world_of):
    world = world_of(backends=("first", "second"))
    for name in names(10):
        world.api.remove(TASKS, ObjectName("a", name))
        world.run(1)

    delete(world, "b", 1)
    for name in names(15)[10:]:
        world.api.remove(TASKS, ObjectName("a", name))
        world.run(1)

    assert (running(world, "a"), running(world, "b")) == (30, 29)


def test_a_deleted_namespace_with_many_tasks_delays_no_deletion_by_another_team(world_of):
    world = world_of(tasks=100)
    world.backends["first"].seconds = 0.05
    world.api.remove_namespace("a")
    world.run(6)

    delete(world, "b", 1)
    world.run(AT_ONCE)
    assert running(world, "a") > 0
    assert running(world, "b") == 99

    world.run(60)
    assert running(world, "a") == 0
    assert held_events(world, "a") == []


def test_deletions_without_a_pause_are_decided_together_while_another_team_deletes_tasks(world_of):
    world = world_of()
    for name in names(10):
        world.api.remove(TASKS, ObjectName("a", name))
        world.run(1)
        world.api.remove(TASKS, ObjectName("b", name))
        world.run(0.5)

    world.run(AT_ONCE)

    assert (running(world, "a"), running(world, "b")) == (30, 30)
    assert sum(world.operator.held_back.values()) == 20


def test_the_team_whose_tasks_are_held_back_reads_which_and_how_to_confirm_them(world_of):
    world = world_of()
    delete(world, "a", 20)
    delete(world, "b", 1)

    world.run(2 * AT_ONCE)

    (event,) = held_events(world, "a")
    assert event["involvedObject"]["kind"] == TASKS.name
    assert event["involvedObject"]["uid"]
    assert "20 deleted tasks of this namespace keep running on the backend first" in event["message"]
    assert "pyncette sweep --namespace a --confirm 20" in event["message"]
    assert "task-00, task-01" in event["message"]
    assert held_events(world, "b") == []


def test_a_confirmation_in_one_namespace_stops_no_task_in_another(world_of):
    world = world_of()
    delete(world, "a", 20)
    delete(world, "b", 20)
    world.run(2 * AT_ONCE)

    confirm(world, "first", 20, "a")
    world.run(AT_ONCE)

    assert (running(world, "a"), running(world, "b")) == (10, 30)


@pytest.mark.parametrize("is_up", [True, False])
def test_a_namespace_that_is_deleted_with_all_its_tasks_needs_no_confirmation(world_of, is_up):
    world = world_of()
    if not is_up:
        world.kill()

    world.api.remove_namespace("a")
    if not is_up:
        world.start()
    world.settle()

    assert (running(world, "a"), running(world, "b")) == (0, 30)
    assert held_events(world, "a") == []


def test_a_namespace_that_terminates_after_its_tasks_were_deleted_needs_no_confirmation(world_of):
    world = world_of()
    delete(world, "a", 20)
    world.run(2 * AT_ONCE)
    assert running(world, "a") == 30

    world.api.terminating.add("a")
    world.run(PROOF_SECONDS + AT_ONCE)

    assert running(world, "a") == 10
    assert sum(world.operator.held_back.values()) == 0


def test_deletions_with_a_namespace_do_not_count_against_later_ones(world_of):
    world = world_of(teams="abc", tasks=5)
    world.api.remove_namespace("a")
    world.run(AT_ONCE)

    delete(world, "b", 1)
    delete(world, "c", 1)
    world.run(AT_ONCE)

    assert [running(world, namespace) for namespace in "abc"] == [0, 4, 4]


def test_a_namespaced_operator_reads_no_namespace(world_of):
    world = world_of(namespaces=["a", "b"])

    world.api.remove_namespace("a")
    world.settle()

    assert running(world, "a") == 30
    assert world.api.count("is_namespace_ending") == 0


def test_without_the_right_to_read_namespaces_the_guard_decides(world_of):
    world = world_of()
    world.api.fail("is_namespace_ending", ForbiddenError("forbidden"), times=float("inf"))

    world.api.remove_namespace("a")
    delete(world, "b", 1)
    world.settle()

    assert (running(world, "a"), running(world, "b")) == (30, 29)


def test_a_contested_record_does_not_keep_those_of_others_from_being_stopped_and_removed(world_of):
    world = world_of(withdrawalGraceSeconds=1)
    world.backends["first"].contested = {"task-00"}
    delete(world, "a", 3)
    delete(world, "b", 3)

    world.settle()

    left = {record.key.task for record in world.backends["first"].records()}
    assert "task-00" in left
    assert (running(world, "a"), running(world, "b")) == (28, 28)

    world.backends["first"].contested = frozenset()
    world.settle()
    assert (running(world, "a"), running(world, "b")) == (27, 27)


def test_a_slow_backend_of_one_team_does_not_delay_the_deletions_of_another(world_of):
    world = world_of(backends=("first", "second"))
    world.backends["first"].seconds = 60.0
    delete(world, "a", 5)
    world.run(AT_ONCE)

    delete(world, "b", 5)
    world.run(AT_ONCE)

    assert running(world, "b") == 25


def test_a_pool_that_goes_with_its_namespace_takes_its_tasks_along(world_of):
    world = world_of(tasks=3)
    world.api.remove(POOLS, ObjectName("a", "default"))
    world.api.remove_namespace("a")

    world.settle()

    assert (running(world, "a"), running(world, "b")) == (0, 3)
