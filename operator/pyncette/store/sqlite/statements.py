"""
The statements of the SQLite store: each takes a whole batch as rows of values, and answers with one JSON text.

Both avoid waits for the lock of the interpreter. Each row that is bound or fetched by itself releases the lock, and a
busy event loop returns it after a switch interval. A batch cannot afford that for each of its rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Final

from pyncette.store.base import (
    HISTORY_ROWS_MAX,
    KEY_BYTES_MAX,
    MIN_READER,
    PARTITION_BYTES_MAX,
    PARTITIONS_MAX,
    SCHEMA_VERSION,
    SPEC_BYTES_MAX,
    STATE_BYTES_MAX,
)
from pyncette.store.sqlite.database import Session

SIZES: Final = (1, 8, 32, 128, 512)
"""The numbers of rows for which statements are prepared. A batch is filled up to the next one."""

FILL: Final = -1
"""The value that fills a batch up. It is no id and no number of a partition. Python binds it faster than NULL."""

UNION_SIZES: Final = (1, 8, 64)
"""The same for statements that repeat a SELECT, which SQLite allows 500 times."""

NEVER: Final = -(2**63)
"""Before every instant."""

_KEY: Final = "partition_id, task, instance, occurrence"

_COLUMNS: Final = (
    "r.id",
    "r.partition_id",
    "r.task",
    "r.instance",
    "r.occurrence",
    "ifnull(l.version, r.version)",
    "ifnull(l.fence, r.fence)",
    "r.due_at",
    "r.schedule_since",
    "r.claimable_at",
    "r.lease_length",
    "ifnull(l.attempt, r.attempt)",
    "CASE WHEN l.id IS NULL THEN r.began_at ELSE l.began_at END",
    # The casts accept poisoned rows, which are then found when rows are decoded. A text that is too long is null.
    f"CASE WHEN length(CAST(r.spec AS BLOB)) <= {SPEC_BYTES_MAX} THEN CAST(r.spec AS TEXT) END",
    f"CASE WHEN length(CAST(r.state AS BLOB)) <= {STATE_BYTES_MAX} THEN CAST(r.state AS TEXT) END",
    "l.lease_id",
    "l.holder",
    "l.expires_at",
)
"""The columns of a record, its lease included."""

_ROW: Final = f"json_array({', '.join(_COLUMNS)})"
_NAMED_COLUMNS: Final = ", ".join(f"{column} AS c{number}" for number, column in enumerate(_COLUMNS))
_ROW_OF_NAMED: Final = f"json_array({', '.join(f'c{number}' for number in range(len(_COLUMNS)))})"
"""For sorted rows. After sorting, SQLite no longer knows that a text is JSON."""


_RUN: Final = f"CASE WHEN length(CAST(run AS BLOB)) <= {STATE_BYTES_MAX} THEN CAST(run AS TEXT) END"

_OF_REALM: Final = f"realm = ? AND length(CAST(handler AS BLOB)) <= {PARTITION_BYTES_MAX}"

_SHORT: Final = (
    "length(CAST(r.task AS BLOB)) + length(CAST(r.instance AS BLOB)) + length(CAST(r.occurrence AS BLOB))"
    f" <= {KEY_BYTES_MAX}"
)
"""Of records whose names the port allows: others are not even read."""


class Batch:
    """A statement over rows of *width* values, which replace `{rows}` in its text."""

    def __init__(self, text: str, width: int) -> None:
        self._fill = [FILL] * width
        row = f"({', '.join('?' * width)})"
        self._texts = {size: text.replace("{rows}", ", ".join([row] * size)) for size in SIZES}

    @property
    def width(self) -> int:
        return len(self._fill)

    def calls(self, rows: Sequence[Sequence[Any]]) -> Iterator[tuple[str, list[Any]]]:
        """Yield the texts and parameters of the statements for *rows*."""
        most = max(self._texts)
        for at in range(0, len(rows), most):
            part = rows[at : at + most]
            size = next(size for size in self._texts if size >= len(part))
            yield self._texts[size], [*chain.from_iterable(part), *self._fill * (size - len(part))]

    def read(self, session: Session, rows: Sequence[Sequence[Any]]) -> list[bytes]:
        """Return one answer for each statement that *rows* take."""
        return [session.read(text, parameters) for text, parameters in self.calls(rows)]

    def write(self, session: Session, rows: Sequence[Sequence[Any]]) -> int:
        """Return the number of rows that were written."""
        return sum(session.write(text, parameters) for text, parameters in self.calls(rows))


class Union(Batch):
    """A statement over the results of one SELECT for each row of *width* values."""

    def __init__(self, text: str, width: int, select: str) -> None:
        self._fill = [0] * width  # no partition has the number 0, and a LIMIT of -1 would be none
        self._texts = {
            size: text.replace("{rows}", " UNION ALL ".join([select] * size)) for size in UNION_SIZES
        }


class Statements:
    """All statements of a store, for the tables whose names begin with *table*, which must be valid."""

    def __init__(self, table: str) -> None:
        records, leases, names = f'"{table}"', f'"{table}_leases"', f'"{table}_partitions"'
        history, meta = f'"{table}_history"', f'"{table}_meta"'
        by_key, by_claimable = f'"{table}_key"', f'"{table}_claimable"'

        self.tables = (
            f"SELECT json_group_array(name) FROM sqlite_master WHERE name IN ('{table}', '{table}_meta')"
        )
        self.versions = f"SELECT json_array(schema_version, min_reader) FROM {meta}"
        self.raise_min_reader = f"UPDATE {meta} SET min_reader = ?1 WHERE min_reader < ?1"
        self.creation = (
            # An id is never used again, so that a new record is not mistaken for a deleted one.
            f"""CREATE TABLE IF NOT EXISTS {records} (
                id INTEGER PRIMARY KEY AUTOINCREMENT,
                partition_id INTEGER NOT NULL,
                version INTEGER NOT NULL,
                fence INTEGER NOT NULL,
                due_at INTEGER,
                schedule_since INTEGER NOT NULL,
                claimable_at INTEGER,
                lease_length INTEGER NOT NULL,
                attempt INTEGER NOT NULL,
                began_at INTEGER,
                task TEXT NOT NULL,
                instance TEXT NOT NULL,
                occurrence TEXT NOT NULL,
                state TEXT NOT NULL,
                spec TEXT NOT NULL
            )""",
            f"CREATE UNIQUE INDEX IF NOT EXISTS {by_key} ON {records} ({_KEY})",
            f"CREATE INDEX IF NOT EXISTS {by_claimable} ON {records} (partition_id, claimable_at)",
            # A lease has a row of its own, with the columns that a claim changes. So a claim writes to a few pages that
            # are in memory, and not to the page of each record, which is most of the cost of a run.
            f"""CREATE TABLE IF NOT EXISTS {leases} (
                id INTEGER PRIMARY KEY,
                partition_id INTEGER NOT NULL,
                lease_id TEXT NOT NULL,
                holder TEXT NOT NULL,
                expires_at INTEGER NOT NULL,
                version INTEGER NOT NULL,
                fence INTEGER NOT NULL,
                attempt INTEGER NOT NULL,
                began_at INTEGER
            )""",
            f"""CREATE TABLE IF NOT EXISTS {names} (
                id INTEGER PRIMARY KEY,
                realm TEXT NOT NULL,
                handler TEXT NOT NULL,
                number INTEGER NOT NULL,
                UNIQUE (realm, handler, number)
            )""",
            f"""CREATE TABLE IF NOT EXISTS {history} (
                id INTEGER PRIMARY KEY,
                partition_id INTEGER NOT NULL,
                task TEXT NOT NULL,
                instance TEXT NOT NULL,
                occurrence TEXT NOT NULL,
                slot INTEGER NOT NULL,
                run TEXT NOT NULL,
                UNIQUE ({_KEY}, slot)
            )""",
            f"""CREATE TABLE IF NOT EXISTS {meta} (
                only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
                schema_version INTEGER NOT NULL,
                min_reader INTEGER NOT NULL
            )""",
            f"INSERT OR IGNORE INTO {meta} VALUES (1, {SCHEMA_VERSION}, {MIN_READER})",
        )

        from_records = f"{records} AS r LEFT JOIN {leases} AS l ON l.id = r.id"
        same_key = """r.partition_id = v.column1 AND r.task = v.column2 AND r.instance = v.column3
            AND r.occurrence = v.column4"""
        page = f"""SELECT json_group_array({_ROW_OF_NAMED}) FROM (SELECT {_NAMED_COLUMNS} FROM {from_records} WHERE
            r.partition_id = ? AND {{range}} AND {_SHORT} ORDER BY r.task, r.instance, r.occurrence LIMIT ?)"""

        self.partition_ids = Batch(
            f"""SELECT json_group_array(json_array(v.column1, p.id)) FROM (VALUES {{rows}}) AS v
                CROSS JOIN {names} AS p ON p.realm = v.column2 AND p.handler = v.column3 AND p.number = v.column4""",
            4,
        )
        self.create_partitions = Batch(
            f"""INSERT OR IGNORE INTO {names} (realm, handler, number)
                SELECT column1, column2, column3 FROM (VALUES {{rows}}) WHERE column3 <> {FILL}""",
            3,
        )
        self.partitions = f"""SELECT json_group_array(json_array(handler, number)) FROM (SELECT handler, number FROM {names} AS p
            WHERE {_OF_REALM} AND EXISTS (SELECT 1 FROM {records} AS r WHERE r.partition_id = p.id) LIMIT {PARTITIONS_MAX + 1})"""

        self.load = Batch(
            f"""SELECT json_group_array(json_array(v.column5, {_ROW})) FROM (VALUES {{rows}}) AS v
                CROSS JOIN {records} AS r ON {same_key} LEFT JOIN {leases} AS l ON l.id = r.id""",
            5,
        )
        self.scan_task = page.replace("{range}", "r.task = ? AND (r.instance, r.occurrence) >= (?, ?)")
        self.scan_all = page.replace("{range}", "(r.task, r.instance, r.occurrence) >= (?, ?, ?)")
        self.history = f"""SELECT json_group_array(run) FROM (SELECT {_RUN} AS run FROM {history}
            WHERE (partition_id, task, instance, occurrence) = (?, ?, ?, ?) LIMIT {HISTORY_ROWS_MAX})"""

        # What is due, what is leased, and how many of either were looked at; then how many instances the task has, of how many
        # names, which are one more than the limit if there are too many. Its parameters: partition, task or NULL, now, limit.
        self.count = f"""SELECT json_array(
            json((SELECT json_array(count(*) FILTER (WHERE ?2 IS NULL OR task = ?2), count(*)) FROM ({{due}}))),
            json((SELECT json_array(count(*) FILTER (WHERE ?2 IS NULL OR task = ?2), count(*)) FROM ({{leased}}))),
            json((SELECT json_array(count(*) FILTER (WHERE occurrence = ''), count(*)) FROM (
                SELECT r.occurrence FROM {records} AS r INDEXED BY {by_key}
                WHERE r.partition_id = ?1 AND r.task = ?2 AND r.instance > '' LIMIT ?4 + 1))))""".replace(
            "{due}",
            f"""SELECT r.task FROM {records} AS r INDEXED BY {by_claimable} LEFT JOIN {leases} AS l ON l.id = r.id
                WHERE r.partition_id = ?1 AND r.claimable_at <= ?3 AND (l.id IS NULL OR l.expires_at <= ?3)
                ORDER BY r.claimable_at LIMIT ?4""",
        ).replace(
            "{leased}",
            f"""SELECT r.task FROM {leases} AS l CROSS JOIN {records} AS r ON r.id = l.id
                WHERE l.partition_id = ?1 AND l.expires_at > ?3 AND r.claimable_at IS NOT NULL LIMIT ?4""",
        )

        # The numbers of those of a batch whose records are as they were, and what a key leads to.
        self.unchanged = Batch(
            f"""SELECT json_group_array(v.column1) FROM (VALUES {{rows}}) AS v
                CROSS JOIN {records} AS r ON r.id = v.column2 LEFT JOIN {leases} AS l ON l.id = r.id
                WHERE ifnull(l.version, r.version) = v.column3""",
            3,
        )
        self.found = Batch(
            f"""SELECT json_group_array(json_array(v.column5, r.id, ifnull(l.version, r.version)))
                FROM (VALUES {{rows}}) AS v CROSS JOIN {records} AS r ON {same_key}
                LEFT JOIN {leases} AS l ON l.id = r.id""",
            5,
        )
        self.create = Batch(
            f"""INSERT INTO {records} ({_KEY}, version, fence, due_at, schedule_since, claimable_at, lease_length,
                    attempt, began_at, state, spec)
                SELECT * FROM (VALUES {{rows}}) WHERE column1 <> {FILL}""",
            14,
        )
        self.update = Batch(
            f"""UPDATE {records} SET version = v.column2, fence = v.column3, due_at = v.column4,
                    schedule_since = v.column5, claimable_at = v.column6, lease_length = v.column7,
                    attempt = v.column8, began_at = v.column9, state = v.column10
                FROM (VALUES {{rows}}) AS v WHERE {records}.id = v.column1""",
            10,
        )
        self.update_spec = Batch(
            f"UPDATE {records} SET spec = v.column2 FROM (VALUES {{rows}}) AS v WHERE {records}.id = v.column1",
            2,
        )
        self.delete = Batch(f"DELETE FROM {records} WHERE id IN (VALUES {{rows}})", 1)
        self.forget = Batch(
            f"""DELETE FROM {history} WHERE id IN (
                SELECT r.id FROM (VALUES {{rows}}) AS v CROSS JOIN {history} AS r ON {same_key})""",
            4,
        )
        self.remember = Batch(
            f"""INSERT OR REPLACE INTO {history} ({_KEY}, slot, run)
                SELECT * FROM (VALUES {{rows}}) WHERE column1 <> {FILL}""",
            6,
        )
        self.free = Batch(f"DELETE FROM {leases} WHERE id IN (VALUES {{rows}})", 1)
        self.keep_lease = Batch(
            f"""UPDATE {leases} SET version = v.column2, fence = v.column3, attempt = v.column4, began_at = v.column5
                FROM (VALUES {{rows}}) AS v WHERE {leases}.id = v.column1""",
            5,
        )
        self.put_lease = Batch(
            f"""INSERT OR REPLACE INTO {leases}
                SELECT * FROM (VALUES {{rows}}) WHERE column1 <> {FILL}""",
            9,
        )

        self.leased = Batch(
            f"""SELECT json_group_array(json_array(v.column6, l.id)) FROM (VALUES {{rows}}) AS v
                CROSS JOIN {records} AS r ON {same_key} CROSS JOIN {leases} AS l ON l.id = r.id
                WHERE l.lease_id = v.column5""",
            6,
        )
        self.renew = Batch(
            f"""UPDATE {leases} SET expires_at = max(expires_at, v.column2)
                FROM (VALUES {{rows}}) AS v WHERE {leases}.id = v.column1""",
            2,
        )

        claimable = f"""SELECT * FROM (SELECT {{what}} FROM {records} AS r INDEXED BY {by_claimable}
            LEFT JOIN {leases} AS l ON l.id = r.id
            WHERE r.partition_id = ? AND r.claimable_at <= ? AND (l.id IS NULL OR l.expires_at <= ?)
            ORDER BY r.claimable_at LIMIT ?)"""
        taken = """r.id, r.partition_id, ?, ?, ? + r.lease_length, ifnull(l.version, r.version) + 1,
            ifnull(l.fence, r.fence) + 1, ifnull(l.attempt, r.attempt) + 1,
            ifnull(CASE WHEN l.id IS NULL THEN r.began_at ELSE l.began_at END, max(?, r.claimable_at))"""
        self.look = Union(
            f"SELECT json_group_array({_ROW_OF_NAMED}) FROM ({{rows}})",
            4,
            claimable.replace("{what}", _NAMED_COLUMNS),
        )
        self.take = Union(f"INSERT OR REPLACE INTO {leases} {{rows}}", 8, claimable.replace("{what}", taken))
        self.next_due = Batch(
            f"""SELECT json_array(min((
                    SELECT r.claimable_at FROM {records} AS r INDEXED BY {by_claimable}
                    LEFT JOIN {leases} AS l ON l.id = r.id
                    WHERE r.partition_id = v.column1 AND r.claimable_at >= {NEVER}
                        AND (l.id IS NULL OR l.expires_at <= v.column2)
                    ORDER BY r.claimable_at LIMIT 1
                ))) FROM (VALUES {{rows}}) AS v""",
            2,
        )
        self.lease_ends = f"""SELECT json_group_array(json_array(partition_id, ends)) FROM (
            SELECT partition_id, min(expires_at) AS ends FROM {leases} WHERE expires_at > ? GROUP BY partition_id)"""
