"""Measures the cost of schedules and runs on DynamoDB, in billed units: `python -m benchmarks.dynamodb_costs`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import msgspec

from pyncette.clock import SECOND
from pyncette.core.record import (
    Change,
    HistoryRow,
    Key,
    Outcome,
    Partition,
    Record,
    Run,
    State,
    Summary,
    replace,
)
from pyncette.core.schedule import Cron
from pyncette.core.spec import Spec
from pyncette.store.base import Renewal
from pyncette.store.dynamodb.store import DynamoStore
from tests.servers import open_dynamodb
from tests.servers.dynamodb import REGION, credentials

T0 = 1_700_000_000 * SECOND
DAY = 86_400 * SECOND
LEASE = 60 * SECOND

HERE = Partition("", "reminder")

NUMBER = 100
"""Records in a batch, which share the cost of a page."""

WRITES = ("update_item", "put_item", "delete_item", "batch_execute_statement", "transact_write_items")


class Cost(NamedTuple):
    """Request units."""

    what: str
    write: float
    read: float


async def costs(store: DynamoStore) -> list[Cost]:
    """Return the cost of each operation; *store* is empty."""
    counted = {"write": 0.0, "read": 0.0}

    def count(operation: str, consumed: Any) -> None:
        kind = "write" if operation in WRITES else "read"
        for each in consumed if isinstance(consumed, list) else [consumed]:
            # DynamoDB Local says 0 of a read that finds nothing, and DynamoDB bills one.
            counted[kind] += each["CapacityUnits"] or (kind == "read")

    store._requests.consumed = count

    async def cost(
        what: str, work: Callable[[], Awaitable[object]], of: int = NUMBER, times: float = 1
    ) -> Cost:
        counted.update(write=0.0, read=0.0)
        await work()
        if what.startswith("unschedule"):
            counted["read"] -= NUMBER  # of loading them, to know what to remove
        return Cost(what, counted["write"] * times / of, counted["read"] * times / of)

    await store.swap([Change(None, _record("first"))])  # registers the partition, once
    await store.swap([Change(await _only(store, "first"), None)])
    found = [await cost("schedule an instance", lambda: _create(store))]
    held: list[Record] = []

    async def claim() -> None:
        held.extend((await store.claim({HERE: NUMBER}, "lease", "worker", T0, T0)).records)
        assert len(held) == NUMBER

    claimed = await cost("claim", claim)
    found.append(
        await cost(
            "renew its lease",
            lambda: store.renew([Renewal(record.key, "lease", LEASE) for record in held], T0 + LEASE // 2),
        )
    )
    completed = await cost("complete", lambda: _complete(store, held))
    found.insert(1, Cost("run it", claimed.write + completed.write, claimed.read + completed.read))
    held.clear()
    claimed = await cost("claim", claim)
    completed = await cost("complete", lambda: _complete(store, held, rows=True))
    found.insert(
        2,
        Cost("run it, with a history row", claimed.write + completed.write, claimed.read + completed.read),
    )
    found.append(await cost("load it", lambda: store.load([_record(f"{n:04}").key for n in range(NUMBER)])))
    found.append(await cost("list it, in pages of 100", lambda: store.scan(HERE, None, None, NUMBER)))
    polls = 3600  # one a second
    idle = T0 - DAY
    await store.claim(
        {HERE: NUMBER}, "idle", "worker", idle, idle
    )  # the first one expects as much as there was before
    found.append(
        await cost(
            "one idle hour of a worker, for each handler",
            lambda: store.claim({HERE: NUMBER}, "idle", "worker", idle, idle),
            of=1,
            times=polls,
        )
    )
    found.append(await cost("unschedule it, with its history row", lambda: _remove(store)))
    await _create(store)
    found.append(await cost("unschedule it, without history", lambda: _remove(store)))
    return found


def _record(name: str) -> Record:
    """Return a reminder with a time zone, a typical record."""
    return Record(
        Key(HERE, "reminder", f"user-{name}"),
        Spec(
            Cron("30 7 * * 1-5", "Europe/Dublin"),
            msgspec.Raw(b'{"user":"ada@example.com","text":"Stand up"}'),
        ),
        T0,
        T0,
        T0,
        T0 - DAY,
        T0,
        LEASE,
        state=State(
            created_version=T0,
            summary=Summary(
                last_scheduled_at=T0,
                last_started_at=T0,
                last_ended_at=T0,
                last_outcome=Outcome.SUCCEEDED,
                last_worker="worker-7d9c8b6f5-abcde",
                last_success_at=T0,
            ),
        ),
    )


async def _create(store: DynamoStore) -> None:
    assert all(await store.swap([Change(None, _record(f"{number:04}")) for number in range(NUMBER)]))


async def _remove(store: DynamoStore) -> None:
    records = await store.load([_record(f"{number:04}").key for number in range(NUMBER)])
    assert all(await store.swap([Change(record, None) for record in records]))


async def _only(store: DynamoStore, name: str) -> Record:
    (found,) = await store.load([_record(name).key])
    assert found is not None
    return found


async def _complete(store: DynamoStore, held: list[Record], *, rows: bool = False) -> None:
    run = Run("run", T0, T0, Outcome.SUCCEEDED, started_at=T0, attempts=1, worker="worker-7d9c8b6f5-abcde")
    changes = [
        Change(
            record,
            replace(
                record, version=record.version + 1, due_at=T0, claimable_at=T0, attempt=0, began_at=None, lease=None,
                state=replace(record.state, created_version=T0 + 1),
            ),
            (HistoryRow(0, run),) if rows else (),
        )
        for record in held
    ]  # fmt: skip
    assert all(await store.swap(changes))


async def measured(endpoint: str, table: str) -> list[Cost]:
    # DynamoDB Local does not tell what statements of a batch cost. Each costs as much as the request that does the same.
    async with DynamoStore(REGION, table, endpoint=endpoint, batches=False) as store:
        return await costs(store)


def table_of(found: list[Cost]) -> str:
    """Return the table of the documentation."""
    lines = ["| | write units | read units |", "|---|---:|---:|"]
    lines += [f"| {cost.what} | {_rounded(cost.write)} | {_rounded(cost.read)} |" for cost in found]
    return "\n".join(lines)


def _rounded(units: float) -> str:
    return f"{units:,.0f}" if units == int(units) or units >= 100 else f"{units:.1f}"


def main() -> None:
    with credentials(), open_dynamodb() as server, server.fresh_table() as table:
        print(table_of(asyncio.run(measured(server.endpoint, table))))


if __name__ == "__main__":
    main()
