"""The operator serves a team within moments, however much another team does at once."""

import pytest

from pyncette.controller.cluster.api import TASKS, ObjectName
from tests.controller.two_teams import REPORT, world_of_two_teams
from tests.controller.world import POOLS
from tests.simulation.loop import SECOND

MANY = 500
"""Tasks of the team a."""

EDITS_PER_SECOND = 100
"""Twice the rate at which the operator writes statuses."""


@pytest.fixture
def world():
    world = world_of_two_teams(MANY)
    world.start()
    world.run(60)
    yield world
    world.close()


def flood(world, seconds):
    """Have the team a edit one task after the other, without pause."""
    for nth in range(EDITS_PER_SECOND * seconds):
        name = ObjectName("a", f"task-{nth % MANY}")
        world.loop.at(
            world.loop.now + nth * SECOND // EDITS_PER_SECOND,
            lambda name=name, nth=nth: world.api.edit(TASKS, name, args={"nth": nth}),
        )


def seconds_until(world, holds, limit=30.0):
    """Let time pass until it *holds*, and return the seconds that it took."""
    for tenth in range(int(limit * 10)):
        if holds():
            return tenth / 10
        world.run(0.1)
    return limit


def status(world):
    return world.api.stored(TASKS, REPORT)["status"]


def is_observed(world):
    stored = world.api.stored(TASKS, REPORT)
    return stored["status"]["observedGeneration"] == stored["metadata"]["generation"]


def ready(world):
    return next(one for one in status(world)["conditions"] if one["type"] == "Ready")


def test_an_edit_is_observed_within_a_second_while_another_team_edits_without_pause(world):
    flood(world, 60)
    world.run(20)

    world.api.edit(TASKS, REPORT, args={"to": "finance"})

    assert seconds_until(world, lambda: is_observed(world)) <= 1.0


def test_a_condition_is_written_within_seconds_while_another_team_edits_without_pause(world):
    before = ready(world)["reason"]
    world.api.edit(POOLS, ObjectName("b", "default"), backendRef={"name": "unknown"})
    flood(world, 60)
    world.run(20)
    assert ready(world)["reason"] != before

    world.api.edit(POOLS, ObjectName("b", "default"), backendRef={"name": "first"})

    assert seconds_until(world, lambda: ready(world)["reason"] == before) <= 3.0


def test_events_of_a_team_are_not_delayed_by_those_of_another_whose_tasks_all_fail(world):
    for number in range(MANY):
        world.api.edit(TASKS, ObjectName("a", f"task-{number}"), schedule="0 12 31 2 *")
    world.run(11)

    world.api.edit(TASKS, REPORT, schedule="0 12 31 2 *")

    assert (
        seconds_until(world, lambda: "b" in {event["metadata"]["namespace"] for event in events(world)})
        <= 2.0
    )


def events(world):
    return [event for event in world.api.events if event["reason"] != "Scheduled"]
