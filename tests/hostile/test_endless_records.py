"""A database that shows records without end is read for a small part of the time, and its scans end."""

import pytest

from pyncette.core.record import replace
from tests.controller.world import TASKS
from tests.hostile.tenants import HostileRemote, HostileStore, Tenants

PAGE_SECONDS = 0.001
"""How long each request takes."""


class EndlessRemote(HostileRemote):
    """A database that shows, after the records of a task, runs of it without end."""

    def __init__(self, name, world):
        super().__init__(name, world)
        self.seconds = PAGE_SECONDS
        self.home = None
        """The record of the task; None: nothing is shown that is not there."""
        self.pages = 0

    def new_store(self, *, create=True):
        del create
        return EndlessStore(self)


class EndlessStore(HostileStore):
    async def scan(self, partition, task, after, limit):
        page = await super().scan(partition, task, after, limit)
        home = self._hostile.home
        if page or home is None or partition != home.key.partition:
            return page
        begin = self._hostile.pages * limit
        self._hostile.pages += 1
        numbers = range(begin, begin + limit)
        return [replace(home, key=home.key._replace(occurrence=f"run-{number:012}")) for number in numbers]


@pytest.fixture
def world():
    world = Tenants(recordMebibytesPerNamespace=1)
    world.backends["billing"] = EndlessRemote("billing", world)
    for namespace in ("shop", "billing"):
        world.pool(namespace)
        world.task(namespace)
    world.start()
    world.run(10)
    yield world
    world.close()


def overfull(world):
    labels = {"backend": "billing"}
    return world.operator.metrics.registry.get_sample_value("pyncette_operator_overfull_namespaces", labels)


def begin_to_lie(world):
    world.backends["billing"].home = world.on("billing", "billing")["payroll"]


def test_a_database_with_endless_runs_does_not_block_a_scan(world):
    begin_to_lie(world)
    world.run(60)

    assert overfull(world) == 1
    assert world.backends["billing"].pages * PAGE_SECONDS < 60 / 10


def test_a_requested_run_on_such_a_database_is_not_read_without_end(world):
    world.api.annotate(TASKS, "billing/payroll", run_requested_at="now")
    world.run(1)
    begin_to_lie(world)

    world.run(60)

    assert world.backends["billing"].pages * PAGE_SECONDS < 60 / 4
