"""A handler that keeps the loop from turning costs no other run its lease, and is named."""

import pytest

from tests.processes.accounted import LEASE
from tests.processes.population import Population, an_hour_ago
from tests.processes.scene import Scene

BLOCKED_SECONDS = 2 * LEASE.total_seconds()


@pytest.mark.parametrize(
    "scene",
    [
        "postgresql",
        *(pytest.param(name, marks=pytest.mark.long) for name in ("redis", "redis+cluster")),
        "sqlite",
    ],
    indirect=True,
)
@pytest.mark.timeout(120)
def test_a_handler_that_blocks_for_longer_than_its_lease_loses_no_lease_and_is_named_in_a_warning(
    scene: Scene,
):
    population = Population()
    waiting = {
        population.add_once(task, f"{task}-{number}", an_hour_ago(), seconds=BLOCKED_SECONDS + 3)
        for task in ("renewed", "at_most_once")
        for number in range(20)
    }
    scene.schedule(population)
    blocked = scene.start()
    scene.wait_until("all have begun", lambda: waiting <= scene.account().started)

    later = Population()
    blocking = later.add_once("renewed", "blocking", an_hour_ago(), blocked_seconds=BLOCKED_SECONDS)
    scene.schedule_more(later)
    scene.wait_until("the loop is blocked", lambda: blocking in scene.account().started)
    other = scene.start()
    scene.wait_until_over()
    codes = [blocked.stop(), other.stop()]

    account = scene.account()
    assert [runs for runs in account.of.values() if len(runs) > 1] == []
    found = scene.check()
    assert found.counts("at_most_once").lost == 0
    assert codes == [0, 0]
    (warning,) = blocked.entries("blocks the event loop")
    assert (warning["level"], warning["task"], warning["instance"]) == ("warning", "renewed", "blocking")
