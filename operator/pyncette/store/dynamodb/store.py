"""Keeps records in DynamoDB: one table, one index, conditional writes, and transactions only where they must be."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

from pyncette.clock import Duration, Instant
from pyncette.core.record import Change, Key, Partition, Record, Run
from pyncette.errors import SchemaError, StoreUnavailableError
from pyncette.store.base import (
    Capabilities,
    Claimed,
    Counted,
    Notification,
    Renewal,
    Renewed,
    check_changes,
    check_key,
    check_partition,
)
from pyncette.store.codec import PoisonedRecordError, decode_run, log_poisoned
from pyncette.store.dynamodb.connection import ITEMS_MAX, RequestError, Requests, together
from pyncette.store.dynamodb.items import (
    RUN,
    UNTIL,
    VERSION,
    Layout,
    Place,
    fields_in,
    key_of,
    names,
    partition_of,
    record_of,
    sure_integer,
    text,
)
from pyncette.store.dynamodb.limits import LIMITS, Limits
from pyncette.store.dynamodb.schema import (
    HASH_KEY,
    SHARDS,
    SORT_KEY,
    TABLE,
    Format,
    check_place,
    definition,
    format_of,
    is_ours,
    meta_item,
    meta_key,
)
from pyncette.store.dynamodb.schema import Place as Table
from pyncette.store.dynamodb.shards import Look, Looks, counted, first_by_key
from pyncette.store.dynamodb.writes import Delete, Put, Unit, Update, prolonging, taking, units_of

logger = logging.getLogger(__name__)

GROUP_MAX: Final = 33
"""A transaction holds 100 items, and each change may bring two rows of history."""

CREATION_SECONDS: Final = 120.0
"""A table is made in some ten seconds."""

CREATION_LOOK_SECONDS: Final = 0.25

RENEWALS_MAX: Final = 8
"""Losing eight races in a row for one lease, which only its holder renews, is no accident."""


class DynamoStore:
    """
    Records in the DynamoDB table *table* of *region* (of the environment, if None), below *prefix*.

    With *create* the table is created if it is missing, with so many *shards* a partition; without it nothing but items
    of records is ever written. *batches* is to be false for servers that know no PartiQL. Raises ValueError for a name
    that is not allowed.
    """

    def __init__(
        self,
        region: str | None = None,
        table: str = TABLE,
        *,
        endpoint: str | None = None,
        prefix: str = "",
        shards: int = SHARDS,
        batches: bool = True,
        create: bool = True,
        limits: Limits = LIMITS,
    ) -> None:
        self._table = Table(table, prefix, shards)
        check_place(self._table)
        self._create = create
        self._requests = Requests(
            table, region, endpoint, batches=batches, on_lost=self._forget, limits=limits
        )
        self._layout = Layout(prefix, shards)
        self._looks = Looks(self._requests)
        self._registered: set[Partition] = set()
        self._is_known = True
        """Whether the table is the one that was looked at."""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities("dynamodb", notifies=False, shared=True, durable=True, group_max=GROUP_MAX)

    async def __aenter__(self) -> Self:
        await self._requests.open()
        try:
            found = await self._format()
            if found is None and self._create:
                found = await self._made()
            if found is None:
                raise SchemaError(f"There is no table for {self._requests.place}: run `pyncette migrate`")
        except BaseException:
            await self._requests.close()
            raise
        self._layout = Layout(self._table.prefix, found.shards)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._requests.close()

    # --- Verbs ---

    async def load(self, keys: Sequence[Key]) -> list[Record | None]:
        for key in keys:
            check_key(key)
            check_partition(key.partition)
        items = await self._items(keys)
        return [
            None if (item := items.get(self._layout.record(key))) is None else record_of(key, item)
            for key in keys
        ]

    async def swap(self, changes: Sequence[Change]) -> list[bool]:
        check_changes(changes)
        await self._look_again()
        await self._register(
            {change.after.key.partition for change in changes if change.after and not change.before}
        )
        single, several = units_of(self._layout, changes, await self._rows_that_go(changes))
        made: list[bool | None] = [False] * len(changes)

        def note(unit: Unit, *, done: bool | None) -> None:
            for place in unit.places:
                made[place] = done

        async def write_single() -> None:
            results = await self._requests.write([unit.writes[0] for unit in single])
            for unit, done in zip(single, results, strict=True):
                note(unit, done=done)

        async def write_several() -> None:
            for turn in _turns(several):
                for unit, done in zip(turn, await together(map(self._transact, turn)), strict=True):
                    note(unit, done=done)

        await together((write_single(), write_several()))
        if None in made:
            raise StoreUnavailableError(f"{self._requests.place} cannot keep up, and deferred some writes")
        return [bool(done) for done in made]

    async def claim(
        self,
        limits: Mapping[Partition, int],
        lease_id: str,
        holder: str,
        now: Instant,
        expired_at: Instant,
        ahead: Duration = 0,
    ) -> Claimed:
        for partition in limits:
            check_partition(partition)
        await self._look_again()
        looks = await together(
            self._looks.look(partition, self._layout.all_shards(partition), limit, now, expired_at, ahead)
            for partition, limit in limits.items()
        )
        records, times = await self._take(looks, lease_id, holder, now, expired_at)
        times += [look.next_at for look in looks if look.next_at is not None]
        return Claimed(records, self._requests.clock.now(), min(times, default=None))

    async def renew(self, renewals: Sequence[Renewal], now: Instant) -> Renewed:
        for renewal in renewals:
            check_key(renewal.key)
            check_partition(renewal.key.partition)
        held = [False] * len(renewals)
        asked = list(range(len(renewals)))
        for _ in range(RENEWALS_MAX):
            if not asked:
                break
            asked = await self._renew(renewals, asked, held, now)
        if asked:
            raise StoreUnavailableError(f"{self._requests.place} cannot keep up with renewals")
        return Renewed(held, await self._time())

    async def scan(
        self, partition: Partition, task: str | None, after: Key | None, limit: int
    ) -> list[Record]:
        check_partition(partition)
        await self._look_again()
        first, end = _bounds(task, after)
        pks = self._layout.all_shards(partition)
        while end is None or first < end:
            items = await first_by_key(self._requests, pks, (first, end), limit)
            found = [record_of(key_of(partition, item), item) for item in items]
            records = [record for record in found if record is not None]
            if records or len(items) < limit:
                return records
            # An empty page would be the end, so one of nothing but what cannot be read is left out.
            first = items[-1][SORT_KEY]["B"] + b"\0"
        return []

    async def count(
        self, partition: Partition, task: str | None, now: Instant, longest_lease: Duration, limit: int
    ) -> Counted:
        check_partition(partition)
        await self._look_again()
        return await counted(
            self._requests, self._layout.all_shards(partition), task, now, longest_lease, limit
        )

    async def partitions(self, realm: str) -> list[Partition]:
        check_partition(Partition(realm, ""))
        await self._look_again()
        return [partition_of(realm, item) for item in await self._collection(self._layout.realm(realm))]

    async def history(self, key: Key) -> list[Run]:
        check_key(key)
        check_partition(key.partition)
        await self._look_again()
        runs = []
        for item in await self._collection(self._layout.history(key)):
            try:
                runs.append(decode_run(key, text(item, RUN)))
            except PoisonedRecordError as error:
                log_poisoned(error)
        return sorted(runs, key=lambda run: run.ended_at, reverse=True)

    async def now(self) -> Instant:
        """Return the backend's own time, as closely as its answers tell: see `DateClock`."""
        await self._requests.get(meta_key(self._table.prefix))
        return self._requests.clock.now()

    async def min_reader(self) -> int:
        item = await self._requests.get(meta_key(self._table.prefix))
        return int(item["min_reader"]["N"])

    async def raise_min_reader(self, version: int) -> None:
        if await self.min_reader() < version:
            await self._requests.call(
                "update_item",
                Key=meta_key(self._table.prefix),
                UpdateExpression="SET min_reader = :version",
                ExpressionAttributeValues={":version": {"N": str(version)}},
            )

    async def notify(self, notifications: Sequence[Notification]) -> None:
        pass

    async def notified(self) -> AsyncIterator[Notification]:
        await asyncio.Event().wait()
        yield Notification(Partition("", ""), 0)  # never: but it makes this a generator

    # --- Claims and renewals ---

    async def _take(
        self, looks: Sequence[Look], lease_id: str, holder: str, now: Instant, expired_at: Instant
    ) -> tuple[list[Record], list[Instant]]:
        """Lease what was found, and return what was got, and when it, or what was put off, can be claimed again."""
        takes = [
            taking(key_of(look.partition, item), pk, item, lease_id, holder, now, expired_at)
            for look in looks
            for pk, item in look.found
        ]
        made = await self._requests.write([take.update for take in takes])
        records: list[Record] = []
        times: list[Instant] = []
        lost = dict.fromkeys((look.partition for look in looks), 0)
        for (key, _, after), done in zip(takes, made, strict=True):
            if done is None:
                times.append(now)
            elif not done:
                # Another process has leased it, or only written to it; the next poll shows which.
                lost[key.partition] += 1
                times.append(now)
            else:
                record = record_of(key, after)
                times.append(now if record is None else sure_integer(after, UNTIL))
                if record is not None:
                    records.append(record)
        if takes and made.count(None) == len(takes):
            raise StoreUnavailableError(f"{self._requests.place} cannot keep up, and deferred all leases")
        for look in looks:
            if look.found:
                self._looks.learn(look.partition, len(look.found), lost[look.partition])
        return records, times

    async def _renew(
        self, renewals: Sequence[Renewal], asked: Sequence[int], held: list[bool], now: Instant
    ) -> list[int]:
        """Prolong those of *renewals* that are *asked* for, note which are held, and return which lost a race."""
        items = await self._items([renewals[at].key for at in asked])
        waiting: dict[Place, list[int]] = {}
        for at in asked:
            place = self._layout.record(renewals[at].key)
            item = items.get(place)
            if item is not None and _holds(renewals[at], item):
                waiting.setdefault(place, []).append(at)
        writes: list[Update] = []
        for place, ats in waiting.items():
            end = max(now + renewals[at].length for at in ats)
            if end > sure_integer(items[place], UNTIL):
                writes.append(prolonging(place, items[place], end))
        made = dict(zip((write.place for write in writes), await self._requests.write(writes), strict=True))
        beaten: list[int] = []
        for place, ats in waiting.items():
            if made.get(place, True):
                for at in ats:
                    held[at] = True
            else:
                beaten += ats
        return beaten

    async def _time(self) -> Instant:
        return self._requests.clock.now()

    # --- Swaps ---

    async def _transact(self, unit: Unit) -> bool | None:
        """Make a unit whole or not at all; of rows that go with it, those that do not fit are removed before."""
        excess = len(unit.writes) - ITEMS_MAX
        writes = unit.writes
        if excess > 0:
            rows = [write for write in writes if isinstance(write, Delete) and not write.equal]
            if not await self._still_are(
                [write for write in writes if not isinstance(write, Delete) or write.equal]
            ):
                return False
            await self._requests.write(rows[:excess])
            writes = [write for write in writes if write not in rows[:excess]]
        return await self._requests.transact(writes)

    async def _still_are(self, writes: Sequence[Any]) -> bool:
        """Say whether what *writes* are to replace or delete is still what it was."""
        equal = {write.place: write.equal for write in writes if isinstance(write, Update | Delete)}
        found = await self._requests.get_many([place.key for place in equal])
        versions = {_place_of(item): item[VERSION] for item in found}
        return all(versions.get(place) == wanted[VERSION] for place, wanted in equal.items())

    async def _rows_that_go(self, changes: Sequence[Change]) -> dict[Key, list[Place]]:
        """Return the rows kept for what is deleted, of all that take theirs along."""
        keys = [
            change.before.key
            for change in changes
            if change.after is None and change.before is not None and not change.before.key.occurrence
        ]
        found = await together(self._collection(self._layout.history(key)) for key in keys)
        return {
            key: [_place_of(item) for item in items] for key, items in zip(keys, found, strict=True) if items
        }

    async def _register(self, partitions: Iterable[Partition]) -> None:
        """Note which partitions there are, before something is in them."""
        new = [partition for partition in partitions if partition not in self._registered]
        places = [self._layout.partition(partition) for partition in new]
        done = await self._requests.write([Put(place, place.key, new=False) for place in places])
        if None in done:
            raise StoreUnavailableError(f"{self._requests.place} cannot keep up")
        self._registered.update(new)

    # --- Items ---

    async def _items(self, keys: Sequence[Key]) -> dict[Place, Any]:
        await self._look_again()
        places = {self._layout.record(key) for key in keys}
        return {_place_of(item): item for item in await self._requests.get_many([p.key for p in places])}

    async def _collection(self, pk: bytes) -> list[Any]:
        """Return all items with the hash key *pk*, which are few."""
        query: dict[str, Any] = {
            "KeyConditionExpression": f"{HASH_KEY} = :pk",
            "ExpressionAttributeValues": {":pk": {"B": pk}},
        }
        items: list[Any] = []
        while True:
            answer = await self._requests.query(**query)
            items += answer["Items"]
            if "LastEvaluatedKey" not in answer:
                return items
            query["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    # --- The table ---

    async def _format(self) -> Format | None:
        """Return what the table says of itself; None: it is not there, or says nothing yet."""
        try:
            item = await self._requests.get(meta_key(self._table.prefix))
        except SchemaError:
            return None
        except RequestError:
            raise self._somebody_elses() from None
        return None if item is None else format_of(item, self._requests.place)

    async def _made(self) -> Format:
        """Create the table, or wait for others that do, and say in it what it holds."""
        async with asyncio.timeout(CREATION_SECONDS):
            while (description := await self._requests.describe()) is None or (
                description["TableStatus"] in {"CREATING", "UPDATING"}
            ):
                if description is None:
                    await self._requests.create(definition(self._table.table))
                await asyncio.sleep(CREATION_LOOK_SECONDS if description else 0)
        if not is_ours(description):
            raise self._somebody_elses()
        item = meta_item(self._table)
        await self._requests.write([Put(Place(item[HASH_KEY]["B"], item[SORT_KEY]["B"]), item, new=True)])
        found = await self._format()  # another program may have been faster
        assert found is not None
        return found

    def _somebody_elses(self) -> SchemaError:
        return SchemaError(
            f"The table {self._table.table} was not created by Pyncette: choose another dynamodb_table_name"
        )

    async def _look_again(self) -> None:
        """After a break the table may be another one: restored from a backup, or migrated meanwhile."""
        if self._is_known:
            return
        found = await self._format()
        if found is None:
            raise SchemaError(f"The records of {self._requests.place} are missing")
        self._layout = Layout(self._table.prefix, found.shards)
        self._is_known = True

    def _forget(self) -> None:
        self._is_known = False
        self._registered.clear()
        self._looks.forget()


def _holds(renewal: Renewal, item: Any) -> bool:
    try:
        return fields_in(renewal.key, item).lease_id == renewal.lease_id
    except PoisonedRecordError as error:
        log_poisoned(error)
        return False


def _place_of(item: Any) -> Place:
    return Place(item[HASH_KEY]["B"], item[SORT_KEY]["B"])


def _bounds(task: str | None, after: Key | None) -> tuple[bytes, bytes | None]:
    """Return the first sort key that may come after the key *after* (of *task*, if it is given), and one behind the last."""
    first, end = (b"", None) if task is None else (f"{task}\0".encode(), f"{task}\1".encode())
    if after is not None:
        first = max(first, names(after) + b"\0")
    return first or b"\0", end


def _turns(units: Sequence[Unit]) -> list[list[Unit]]:
    """Return the units in turns: those of one can be made at once, since no two of it touch the same."""
    turns: list[list[Unit]] = []
    latest: dict[object, int] = {}
    for unit in units:
        turn = max((latest[touched] + 1 for touched in unit.touches if touched in latest), default=0)
        if turn == len(turns):
            turns.append([])
        turns[turn].append(unit)
        latest.update(dict.fromkeys(unit.touches, turn))
    return turns
