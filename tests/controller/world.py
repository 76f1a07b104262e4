"""
A cluster, its backends and an operator in simulated time, to be hit by whatever may happen at whatever moment.

The operator is a process of the simulated loop: a crash ends it in the midst of a callback, right after a write, and not
one line of it runs any more. What users do, they do at once; time passes only when a test says so.
"""

import asyncio
from collections import Counter
from random import Random

from pyncette.clock import SystemClock
from pyncette.controller.cluster.api import POOLS, TASKS
from pyncette.controller.reconcile.backends import Reach
from pyncette.controller.service import Operator
from pyncette.controller.settings import OperatorSettings
from pyncette.core.record import RESERVED_REALMS, Change, is_on_demand, replace
from pyncette.errors import StoreUnavailableError
from pyncette.store.backend import Backend
from pyncette.store.memory import MemoryBackend, MemoryStore
from tests.controller.fake_api import CrashError, FakeApi
from tests.controller.scene import EIGHT
from tests.simulation.loop import SECOND, SimulatedLoop

CLUSTER = "east"

RESYNC_SECONDS = 20

SETTLED_SECONDS = 8 * RESYNC_SECONDS
"""Enough for anything to come to rest: two lists that miss a task, a backend that is asked again, a status that waits."""


class World:
    """
    One operator with *backends*; *crash_at* are the numbers of the writes after which it dies, to be started again.

    The clock of its node is ahead of that of the backends by *ahead* seconds.
    """

    def __init__(self, *backends, crash_at=(), seed=1, ahead=0, **settings):
        self.loop = SimulatedLoop(Random(seed))
        self.api = WatchedApi(self)
        self.backends = {name: Remote(name, self) for name in backends or ("default",)}
        self.settings = OperatorSettings.model_validate(
            {
                "clusterId": CLUSTER,
                "backends": [{"name": name, "urlFile": name, "namespaces": ["*"]} for name in self.backends],
                "resyncSeconds": RESYNC_SECONDS,
                "podName": "operator-1",
                "podServiceAccount": "pyncette-operator",
                "releaseNamespace": "pyncette",
                **settings,
            }
        )
        self.crash_at = {*crash_at}
        self.ahead = ahead * SECOND
        self.writes = 0
        self.crashes = 0
        self.runs = Counter()
        """Extra runs that were ever made, by task."""
        self.operator = None
        self.has_twin = False
        """Whether a second operator runs beside the first one, by accident."""
        self._process = None

    # --- The operator ----------------------------------------------------------------------------------------------

    def start(self):
        assert self._process is None
        self._process = self.loop.spawn("operator", self._operate)
        if self.has_twin:
            self.loop.spawn("twin", self._operate)

    async def _operate(self):
        reach = Reach(lambda settings: self.backends[settings.name], self.clock)
        self.operator = Operator(self.settings, CLUSTER, self.api, self.settings.namespaces, reach=reach)
        self.api.watch(self.operator.seen)
        self.operator.liveness.discovered()
        await self.operator.run()

    @property
    def is_up(self):
        return self._process is not None

    def kill(self):
        """End the operator where it stands."""
        self.api.unwatch()
        self.loop.kill(self._process)
        self._process = None

    def restart(self):
        self.kill()
        self.start()

    def wrote(self):
        """Be told of each write of the operator's that has taken effect."""
        self.writes += 1
        if self.writes in self.crash_at:
            self.crashes += 1
            self.kill()
            self.loop.at(self.loop.now + SECOND, self._start_again)
            raise CrashError

    def _start_again(self):
        if self._process is None:
            self.start()

    def clock(self):
        return SystemClock(
            time_ns=lambda: (EIGHT + self.ahead + self.loop.now) * 1000,
            monotonic_ns=lambda: self.loop.now * 1000,
        )

    def close(self):
        self.loop.close()

    # --- Time ------------------------------------------------------------------------------------------------------

    def run(self, seconds):
        self.loop.run_until(self.loop.now + round(seconds * SECOND))
        failures = [repr(error) for error in self.loop.failures]
        assert not failures, failures

    def settle(self):
        """Let everything come to rest: extra runs end, too, since there are workers."""
        for _ in range(3):
            self.finish_runs()
            self.run(SETTLED_SECONDS / 3)

    def finish_runs(self):
        for backend in self.backends.values():
            for record in list(backend.records()):
                if is_on_demand(record.key):
                    backend.memory.shelf(record.key.partition).remove(record.key)

    # --- What there is ---------------------------------------------------------------------------------------------

    def outcome(self):
        """All that matters of records and statuses: what tells when, and how often it was tried, is left out."""
        records = {}
        for name, backend in self.backends.items():
            for record in backend.records():
                if not record.key.partition.realm.startswith(RESERVED_REALMS):
                    records[name, *record.key.partition, *record.key[1:]] = _told(record)
        statuses = {
            str(name): _without_times(self.api.stored(kind, name)["status"])
            for kind in (TASKS, POOLS)
            for name in self.api.names(kind)
        }
        return {"records": records, "statuses": statuses, "runs": dict(self.runs)}

    def homes(self, name, *, running=True):
        """Return where a task has records, as backend, pool and handler; those that are stopped only if asked for."""
        return [
            (backend.name, record.key.partition.realm.rpartition("/")[2], record.key.partition.handler)
            for backend in self.backends.values()
            for record in backend.records()
            if record.key.task == name
            and not record.key.occurrence
            and not record.key.partition.realm.startswith(RESERVED_REALMS)
            and not (running and record.state.withdrawn_at)
        ]

    def record(self, name):
        """Return the one record of a task."""
        (found,) = (
            record
            for backend in self.backends.values()
            for record in backend.records()
            if record.key.task == name
            and not record.key.occurrence
            and not record.key.partition.realm.startswith(RESERVED_REALMS)
        )
        return found

    def condition(self, kind, name="report"):
        return _condition(self.api.stored(TASKS, name), kind)

    def pool_condition(self, kind, name="default"):
        return _condition(self.api.stored(POOLS, name), kind)


class WatchedApi(FakeApi):
    """The API server, which tells the world of what is written."""

    def __init__(self, world):
        self._world = world
        super().__init__()

    def _after_write(self, fault, *, dry_run=False):
        super()._after_write(fault, dry_run=dry_run)
        if not dry_run:
            self._world.wrote()


class Remote(Backend):
    """A database in memory that can be away, be wiped, and lose its latest writes."""

    def __init__(self, name, world):
        super().__init__(f"remote://{name}")
        self.name = name
        self.world = world
        self.memory = None
        self.is_away = False
        self.bug = None
        """What is raised whatever it is asked."""
        self.seconds = 0.0
        """How long each call takes."""
        self.contested = frozenset()
        """Tasks whose records somebody else changes each time that they are about to be written."""
        self.loses_answer = lambda: False
        """Says of each write whether it is made, and nobody is told so."""
        self.wipe()

    def new_store(self, *, create=True):
        del create
        return RemoteStore(self)

    def wipe(self):
        self.memory = MemoryBackend(lambda: EIGHT + self.world.loop.now)

    def snapshot(self):
        return list(self.records())

    def fail_over(self, snapshot):
        """Go back to what it held at an earlier time."""
        self.wipe()
        for record in snapshot:
            self.memory.shelf(record.key.partition).put(record)

    def records(self):
        for shelf in list(self.memory.shelves.values()):
            yield from list(shelf.records.values())

    def __str__(self):
        return f"remote {self.name}"


class RemoteStore(MemoryStore):
    """A connection to it."""

    def __init__(self, remote):
        super().__init__(remote.memory)
        self._remote = remote

    async def __aenter__(self):
        await self._reach()
        return self

    async def _reach(self):
        await asyncio.sleep(self._remote.seconds)
        if self._remote.bug is not None:
            raise self._remote.bug
        if self._remote.is_away:
            raise StoreUnavailableError(f"{self._remote} does not answer")
        self.backend = self._remote.memory

    async def load(self, keys):
        await self._reach()
        return await super().load(keys)

    async def swap(self, changes):
        await self._reach()
        for change in changes:
            if change.before is not None and change.before.key.task in self._remote.contested:
                (stored,) = await super().load([change.before.key])
                await super().swap([Change(stored, replace(stored, version=stored.version + 1))])
        made = await super().swap(changes)
        for change, done in zip(changes, made, strict=True):
            self._count(change, done)
        if any(made):
            self._remote.world.wrote()
            if self._remote.loses_answer():
                raise StoreUnavailableError("the answer was lost")
        return made

    def _count(self, change: Change, done):
        if done and change.before is None and is_on_demand(change.after.key):
            self._remote.world.runs[change.after.key.task] += 1

    async def scan(self, partition, task, after, limit):
        await self._reach()
        return await super().scan(partition, task, after, limit)

    async def partitions(self, realm):
        await self._reach()
        return await super().partitions(realm)

    async def history(self, key):
        await self._reach()
        return await super().history(key)

    async def now(self):
        await self._reach()
        return await super().now()


def _told(record):
    state = record.state
    return {
        "due": record.due_at,
        "claimable": record.claimable_at,
        "args": bytes(record.spec.args),
        "suspend": record.spec.policies.suspend if record.spec.policies else None,
        "owner": (state.owner.uid, state.owner.generation) if state.owner else None,
        "stopped": state.withdrawn_at is not None,
        "handled": state.handled,
    }


def _without_times(status):
    conditions = sorted(
        (one["type"], one["status"], one["reason"], one["message"], one.get("observedGeneration"))
        for one in status.get("conditions", ())
    )
    return {**status, "conditions": conditions}


def _condition(stored, kind):
    return next((one for one in stored["status"].get("conditions", ()) if one["type"] == kind), None)


__all__ = ["CLUSTER", "POOLS", "RESYNC_SECONDS", "TASKS", "World"]
