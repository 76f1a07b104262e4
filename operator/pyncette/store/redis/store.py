"""Keeps records in Redis: each verb is one script for its whole batch, or one for each partition of a cluster."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from pyncette.clock import Duration, Instant
from pyncette.core.log_messages import naming_logger
from pyncette.core.record import Change, Key, Partition, Record, Run
from pyncette.errors import SchemaError, StoreRefusedError
from pyncette.store.base import (
    HISTORY_ROWS_MAX,
    MIN_READER,
    PARTITIONS_MAX,
    SCHEMA_VERSION,
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
from pyncette.store.codec import UNREADABLE, PoisonedRecordError, decode_run, log_poisoned
from pyncette.store.redis.advice import concerns_of, servers_of, settings_of, warn
from pyncette.store.redis.connection import Argument, Call, Connections
from pyncette.store.redis.index_rebuild import PAGES, PAUSE_SECONDS, IndexRebuild
from pyncette.store.redis.keys import (
    MEMBER_BYTES_MAX,
    Keyspace,
    member_of,
    name_of,
    partition_named,
)
from pyncette.store.redis.records import packed_integer, packed_renewal, unpack, unpack_named
from pyncette.store.redis.scripts import (
    CLAIM,
    COUNT,
    CREATE,
    HISTORY,
    LOAD,
    PARTITIONS,
    RENEW,
    SCAN,
    SWAP,
    Script,
)
from pyncette.store.redis.swaps import check_places, swap_calls
from pyncette.store.redis.url import Address, check_timeout, read_url
from pyncette.store.schema import check_schema

logger = naming_logger(__name__)

CALL_PARTITIONS_MAX: Final = 50
"""Partitions of one call of a script, during which a server does nothing else."""

LISTED_SECONDS: Final = 600.0
"""A process that works on a partition adds it to the set of partitions this often, since that key may have been evicted."""


class RedisStore:
    """
    A store under keys that begin with *namespace*, on the server or servers at *url*, which may have a namespace too.

    With *create* the key of the schema is created if it is missing; without it, it must exist. *current_address* is called
    for each connection, and returns the address with the credentials that are valid now. Raises ConfigurationError for an
    invalid URL.
    """

    def __init__(
        self,
        url: str,
        namespace: str | None = None,
        *,
        timeout: float | None = None,
        create: bool = True,
        current_address: Callable[[], Address] | None = None,
    ) -> None:
        address = read_url(url)
        if timeout is not None:
            address = address._replace(timeout_seconds=check_timeout(timeout))
        self._address = address
        self._keyspace = Keyspace(address.namespace if namespace is None else namespace)
        self._create = create
        self._connections = Connections(address, self._forget, current_address)
        self._index_rebuild = IndexRebuild(self._connections, self._keyspace)
        self._listed_at: dict[Partition, float] = {}
        self._is_checked = False
        """The records behind the connections are known to fit this release."""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities("redis", notifies=True, shared=True, durable=True)

    async def __aenter__(self) -> Self:
        try:
            if self._create:
                versions = [SCHEMA_VERSION, MIN_READER]
                await self._connections.run(CREATE, [Call([self._keyspace.meta], versions)])
            await self._check()
            warn(str(self._address), concerns_of(await settings_of(self._connections)))
        except BaseException:
            await self._connections.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connections.close()

    # --- Verbs ---

    async def load(self, keys: Sequence[Key]) -> list[Record | None]:
        places: dict[Partition, list[int]] = {}
        for place, key in enumerate(keys):
            check_key(key)
            places.setdefault(key.partition, []).append(place)
        if not keys:
            return []
        found: list[Record | None] = [None] * len(keys)
        parts = self._parts(list(places))
        calls = [
            Call(self._keys(part), [name for partition in part for name in _names(keys, places[partition])])
            for part in parts
        ]
        for part, answers in zip(parts, await self._run(LOAD, calls), strict=True):
            for partition, values in zip(part, answers, strict=True):
                for place, value in zip(places[partition], values, strict=True):
                    if value is not None:
                        found[place] = unpack(keys[place], value)
        return found

    async def swap(self, changes: Sequence[Change]) -> list[bool]:
        check_changes(changes)
        if not changes:
            return []
        if not self._connections.together:
            check_places(changes)
        calls = swap_calls(changes, self._keyspace, together=self._connections.together)
        await self._list_partitions(
            change.after.key.partition for change in changes if change.after and not change.before
        )
        made = [False] * len(changes)
        answers = await self._run(SWAP, [call for _, call in calls])
        for (places, _), answer in zip(calls, answers, strict=True):
            for place, digit in zip(places, answer, strict=True):
                made[place] = digit == ord("1")
        return made

    async def claim(
        self,
        limits: Mapping[Partition, int],
        lease_id: str,
        holder: str,
        now: Instant,
        expired_at: Instant,
        ahead: Duration = 0,
    ) -> Claimed:
        if not limits:
            return Claimed([], await self.now(), None)
        until = now + ahead
        common: list[Argument] = [*map(packed_integer, (now, until, expired_at)), lease_id, holder]
        parts = self._parts(list(limits))
        calls = [
            Call(self._keys(part), [*common, *(limits[partition] for partition in part)]) for part in parts
        ]
        records: list[Record] = []
        times: list[Instant] = []
        backend_now = 0
        living: list[Partition] = []
        for part, (seconds, micros, *answers) in zip(parts, await self._run(CLAIM, calls), strict=True):
            backend_now = max(backend_now, _instant(seconds, micros))
            for partition, (taken, due, leased, more, whole, count) in zip(part, answers, strict=True):
                records += _claimed(partition, taken)
                if (at := _score(due)) is not None:
                    times.append((at if more else max(at, until + 1)) - ahead)
                if (at := _score(leased)) is not None:
                    times.append(max(at + now - expired_at, now + 1))
                if whole:
                    self._index_rebuild.finish(partition)
                else:
                    again = await self._index_rebuild.rebuild(partition, 1 if records else PAGES)
                    times.append(now if again else now + int(PAUSE_SECONDS * 1_000_000))
                if count:
                    living.append(partition)
        await self._list_partitions(living)
        return Claimed(records, backend_now, min(times, default=None))

    async def renew(self, renewals: Sequence[Renewal], now: Instant) -> Renewed:
        if not renewals:
            return Renewed([], await self.now())
        places: dict[Partition, list[int]] = {}
        for place, renewal in enumerate(renewals):
            check_key(renewal.key)
            places.setdefault(renewal.key.partition, []).append(place)
        parts = self._parts(list(places))
        held = [False] * len(renewals)
        backend_now = 0
        answers = await self._run(RENEW, [self._renewal(part, places, renewals, now) for part in parts])
        for part, (seconds, micros, digits) in zip(parts, answers, strict=True):
            backend_now = max(backend_now, _instant(seconds, micros))
            asked = (place for partition in part for place in places[partition])
            for place, digit in zip(asked, digits, strict=True):
                held[place] = digit == ord("1")
        return Renewed(held, backend_now)

    async def scan(
        self, partition: Partition, task: str | None, after: Key | None, limit: int
    ) -> list[Record]:
        keys = self._keyspace.of(partition)
        begin, end = _range(task, after)
        while True:
            (page,) = await self._run(SCAN, [Call(keys, [begin, end, limit])])
            names, values = page[::2], page[1::2]
            records = [
                record
                for name, value in zip(names, values, strict=True)
                if value is not None and (record := unpack_named(partition, name, value)) is not None
            ]
            if records or len(names) < limit or not names:
                return records
            # An empty page would mean the end, so a page of unreadable records only is skipped.
            begin = b"(" + names[-1]

    async def count(
        self,
        partition: Partition,
        task: str | None,
        now: Instant,
        longest_lease: Duration,  # noqa: ARG002 - the index has all leases, however long
        limit: int,
    ) -> Counted:
        begin = b"" if task is None else task.encode() + b"\0"
        arguments: list[Argument] = [packed_integer(now), begin, limit]
        ((due, leased, is_exact, total),) = await self._run(
            COUNT, [Call(self._keyspace.of(partition), arguments)]
        )
        return Counted(due, leased, bool(is_exact), None if task is None else total)

    async def partitions(self, realm: str) -> list[Partition]:
        check_partition(Partition(realm, ""))
        limits: list[Argument] = [PARTITIONS_MAX, MEMBER_BYTES_MAX]
        (members,) = await self._run(PARTITIONS, [Call([self._keyspace.partitions(realm)], limits)])
        if isinstance(members, int):
            check_partitions(members, realm)
        listed = [
            partition for member in members if (partition := partition_named(realm, member)) is not None
        ]
        if not listed:
            return []
        exist = await self._ask([["EXISTS", self._keyspace.of(partition).records] for partition in listed])
        return [partition for partition, exists in zip(listed, exist, strict=True) if exists]

    async def history(self, key: Key) -> list[Run]:
        check_key(key)
        check_partition(key.partition)
        (rows,) = await self._run(HISTORY, [Call([self._keyspace.history(key)], [HISTORY_ROWS_MAX])])
        runs = []
        for text in rows:
            try:
                runs.append(decode_run(key, text))
            except PoisonedRecordError as error:
                log_poisoned(error)
        return sorted(runs, key=lambda run: run.ended_at, reverse=True)

    async def now(self) -> Instant:
        (time_,) = await self._ask([["TIME"]])
        return _instant(*time_)

    async def min_reader(self) -> int:
        ((version,),) = await self._ask([["HMGET", self._keyspace.meta, "min_reader"]])
        return int(version)

    async def raise_min_reader(self, version: int) -> None:
        if await self.min_reader() < version:
            await self._ask([["HSET", self._keyspace.meta, "min_reader", version]])

    async def notify(self, notifications: Sequence[Notification]) -> None:
        if notifications:
            await self._ask([["PUBLISH", self._keyspace.channel, msgspec.json.encode(notifications)]])

    async def notified(self) -> AsyncIterator[Notification]:
        async for payload in self._connections.listen(self._keyspace.channel):
            try:
                notifications = msgspec.json.decode(payload, type=list[Notification])
            except UNREADABLE:
                logger.warning(
                    "ignored a notification of another program", extra={"channel": self._keyspace.channel}
                )
                continue
            for notification in notifications:
                yield notification

    # --- Calls ---

    def _parts(self, partitions: Sequence[Partition]) -> list[Sequence[Partition]]:
        """Split *partitions* into parts, each for one call of a script."""
        size = CALL_PARTITIONS_MAX if self._connections.together else 1
        return [partitions[at : at + size] for at in range(0, len(partitions), size)]

    def _keys(self, partitions: Collection[Partition]) -> list[str | bytes]:
        return [key for partition in partitions for key in self._keyspace.of(partition)]

    def _renewal(
        self,
        part: Sequence[Partition],
        places: Mapping[Partition, Sequence[int]],
        renewals: Sequence[Renewal],
        now: Instant,
    ) -> Call:
        packed = b"".join(
            packed_renewal(renewals[place], name_of(renewals[place].key), number)
            for number, partition in enumerate(part, 1)
            for place in places[partition]
        )
        return Call(self._keys(part), [packed_integer(now), packed])

    async def _list_partitions(self, partitions: Iterable[Partition]) -> None:
        """Add *partitions* to the set of partitions, before their first record is written, and now and then afterwards."""
        now = time.monotonic()
        unlisted = {
            partition
            for partition in partitions
            if self._listed_at.get(partition, -LISTED_SECONDS) + LISTED_SECONDS <= now
        }
        if unlisted:
            for partition in unlisted:
                check_partition(partition)
            await self._ask(
                [
                    ["SADD", self._keyspace.partitions(partition.realm), member_of(partition)]
                    for partition in unlisted
                ]
            )
            self._listed_at.update(dict.fromkeys(unlisted, now))

    async def _run(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        await self._check_if_needed()
        return await self._connections.run(script, calls)

    async def _ask(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        await self._check_if_needed()
        return await self._connections.ask(commands)

    def _forget(self) -> None:
        """Clear what is cached: after a lost connection, the server may be another one, restored or migrated."""
        self._is_checked = False
        self._listed_at.clear()

    async def _check_if_needed(self) -> None:
        if not self._is_checked:
            await self._check()

    async def _check(self) -> None:
        self._is_checked = True
        try:
            await self._check_versions()
        except BaseException:
            self._is_checked = False
            raise

    async def _check_versions(self) -> None:
        (found,) = await self._connections.ask(
            [["HMGET", self._keyspace.meta, "schema_version", "min_reader"]]
        )
        where = f"The records under {self._keyspace.meta} in {self._connections.place}"
        if None in found:
            raise SchemaError(f"{where} are missing: run `pyncette migrate`")
        try:
            version, min_reader = map(int, found)
        except ValueError:
            raise SchemaError(
                f"{where} were not created by Pyncette: choose another redis_namespace"
            ) from None
        check_schema(version, min_reader, where)


async def concerns_at(url: str) -> Sequence[str]:
    """Return a sentence on each setting of the servers at *url* that may lose records. Raises StoreError."""
    connections = Connections(read_url(url))
    try:
        return concerns_of(await settings_of(connections))
    finally:
        await connections.close()


async def reads_elsewhere(url: str) -> bool:
    """Return whether the user of *url* can read keys that do not begin with its namespace. Raises StoreError."""
    connections = Connections(read_url(url))
    try:
        await connections.ask([["EXISTS", f"pyncette-check-{secrets.token_hex(8)}"]])
    except StoreRefusedError:
        return False
    finally:
        await connections.close()
    return True


async def servers_at(url: str) -> Sequence[str]:
    """Return the products and versions of the servers at *url*, each once. Raises StoreError."""
    connections = Connections(read_url(url))
    try:
        return await servers_of(connections)
    finally:
        await connections.close()


def _instant(seconds: int | bytes, micros: int | bytes) -> Instant:
    return int(seconds) * 1_000_000 + int(micros)


def _score(text: bytes) -> Instant | None:
    """Return the instant that a script returned as a score; None for no score, and for infinity."""
    return None if text in {b"", b"inf"} else int(float(text))


def _claimed(partition: Partition, taken: Sequence[bytes]) -> list[Record]:
    """Return the records of a claim, soonest first, without those that cannot be read. Scores lack precision to sort by."""
    records = [
        record
        for name, value in zip(taken[::2], taken[1::2], strict=True)
        if (record := unpack_named(partition, name, value)) is not None
    ]
    records.sort(key=lambda record: record.claimable_at or 0)
    return records


def _names(keys: Sequence[Key], places: Sequence[int]) -> list[Argument]:
    """Return the arguments of the load script for a partition: the number of *places*, and the names of their keys."""
    return [len(places), *(name_of(keys[place]) for place in places)]


def _range(task: str | None, after: Key | None) -> tuple[bytes, bytes]:
    """Return the range of names, as Redis takes it, of *task* or of all, that come after *after*."""
    begin, end = b"-", b"+"
    if task is not None:
        begin, end = b"[" + task.encode() + b"\0", b"(" + task.encode() + b"\1"
    if after is not None and (task is None or after.task >= task):
        begin = b"(" + name_of(after)
    return begin, end
