"""The tables of records on MySQL and MariaDB, and the statements that create them."""

from __future__ import annotations

from typing import Final, NamedTuple

from pyncette.store.base import KEY_BYTES_MAX, MIN_READER, PARTITION_BYTES_MAX, SCHEMA_VERSION
from pyncette.store.schema import check_table_name

NO_LEASE: Final = -(2**63)
"""The end of the lease of a record without one: before every instant, so one comparison covers both cases."""

HOLDER_BYTES_MAX: Final = 4 * 255
"""Holders and ids of leases have at most 255 characters, each of up to four bytes."""


class Tables(NamedTuple):
    """The names of all tables, quoted for statements."""

    name: str
    """The name as given. All others are quoted."""
    records: str
    partitions: str
    history: str
    ids: str
    meta: str


def tables_named(name: str) -> Tables:
    """Return the tables that belong to the table *name*. Raises ValueError for an invalid name."""
    check_table_name(name, "mysql_table_name")
    return Tables(
        name,
        f"`{name}`",
        f"`{name}_partitions`",
        f"`{name}_history`",
        f"`{name}_ids`",
        f"`{name}_meta`",
    )


def creation(tables: Tables) -> str:
    """
    Return the script that creates the tables, and changes nothing if they exist.

    No transaction spans the creation of several tables. So `meta` comes first, which marks the tables as Pyncette's, and its
    row last, which says that all exist. An interrupted creation is continued.

    Names are bytes, so they are equal if their characters are, trailing blanks included, and ordered by code points. A
    record is found by its id, which is never used again. A run moves an entry of one index only, that of `claimable_at`,
    since InnoDB does not write the index of names while these do not change.
    """
    name = f"varbinary({KEY_BYTES_MAX}) NOT NULL"
    part = f"varbinary({PARTITION_BYTES_MAX}) NOT NULL"
    options = "ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4"
    statements = [
        f"""
CREATE TABLE IF NOT EXISTS {tables.meta} (
    only_row tinyint PRIMARY KEY,
    schema_version int NOT NULL,
    min_reader int NOT NULL
) {options}""",
        f"""
CREATE TABLE IF NOT EXISTS {tables.ids} (
    only_row tinyint PRIMARY KEY,
    next bigint NOT NULL
) {options}""",
        f"""
CREATE TABLE IF NOT EXISTS {tables.partitions} (
    id int AUTO_INCREMENT PRIMARY KEY,
    realm {part},
    handler {part},
    number int NOT NULL,
    UNIQUE KEY named (realm, handler, number)
) {options}""",
        f"""
CREATE TABLE IF NOT EXISTS {tables.records} (
    id bigint PRIMARY KEY,
    version bigint NOT NULL,
    fence bigint NOT NULL,
    due_at bigint,
    schedule_since bigint NOT NULL,
    claimable_at bigint,
    began_at bigint,
    lease_length bigint NOT NULL,
    lease_until bigint NOT NULL,
    stamp bigint NOT NULL,
    partition_id int NOT NULL,
    attempt int NOT NULL,
    lease_id varbinary({HOLDER_BYTES_MAX}),
    holder varbinary({HOLDER_BYTES_MAX}),
    task {name},
    instance {name},
    occurrence {name},
    state longblob NOT NULL,
    spec longblob NOT NULL,
    UNIQUE KEY named (partition_id, task, instance, occurrence),
    KEY claimable (partition_id, claimable_at)
) {options}""",
        f"""
CREATE TABLE IF NOT EXISTS {tables.history} (
    partition_id int NOT NULL,
    task {name},
    instance {name},
    occurrence {name},
    slot int NOT NULL,
    run longblob NOT NULL,
    PRIMARY KEY (partition_id, task, instance, occurrence, slot)
) {options}""",
        f"INSERT INTO {tables.ids} (only_row, next) VALUES (1, 1) ON DUPLICATE KEY UPDATE next = next",
        f"""
INSERT INTO {tables.meta} (only_row, schema_version, min_reader) VALUES (1, {SCHEMA_VERSION}, {MIN_READER})
ON DUPLICATE KEY UPDATE only_row = only_row""",
    ]
    return ";".join(statements)
