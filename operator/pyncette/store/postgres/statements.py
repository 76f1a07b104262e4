"""The SQL of each verb on PostgreSQL: a single statement that commits by itself."""

from __future__ import annotations

from typing import Final, NamedTuple

from pyncette.clock import SECOND
from pyncette.store.base import (
    HISTORY_ROWS_MAX,
    KEY_BYTES_MAX,
    PARTITION_BYTES_MAX,
    PARTITIONS_MAX,
    SPEC_BYTES_MAX,
    STATE_BYTES_MAX,
)
from pyncette.store.postgres.arrays import (
    BIGINT,
    DOCUMENT,
    INT,
    NATIVE_BIGINT,
    NATIVE_BOOL,
    NATIVE_INT,
    NATIVE_TEXT,
    TEXT,
)
from pyncette.store.postgres.schema import NO_LEASE, Tables
from pyncette.store.sql.parameters import Parameters

NOW: Final = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
"""The server's current time, in microseconds."""

TOOK: Final = "(extract(epoch FROM clock_timestamp() - statement_timestamp()) * 1000000)::bigint"
"""How long the server has executed the statement, in microseconds."""

_SETTINGS: Final = """
    ('enable_seqscan', 'off'), ('enable_bitmapscan', 'off'),
    ('enable_hashjoin', 'off'), ('enable_mergejoin', 'off'),
    ('plan_cache_mode', 'force_generic_plan'), ('jit', 'off'), ('max_parallel_workers_per_gather', '0'),
    ('default_transaction_isolation', 'read committed'),
    ('statement_timeout', '10s'), ('idle_in_transaction_session_timeout', '10s'),
    ('tcp_user_timeout', '10s'), ('tcp_keepalives_idle', '30s'), ('tcp_keepalives_interval', '10s')
"""

SESSION: Final = f"SELECT set_config(name, value, false) FROM (VALUES {_SETTINGS}) AS setting(name, value)"
"""
The settings of every connection.

The planner knows nothing of a young table, and would read all of it in a plan that is then kept. Every statement here
has an index to use, so the settings rule other plans out. A row that another session has just written must be read
again, which only `read committed` does. The timeouts end what a frozen or dead client left behind: a statement whose
reply nobody reads keeps its locks.
"""


def session_of(tables: Tables) -> str:
    """
    Return the statement that sets up a connection for *tables*: it also pins `search_path` to the schema that has them.

    So no table or function of another schema of the path takes the place of one that a statement names.
    """
    return f"""
SELECT set_config(name, value, false) FROM (VALUES {_SETTINGS}, ('search_path', coalesce(
    (SELECT quote_ident(n.nspname) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid = to_regclass('{tables.meta}')),
    quote_ident(current_schema()), '') || ', pg_temp')) AS setting(name, value)
"""


HEAD_MAX: Final = 500
"""
Leased records at the start of a partition that a claim reads, for the lease that ends first. Renewed leases are not among
them, since a renewal moves its record to the end of the lease.
"""

HEAD_PAUSE: Final = SECOND
"""If there are more, the next claim comes after this time at the latest, which is often enough for so busy a partition."""

OTHERS_MAX: Final = 20
"""Maximum number of tables of other installations that are listed."""

RECORD: Final = f"""r.id, r.partition_id, r.task, r.instance, r.occurrence,
    CASE WHEN octet_length(r.spec) <= {SPEC_BYTES_MAX} THEN r.spec END,
    CASE WHEN octet_length(r.state) <= {STATE_BYTES_MAX} THEN r.state END, r.version, r.fence,
    r.due_at, r.schedule_since, r.claimable_at, r.lease_length, r.attempt, r.began_at"""

"""The columns of a record. A text that is too long is null: its length is read without the text itself."""

NAMES: Final = {
    "partition_id": NATIVE_INT,
    "task": NATIVE_TEXT,
    "instance": NATIVE_TEXT,
    "occurrence": NATIVE_TEXT,
}

LOAD: Final = Parameters(named=NAMES)

CLAIM: Final = Parameters(
    wanted={"partition_id": NATIVE_INT, "most": NATIVE_BIGINT, "begin": NATIVE_BIGINT},
    scalars=("now", "until", "expired_at", "lease_id", "holder"),
)

RENEW: Final = Parameters(
    renewals=NAMES | {"lease_id": NATIVE_TEXT, "length": NATIVE_BIGINT}, scalars=("now",)
)

_NAMES_AS_TEXT: Final = {"partition_id": INT, "task": TEXT, "instance": TEXT, "occurrence": TEXT}

_ID_AND_VERSION: Final = {"id": BIGINT, "before": BIGINT}

_VALUES: Final = {
    "version": BIGINT,
    "fence": BIGINT,
    "due_at": BIGINT,
    "schedule_since": BIGINT,
    "claimable_at": BIGINT,
    "lease_length": BIGINT,
    "attempt": BIGINT,
    "began_at": BIGINT,
    "state": DOCUMENT,
    "lease_until": BIGINT,
    "lease_id": TEXT,
    "holder": TEXT,
    "spec": DOCUMENT,
}

_LEASE: Final = ("lease_until", "lease_id", "holder")
"""The columns that an update leaves as they are if both records have the same lease."""

COMPLETE: Final = Parameters(
    completed=_ID_AND_VERSION | {"due_at": BIGINT, "claimable_at": BIGINT, "state": DOCUMENT}
)


def _swap_parameters(*, together: bool) -> Parameters:
    group = {"made_with": INT} if together else {}
    return Parameters(
        created={"id": BIGINT, **_NAMES_AS_TEXT, **_VALUES, **group},
        held=_ID_AND_VERSION | group,
        updated={**_ID_AND_VERSION, **_VALUES, "keeps_lease": NATIVE_BOOL, **group},
        deleted=_ID_AND_VERSION | group,
        history={"writer": BIGINT, **_NAMES_AS_TEXT, "slot": INT, "run": DOCUMENT},
    )


SWAP: Final = _swap_parameters(together=False)
SWAP_TOGETHER: Final = _swap_parameters(together=True)


class Statements(NamedTuple):
    """The statements for one set of tables."""

    load: str
    """Has the parameters `LOAD`, as `find` does."""
    complete: str
    """Makes completions, as nearly all changes are; see `is_completion`. Has the parameters `COMPLETE`."""
    swap: str
    """Makes changes of every kind without groups. Has the parameters `SWAP`."""
    swap_together: str
    """Makes changes of every kind. Has the parameters `SWAP_TOGETHER`."""
    find: str
    claim: str
    """Has the parameters `CLAIM`."""
    renew: str
    """Has the parameters `RENEW`."""
    scan_task: str
    """Begins with the names in its parameters, as `scan_all` does."""
    scan_all: str
    count_due: str
    """Returns the numbers of `rows.counted`."""
    history: str
    partitions: str
    partition_ids: str
    add_partitions: str
    next_ids: str
    notify: str
    now: str
    exist: str
    versions: str
    raise_min_reader: str
    others: str
    """Names the tables of other installations that this user can read."""


def statements_for(tables: Tables) -> Statements:
    """
    Return the statements for *tables*.

    A claim compares the number of free records in its snapshot with the number that it leased. It leases fewer if it
    skips a locked record, or one that changed after the snapshot: the new row is then locked but not visible.
    """
    records, names, partitions, history = tables.records, tables.names, tables.partitions, tables.history
    by_key = """n.partition_id = u.partition_id AND n.task = u.task
    AND n.instance = u.instance AND n.occurrence = u.occurrence"""
    named = LOAD.unnest("named", position="place")
    wanted = CLAIM.unnest("wanted", alias="wanted")
    now, until, expired_at = CLAIM["now"], CLAIM["until"], CLAIM["expired_at"]
    renewed_until = f"{RENEW['now']} + found.length"
    short = f"octet_length(n.task) + octet_length(n.instance) + octet_length(n.occurrence) <= {KEY_BYTES_MAX}"
    full = f"{RECORD}, r.lease_until, r.lease_id, r.holder"
    return Statements(
        load=f"""
SELECT {full}, u.place
FROM {named}
JOIN {names} n ON {by_key}
JOIN {records} r ON r.id = n.id
""",
        complete=f"""
WITH updated AS (
    UPDATE {records} r SET
        version = r.version + 1, due_at = u.due_at, claimable_at = u.claimable_at, state = u.state,
        attempt = 0, began_at = NULL, lease_until = {NO_LEASE}, lease_id = NULL, holder = NULL
    FROM {COMPLETE.unnest("completed")}
    WHERE r.id = u.id AND r.version = u.before
    RETURNING r.id
)
SELECT array_agg(id) FROM updated
""",
        swap=_swap(records, names, history, SWAP, together=False),
        swap_together=_swap(records, names, history, SWAP_TOGETHER, together=True),
        find=f"""
SELECT n.id, u.place
FROM {named}
JOIN {names} n ON {by_key}
""",
        claim=f"""
WITH claimed AS (
    UPDATE {records} r SET
        lease_id = {CLAIM["lease_id"]}, holder = {CLAIM["holder"]}, lease_until = {now} + r.lease_length, attempt = r.attempt + 1,
        began_at = coalesce(r.began_at, greatest({now}, r.claimable_at)), fence = r.fence + 1, version = r.version + 1
    WHERE r.ctid = ANY (ARRAY(
        SELECT picked.place FROM {wanted}, LATERAL (
            SELECT c.ctid AS place FROM {records} c
            WHERE c.partition_id = wanted.partition_id AND c.claimable_at BETWEEN wanted.begin AND {until}
                AND c.lease_until <= {expired_at}
            ORDER BY c.claimable_at LIMIT wanted.most FOR UPDATE SKIP LOCKED
        ) picked
    ))
    RETURNING {RECORD}
)
SELECT * FROM claimed
UNION ALL
SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, {NOW}, (
    SELECT least(
        min(seen.soonest),
        CASE WHEN sum(seen.free) > (SELECT count(*) FROM claimed) THEN {until} END,
        (SELECT min(lease_length) + {now} + {until} - {expired_at} FROM claimed)
    )
    FROM {wanted}, LATERAL (
        SELECT least((
            SELECT c.claimable_at FROM {records} c
            WHERE c.partition_id = wanted.partition_id AND c.claimable_at > {until}
            ORDER BY c.claimable_at LIMIT 1
        ),
            min(CASE WHEN head.lease_until > {expired_at} THEN head.lease_until + {until} - {expired_at}
                WHEN wanted.most = 0 THEN {until} END),
            CASE WHEN count(*) = {HEAD_MAX} THEN {until} + {HEAD_PAUSE} END
        ) AS soonest, least(count(*) FILTER (WHERE head.lease_until <= {expired_at}), wanted.most) AS free
        FROM (
            SELECT c.lease_until FROM {records} c
            WHERE c.partition_id = wanted.partition_id AND c.claimable_at BETWEEN wanted.begin AND {until}
            ORDER BY c.claimable_at LIMIT {HEAD_MAX}
        ) head
    ) seen
    WHERE (SELECT count(*) FROM claimed) < (SELECT sum(greatest(most, 1)) FROM {CLAIM.unnest("wanted", ["most"], alias="wanted")})
), {TOOK}, NULL, NULL, NULL, NULL, NULL
""",
        renew=f"""
WITH found AS MATERIALIZED (
    SELECT n.id, u.lease_id, u.length, u.place
    FROM {RENEW.unnest("renewals", position="place")}
    JOIN {names} n ON {by_key}
    ORDER BY n.id
), renewed AS (
    UPDATE {records} r SET
        lease_until = greatest(r.lease_until, {renewed_until}),
        claimable_at = CASE WHEN r.claimable_at < {renewed_until} THEN {renewed_until} ELSE r.claimable_at END
    FROM found WHERE r.id = found.id AND r.lease_id = found.lease_id
    RETURNING found.place
)
SELECT {NOW}, (SELECT array_agg(place) FROM renewed)
""",
        scan_task=f"""
SELECT {full} FROM {names} n JOIN {records} r ON r.id = n.id
WHERE n.partition_id = $1 AND n.task = $3 AND (n.instance, n.occurrence) >= ($4, $5) AND {short}
ORDER BY n.instance, n.occurrence LIMIT $2
""",
        scan_all=f"""
SELECT {full} FROM {names} n JOIN {records} r ON r.id = n.id
WHERE n.partition_id = $1 AND (n.task, n.instance, n.occurrence) >= ($3, $4, $5) AND {short}
ORDER BY n.task, n.instance, n.occurrence LIMIT $2
""",
        count_due=f"""
SELECT
    count(*) FILTER (WHERE of_task AND NOT later AND lease_until <= $3), count(*) FILTER (WHERE NOT later),
    count(*) FILTER (WHERE of_task AND lease_until > $3), count(*) FILTER (WHERE later),
    min(total), min(of_names)
FROM (
    SELECT count(*) FILTER (WHERE occurrence = '') AS total, count(*) AS of_names FROM (
        SELECT n.occurrence FROM {names} n
        WHERE n.partition_id = $1 AND n.task = $2 AND n.instance > '' LIMIT $5::bigint + 1
    ) n
) named LEFT JOIN (
    SELECT * FROM (
        SELECT c.lease_until, coalesce(c.task = $2, true) AS of_task, false AS later FROM {records} c
        WHERE c.partition_id = $1 AND c.claimable_at <= $3 ORDER BY c.claimable_at LIMIT $5
    ) due
    UNION ALL SELECT * FROM (
        SELECT c.lease_until, coalesce(c.task = $2, true), true FROM {records} c
        WHERE c.partition_id = $1 AND c.claimable_at > $3 AND c.claimable_at <= $4 ORDER BY c.claimable_at LIMIT $5
    ) renewed
) seen ON true
""",
        history=f"""
SELECT CASE WHEN octet_length(run) <= {STATE_BYTES_MAX} THEN run END FROM {history}
WHERE partition_id = $1 AND task = $2 AND instance = $3 AND occurrence = $4 LIMIT {HISTORY_ROWS_MAX}
""",
        partitions=f"""
SELECT id, handler, number FROM {partitions} p
WHERE realm = $1 AND octet_length(handler) <= {PARTITION_BYTES_MAX}
    AND EXISTS (SELECT FROM {names} n WHERE n.partition_id = p.id) LIMIT {PARTITIONS_MAX + 1}
""",
        partition_ids=f"""
SELECT p.id, u.place
FROM unnest($1::text[], $2::text[], $3::int[]) WITH ORDINALITY AS u(realm, handler, number, place)
JOIN {partitions} p ON p.realm = u.realm AND p.handler = u.handler AND p.number = u.number
""",
        add_partitions=f"""
INSERT INTO {partitions} (realm, handler, number)
SELECT * FROM unnest($1::text[], $2::text[], $3::int[]) AS u(realm, handler, number) ORDER BY 1, 2, 3
ON CONFLICT DO NOTHING
""",
        next_ids=f"""SELECT nextval('{tables.ids}')""",
        notify="""SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS payload""",
        now=f"SELECT {NOW}",
        # A name is looked up in the latest catalog, so another process may create all tables between two look-ups. CASE looks
        # for the records first: if these are there, so is the rest.
        exist=f"""
SELECT to_regclass('{tables.meta}') IS NOT NULL,
    CASE WHEN to_regclass('{records}') IS NULL THEN false ELSE to_regclass('{tables.meta}') IS NULL END
""",
        versions=f"""SELECT schema_version, min_reader FROM {tables.meta}""",
        raise_min_reader=f"UPDATE {tables.meta} SET min_reader = $1 WHERE min_reader < $1",
        others=f"""
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.oid IS DISTINCT FROM to_regclass('{records}')
    AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
    AND (SELECT count(*) FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid
        AND a.attname IN ('claimable_at', 'schedule_since', 'lease_until', 'fence', 'spec', 'state')) = 6
ORDER BY 1 LIMIT {OTHERS_MAX}
""",
    )


_HELD_BACK: Final = f"""held_back AS MATERIALIZED (
    SELECT DISTINCT u.made_with FROM {SWAP_TOGETHER.unnest("held", ["id", "made_with"])}
    WHERE u.made_with <> 0 AND CASE WHEN u.id IN (SELECT id FROM held) THEN false ELSE true END
),"""
"""The groups with a record that has changed."""

_BROKEN: Final = f"""broken AS MATERIALIZED (
    SELECT made_with FROM held_back
    UNION ALL SELECT u.made_with FROM {SWAP_TOGETHER.unnest("created", ["id", "made_with"])}
    WHERE u.made_with <> 0 AND CASE WHEN u.id IN (SELECT id FROM named) THEN false ELSE true END
),"""
"""Those groups, and the ones whose new record exists already."""


def _swap(records: str, names: str, history: str, parameters: Parameters, *, together: bool) -> str:
    """
    Return the statement that makes changes of every kind; *together* makes a group as a whole or not at all.

    All statements take locks in one order: names of new records by their names, then records by their ids, then rows of
    history. With groups, names come after records, since only a locked record is sure to be changed. Deadlocks that this
    causes are rolled back and retried. Membership in a result is tested in a CASE, which the planner looks up in a hash.
    It would turn a plain IN into a join, and compare each row with each.
    """
    columns = ", ".join(_VALUES)
    updates = ", ".join(f"{name} = u.{name}" for name in _VALUES if name not in {"spec", *_LEASE})
    leases = ", ".join(f"{name} = CASE WHEN u.keeps_lease THEN r.{name} ELSE u.{name} END" for name in _LEASE)
    new_names = ("id", *_NAMES_AS_TEXT)
    unless_broken = f" AND {_unless('broken')}" if together else ""
    return f"""
WITH held AS MATERIALIZED (
    SELECT r.id FROM {parameters.unnest("held", _ID_AND_VERSION)} JOIN {records} r ON r.id = u.id
    WHERE r.version = u.before ORDER BY u.id FOR UPDATE OF r
), {_HELD_BACK if together else ""} named AS (
    INSERT INTO {names} (id, partition_id, task, instance, occurrence)
    SELECT u.id, u.partition_id, u.task, u.instance, u.occurrence
    FROM {parameters.unnest("created", (*new_names, "made_with") if together else new_names)}
    {f"WHERE {_unless('held_back')}" if together else ""}
    ON CONFLICT (partition_id, task, instance, occurrence) DO NOTHING
    RETURNING id
), {_BROKEN if together else ""} created AS (
    INSERT INTO {records} (id, partition_id, task, instance, occurrence, {columns})
    SELECT * FROM {parameters.unnest("created", (*new_names, *_VALUES))}
    WHERE CASE WHEN u.id IN (SELECT id FROM named) THEN true END
    RETURNING id
), updated AS (
    UPDATE {records} r SET {updates}, {leases}, spec = coalesce(nullif(u.spec, ''), r.spec)
    FROM {parameters.unnest("updated")}
    WHERE (SELECT count(*) FROM held) >= 0 AND r.id = u.id AND r.version = u.before{unless_broken}
    RETURNING r.id
), deleted AS (
    DELETE FROM {records} r USING {parameters.unnest("deleted")}
    WHERE (SELECT count(*) FROM held) >= 0 AND r.id = u.id AND r.version = u.before{unless_broken}
    RETURNING r.id, r.partition_id, r.task, r.instance, r.occurrence
), unnamed AS (
    DELETE FROM {names} n USING deleted
    WHERE n.partition_id = deleted.partition_id AND n.task = deleted.task
        AND n.instance = deleted.instance AND n.occurrence = deleted.occurrence
), forgotten AS (
    DELETE FROM {history} h USING deleted
    WHERE deleted.occurrence = '' AND h.partition_id = deleted.partition_id AND h.task = deleted.task
        AND h.instance = deleted.instance AND h.occurrence = ''
), made AS (
    SELECT id FROM created UNION ALL SELECT id FROM updated UNION ALL SELECT id FROM deleted
), written AS (
    INSERT INTO {history} (partition_id, task, instance, occurrence, slot, run)
    SELECT DISTINCT ON (partition_id, task, instance, occurrence, slot)
        partition_id, task, instance, occurrence, slot, run
    FROM {parameters.unnest("history", position="place")}
    WHERE CASE WHEN u.writer IN (SELECT id FROM made) THEN true END
    ORDER BY partition_id, task, instance, occurrence, slot, place DESC
    ON CONFLICT (partition_id, task, instance, occurrence, slot) DO UPDATE SET run = excluded.run
)
SELECT array_agg(id) FROM made
"""


def _unless(broken: str) -> str:
    """
    Return the condition that the group of *u* is not in the table *broken*.

    It reads that table once, as an array. A subquery for each row would run again for a row that was renewed meanwhile,
    and a part of a statement that writes cannot run twice.
    """
    return (
        f"u.made_with <> ALL ((SELECT coalesce(array_agg({broken}.made_with), '{{}}') FROM {broken})::int[])"
    )
