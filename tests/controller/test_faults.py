"""Whatever befalls the operator, in the end records and statuses are what they are when nothing does."""

import pytest

from tests.controller.bench import task
from tests.controller.fake_api import pool
from tests.controller.world import TASKS, World

YEARLY = "0 12 24 12 *"
"""Due at the same time whenever it is created in a test."""


@pytest.fixture
def world_of():
    made = []

    def make(*backends, **options):
        world = World(*backends, **options)
        made.append(world)
        return world

    yield make
    for world in made:
        world.close()


def yearly(name="report", annotations=None, **spec):
    return task(name, annotations, **({"schedule": YEARLY} | spec))


# --- Crashes ---------------------------------------------------------------------------------------------------------


def play(world):
    """What users do in a while, one thing after the other."""
    api = world.api
    for name, backend in (("default", "first"), ("other", "second")):
        api.create(pool(name, external=True, image=None, module=None, backendRef={"name": backend}))
    world.start()
    steps = (
        lambda: api.create(yearly()),
        lambda: api.create(yearly("second", args={"n": 1})),
        lambda: api.edit(TASKS, "report", args={"to": "finance"}),
        lambda: api.annotate(TASKS, "report", run_requested_at="now"),
        world.finish_runs,
        lambda: api.edit(TASKS, "report", suspend=True),
        lambda: api.annotate(TASKS, "report", run_requested_at="again", resume_requested_at="now"),
        world.finish_runs,
        lambda: api.edit(TASKS, "report", suspend=None, handler="mail"),
        lambda: api.edit(TASKS, "report", workerPoolRef={"name": "other"}),
        lambda: api.edit(TASKS, "second", schedule="0 12 31 2 *"),
        lambda: api.edit(TASKS, "second", schedule="0 12 25 12 *"),
        lambda: api.remove(TASKS, "report"),
        lambda: api.create(yearly(annotations={"pyncette.dev/run-requested-at": "from the start"})),
        lambda: api.edit(TASKS, "report", workerPoolRef={"name": "other"}, handler="mail"),
        lambda: api.annotate(TASKS, "report", run_requested_at="at last"),
        world.finish_runs,
        lambda: api.remove(TASKS, "second"),
    )
    for step in steps:
        step()
        world.run(7)
    world.settle()
    return world.outcome()


@pytest.fixture(scope="module")
def without_a_fault():
    world = World("first", "second")
    outcome = play(world)
    world.close()
    return outcome, world.writes


def test_without_a_fault_it_ends_as_it_should(without_a_fault):
    outcome, writes = without_a_fault

    assert writes > 30
    assert outcome["runs"] == {"report": 3}
    assert {key[1:4]: record["stopped"] for key, record in outcome["records"].items()} == {
        ("east/default/other", "mail", 0): False,
        ("east/default/default", "send", 0): True,
    }


@pytest.mark.parametrize("number", range(1, 60))
def test_a_crash_after_any_write_changes_nothing_in_the_end(without_a_fault, world_of, number):
    expected, writes = without_a_fault
    world = world_of("first", "second", crash_at=[number])

    assert play(world) == expected
    assert world.crashes == (number <= writes)
