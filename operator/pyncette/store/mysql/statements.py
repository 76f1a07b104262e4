"""The SQL of each verb on MySQL and MariaDB: scripts of one packet, so that no lock waits for a client."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from pyncette.clock import Instant
from pyncette.core.record import Key, Partition
from pyncette.store.base import HISTORY_ROWS_MAX, PARTITIONS_MAX, SPEC_BYTES_MAX, STATE_BYTES_MAX
from pyncette.store.mysql.schema import NO_LEASE, Tables
from pyncette.store.schema import ID_BLOCK

MODES: Final = "STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION"
"""The server refuses values that are too long instead of cutting them, and a backslash escapes."""

LOCK_SECONDS: Final = 3
"""How long a statement waits for a lock. Locks are held for milliseconds, and a statement that times out is retried."""

STATEMENT_SECONDS: Final = 10
"""How long a statement may take. MySQL limits only statements that read, MariaDB all."""

SESSION: Final = f"""
SET NAMES utf8mb4;
SET SESSION sql_mode = '{MODES}', autocommit = 1, completion_type = 'NO_CHAIN', sql_safe_updates = 0, sql_select_limit = DEFAULT,
    innodb_lock_wait_timeout = {LOCK_SECONDS}, lock_wait_timeout = {STATEMENT_SECONDS},
    net_write_timeout = {STATEMENT_SECONDS}, net_read_timeout = {STATEMENT_SECONDS}, {{limit}};
SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED
"""
"""
The settings of every connection.

A row that another session has just written must be read again, which only `read committed` does; it also locks no gaps
between rows. The timeouts end what a frozen or dead client left behind.
"""

LIMIT_MYSQL: Final = f"max_execution_time = {STATEMENT_SECONDS * 1000}"
LIMIT_MARIADB: Final = f"max_statement_time = {STATEMENT_SECONDS}"

NOW: Final = "TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', UTC_TIMESTAMP(6))"
"""The server's time at the start of the statement, in microseconds."""

OTHERS_MAX: Final = 20
"""Maximum number of tables of other installations that are listed."""

HEAD_MAX: Final = 500
"""
Leased records at the start of a partition that `peek` reads, for the lease that ends first. Renewed leases are not among
them, since a renewal moves its record to the end of the lease.
"""

ROWS_MAX: Final = 2**31
"""More than any number of rows: a derived table keeps its order only with a limit."""

RECORD: Final = f"""r.id, r.partition_id, CONVERT(r.task USING utf8mb4), CONVERT(r.instance USING utf8mb4),
    CONVERT(r.occurrence USING utf8mb4), IF(OCTET_LENGTH(r.spec) <= {SPEC_BYTES_MAX}, r.spec, NULL),
    IF(OCTET_LENGTH(r.state) <= {STATE_BYTES_MAX}, r.state, NULL), r.version, r.fence,
    r.due_at, r.schedule_since, r.claimable_at, r.lease_length, r.attempt, r.began_at"""
"""The columns of a record. A text that is too long is null. The names have a limit in the schema."""

FULL: Final = (
    f"""{RECORD}, r.lease_until, CONVERT(r.lease_id USING utf8mb4), CONVERT(r.holder USING utf8mb4)"""
)

NAME: Final = "varchar(1000) CHARACTER SET utf8mb4"
HOLDER: Final = "varchar(255) CHARACTER SET utf8mb4"
TEXT: Final = "longtext CHARACTER SET utf8mb4"

NAMES: Final = {"partition_id": "int", "task": NAME, "instance": NAME, "occurrence": NAME}
VALUES: Final = {
    "version": "bigint",
    "fence": "bigint",
    "due_at": "bigint",
    "schedule_since": "bigint",
    "claimable_at": "bigint",
    "lease_length": "bigint",
    "attempt": "int",
    "began_at": "bigint",
    "state": TEXT,
    "spec": TEXT,
    "lease_until": "bigint",
    "lease_id": HOLDER,
    "holder": HOLDER,
}
"""The columns that a write sets, in the order of the rows."""

BEGIN: Final = "START TRANSACTION"
COMMIT: Final = "COMMIT"

_encode: Final = msgspec.json.Encoder().encode

Rows = Sequence[Sequence[Any]]


class Statements:
    """The statements for one set of tables; see `Dialect`. They contain their values, so each is made anew."""

    def __init__(self, tables: Tables) -> None:
        self._records = tables.records
        self._partitions = tables.partitions
        self._history = tables.history
        self._meta = tables.meta
        self.now = f"SELECT {NOW}"
        self.next_ids = [
            f"UPDATE {tables.ids} SET next = LAST_INSERT_ID(next) + {ID_BLOCK} WHERE only_row = 1",
            "SELECT LAST_INSERT_ID()",
        ]
        self.exist = (
            f"SELECT COUNT(CASE WHEN table_name = '{tables.name}_meta' THEN 1 END), COUNT(*)"
            " FROM information_schema.tables WHERE table_schema = DATABASE()"
            f" AND table_name IN ('{tables.name}', '{tables.name}_meta')"
        )
        self.others = f"""
SELECT CONCAT(table_schema, '.', table_name) FROM information_schema.columns
WHERE column_name IN ('claimable_at', 'schedule_since', 'lease_until', 'fence', 'spec', 'state')
    AND NOT (table_schema = DATABASE() AND table_name = '{tables.name}')
GROUP BY table_schema, table_name HAVING COUNT(*) = 6 ORDER BY 1 LIMIT {OTHERS_MAX}"""
        self.versions = f"SELECT schema_version, min_reader FROM {tables.meta}"
        columns = ", ".join(VALUES)
        self._columns = f"id, partition_id, task, instance, occurrence, {columns}"
        self._set = ", ".join(f"r.{name} = u.{name}" for name in VALUES if name not in _OPTIONAL)

    def raise_min_reader(self, version: int) -> str:
        return f"UPDATE {self._meta} SET min_reader = {version:d} WHERE min_reader < {version:d}"

    # --- Reading ---

    def names(self, keys: Iterable[Key], ids: Mapping[Partition, int]) -> Rows:
        return [name_of(key, ids) for key in keys]

    def load(self, names: Rows) -> str:
        return f"""
SELECT {FULL}, u.place FROM {table(names, NAMES)} AS u
STRAIGHT_JOIN {self._records} AS r FORCE INDEX (named) ON {_by_names("r")}"""

    def find(self, names: Rows) -> str:
        return f"""
SELECT r.id, u.place FROM {table(names, NAMES)} AS u
STRAIGHT_JOIN {self._records} AS r FORCE INDEX (named) ON {_by_names("r")}"""

    def scan(self, partition: int, task: str | None, begin: tuple[str, str, str], limit: int) -> str:
        first, instance, occurrence = map(literal, begin)
        beyond = f"(r.instance > {instance} OR (r.instance = {instance} AND r.occurrence >= {occurrence}))"
        if task is None:
            where = f"(r.task > {first} OR (r.task = {first} AND {beyond}))"
            order = "r.task, r.instance, r.occurrence"
        else:
            where = f"r.task = {literal(task)} AND {beyond}"
            order = "r.instance, r.occurrence"
        return f"""
SELECT {FULL} FROM {self._records} AS r FORCE INDEX (named)
WHERE r.partition_id = {partition} AND {where} ORDER BY {order} LIMIT {limit}"""

    def count(
        self, partition: int, task: str | None, now: Instant, last_end: Instant, limit: int
    ) -> tuple[str, str]:
        """
        Return two statements whose columns are the numbers of `rows.counted`, null for 0.

        They count what is due, and leases that end at *last_end* or earlier, of at most *limit* records each; and
        instances, of at most one name more than *limit*.
        """
        of_task = "1" if task is None else f"c.task = {literal(task)}"
        seen = f"""SELECT c.lease_until, {of_task} AS of_task, {{later}} AS later
        FROM {self._records} AS c FORCE INDEX (claimable)
        WHERE c.partition_id = {partition} AND c.claimable_at {{range}} ORDER BY c.claimable_at LIMIT {limit}"""
        due = seen.format(later=0, range=f"<= {now}")
        renewed = seen.format(later=1, range=f"BETWEEN {now + 1} AND {last_end}")
        return (
            f"""
SELECT SUM(of_task AND NOT later AND lease_until <= {now}), SUM(NOT later), SUM(of_task AND lease_until > {now}), SUM(later)
FROM (({due}) UNION ALL ({renewed})) AS seen""",
            f"""
SELECT SUM(named.occurrence = ''), COUNT(*) FROM (
    SELECT n.occurrence FROM {self._records} AS n FORCE INDEX (named)
    WHERE n.partition_id = {partition} AND n.task = {literal(task or "")} AND n.instance > '' LIMIT {limit + 1}
) AS named""",
        )

    def history(self, partition: int, task: str, instance: str, occurrence: str) -> str:
        return f"""
SELECT IF(OCTET_LENGTH(run) <= {STATE_BYTES_MAX}, run, NULL) FROM {self._history} WHERE partition_id = {partition} AND task = {literal(task)}
    AND instance = {literal(instance)} AND occurrence = {literal(occurrence)} LIMIT {HISTORY_ROWS_MAX}"""

    def partitions(self, realm: str) -> str:
        return f"""
SELECT p.id, CONVERT(p.handler USING utf8mb4), p.number FROM {self._partitions} AS p
WHERE p.realm = {literal(realm)}
    AND EXISTS (SELECT 1 FROM {self._records} AS r WHERE r.partition_id = p.id) LIMIT {PARTITIONS_MAX + 1}"""

    # --- Partitions ---

    def partition_ids(self, partitions: Iterable[Partition]) -> str:
        return f"""
SELECT p.id, u.place FROM {table(list(partitions), _PARTITION)} AS u
STRAIGHT_JOIN {self._partitions} AS p FORCE INDEX (named) ON {_by_partition()}"""

    def add_partitions(self, partitions: Iterable[Partition]) -> str:
        return f"""
INSERT INTO {self._partitions} (realm, handler, number)
SELECT u.realm, u.handler, u.number FROM {table(list(partitions), _PARTITION)} AS u
ON DUPLICATE KEY UPDATE number = u.number"""

    # --- Claiming and renewing ---

    def claim(
        self,
        wanted: Sequence[tuple[int, int, Instant]],
        lease_id: str,
        holder: str,
        now: Instant,
        until: Instant,
        expired_at: Instant,
    ) -> list[str]:
        """
        Return a script that leases what is claimable until *until*, and then reads it.

        Each of *wanted* is a partition, the number of records, and where the scan of its index starts. The first statement
        commits by itself, so no lock waits for a client that is slow to read. A record that another process changes in
        between is read as changed, or not at all if it is no longer leased to this claim. The last statement returns the
        time and the duration of the read, which scans the same index entries.
        """
        id_ = literal(lease_id)
        picked = " UNION ALL ".join(
            f"""(SELECT c.id FROM {self._records} AS c FORCE INDEX (claimable)
WHERE c.partition_id = {partition} AND c.claimable_at BETWEEN {begin} AND {until} AND c.lease_until <= {expired_at}
ORDER BY c.claimable_at LIMIT {most} FOR UPDATE SKIP LOCKED)"""
            for partition, most, begin in wanted
        )
        leased = " UNION ALL ".join(
            f"""(SELECT {RECORD} FROM {self._records} AS r FORCE INDEX (claimable)
WHERE r.partition_id = {partition} AND r.claimable_at BETWEEN {begin} AND {until} AND r.lease_id = {id_}
ORDER BY r.claimable_at LIMIT {most})"""
            for partition, most, begin in wanted
        )
        return [
            f"""
UPDATE ({picked}) AS picked STRAIGHT_JOIN {self._records} AS r FORCE INDEX (PRIMARY) ON r.id = picked.id
SET r.lease_id = {id_}, r.holder = {literal(holder)}, r.lease_until = {now} + r.lease_length,
    r.attempt = r.attempt + 1, r.began_at = COALESCE(r.began_at, GREATEST(r.claimable_at, {now})), r.fence = r.fence + 1,
    r.version = r.version + 1""",
            "SET @began_at = UTC_TIMESTAMP(6)",
            leased,
            f"SELECT {NOW}, TIMESTAMPDIFF(MICROSECOND, @began_at, UTC_TIMESTAMP(6))",
        ]

    def peek(self, partitions: Sequence[tuple[int, Instant]], until: Instant, expired_at: Instant) -> str:
        """
        Return a statement with a row for each of *partitions*, which come with where the scan of their index starts.

        Its columns: the server's time, when the next record after *until* is claimable, when the first lease ends, how
        many records are claimable, and how many were read for that.
        """
        return " UNION ALL ".join(
            f"""(SELECT {NOW}, (
    SELECT n.claimable_at FROM {self._records} AS n FORCE INDEX (claimable)
    WHERE n.partition_id = {partition} AND n.claimable_at > {until} ORDER BY n.claimable_at LIMIT 1
), MIN(CASE WHEN head.lease_until > {expired_at} THEN head.lease_until END),
    SUM(head.lease_until <= {expired_at}), COUNT(*)
FROM (
    SELECT c.lease_until FROM {self._records} AS c FORCE INDEX (claimable)
    WHERE c.partition_id = {partition} AND c.claimable_at BETWEEN {begin} AND {until}
    ORDER BY c.claimable_at LIMIT {HEAD_MAX}
) AS head)"""
            for partition, begin in partitions
        )

    def renew(self, renewals: Rows, now: Instant) -> list[str]:
        """Rows of *renewals*: partition, task, instance, occurrence, the lease's id, its length."""
        wanted = table(renewals, NAMES | {"lease_id": HOLDER, "length": "bigint"})
        return [
            f"""
UPDATE (
    SELECT n.id, u.lease_id, u.length FROM {wanted} AS u
    STRAIGHT_JOIN {self._records} AS n FORCE INDEX (named) ON {_by_names("n")} ORDER BY n.id LIMIT {ROWS_MAX}
) AS found
STRAIGHT_JOIN {self._records} AS r FORCE INDEX (PRIMARY)
    ON r.id = found.id AND r.lease_id = CAST(found.lease_id AS BINARY)
SET r.lease_until = GREATEST(r.lease_until, {now} + found.length),
    r.claimable_at = CASE WHEN r.claimable_at < {now} + found.length THEN {now} + found.length
        ELSE r.claimable_at END""",
            f"""
SELECT u.place FROM {wanted} AS u
STRAIGHT_JOIN {self._records} AS r FORCE INDEX (named)
    ON {_by_names("r")} AND r.lease_id = CAST(u.lease_id AS BINARY)""",
            self.now,
        ]

    # --- Swapping ---

    def complete(self, completed: Rows, stamp: int) -> list[str]:
        """
        Return a transaction that makes the completions of *completed*: id, version before, due_at, claimable_at, state.

        The update counts the records that it changed. If it is not all, the next statement returns their ids.
        """
        columns = {
            "id": "bigint",
            "version": "bigint",
            "due_at": "bigint",
            "claimable_at": "bigint",
            "state": TEXT,
        }
        ids = table([[row[0]] for row in completed], _ID, unless=f"ROW_COUNT() = {len(completed)}")
        return [
            BEGIN,
            f"""
UPDATE {table(completed, columns)} AS u
STRAIGHT_JOIN {self._records} AS r FORCE INDEX (PRIMARY) ON r.id = u.id AND r.version = u.version
SET r.version = r.version + 1, r.due_at = u.due_at, r.claimable_at = u.claimable_at, r.state = u.state,
    r.attempt = 0, r.began_at = NULL, r.lease_until = {NO_LEASE}, r.lease_id = NULL, r.holder = NULL,
    r.stamp = {stamp}""",
            self._stamped(ids, stamp),
            COMMIT,
        ]

    def mark(self, held: Rows, stamp: int) -> str:
        """Return the statement that locks and stamps the records of *held* (id, version) that still have their version."""
        return f"""
UPDATE {table(held, _ID | {"version": "bigint"})} AS u
STRAIGHT_JOIN {self._records} AS r FORCE INDEX (PRIMARY) ON r.id = u.id AND r.version = u.version
SET r.stamp = {stamp}"""

    def create(self, created: Rows, stamp: int) -> str:
        """Return the statement that creates records of *created* (id, names, values) whose names are free."""
        return f"""
INSERT INTO {self._records} ({self._columns}, stamp)
SELECT {", ".join(f"u.{name}" for name in (*_ID, *NAMES, *VALUES))}, {stamp}
FROM {table(created, _ID | NAMES | VALUES)} AS u
ON DUPLICATE KEY UPDATE stamp = {self._records}.stamp"""

    def hold_back(self, grouped: Rows, created: Rows, stamp: int) -> list[str]:
        """
        Return the statements that remove the stamp from each group in which a record has none.

        The rows of *grouped* are id and group. Those of *created* are ids of records that this batch created, which are
        deleted again if they lost their stamp.
        """
        columns = _ID | {"together": "int"}
        marked = table(grouped, columns)
        return [
            f"""
UPDATE (
    SELECT a.id FROM {marked} AS a JOIN (
        SELECT DISTINCT b.together FROM {marked} AS b
        LEFT JOIN {self._records} AS n FORCE INDEX (PRIMARY) ON n.id = b.id AND n.stamp = {stamp}
        WHERE n.id IS NULL
    ) AS broken ON broken.together = a.together ORDER BY a.id LIMIT {ROWS_MAX}
) AS u
STRAIGHT_JOIN {self._records} AS r FORCE INDEX (PRIMARY) ON r.id = u.id AND r.stamp = {stamp}
SET r.stamp = 0""",
            *([self._remove(created, 0)] if created else ()),
        ]

    def update(self, updated: Rows, stamp: int, *, marked: bool) -> str:
        """
        Return the statement that updates records of *updated* (id, version before, whether the lease is kept, values).

        With *marked* it updates only records that have the stamp.
        """
        columns = _ID | {"was": "bigint", "keeps": "int"} | VALUES
        return f"""
UPDATE {table(updated, columns)} AS u
STRAIGHT_JOIN {self._records} AS r FORCE INDEX (PRIMARY)
    ON r.id = u.id AND r.version = u.was{f" AND r.stamp = {stamp}" if marked else ""}
SET {self._set}, r.spec = COALESCE(u.spec, r.spec),
    r.lease_until = IF(u.keeps, r.lease_until, u.lease_until), r.lease_id = IF(u.keeps, r.lease_id, u.lease_id),
    r.holder = IF(u.keeps, r.holder, u.holder), r.stamp = {stamp}"""

    def winners(self, ids: Rows, stamp: int) -> str:
        """Return the statement that selects the ids of *ids* that have the stamp."""
        return self._stamped(table(ids, _ID), stamp)

    def write_history(self, history: Rows, stamp: int) -> str:
        """Return the statement that writes *history* (id of the record, names, slot, run). The last row of a slot wins."""
        return f"""
INSERT INTO {self._history} (partition_id, task, instance, occurrence, slot, run)
SELECT u.partition_id, u.task, u.instance, u.occurrence, u.slot, u.run
FROM {table(history, {"writer": "bigint"} | NAMES | {"slot": "int", "run": TEXT})} AS u
STRAIGHT_JOIN {self._records} AS r FORCE INDEX (PRIMARY) ON r.id = u.writer AND r.stamp = {stamp}
ON DUPLICATE KEY UPDATE run = u.run"""

    def delete(self, deleted: Rows, stamp: int) -> list[str]:
        """Return the statements that delete records, and their history unless they are side runs of a schedule."""
        return [
            f"""
DELETE h FROM {table(deleted, _ID)} AS u
STRAIGHT_JOIN {self._records} AS r FORCE INDEX (PRIMARY)
    ON r.id = u.id AND r.stamp = {stamp} AND r.occurrence = ''
STRAIGHT_JOIN {self._history} AS h FORCE INDEX (PRIMARY)
    ON h.partition_id = r.partition_id AND h.task = r.task AND h.instance = r.instance AND h.occurrence = ''""",
            self._remove(deleted, stamp),
        ]

    def _remove(self, ids: Rows, stamp: int) -> str:
        return f"""
DELETE r FROM {table(ids, _ID)} AS u
STRAIGHT_JOIN {self._records} AS r FORCE INDEX (PRIMARY) ON r.id = u.id AND r.stamp = {stamp}"""

    def _stamped(self, ids: str, stamp: int) -> str:
        return f"""
SELECT r.id FROM {ids} AS u
STRAIGHT_JOIN {self._records} AS r FORCE INDEX (PRIMARY) ON r.id = u.id AND r.stamp = {stamp}"""


_ID: Final = {"id": "bigint"}
_PARTITION: Final = {"realm": NAME, "handler": NAME, "number": "int"}
_OPTIONAL: Final = ("spec", "lease_until", "lease_id", "holder")
"""The columns that an update may leave as they are."""


def table(rows: Rows, columns: dict[str, str], unless: str = "") -> str:
    """
    Return *rows* as a table with typed *columns*, and `place`, counted from 1. It is empty if *unless* is true.

    The rows are one JSON text that the server parses, so values are neither parsed as SQL nor escaped one by one.
    """
    document = literal(_encode(rows).decode())
    if unless:
        document = f"IF({unless}, '[]', {document})"
    paths = ", ".join(
        f"{name} {type_} PATH '$[{index}]'" for index, (name, type_) in enumerate(columns.items())
    )
    return f"JSON_TABLE({document}, '$[*]' COLUMNS (place FOR ORDINALITY, {paths}))"


def literal(text: str) -> str:
    """Return *text* as a literal of SQL in which a backslash escapes."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def name_of(key: Key, ids: Mapping[Partition, int]) -> list[Any]:
    """Return the columns `NAMES` of *key*."""
    return [ids[key.partition], key.task, key.instance, key.occurrence]


def _by_names(record: str) -> str:
    return f"""{record}.partition_id = u.partition_id AND {record}.task = CAST(u.task AS BINARY)
    AND {record}.instance = CAST(u.instance AS BINARY) AND {record}.occurrence = CAST(u.occurrence AS BINARY)"""


def _by_partition() -> str:
    return (
        "p.realm = CAST(u.realm AS BINARY) AND p.handler = CAST(u.handler AS BINARY) AND p.number = u.number"
    )
