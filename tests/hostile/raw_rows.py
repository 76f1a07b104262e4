"""Rows that the root of a database can write without a store: by SQL, by commands of Redis, as items of DynamoDB."""

import asyncio
import contextlib
import sqlite3
import struct
from abc import ABC, abstractmethod
from collections import defaultdict
from typing import NamedTuple
from urllib.parse import urlsplit

import aioboto3
import asyncpg

from pyncette.core.record import Partition
from pyncette.store.codec import encode_spec, encode_state
from pyncette.store.dynamodb.items import Layout
from pyncette.store.dynamodb.schema import HASH_KEY, SHARDS, SORT_KEY
from pyncette.store.redis.keys import Keyspace, member_of
from pyncette.store.redis.url import read_url
from tests.servers.mysql import connect as connect_to_mysql

NO_LEASE = -(2**63)

PLAIN = ("pyncette_tasks", "pyncette_tasks_history")

KEPT = "honest_"
"""How the names of tables begin that keep what was there before the lies."""


class Row(NamedTuple):
    """A row as a database holds it. No column needs to be as a store would write it."""

    partition: Partition
    task: str
    instance: str
    occurrence: str
    version: object
    fence: object
    due_at: object
    schedule_since: object
    claimable_at: object
    lease_length: object
    spec: str
    state: str

    @property
    def names(self):
        return self.task, self.instance, self.occurrence


def row_of(record, **columns):
    """Return the row of *record*, with other *columns* where they are given."""
    key = record.key
    row = Row(
        key.partition,
        key.task,
        key.instance,
        key.occurrence,
        record.version,
        record.fence,
        record.due_at,
        record.schedule_since,
        record.claimable_at,
        record.lease_length,
        encode_spec(record.spec),
        encode_state(record.state),
    )
    return row._replace(**columns)


class RawDatabase(ABC):
    """A database at *url*, as its administrator sees it. All methods block."""

    nul = True
    """Whether a name may contain NUL."""

    def __init__(self, url):
        self.url = url

    @abstractmethod
    def insert(self, rows):
        """Write *rows*, and their partitions."""

    @abstractmethod
    def keep(self):
        """Keep all rows as they are now, for `restore`."""

    @abstractmethod
    def restore(self):
        """Put the rows back that were kept, and remove all others."""

    @abstractmethod
    def reshape(self):
        """Turn the versions of all rows into text, as far as the database can hold that."""


# --- SQL -------------------------------------------------------------------------------------------------------------


class RawSqlite(RawDatabase):
    tables = (*PLAIN, "pyncette_tasks_leases")

    def insert(self, rows):
        with self._connected() as connection:
            for row in rows:
                connection.execute(
                    "INSERT OR IGNORE INTO pyncette_tasks_partitions (realm, handler, number) VALUES (?, ?, ?)",
                    row.partition,
                )
                connection.execute(
                    """INSERT INTO pyncette_tasks (partition_id, task, instance, occurrence, version, fence, due_at,
                        schedule_since, claimable_at, lease_length, spec, state, attempt)
                    SELECT id, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0 FROM pyncette_tasks_partitions
                    WHERE (realm, handler, number) = (?, ?, ?)""",
                    (*row[1:], *row.partition),
                )

    def keep(self):
        with self._connected() as connection:
            for table in self.tables:
                connection.execute(f"CREATE TABLE {KEPT}{table} AS SELECT * FROM {table}")

    def restore(self):
        with self._connected() as connection:
            for statement in restoring(self.tables):
                connection.execute(statement)

    def reshape(self):
        with self._connected() as connection:
            connection.execute("UPDATE pyncette_tasks SET version = 'version ' || version, spec = x'00ff'")

    def realms(self):
        with self._connected() as connection:
            return [
                realm
                for (realm,) in connection.execute("SELECT DISTINCT realm FROM pyncette_tasks_partitions")
            ]

    @contextlib.contextmanager
    def _connected(self):
        path = urlsplit(self.url).path[1:]
        with contextlib.closing(sqlite3.connect(path, timeout=30)) as connection, connection:
            yield connection


class RawPostgres(RawDatabase):
    nul = False
    tables = (*PLAIN, "pyncette_tasks_names")

    def insert(self, rows):
        self._execute_many(
            "INSERT INTO pyncette_tasks_partitions (realm, handler, number) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            [row.partition for row in rows],
        )
        self._execute_many(
            f"""WITH place AS (
                SELECT id AS partition_id, nextval('pyncette_tasks_ids') AS id FROM pyncette_tasks_partitions
                WHERE (realm, handler, number) = ($12, $13, $14)
            ), named AS (
                INSERT INTO pyncette_tasks_names SELECT id, partition_id, $1::text, $2::text, $3::text FROM place
            )
            INSERT INTO pyncette_tasks (id, partition_id, task, instance, occurrence, version, fence, due_at,
                schedule_since, claimable_at, lease_length, spec, state, attempt, lease_until)
            SELECT id, partition_id, $1::text, $2::text, $3::text, $4::bigint, $5::bigint, $6::bigint, $7::bigint,
                $8::bigint, $9::bigint, $10::text, $11::text, 0, {NO_LEASE} FROM place""",
            [(*row[1:], *row.partition) for row in rows],
        )

    def keep(self):
        for table in self.tables:
            self._execute_many(f"CREATE TABLE {KEPT}{table} AS SELECT * FROM {table}")

    def restore(self):
        self._execute_many(
            "ALTER TABLE pyncette_tasks ALTER version TYPE bigint USING 0, ALTER fence TYPE bigint USING 0"
        )
        for statement in restoring(self.tables):
            self._execute_many(statement)

    def reshape(self):
        self._execute_many(
            """ALTER TABLE pyncette_tasks ALTER version TYPE numeric(60), ALTER fence TYPE text USING 'fence ' || fence"""
        )
        self._execute_many("UPDATE pyncette_tasks SET version = version + 1e40")

    def realms(self):
        async def fetch():
            connection = await asyncpg.connect(self.url)
            try:
                return await connection.fetch("SELECT DISTINCT realm FROM pyncette_tasks_partitions")
            finally:
                await connection.close()

        return [row["realm"] for row in asyncio.run(fetch())]

    def _execute_many(self, statement, rows=((),)):
        async def execute():
            connection = await asyncpg.connect(self.url)
            try:
                await connection.executemany(statement, rows)
            finally:
                await connection.close()

        asyncio.run(execute())


class RawMysql(RawDatabase):
    tables = PLAIN

    def insert(self, rows):
        self._execute(
            *(
                statement
                for row in rows
                for statement in (
                    (
                        "INSERT IGNORE INTO pyncette_tasks_partitions (realm, handler, number) VALUES (%s, %s, %s)",
                        row.partition,
                    ),
                    ("UPDATE pyncette_tasks_ids SET next = LAST_INSERT_ID(next) + 1", ()),
                    (
                        f"""INSERT INTO pyncette_tasks (id, partition_id, task, instance, occurrence, version, fence, due_at,
                            schedule_since, claimable_at, lease_length, spec, state, attempt, stamp, lease_until)
                        SELECT LAST_INSERT_ID(), id, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, 0, 0, {NO_LEASE}
                        FROM pyncette_tasks_partitions WHERE (realm, handler, number) = (%s, %s, %s)""",
                        (*row[1:], *row.partition),
                    ),
                )
            )
        )

    def keep(self):
        self._execute(
            *((f"CREATE TABLE {KEPT}{table} AS SELECT * FROM {table}", ()) for table in self.tables)
        )

    def restore(self):
        self._execute(("DELETE FROM pyncette_tasks", ()))
        self._execute(
            ("ALTER TABLE pyncette_tasks MODIFY version bigint NOT NULL, MODIFY fence bigint NOT NULL", ()),
            *((statement, ()) for statement in restoring(self.tables)),
        )

    def reshape(self):
        self._execute(
            (
                "ALTER TABLE pyncette_tasks MODIFY version decimal(60) NOT NULL, MODIFY fence text NOT NULL",
                (),
            ),
            ("UPDATE pyncette_tasks SET version = version + 1e40, fence = CONCAT('fence ', fence)", ()),
        )

    def _execute(self, *statements):
        async def execute():
            connection = await connect_to_mysql(self.url)
            try:
                cursor = connection.cursor()
                for statement, parameters in statements:
                    await cursor.execute(statement, parameters or None)
            finally:
                connection.close()

        asyncio.run(execute())


def restoring(tables):
    """Return the statements that put back what `keep` has kept."""
    for table in tables:
        yield f"DELETE FROM {table}"
        yield f"INSERT INTO {table} SELECT * FROM {KEPT}{table}"
        yield f"DROP TABLE {KEPT}{table}"


# --- Redis -----------------------------------------------------------------------------------------------------------


class RawRedis(RawDatabase):
    """Its *server* takes commands of the administrator."""

    def __init__(self, url, server):
        super().__init__(url)
        self._server = server
        self._namespace = read_url(url).namespace
        self._keyspace = Keyspace(self._namespace)
        self._kept = {}

    def insert(self, rows):
        by_partition = defaultdict(list)
        for row in rows:
            by_partition[row.partition].append(("\0".join(row.names).encode(), row))
        for partition, named in by_partition.items():
            keys = self._keyspace.of(partition)
            self._server.execute("SADD", self._keyspace.partitions(partition.realm), member_of(partition))
            for name, row in named:
                self._server.execute("HSET", keys.records, name, packed(row))
            self._server.execute("ZADD", keys.names, *(part for name, _ in named for part in (0, name)))
            self._server.execute("ZADD", keys.due, *(part for name, _ in named for part in ("+inf", name)))

    def keep(self):
        self._kept = {key: self._server.execute("DUMP", key) for key in self._server.keys(self._namespace)}

    def restore(self):
        for key in self._server.keys(self._namespace):
            if key not in self._kept:
                self._server.execute("UNLINK", key)
        for key, value in self._kept.items():
            self._server.execute("RESTORE", key, 0, value, "REPLACE")

    def realms(self):
        prefix = self._keyspace.partitions("")
        return [key.decode().removeprefix(prefix) for key in self._server.keys(prefix)]

    def reshape(self):
        for key in self._server.keys(self._namespace):
            if key.endswith(b":records"):
                for name in self._server.execute("HKEYS", key):
                    self._server.execute("HSET", key, name, b"version \xff")
            elif b"}:" not in key and b"partitions:" in key:
                self._server.execute(
                    "SADD", key, b"4294967295/handler", b"0/a\0b", b"0/" + b"\xff" * 900, b"x/y"
                )


def packed(row):
    """Return the value of a record as `common.lua` says."""
    due, claimable = row.due_at, row.claimable_at
    flags = (due is not None) + 2 * (claimable is not None)
    front = struct.pack(
        ">Bqqiqqqqq",
        flags,
        row.version,
        row.fence,
        0,
        due or 0,
        row.schedule_since,
        claimable or 0,
        row.lease_length,
        0,
    )
    spec = row.spec.encode()
    return front + struct.pack(">qHH", 0, 0, 0) + struct.pack(">I", len(spec)) + spec + row.state.encode()


# --- DynamoDB --------------------------------------------------------------------------------------------------------


class RawDynamoDb(RawDatabase):
    """The table *table* at *endpoint*."""

    def __init__(self, url, table, endpoint, region):
        super().__init__(url)
        self._table = table
        self._client = {"region_name": region, "endpoint_url": endpoint}
        self._layout = Layout("", SHARDS)
        self._kept = []

    def insert(self, rows):
        self._run(lambda client: self._put(client, [item for row in rows for item in self._items(row)]))

    def keep(self):
        self._kept = self._run(self._scan)

    def restore(self):
        async def restore(client):
            kept = {_key_of(item) for item in self._kept}
            for item in await self._scan(client):
                if _key_of(item) not in kept:
                    key = {name: item[name] for name in (HASH_KEY, SORT_KEY)}
                    await client.delete_item(TableName=self._table, Key=key)
            await self._put(client, self._kept)

        self._run(restore)

    def reshape(self):
        async def reshape(client):
            items = [item for item in await self._scan(client) if item[HASH_KEY]["B"].startswith(b"r")]
            await self._put(
                client, [{**item, "version": {"S": "version"}, "spec": {"N": "1"}} for item in items]
            )
            # A sort key that is no name of a record, beside each of them.
            others = [{**item, SORT_KEY: {"B": item[SORT_KEY]["B"] + b"\xff\0"}} for item in items]
            await self._put(client, others)

        self._run(reshape)

    def _items(self, row):
        sk = "\0".join(row.names).encode()
        place = self._layout.record(row)._replace(sk=sk)
        fields = [row.fence, row.due_at, row.schedule_since, row.lease_length, 0, None, None, None]
        yield self._layout.partition(row.partition).key
        item = {
            **place.key,
            "version": {"N": str(row.version)},
            "until": {"N": str(NO_LEASE)},
            "fields": {"S": str(fields).replace("None", "null")},
            "spec": {"S": row.spec},
            "state": {"S": row.state},
        }
        if row.claimable_at is not None:
            item |= {name: {"N": str(row.claimable_at)} for name in ("claimable", "next")}
        yield item

    async def _put(self, client, items):
        for item in items:
            await client.put_item(TableName=self._table, Item=item)

    async def _scan(self, client):
        found = []
        async for page in client.get_paginator("scan").paginate(TableName=self._table):
            found += page["Items"]
        return found

    def _run(self, work):
        async def run():
            async with aioboto3.Session().client("dynamodb", **self._client) as client:
                return await work(client)

        return asyncio.run(run())


def _key_of(item):
    return item[HASH_KEY]["B"], item[SORT_KEY]["B"]
