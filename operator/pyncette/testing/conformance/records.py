"""What the tests of a store need in order to speak of records: some to write, and calls that most of them make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from pyncette.clock import SECOND, Instant
from pyncette.core.record import Change, Key, Outcome, Partition, Record, Run, replace
from pyncette.core.schedule import Interval
from pyncette.core.spec import Spec
from pyncette.store.base import KEY_BYTES_MAX, Store

T0: Final[Instant] = 1_700_000_000_000_000
"""An instant as large as real ones are, which is not exact as a number of a single float's steps plus one."""

LEASE: Final = 60 * SECOND
HERE: Final = Partition("realm", "handler", 0)
ELSEWHERE: Final = Partition("realm", "handler", 1)

TRIES_MAX: Final = 200
"""Repetitions of a call that may lose to others; far more than fair ones need."""

ODD_NAMES: Final = (
    "",
    " ",
    "a b",
    'it\'s "quoted" `here`',
    "100%_of\\it",
    "semi;colon -- comment /* */",
    "new\nline\ttab\r",
    "bell\x07\x7f",
    "$1 ?1 :a @b {c}",
    "Ünïcode 日本語",
    "emoji 🕰️👩‍👩‍👧",
    "\uffff and \U0010ffff",
    "café",
    "cafe\u0301",
    "CAFÉ",
    "trailing ",
    "null",
    "[1,2]",
    "x" * 512,
    "x" * KEY_BYTES_MAX,
    "é" * (KEY_BYTES_MAX // 2),
)


def a_record(instance: str = "a", at: Instant | None = T0, **fields: Any) -> Record:
    """Return a record that was never stored, due at *at*."""
    usual: dict[str, Any] = {
        "key": Key(HERE, "task", instance),
        "spec": Spec(Interval(60 * SECOND), msgspec.Raw(b'{"n":1}')),
        "version": T0,
        "fence": T0,
        "due_at": at,
        "schedule_since": T0 - 60 * SECOND,
        "claimable_at": at,
        "lease_length": LEASE,
    }
    return Record(**(usual | fields))


def a_run(number: int = 1, **fields: Any) -> Run:
    """Return a row of history that ended later the greater its number."""
    usual: dict[str, Any] = {
        "id": f"run-{number}",
        "scheduled_at": T0 + number,
        "ended_at": T0 + 10 * number,
        "outcome": Outcome.SUCCEEDED,
    }
    return Run(**(usual | fields))


def seen(record: Record | None) -> Record | None:
    """Return *record* without what is the store's own business."""
    return None if record is None else replace(record, locator=None)


def changed(record: Record, **fields: Any) -> Record:
    return replace(record, version=record.version + 1, **fields)


def completed(record: Record, at: Instant | None) -> Record:
    """Return what a completion puts in the place of a claimed *record*."""
    return changed(record, due_at=at, claimable_at=at, attempt=0, began_at=None, lease=None)


async def create(store: Store, *records: Record) -> None:
    assert await store.swap([Change(None, record) for record in records]) == [True] * len(records)


async def load(store: Store, record: Record) -> Record:
    (found,) = await store.load([record.key])
    assert found is not None
    return found


async def load_all(store: Store, records: Sequence[Record]) -> list[Record]:
    found = [record for record in await store.load([record.key for record in records]) if record is not None]
    assert len(found) == len(records)
    return found


async def claim(
    store: Store,
    limit: int = 10,
    now: Instant = T0,
    lease_id: str = "lease",
    expired_at: Instant | None = None,
    partition: Partition = HERE,
) -> list[Record]:
    claimed = await store.claim(
        {partition: limit}, lease_id, "worker", now, now if expired_at is None else expired_at
    )
    return list(claimed.records)


async def claim_in_the_end(store: Store, partition: Partition, lease_id: str) -> Record:
    """Return the one record of *partition*: a claim beside other calls may find it locked for a moment."""
    for again in range(100):
        for record in await claim(store, partition=partition, lease_id=f"{lease_id}-{again}"):
            return record
    raise AssertionError(f"the record of {partition} is not claimed, however often one asks")


def instances(records: list[Record]) -> list[str]:
    return [record.key.instance for record in records]
