"""Two tenants in a simulated world, each with a database of its own. One attacks the other."""

import asyncio

from pyncette.clock import SECOND
from pyncette.core.record import (
    RESERVED_REALMS,
    Key,
    Owner,
    Partition,
    Record,
    Started,
    State,
    inert_record,
    replace,
)
from pyncette.core.schedule import Cron
from pyncette.core.spec import Policies, Spec
from pyncette.errors import StoreRefusedError, StoreUnavailableError
from tests.controller.bench import task
from tests.controller.fake_api import pool
from tests.controller.scene import EIGHT
from tests.controller.world import CLUSTER, Remote, RemoteStore, World

DAY = 86_400 * SECOND

YEARLY = "0 12 24 12 *"

DEAD_LETTER = "dead-1"


class HostileRemote(Remote):
    """A database whose owner decides the result of each verb."""

    def __init__(self, name, world):
        super().__init__(name, world)
        self.refuses_writes = False
        self.loses_writes = False
        """Whether writes of tasks time out, while all else works."""
        self.write_seconds = lambda key: 0
        """Maps the key of a task's record to the seconds after which its write fails; 0 if it succeeds."""
        self.shown = lambda records: records
        """Maps the records of a scan to those that it returns."""
        self.loaded = lambda record: record
        """Maps each loaded record to the one that is returned."""
        self.fault = lambda verb, key: None
        """Returns the error of the driver for a verb on the record at a key; None if it raises none."""

    def new_store(self, *, create=True):
        del create
        return HostileStore(self)


class HostileStore(RemoteStore):
    """A connection to a hostile database."""

    def __init__(self, remote):
        super().__init__(remote)
        self._hostile = remote

    async def swap(self, changes):
        await self._reach()
        self._fail("swap", [change.key for change in changes])
        if self._hostile.refuses_writes and any(_is_of_a_task(change.key) for change in changes):
            raise StoreRefusedError("permission denied")
        if self._hostile.loses_writes and any(_is_of_a_task(change.key) for change in changes):
            raise StoreUnavailableError("no answer")
        keys = [change.key for change in changes]
        seconds = max((self._hostile.write_seconds(key) for key in keys if _is_of_a_task(key)), default=0)
        if seconds:
            await asyncio.sleep(seconds)
            raise StoreUnavailableError("the statement took too long")
        return await super().swap(changes)

    async def scan(self, partition, task, after, limit):
        return self._hostile.shown(await super().scan(partition, task, after, limit))

    async def load(self, keys):
        records = await super().load(keys)
        self._fail("load", keys)
        return [None if record is None else self._hostile.loaded(record) for record in records]

    def _fail(self, verb, keys):
        for key in keys:
            error = self._hostile.fault(verb, key)
            if error is not None:
                raise error


def _is_of_a_task(key):
    return not key.partition.realm.startswith(RESERVED_REALMS)


class Tenants(World):
    """The namespaces shop and billing, and their databases. *settings* are further settings of the operator."""

    def __init__(self, *, namespaces=None, **settings):
        allowed = namespaces or {"shop": ["shop"], "billing": ["billing"]}
        backends = [{"name": name, "urlFile": name, "namespaces": names} for name, names in allowed.items()]
        super().__init__(*allowed, **{"backends": backends, **settings})
        for name in allowed:
            self.backends[name] = HostileRemote(name, self)

    def pool(self, namespace, name="default", backend=None):
        manifest = pool(
            name, external=True, image=None, module=None, backendRef={"name": backend or namespace}
        )
        self.api.create(_in(namespace, manifest))

    def task(self, namespace, name="payroll", **spec):
        self.api.create(_in(namespace, task(name, **({"schedule": YEARLY, "handler": "pay"} | spec))))

    def put(self, backend, *records):
        """Write *records* and register their realms, as the owner of the database of *backend* can."""
        memory = self.backends[backend].memory
        for realm in sorted({record.key.partition.realm for record in records}):
            key = Key(Partition(f"{RESERVED_REALMS}pools/{CLUSTER}", realm), "pool")
            memory.shelf(key.partition).put(inert_record(key, Spec(), self.now))
        for record in records:
            memory.shelf(record.key.partition).put(record)

    @property
    def now(self):
        return EIGHT + self.loop.now

    def on(self, backend, namespace="shop"):
        """Return the records of tasks of *namespace* on *backend*, by their names."""
        return {
            str(record.key): record
            for record in self.backends[backend].records()
            if record.key.partition.realm.startswith(f"{CLUSTER}/{namespace}/")
        }


def _in(namespace, manifest):
    return {**manifest, "metadata": {**manifest["metadata"], "namespace": namespace}}


def forged(world, *, namespace="shop", pool="default", handler="pay", name="payroll", **fields):
    """Return a record of a task of *namespace*, as only the operator should write it."""
    key = Key(Partition(f"{CLUSTER}/{namespace}/{pool}", handler), name)
    record = Record(
        key=key,
        spec=Spec(Cron(YEARLY, "UTC", f"{namespace}/{name}"), policies=Policies()),
        version=world.now,
        fence=world.now,
        due_at=world.now + DAY,
        schedule_since=world.now,
        claimable_at=world.now + DAY,
        lease_length=60 * SECOND,
        state=State(owner=Owner("x", 1, "x")),
    )
    return replace(record, **fields)


def forged_dead_letter(world, home, args=b'{"to":"attacker"}', **fields):
    """Return a dead letter of the record *home*, with forged arguments."""
    spec = Spec(home.spec.schedule, args, Policies())
    dead_letter = replace(
        home,
        key=home.key._replace(occurrence=DEAD_LETTER),
        spec=spec,
        claimable_at=None,
        due_at=world.now,
        state=State(started=Started(world.now, world.now)),
    )
    return replace(dead_letter, **fields)


__all__ = ["CLUSTER", "DAY", "DEAD_LETTER", "YEARLY", "Tenants", "forged", "forged_dead_letter"]
