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
    HISTORY_ROWS_MAX,
    PARTITIONS_MAX,
    Capabilities,
    Claimed,
    Counted,
    Notification,
    Renewal,
    Renewed,
    check_changes,
    check_key,
    check_partition,
    check_partitions,
)
from pyncette.store.codec import PoisonedRecordError, decode_run, log_poisoned
from pyncette.store.dynamodb.connection import ITEMS_MAX, RequestError, Requests, together
from pyncette.store.dynamodb.items import (
    RUN,
    UNTIL,
    VERSION,
    ItemKey,
    Layout,
    fields_in,
    key_of,
    names,
    partition_of,
    record_of,
    sure_integer,
    text,
    without_long_texts,
)
from pyncette.store.dynamodb.limits import LIMITS, Limits
from pyncette.store.dynamodb.schema import (
    HASH_KEY,
    SHARDS,
    SORT_KEY,
    TABLE,
    Format,
    Table,
    check_table,
    definition,
    format_of,
    is_ours,
    meta_item,
    meta_key,
)
from pyncette.store.dynamodb.shards import Scan, Scanner, counted, first_by_key
from pyncette.store.dynamodb.writes import Delete, Put, Unit, Update, prolonging, taking, units_of

logger = logging.getLogger(__name__)

GROUP_MAX: Final = 33
"""A transaction has at most 100 items, and each change may write two rows of history."""

CREATION_SECONDS: Final = 120.0
"""The creation of a table takes some ten seconds."""

CREATION_POLL_SECONDS: Final = 0.25

RENEWALS_MAX: Final = 8
"""Only its holder renews a lease, so eight lost races in a row are no accident."""


class DynamoStore:
    """
    A store in the DynamoDB table *table* of *region* (of the environment, if None), below *prefix*.

    With *create* a missing table is created, with so many *shards* a partition; without it nothing but items of records is
    ever written. *batches* must be false for servers without PartiQL. *ca* is a file with the authorities to trust instead of
    the system's. With *tls_required*, an endpoint of the environment is refused if it has no TLS, also that of STS. Raises
    ValueError for an invalid name.
    """

    def __init__(
        self,
        region: str | None = None,
        table: str = TABLE,
        *,
        endpoint: str | None = None,
        ca: str | None = None,
        tls_required: bool = False,
        prefix: str = "",
        shards: int = SHARDS,
        batches: bool = True,
        create: bool = True,
        limits: Limits = LIMITS,
    ) -> None:
        self._table = Table(table, prefix, shards)
        check_table(self._table)
        self._create = create
        self._requests = Requests(
            table,
            region,
            endpoint,
            ca=ca,
            tls_required=tls_required,
            batches=batches,
            on_lost=self._forget,
            limits=limits,
        )
        self._layout = Layout(prefix, shards)
        self._scanner = Scanner(self._requests)
        self._registered: set[Partition] = set()
        self._is_checked = True
        """The table is known to fit this release."""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities("dynamodb", notifies=False, shared=True, durable=True, group_max=GROUP_MAX)

    async def __aenter__(self) -> Self:
        await self._requests.open()
        try:
            found = await self._format()
            if found is None and self._create:
                found = await self._create_table()
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
        await self._check_if_needed()
        await self._register(
            {change.after.key.partition for change in changes if change.after and not change.before}
        )
        single, several = units_of(self._layout, changes, await self._history_to_delete(changes))
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
        await self._check_if_needed()
        scans = await together(
            self._scanner.scan(partition, self._layout.all_shards(partition), limit, now, expired_at, ahead)
            for partition, limit in limits.items()
        )
        records, times = await self._take(scans, lease_id, holder, now, expired_at)
        times += [scan.next_at for scan in scans if scan.next_at is not None]
        return Claimed(records, self._requests.clock.now(), min(times, default=None))

    async def renew(self, renewals: Sequence[Renewal], now: Instant) -> Renewed:
        for renewal in renewals:
            check_key(renewal.key)
            check_partition(renewal.key.partition)
        held = [False] * len(renewals)
        indexes = list(range(len(renewals)))
        for _ in range(RENEWALS_MAX):
            if not indexes:
                break
            indexes = await self._renew(renewals, indexes, held, now)
        if indexes:
            raise StoreUnavailableError(f"{self._requests.place} cannot keep up with renewals")
        return Renewed(held, await self._time())

    async def scan(
        self, partition: Partition, task: str | None, after: Key | None, limit: int
    ) -> list[Record]:
        check_partition(partition)
        await self._check_if_needed()
        first, end = _bounds(task, after)
        pks = self._layout.all_shards(partition)
        while end is None or first < end:
            items = await first_by_key(self._requests, pks, (first, end), limit)
            found = [record_of(key_of(partition, item), item) for item in items]
            records = [record for record in found if record is not None]
            if records or len(items) < limit:
                return records
            # An empty page would mean the end, so a page of unreadable records only is skipped.
            first = items[-1][SORT_KEY]["B"] + b"\0"
        return []

    async def count(
        self, partition: Partition, task: str | None, now: Instant, longest_lease: Duration, limit: int
    ) -> Counted:
        check_partition(partition)
        await self._check_if_needed()
        return await counted(
            self._requests, self._layout.all_shards(partition), task, now, longest_lease, limit
        )

    async def partitions(self, realm: str) -> list[Partition]:
        check_partition(Partition(realm, ""))
        await self._check_if_needed()
        items = await self._collection(self._layout.realm(realm), PARTITIONS_MAX + 1)
        check_partitions(len(items), realm)
        found = (partition_of(realm, item) for item in items)
        return [partition for partition in found if partition is not None]

    async def history(self, key: Key) -> list[Run]:
        check_key(key)
        check_partition(key.partition)
        await self._check_if_needed()
        runs = []
        for item in await self._collection(self._layout.history(key), HISTORY_ROWS_MAX):
            try:
                runs.append(decode_run(key, text(item, RUN)))
            except PoisonedRecordError as error:
                log_poisoned(error)
        return sorted(runs, key=lambda run: run.ended_at, reverse=True)

    async def now(self) -> Instant:
        """Return the backend's own time, as closely as its answers allow; see `DateClock`."""
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
        yield Notification(Partition("", ""), 0)  # never reached, but makes this a generator

    # --- Claims and renewals ---

    async def _take(
        self, scans: Sequence[Scan], lease_id: str, holder: str, now: Instant, expired_at: Instant
    ) -> tuple[list[Record], list[Instant]]:
        """Lease the records of *scans*. Return those that were leased, and when these and the others are claimable again."""
        takes = [
            taking(key_of(scan.partition, item), pk, item, lease_id, holder, now, expired_at)
            for scan in scans
            for pk, item in scan.found
        ]
        made = await self._requests.write([take.update for take in takes])
        records: list[Record] = []
        times: list[Instant] = []
        lost = dict.fromkeys((scan.partition for scan in scans), 0)
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
        for scan in scans:
            if scan.found:
                self._scanner.learn(scan.partition, len(scan.found), lost[scan.partition])
        return records, times

    async def _renew(
        self, renewals: Sequence[Renewal], indexes: Sequence[int], held: list[bool], now: Instant
    ) -> list[int]:
        """Renew the leases at *indexes* of *renewals*, note in *held* which are held, and return the indexes that lost a race."""
        items = await self._items([renewals[at].key for at in indexes])
        waiting: dict[ItemKey, list[int]] = {}
        for at in indexes:
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
        lost: list[int] = []
        for place, ats in waiting.items():
            if made.get(place, True):
                for at in ats:
                    held[at] = True
            else:
                lost += ats
        return lost

    async def _time(self) -> Instant:
        return self._requests.clock.now()

    # --- Swaps ---

    async def _transact(self, unit: Unit) -> bool | None:
        """Write a unit as a whole or not at all. Rows of history that do not fit into the transaction are deleted before."""
        excess = len(unit.writes) - ITEMS_MAX
        writes = unit.writes
        if excess > 0:
            rows = [write for write in writes if isinstance(write, Delete) and not write.equal]
            if not await self._are_unchanged(
                [write for write in writes if not isinstance(write, Delete) or write.equal]
            ):
                return False
            await self._requests.write(rows[:excess])
            writes = [write for write in writes if write not in rows[:excess]]
        return await self._requests.transact(writes)

    async def _are_unchanged(self, writes: Sequence[Any]) -> bool:
        """Return whether the items that *writes* replace or delete are unchanged."""
        equal = {write.place: write.equal for write in writes if isinstance(write, Update | Delete)}
        found = await self._requests.get_many([place.key for place in equal])
        versions = {_place_of(item): item[VERSION] for item in found}
        return all(versions.get(place) == wanted[VERSION] for place, wanted in equal.items())

    async def _history_to_delete(self, changes: Sequence[Change]) -> dict[Key, list[ItemKey]]:
        """Return the rows of history to delete with their records."""
        keys = [
            change.before.key
            for change in changes
            if change.after is None and change.before is not None and not change.before.key.occurrence
        ]
        found = await together(self._collection(self._layout.history(key), HISTORY_ROWS_MAX) for key in keys)
        return {
            key: [_place_of(item) for item in items] for key, items in zip(keys, found, strict=True) if items
        }

    async def _register(self, partitions: Iterable[Partition]) -> None:
        """Add *partitions* to the items of their realms, before their first record is written."""
        new = [partition for partition in partitions if partition not in self._registered]
        places = [self._layout.partition(partition) for partition in new]
        done = await self._requests.write([Put(place, place.key, new=False) for place in places])
        if None in done:
            raise StoreUnavailableError(f"{self._requests.place} cannot keep up")
        self._registered.update(new)

    # --- Items ---

    async def _items(self, keys: Sequence[Key]) -> dict[ItemKey, Any]:
        await self._check_if_needed()
        places = {self._layout.record(key) for key in keys}
        items = await self._requests.get_many([place.key for place in places])
        return {_place_of(item): item for item in without_long_texts(items)}

    async def _collection(self, pk: bytes, limit: int) -> list[Any]:
        """Return the items with the hash key *pk*: all, or at least *limit*."""
        query: dict[str, Any] = {
            "KeyConditionExpression": f"{HASH_KEY} = :pk",
            "ExpressionAttributeValues": {":pk": {"B": pk}},
        }
        items: list[Any] = []
        while True:
            answer = await self._requests.query(**query)
            items += without_long_texts(answer["Items"])
            if "LastEvaluatedKey" not in answer or len(items) >= limit:
                return items
            query["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    # --- The table ---

    async def _format(self) -> Format | None:
        """Return the format of the table; None if it is missing, or has no version yet."""
        try:
            item = await self._requests.get(meta_key(self._table.prefix))
        except SchemaError:
            return None
        except RequestError:
            raise self._not_ours() from None
        return None if item is None else format_of(item, self._requests.place)

    async def _create_table(self) -> Format:
        """Create the table, or wait for another process that does, and write its version and format."""
        async with asyncio.timeout(CREATION_SECONDS):
            while (description := await self._requests.describe()) is None or (
                description["TableStatus"] in {"CREATING", "UPDATING"}
            ):
                if description is None:
                    await self._requests.create(definition(self._table.name))
                await asyncio.sleep(CREATION_POLL_SECONDS if description else 0)
        if not is_ours(description):
            raise self._not_ours()
        item = meta_item(self._table)
        await self._requests.write([Put(ItemKey(item[HASH_KEY]["B"], item[SORT_KEY]["B"]), item, new=True)])
        found = await self._format()  # another process may have been faster
        assert found is not None
        return found

    def _not_ours(self) -> SchemaError:
        return SchemaError(
            f"The table {self._table.name} was not created by Pyncette: choose another dynamodb_table_name"
        )

    async def _check_if_needed(self) -> None:
        """Check the table again after a lost connection: it may be another one, restored or migrated."""
        if self._is_checked:
            return
        found = await self._format()
        if found is None:
            raise SchemaError(f"The records of {self._requests.place} are missing")
        self._layout = Layout(self._table.prefix, found.shards)
        self._is_checked = True

    def _forget(self) -> None:
        self._is_checked = False
        self._registered.clear()
        self._scanner.forget()


def _holds(renewal: Renewal, item: Any) -> bool:
    try:
        return fields_in(renewal.key, item).lease_id == renewal.lease_id
    except PoisonedRecordError as error:
        log_poisoned(error)
        return False


def _place_of(item: Any) -> ItemKey:
    return ItemKey(item[HASH_KEY]["B"], item[SORT_KEY]["B"])


def _bounds(task: str | None, after: Key | None) -> tuple[bytes, bytes | None]:
    """Return the first sort key after the key *after*, within *task* if it is given, and the end of the range."""
    first, end = (b"", None) if task is None else (f"{task}\0".encode(), f"{task}\1".encode())
    if after is not None:
        first = max(first, names(after) + b"\0")
    return first or b"\0", end


def _turns(units: Sequence[Unit]) -> list[list[Unit]]:
    """Split *units* into turns, so that no two units of a turn touch the same item."""
    turns: list[list[Unit]] = []
    latest: dict[object, int] = {}
    for unit in units:
        turn = max((latest[touched] + 1 for touched in unit.touches if touched in latest), default=0)
        if turn == len(turns):
            turns.append([])
        turns[turn].append(unit)
        latest.update(dict.fromkeys(unit.touches, turn))
    return turns
