"""An operator on the API server in memory and a real backend in a file, and what a test wants to ask of them."""

import asyncio
import contextlib
import json

import pytest

from pyncette.cli.stored import backend_clock
from pyncette.controller.cluster.api import POOLS, TASKS, ObjectName
from pyncette.controller.intervals import Intervals
from pyncette.controller.service import Operator
from pyncette.controller.settings import OperatorSettings
from pyncette.coordination.members import Member, Membership
from pyncette.core.record import Key, Partition, is_on_demand
from pyncette.store.backend import read_backend
from tests.controller.fake_api import FakeApi

CLUSTER = "east"

INTERVALS = Intervals(
    scan=0.05,
    scan_share=2,
    backend=0.1,
    deletions=0.1,
    quiet=0,
    confirmation=0.05,
    move=0.05,
    taken_key=0.1,
    outdated=0.05,
)

PATIENCE_SECONDS = 20.0
"""On a laden machine; most of what is waited for happens within milliseconds."""


class Bench:
    """One cluster. The operator can be started, ended and started again; the backend and the API server stay."""

    def __init__(self, folder, **settings):
        self.api = FakeApi()
        self.folder = folder
        (folder / "url").write_text(f"sqlite:///{folder}/tasks.db\n")
        self.settings = OperatorSettings.model_validate(
            {
                "clusterId": CLUSTER,
                "backends": [{"urlFile": str(folder / "url"), "namespaces": ["*"]}],
                "resyncSeconds": 300,
                "podName": "operator-1",
                "releaseNamespace": "pyncette",
                **settings,
            }
        )
        self.operator = None
        self._running = None

    async def start(self, *, settled=True):
        self.operator = Operator(self.settings, CLUSTER, self.api, intervals=INTERVALS)
        self.api.watch(self.operator.seen)
        self.operator.liveness.discovered()
        self._running = asyncio.ensure_future(self.operator.run())
        if settled:
            await self.settled()

    async def end(self):
        """End it as a crash would, but that what it was about to do is cancelled in order."""
        if self._running is None:
            return
        self.api.unwatch()
        self._running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._running
        self._running = None

    async def ended(self):
        """Wait until it ends by itself, and raise why."""
        running, self._running = self._running, None
        async with asyncio.timeout(PATIENCE_SECONDS):
            await running

    async def settled(self):
        """Wait until all is known and there is nothing to do."""
        await self.until(lambda: self.operator.is_settled)

    async def until(self, holds):
        """Wait until *holds* says so; if it ends before, or that takes too long, tell how all stood last."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not holds():
                    if self._running.done():
                        self._running.result()
                    await asyncio.sleep(0.005)
        except TimeoutError:
            there = {str(name): self.api.stored(TASKS, name).get("status") for name in self.api.names(TASKS)}
            pytest.fail(f"it did not come to that; tasks: {json.dumps(there, indent=1)}")

    # --- The cluster ---------------------------------------------------------------------------------------------

    def pool(self, name="default", **spec):
        return self.api.create(
            {
                "apiVersion": "pyncette.dev/v1alpha1",
                "kind": "PyncetteWorkerPool",
                "metadata": {"name": name, "namespace": "default"},
                "spec": {"external": True, **spec},
            }
        )

    def task(self, name="report", annotations=None, **spec):
        return self.api.create(task(name, annotations, **spec))

    def status(self, name="report"):
        return self.api.stored(TASKS, f"default/{name}")["status"]

    def condition(self, kind, name="report"):
        return next((one for one in self.status(name)["conditions"] if one["type"] == kind), None)

    # --- The backend ---------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def store(self):
        async with read_backend((self.folder / "url").read_text()).new_store() as store:
            yield store

    async def record(self, name="report", handler="send", pool="default"):
        async with self.store() as store:
            (record,) = await store.load([Key(Partition(f"{CLUSTER}/default/{pool}", handler), name)])
            return record

    async def until_record(self, holds, name="report"):
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not holds(await self.record(name)):  # noqa: ASYNC110 - others write there
                await asyncio.sleep(0.05)

    async def runs_on_demand(self, name="report"):
        partition = Partition(f"{CLUSTER}/default/default", "send")
        async with self.store() as store:
            return sum(is_on_demand(record.key) for record in await store.scan(partition, name, None, 100))

    @contextlib.asynccontextmanager
    async def worker(self, *handlers, pool="default", **fields):
        """A worker of *pool* that has registered *handlers*, as far as others see it; *fields* are of its member."""
        async with self.store() as store:
            member = Member("worker-1", handlers, **fields)
            membership = Membership(f"{CLUSTER}/default/{pool}", member, await backend_clock(store))
            running = asyncio.ensure_future(membership.run(store))
            try:
                yield
            finally:
                membership.leave()
                await running


def task(name="report", annotations=None, **spec):
    """Return the manifest of a task that is due each hour."""
    times = (
        {}
        if {"schedule", "intervalSeconds", "executeAt", "dynamic"} & set(spec)
        else {"intervalSeconds": 3600}
    )
    metadata = {"name": name, "namespace": "default"}
    if annotations:
        metadata["annotations"] = annotations
    return {
        "apiVersion": "pyncette.dev/v1alpha1",
        "kind": "PyncetteTask",
        "metadata": metadata,
        "spec": {"handler": "send", **times, **spec},
    }


def named(name):
    return ObjectName("default", name)


__all__ = ["CLUSTER", "INTERVALS", "POOLS", "TASKS", "Bench", "named", "task"]
