"""Thousands of tasks cost what they have to, and nothing is left of those that are gone."""

import asyncio
import contextlib
import time
from collections import deque

import pytest

from pyncette.clock import SECOND
from pyncette.controller.reconcile.backends import Reach
from pyncette.controller.reconcile.realms import RETIREMENT
from pyncette.controller.service import Operator
from pyncette.controller.settings import OperatorSettings
from pyncette.store.backend import Backend
from pyncette.store.memory import MemoryBackend, MemoryStore
from tests.controller.bench import CLUSTER, INTERVALS, task
from tests.controller.fake_api import FakeApi, pool
from tests.controller.test_faults import external, yearly
from tests.controller.world import POOLS, TASKS, World

TASKS_MANY = 3_000
"""The benchmark has ten thousand, on a real API server: the one in memory is what takes most of the time here."""

PATIENCE_SECONDS = 120
"""On a laden machine; what is measured is the time of the processor."""

BOUNDED = ("_stopped_at",)
"""What is cut to an hour when it is next asked for: a few bytes for each task that was stopped."""


class Memory(Backend):
    """A database in memory, for one test."""

    def __init__(self):
        super().__init__("memory://")
        self.memory = MemoryBackend()

    def new_store(self, *, create=True):
        del create
        return MemoryStore(self.memory)

    def __str__(self):
        return "memory"


@contextlib.asynccontextmanager
async def operating(api, backend):
    settings = OperatorSettings.model_validate(
        {
            "clusterId": CLUSTER,
            "backends": [{"namespaces": ["*"]}],
            "releaseNamespace": "pyncette",
            "resyncSeconds": 3600,
            "statusWritesPerSecond": 10_000,
        }
    )
    operator = Operator(
        settings, CLUSTER, api, intervals=INTERVALS._replace(scan=2), reach=Reach(lambda _: backend)
    )
    api.watch(operator.seen)
    operator.liveness.discovered()
    running = asyncio.ensure_future(operator.run())
    try:
        yield operator
    finally:
        api.unwatch()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def settled(operator):
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not operator.is_settled:  # noqa: ASYNC110 - many things have to come together
            await asyncio.sleep(0.05)


async def test_with_thousands_of_tasks_a_resync_and_a_restart_write_nothing_and_take_seconds():
    api, backend = FakeApi(), Memory()
    api.create(pool(external=True, image=None, module=None))
    for number in range(TASKS_MANY):
        api.create(task(f"task-{number:05}"))
    async with operating(api, backend) as operator:
        await settled(operator)
        assert all(
            api.stored(TASKS, name)["status"]["observedGeneration"] == 1 for name in api.names(TASKS)[::500]
        )
        writes = len(api.writes)

        began = time.process_time()
        await operator.resync()
        await settled(operator)

        assert time.process_time() - began < 10
        assert len(api.writes) == writes
    async with operating(api, backend) as operator:
        await settled(operator)

        assert len(api.writes) == writes


@pytest.fixture
def world():
    world = World("first", withdrawalGraceSeconds=0, sweep={"least": 1000}, statusWritesPerSecond=1000)
    yield world
    world.close()


@pytest.mark.parametrize("unseen", [False, True])
def test_nothing_is_left_of_tasks_and_pools_that_are_gone(world, unseen):
    world.api.create(external())
    world.api.create(yearly("kept"))
    world.start()

    def come_and_go(generation):
        names = [f"{generation}-{number}" for number in range(25)]
        for name in names:
            world.api.create(external(f"pool-{name}"))
            world.api.create(yearly(name, workerPoolRef={"name": f"pool-{name}"}))
            world.api.create(
                yearly(
                    f"template-{name}",
                    dynamic=True,
                    schedule=None,
                    handler=f"h-{name}",
                    deletionPolicy="Delete",
                )
            )
            world.api.create(
                yearly(f"bad-{name}", schedule="0 12 31 2 *", workerPoolRef={"name": f"no-{name}"})
            )
        world.run(10)
        if unseen:
            world.api.hold_events()
        for name in names:
            for one in (name, f"template-{name}", f"bad-{name}"):
                world.api.remove(TASKS, one)
            world.api.remove(POOLS, f"pool-{name}")
        world.run(30)
        if unseen:
            world.api.release_events(lost=True)
        world.settle()

    come_and_go("first")
    before = sizes(world.operator)
    come_and_go("second")
    world.run(RETIREMENT / SECOND)  # the longest that any of it is remembered
    world.settle()
    grown = {
        path: (before.get(path, 0), size)
        for path, size in sizes(world.operator).items()
        if size > before.get(path, 0) + 5 and not path.strip("[]").endswith(BOUNDED)
    }

    assert grown == {}


def sizes(root):
    """Return how much each container of ours holds that can be reached from *root*, by the way there."""
    found, seen, todo = {}, set(), deque([("operator", root)])
    while todo:
        path, thing = todo.popleft()
        if id(thing) in seen or isinstance(thing, str | bytes | int | float | type(None)):
            continue
        seen.add(id(thing))
        if isinstance(thing, dict | list | set | frozenset | deque) and not isinstance(thing, type):
            found[path] = len(thing)
        if isinstance(thing, dict):
            todo.extend((f"{path}[]", value) for value in list(thing.values()))
        elif isinstance(thing, list | tuple | set | frozenset | deque):
            todo.extend((f"{path}[]", value) for value in list(thing))
        elif type(thing).__module__.startswith("pyncette.controller"):
            parts = getattr(thing, "__dict__", {})
            todo.extend((f"{path}.{name}", value) for name, value in parts.items())
    return found
