"""
A backend that lies, wrapped around a real one of any kind: what its database could answer, if it wanted to.

The operator loads it by the entry points of `ENTRY_POINTS`, for URLs such as `hostile+redis://…`. The folder that the
variable `FOLDER_VARIABLE` names has a file `lie` with the name of the lie that all of them tell now, and a file for each
kind that has a byte for each lie that was told.
"""

import asyncio
import itertools
import os
from pathlib import Path

import msgspec

from pyncette.core.record import (
    RESERVED_REALMS,
    Key,
    Lease,
    Owner,
    Partition,
    Record,
    Started,
    State,
    Summary,
    inert_record,
    replace,
)
from pyncette.core.schedule import Cron
from pyncette.core.spec import Policies, Spec
from pyncette.errors import StoreRefusedError, StoreUnavailableError
from pyncette.store.backend import GROUP, Backend, read_backend

FOLDER_VARIABLE = "HOSTILE_FOLDER"

PREFIX = "hostile+"

KINDS = ("sqlite", "postgresql", "mariadb", "redis", "dynamodb")

ENTRY_POINTS = f"[{GROUP}]\n" + "".join(f"{PREFIX}{kind} = {__name__}:LyingBackend\n" for kind in KINDS)

YEARLY = Cron("0 12 24 12 *", "UTC", "forged")

DAY = 86_400_000_000

LONG_AGO, FAR_AWAY = -(2**63), 2**63 - 1

NASTY = "a\0b\u202egnp.\u2066\x1b]0;owned\x07\r\n\U0010ffff"
"""NUL, marks that reorder a line, escapes of a terminal, the end of a line, and the last character of all."""


class LyingBackend(Backend):
    def __init__(self, url):
        super().__init__(url)
        self._real = read_backend(url.removeprefix(PREFIX))
        self._kind = url.removeprefix(PREFIX).partition(":")[0]

    def new_store(self, *, create=True):
        return LyingStore(self._kind, self._real.new_store(create=create))

    async def migrate(self):
        return await self._real.migrate()

    def __str__(self):
        return str(self._real)


class LyingStore:
    """A store of the *kind*, all of whose verbs are those of the current lie about the *real* store."""

    def __init__(self, kind, real):
        self._folder = Path(os.environ[FOLDER_VARIABLE])
        self._kind = kind
        self._real = real
        self._lies = {name: lie(real, self._note) for name, lie in LIES.items()}

    async def __aenter__(self):
        await self._real.__aenter__()
        return self

    async def __aexit__(self, *error):
        await self._real.__aexit__(*error)

    @property
    def capabilities(self):
        return self._real.capabilities

    def _note(self):
        with (self._folder / self._kind).open("ab") as told:
            told.write(b".")

    @property
    def _lie(self):
        return self._lies[(self._folder / "lie").read_text()]

    async def load(self, keys):
        return await self._lie.load(keys)

    async def swap(self, changes):
        return await self._lie.swap(changes)

    async def claim(self, *arguments):
        return await self._real.claim(*arguments)

    async def renew(self, renewals, now):
        return await self._real.renew(renewals, now)

    async def scan(self, partition, task, after, limit):
        return await self._lie.scan(partition, task, after, limit)

    async def count(self, *arguments):
        return await self._lie.count(*arguments)

    async def partitions(self, realm):
        return await self._lie.partitions(realm)

    async def history(self, key):
        return await self._lie.history(key)

    async def now(self):
        return await self._lie.now()

    async def notify(self, notifications):
        await self._real.notify(notifications)

    def notified(self):
        return self._real.notified()

    async def min_reader(self):
        return await self._real.min_reader()

    async def raise_min_reader(self, version):
        await self._real.raise_min_reader(version)


class Honest:
    """No lie. The lies derive from it, and call *note* for each answer that is none of the *real* store."""

    def __init__(self, real, note):
        self.real = real
        self.note = note
        self.numbers = itertools.count(1)

    async def load(self, keys):
        return await self.real.load(keys)

    async def swap(self, changes):
        return await self.real.swap(changes)

    async def scan(self, partition, task, after, limit):
        return await self.real.scan(partition, task, after, limit)

    async def count(self, *arguments):
        return await self.real.count(*arguments)

    async def partitions(self, realm):
        return await self.real.partitions(realm)

    async def history(self, key):
        return await self.real.history(key)

    async def now(self):
        return await self.real.now()


# --- Writes ----------------------------------------------------------------------------------------------------------


class Refused(Honest):
    """No write of a task is allowed any more."""

    async def swap(self, changes):
        if not any(map(of_a_task, changes)):
            return await self.real.swap(changes)
        self.note()
        raise StoreRefusedError("permission denied")


class Lost(Honest):
    """Each write of a task is acknowledged, and none is made."""

    async def swap(self, changes):
        if not any(map(of_a_task, changes)):
            return await self.real.swap(changes)
        self.note()
        return [True] * len(changes)


class Silent(Honest):
    """Each verb waits for nearly as long as drivers do, and then there is no answer."""

    async def _answer(self, *_):
        self.note()
        await asyncio.sleep(8)
        raise StoreUnavailableError("no answer")

    load = swap = scan = count = partitions = history = now = _answer


class Broken(Honest):
    """Each verb ends in an error that no store is meant to raise, as that of a driver that met nonsense."""

    async def _fail(self, *_):
        await self.real.now()
        self.note()
        errors = (ValueError, KeyError, TypeError, OverflowError, RecursionError, asyncio.CancelledError)
        raise errors[next(self.numbers) % len(errors)](NASTY)

    load = swap = scan = count = partitions = history = _fail


# --- Reads -----------------------------------------------------------------------------------------------------------


class Changing(Honest):
    """Each read of a record differs from the one before, and every third finds none."""

    async def load(self, keys):
        return [
            record if record is None or is_reserved(record.key) else self._other(record)
            for record in await self.real.load(keys)
        ]

    async def scan(self, partition, task, after, limit):
        page = await self.real.scan(partition, task, after, limit)
        if partition.realm.startswith(RESERVED_REALMS):
            return page
        return [other for record in page if (other := self._other(record)) is not None]

    def _other(self, record):
        self.note()
        number = next(self.numbers)
        if number % 3 == 0:
            return None
        owner = Owner(f"uid-{number}", number, f"hash-{number}")
        args = msgspec.Raw(b'{"forged":%d}' % number)
        state = replace(
            record.state, owner=owner if number % 2 else record.state.owner, withdrawn_at=number % 2 or None
        )
        return replace(
            record,
            spec=replace(record.spec, args=args),
            version=record.version + (-1) ** number * number,
            due_at=number,
            claimable_at=number,
            state=state,
        )


class Extreme(Honest):
    """Each number of a task is as large, or as small, as it gets, and in DynamoDB still larger."""

    async def load(self, keys):
        return [
            record if record is None or is_reserved(record.key) else self._extreme(record)
            for record in await self.real.load(keys)
        ]

    async def scan(self, partition, task, after, limit):
        page = await self.real.scan(partition, task, after, limit)
        return (
            page
            if partition.realm.startswith(RESERVED_REALMS)
            else [self._extreme(record) for record in page]
        )

    def _extreme(self, record):
        self.note()
        number = next(self.numbers)
        most = 10**37 if self.real.capabilities.name == "dynamodb" else FAR_AWAY
        at = LONG_AGO if number % 2 else most
        summary = Summary(
            last_scheduled_at=at, last_started_at=at, last_ended_at=at, rows=most, last_attempts=most
        )
        owner = replace(record.state.owner, created_at=at) if record.state.owner else None
        return replace(
            record,
            spec=replace(record.spec, partitions=(10**12, None, -(10**12))[number % 3]),
            version=most,
            fence=most,
            due_at=at,
            schedule_since=at,
            claimable_at=at,
            lease_length=most,
            attempt=most,
            began_at=at,
            lease=Lease("lease", "holder", at),
            state=replace(record.state, created_version=most, summary=summary, floor=at, owner=owner),
        )


class Nasty(Honest):
    """Each text is full of control characters for the terminal or the log that shows it."""

    async def scan(self, partition, task, after, limit):
        page = await self.real.scan(partition, task, after, limit)
        if not page or is_reserved(page[0].key):
            return page
        self.note()
        return [self._nasty(record) for record in page] + [
            forged(partition, NASTY, owner=Owner(NASTY, 1, NASTY, NASTY)),
            forged(partition, page[-1].key.task, occurrence=f"run-{NASTY}"),
        ]

    async def partitions(self, realm):
        return [
            *await self.real.partitions(realm),
            Partition(realm, "handler\u202e"),
            Partition(realm, "", 2**31 - 1),
        ]

    def _nasty(self, record):
        summary = replace(record.state.summary, last_message=NASTY * 50, last_worker=NASTY)
        schedule = Cron(NASTY, NASTY, NASTY)
        return replace(
            record,
            spec=replace(record.spec, schedule=schedule, args=msgspec.Raw(b"\xff{")),
            state=replace(record.state, summary=summary),
        )


class Foreign(Honest):
    """The realms in the file `realms` are there too, with tasks that are due, and their dead letters."""

    async def partitions(self, realm):
        real = await self.real.partitions(realm)
        if realm.startswith(f"{RESERVED_REALMS}pools/"):
            return real + [Partition(realm, named) for named in self._realms()]
        if realm in self._realms():
            self.note()
            return [Partition(realm, "send")]
        return real

    async def load(self, keys):
        records = await self.real.load(keys)
        for place, key in enumerate(keys):
            if key.partition.handler in self._realms():
                self.note()
                records[place] = inert_record(key, Spec(), 1)
        return records

    async def scan(self, partition, task, after, limit):
        if partition.realm not in self._realms() or after:
            return await self.real.scan(partition, task, after, limit)
        self.note()
        now = await self.real.now()
        names = (Path(os.environ[FOLDER_VARIABLE]) / "tasks").read_text().split()
        return [record for name in sorted(names) for record in forgery(partition, name, now)][:limit]

    def _realms(self):
        return (Path(os.environ[FOLDER_VARIABLE]) / "realms").read_text().split()


class EndlessRecords(Foreign):
    """There is always another page of tasks, in the realms of others too, and each is as large as a record may be."""

    args = msgspec.Raw(b'"' + b"x" * 40_000 + b'"')

    async def scan(self, partition, task, after, limit):
        page = await self.real.scan(partition, task, after, limit)
        if partition.realm.startswith(RESERVED_REALMS):
            return page
        self.note()
        names = (f"endless-{next(self.numbers):012}" for _ in range(limit))
        return [forged(partition, name, args=bytes(self.args)) for name in names]


class EndlessSideRuns(Honest):
    """There is always another page of runs beside the schedule of the first task."""

    async def scan(self, partition, task, after, limit):
        page = await self.real.scan(partition, task, after, limit)
        if partition.realm.startswith(RESERVED_REALMS):
            return page
        self.note()
        name = after.task if after else task or "endless"
        return [forged(partition, name, occurrence=f"run-{next(self.numbers):012}") for _ in range(limit)]


class EndlessPartitions(Honest):
    """There are thousands of realms, and each has thousands of partitions; more would be too much for the tests' servers."""

    async def partitions(self, realm):
        self.note()
        real = await self.real.partitions(realm)
        if realm.startswith(RESERVED_REALMS):
            cluster = realm.rpartition("/")[2]
            more = [f"{cluster}/foreign-{number}/default" for number in range(5_000)]
            return real + [Partition(realm, other) for other in more]
        return real + [Partition(realm, f"handler-{number}") for number in range(5_000)]


class Claimed(Honest):
    """The database claims to be that of another team, whose identity is in the file `identity`."""

    async def load(self, keys):
        records = await self.real.load(keys)
        identity = (Path(os.environ[FOLDER_VARIABLE]) / "identity").read_bytes()
        for place, key in enumerate(keys):
            if key.task == "identity":
                self.note()
                records[place] = replace(inert_record(key, Spec(), 1), spec=Spec(args=msgspec.Raw(identity)))
        return records


LIES = {
    lie.__name__: lie
    for lie in (
        *(Honest, Refused, Lost, Silent, Broken, Changing, Extreme, Nasty, EndlessRecords, EndlessSideRuns),
        *(EndlessPartitions, Claimed, Foreign),
    )
}
"""What may be in the file `lie`."""


def is_reserved(key):
    return key.partition.realm.startswith(RESERVED_REALMS)


def of_a_task(change):
    return not is_reserved(change.key)


def forged(partition, name, *, occurrence="", args=b'{"to":"attacker"}', owner=None, partitions=None):
    """Return a record that nobody has written."""
    return Record(
        key=Key(partition, name, "", occurrence),
        spec=Spec(YEARLY, msgspec.Raw(args), Policies(), partitions),
        version=1,
        fence=1,
        due_at=1,
        schedule_since=1,
        claimable_at=1,
        lease_length=60_000_000,
        state=State(owner=owner or Owner("uid", 1, "hash")),
    )


def forgery(partition, name, now):
    """Return the forged record of the task *name* and a dead letter of it, both due: what a thief of a task would write."""
    home = replace(
        forged(partition, name), version=FAR_AWAY, fence=FAR_AWAY, due_at=now - DAY, claimable_at=now - DAY
    )
    dead_letter = replace(
        home,
        key=home.key._replace(occurrence="dead-1"),
        state=State(started=Started(now, now)),
    )
    return home, dead_letter
