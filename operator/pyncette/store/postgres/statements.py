"""The SQL of each verb on PostgreSQL: every one a single statement that commits by itself."""

from __future__ import annotations

from typing import Final, NamedTuple

from pyncette.clock import SECOND
from pyncette.store.postgres.schema import NO_LEASE, Tables

NOW: Final = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
"""The server's own time at this very moment, in microseconds."""

TOOK: Final = "(extract(epoch FROM clock_timestamp() - statement_timestamp()) * 1000000)::bigint"
"""How long the server has worked on the statement, in microseconds."""

SESSION: Final = """
SELECT set_config(name, value, false) FROM (VALUES
    ('enable_seqscan', 'off'), ('enable_bitmapscan', 'off'),
    ('enable_hashjoin', 'off'), ('enable_mergejoin', 'off'),
    ('plan_cache_mode', 'force_generic_plan'), ('jit', 'off'), ('max_parallel_workers_per_gather', '0'),
    ('default_transaction_isolation', 'read committed'),
    ('statement_timeout', '10s'), ('idle_in_transaction_session_timeout', '10s'),
    ('tcp_user_timeout', '10s'), ('tcp_keepalives_idle', '30s'), ('tcp_keepalives_interval', '10s')
) AS setting(name, value)
"""
"""
What every connection is set to. The planner knows nothing of a young table and would read all of it, in a plan that is
then kept; every statement here has an index to go by, so it is told to. What another has just written must be looked at
again, which only `read committed` does. The timeouts end what a client left behind
that is frozen or gone: a reply that nobody takes holds the locks of its statement.
"""

DOCUMENT_SEPARATOR: Final = "\x1e"
"""Stands between JSON texts, as in RFC 7464: it can be part of none."""

HEAD_MAX: Final = 500
"""
Leased records at the head of a partition that a claim looks at for the soonest end of a lease. Those that are renewed
are not among them, since a renewal files a record at the end of its lease.
"""

HEAD_PAUSE: Final = SECOND
"""If there are more, the next look is to come after this time at the latest: often enough, where so much happens."""

RECORD: Final = """r.id, r.partition_id, r.task, r.instance, r.occurrence, r.spec, r.state, r.version, r.fence,
    r.due_at, r.schedule_since, r.claimable_at, r.lease_length, r.attempt, r.began_at"""


class Statements(NamedTuple):
    """The statements for one set of tables."""

    load: str
    complete: str
    """Completions, as nearly all swaps are; see `is_completion`."""
    swap: str
    """Swaps of every kind, but of no groups."""
    swap_together: str
    """Swaps of every kind."""
    find: str
    claim: str
    renew: str
    scan_task: str
    """Begins with the names that it is given."""
    scan_all: str
    number: str
    """Of what is due and of what is leased: how many, of how many that were looked at; and instances, of how many names."""
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


def statements_for(tables: Tables) -> Statements:
    """
    Return the statements for *tables*.

    A claim compares the number of free records in its snapshot with the number that it leased. It leases fewer if it
    skips a record that is locked, or one that changed after the snapshot: the new row is then locked but not visible.
    """
    records, names, partitions, history = tables.records, tables.names, tables.partitions, tables.history
    by_key = """n.partition_id = u.partition_id AND n.task = u.task
    AND n.instance = u.instance AND n.occurrence = u.occurrence"""
    wanted = "unnest($1::int[], $2::bigint[], $7::bigint[]) AS wanted(partition_id, most, begin)"
    full = f"{RECORD}, r.lease_until, r.lease_id, r.holder"
    return Statements(
        load=f"""
SELECT {full}, u.place
FROM unnest($1::int[], $2::text[], $3::text[], $4::text[])
    WITH ORDINALITY AS u(partition_id, task, instance, occurrence, place)
JOIN {names} n ON {by_key}
JOIN {records} r ON r.id = n.id
""",
        complete=f"""
WITH updated AS (
    UPDATE {records} r SET
        version = r.version + 1, due_at = u.due_at, claimable_at = u.claimable_at, state = u.state,
        attempt = 0, began_at = NULL, lease_until = {NO_LEASE}, lease_id = NULL, holder = NULL
    FROM unnest({integers(1)}, {integers(2)}, {integers(3)}, {integers(4)}, {documents(5)})
        AS u(id, before, due_at, claimable_at, state)
    WHERE r.id = u.id AND r.version = u.before
    RETURNING r.id
)
SELECT array_agg(id) FROM updated
""",
        swap=_swap(records, names, history, together=False),
        swap_together=_swap(records, names, history, together=True),
        find=f"""
SELECT n.id, u.place
FROM unnest($1::int[], $2::text[], $3::text[], $4::text[])
    WITH ORDINALITY AS u(partition_id, task, instance, occurrence, place)
JOIN {names} n ON {by_key}
""",
        claim=f"""
WITH claimed AS (
    UPDATE {records} r SET
        lease_id = $5, holder = $6, lease_until = $3 + r.lease_length, attempt = r.attempt + 1,
        began_at = coalesce(r.began_at, greatest($3, r.claimable_at)), fence = r.fence + 1, version = r.version + 1
    WHERE r.ctid = ANY (ARRAY(
        SELECT picked.place FROM {wanted}, LATERAL (
            SELECT c.ctid AS place FROM {records} c
            WHERE c.partition_id = wanted.partition_id AND c.claimable_at BETWEEN wanted.begin AND $8
                AND c.lease_until <= $4
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
        CASE WHEN sum(seen.free) > (SELECT count(*) FROM claimed) THEN $8 END,
        (SELECT min(lease_length) + $3 + $8 - $4 FROM claimed)
    )
    FROM {wanted}, LATERAL (
        SELECT least((
            SELECT c.claimable_at FROM {records} c
            WHERE c.partition_id = wanted.partition_id AND c.claimable_at > $8
            ORDER BY c.claimable_at LIMIT 1
        ),
            min(CASE WHEN head.lease_until > $4 THEN head.lease_until + $8 - $4
                WHEN wanted.most = 0 THEN $8 END),
            CASE WHEN count(*) = {HEAD_MAX} THEN $8 + {HEAD_PAUSE} END
        ) AS soonest, least(count(*) FILTER (WHERE head.lease_until <= $4), wanted.most) AS free
        FROM (
            SELECT c.lease_until FROM {records} c
            WHERE c.partition_id = wanted.partition_id AND c.claimable_at BETWEEN wanted.begin AND $8
            ORDER BY c.claimable_at LIMIT {HEAD_MAX}
        ) head
    ) seen
    WHERE (SELECT count(*) FROM claimed) < (SELECT sum(greatest(most, 1)) FROM unnest($2::bigint[]) AS most)
), {TOOK}, NULL, NULL, NULL, NULL, NULL
""",
        renew=f"""
WITH found AS MATERIALIZED (
    SELECT n.id, u.lease_id, u.length, u.place
    FROM unnest($1::int[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[])
        WITH ORDINALITY AS u(partition_id, task, instance, occurrence, lease_id, length, place)
    JOIN {names} n ON {by_key}
    ORDER BY n.id
), renewed AS (
    UPDATE {records} r SET
        lease_until = greatest(r.lease_until, $7 + found.length),
        claimable_at = CASE WHEN r.claimable_at < $7 + found.length THEN $7 + found.length ELSE r.claimable_at END
    FROM found WHERE r.id = found.id AND r.lease_id = found.lease_id
    RETURNING found.place
)
SELECT {NOW}, (SELECT array_agg(place) FROM renewed)
""",
        scan_task=f"""
SELECT {full} FROM {names} n JOIN {records} r ON r.id = n.id
WHERE n.partition_id = $1 AND n.task = $3 AND (n.instance, n.occurrence) >= ($4, $5)
ORDER BY n.instance, n.occurrence LIMIT $2
""",
        scan_all=f"""
SELECT {full} FROM {names} n JOIN {records} r ON r.id = n.id
WHERE n.partition_id = $1 AND (n.task, n.instance, n.occurrence) >= ($3, $4, $5)
ORDER BY n.task, n.instance, n.occurrence LIMIT $2
""",
        number=f"""
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
SELECT run FROM {history} WHERE partition_id = $1 AND task = $2 AND instance = $3 AND occurrence = $4
""",
        partitions=f"""
SELECT id, realm, handler, number FROM {partitions} p
WHERE realm = $1 AND EXISTS (SELECT FROM {names} n WHERE n.partition_id = p.id)
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
        exist=f"""SELECT to_regclass('{tables.meta}') IS NOT NULL, to_regclass('{records}') IS NOT NULL""",
        versions=f"""SELECT schema_version, min_reader FROM {tables.meta}""",
        raise_min_reader=f"UPDATE {tables.meta} SET min_reader = $1 WHERE min_reader < $1",
    )


_HELD_BACK: Final = """held_back AS MATERIALIZED (
    SELECT DISTINCT u.made_with FROM unnest($19::text::bigint[], $47::text::int[]) AS u(id, made_with)
    WHERE u.made_with <> 0 AND CASE WHEN u.id IN (SELECT id FROM held) THEN false ELSE true END
),"""
"""The groups of which a record is not as it was."""

_BROKEN: Final = """broken AS MATERIALIZED (
    SELECT made_with FROM held_back
    UNION ALL SELECT u.made_with FROM unnest($1::text::bigint[], $46::text::int[]) AS u(id, made_with)
    WHERE u.made_with <> 0 AND CASE WHEN u.id IN (SELECT id FROM named) THEN false ELSE true END
),"""
"""Those, and the groups whose new record was there already."""


def _swap(records: str, names: str, history: str, *, together: bool) -> str:
    """
    Return the statement that makes changes of every kind; *together* those of a group, or none of them.

    Locks are taken in one order by all: names of what is created by their names, then records by their ids, then rows
    of history. With groups names come after records, since only what is locked is sure to be changed; the deadlocks that
    may bring are undone, and tried again. Whether a row is in a result is asked in a CASE, since the planner then looks
    it up in a hash, while it would make a join of a plain IN, and compare each row with each.
    """
    columns = "version, fence, due_at, schedule_since, claimable_at, lease_length, attempt, began_at, state"
    of_created, of_updated, of_deleted = (
        (f", {integers(parameter, 'int')}" if together else "") for parameter in (46, 48, 49)
    )
    group = ", made_with" if together else ""
    whole = f" AND {_unless('broken')}" if together else ""
    return f"""
WITH held AS MATERIALIZED (
    SELECT r.id FROM unnest({integers(19)}, {integers(20)}) AS u(id, before) JOIN {records} r ON r.id = u.id
    WHERE r.version = u.before ORDER BY u.id FOR UPDATE OF r
), {_HELD_BACK if together else ""} named AS (
    INSERT INTO {names} (id, partition_id, task, instance, occurrence)
    SELECT u.id, u.partition_id, u.task, u.instance, u.occurrence
    FROM unnest({integers(1)}, {integers(2, "int")}, {texts(3)}, {texts(4)}, {texts(5)}{of_created})
        AS u(id, partition_id, task, instance, occurrence{group})
    {f"WHERE {_unless('held_back')}" if together else ""}
    ON CONFLICT (partition_id, task, instance, occurrence) DO NOTHING
    RETURNING id
), {_BROKEN if together else ""} created AS (
    INSERT INTO {records} (id, partition_id, task, instance, occurrence, {columns}, spec,
        lease_until, lease_id, holder)
    SELECT * FROM unnest({integers(1)}, {integers(2, "int")}, {texts(3)}, {texts(4)}, {texts(5)}, {values(6)},
        {documents(15)}, {integers(16)}, {texts(17)}, {texts(18)}) AS u(id)
    WHERE CASE WHEN u.id IN (SELECT id FROM named) THEN true END
    RETURNING id
), updated AS (
    UPDATE {records} r SET
        version = u.version, fence = u.fence, due_at = u.due_at, schedule_since = u.schedule_since,
        claimable_at = u.claimable_at, lease_length = u.lease_length, attempt = u.attempt, began_at = u.began_at,
        state = u.state, spec = coalesce(nullif(u.spec, ''), r.spec),
        lease_until = CASE WHEN u.keeps_lease THEN r.lease_until ELSE u.lease_until END,
        lease_id = CASE WHEN u.keeps_lease THEN r.lease_id ELSE u.lease_id END,
        holder = CASE WHEN u.keeps_lease THEN r.holder ELSE u.holder END
    FROM unnest({integers(21)}, {integers(22)}, {values(23)}, {documents(32)}, $33::bool[],
        {integers(34)}, {texts(35)}, {texts(36)}{of_updated})
        AS u(id, before, {columns}, spec, keeps_lease, lease_until, lease_id, holder{group})
    WHERE (SELECT count(*) FROM held) >= 0 AND r.id = u.id AND r.version = u.before{whole}
    RETURNING r.id
), deleted AS (
    DELETE FROM {records} r USING unnest({integers(37)}, {integers(38)}{of_deleted}) AS u(id, before{group})
    WHERE (SELECT count(*) FROM held) >= 0 AND r.id = u.id AND r.version = u.before{whole}
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
), told AS (
    INSERT INTO {history} (partition_id, task, instance, occurrence, slot, run)
    SELECT DISTINCT ON (partition_id, task, instance, occurrence, slot)
        partition_id, task, instance, occurrence, slot, run
    FROM unnest({integers(39)}, {integers(40, "int")}, {texts(41)}, {texts(42)}, {texts(43)},
        {integers(44, "int")}, {documents(45)})
        WITH ORDINALITY AS u(teller, partition_id, task, instance, occurrence, slot, run, place)
    WHERE CASE WHEN u.teller IN (SELECT id FROM made) THEN true END
    ORDER BY partition_id, task, instance, occurrence, slot, place DESC
    ON CONFLICT (partition_id, task, instance, occurrence, slot) DO UPDATE SET run = excluded.run
)
SELECT array_agg(id) FROM made
"""


def _unless(broken: str) -> str:
    """
    Return the condition that the group of *u* is not among those of the table *broken*.

    It is put so that the groups are looked up once: what is looked up for each row is looked up again where a row turns
    out to have been renewed in the meantime, and a part of a statement that writes cannot be run twice.
    """
    return (
        f"u.made_with <> ALL ((SELECT coalesce(array_agg({broken}.made_with), '{{}}') FROM {broken})::int[])"
    )


def values(first: int) -> str:
    """Return the arrays of what changes with each write: version to state, from parameter *first*."""
    return ", ".join((*map(integers, range(first, first + 8)), documents(first + 8)))


def integers(parameter: int, type_: str = "bigint") -> str:
    """Return the array in a parameter that holds one as text: the driver takes twice as long for an array as such."""
    return f"${parameter}::text::{type_}[]"


def texts(parameter: int) -> str:
    """Likewise of strings, of which the driver asks each whether it is a list."""
    return f"${parameter}::text::text[]"


def documents(parameter: int) -> str:
    """Return the array in a parameter that holds JSON texts, one after the other, which for the driver are one text."""
    return f"string_to_array(${parameter}::text, chr({ord(DOCUMENT_SEPARATOR)}))"
