"""Removes the instances of a deleted dynamic task, their histories, and the record of the task itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from pyncette.cli.failures import Failure
from pyncette.cli.stored import backend_clock, find_record
from pyncette.core.record import Record
from pyncette.ledger.ledger import Ledger
from pyncette.mirror.counting import instances_of
from pyncette.mirror.instances import remove_instances
from pyncette.mirror.rules import is_template
from pyncette.store.base import Store

BATCH: Final = 1000
"""Records that are removed between two checks that the task has not been applied again."""

PROGRESS_SECONDS: Final = 5.0
"""Time between two lines of progress."""


async def purge(
    store: Store,
    realm: str,
    name: str,
    handler: str | None,
    report: Callable[[str], None],
    *,
    confirmed: bool,
) -> int:
    """
    Remove all records of the stopped dynamic task *name*, and return the number of instance records.

    An interrupted purge continues when it is called again. Raises Failure if not *confirmed*, or if *name* is not a
    stopped dynamic task.
    """
    template = await find_record(store, realm, name, handler)
    _refuse_wanted(name, template)
    ledger = Ledger(store, await backend_clock(store))
    if not confirmed:
        total = (await instances_of(store, template, ledger.clock.now())).total
        many = "an unknown number of" if total is None else f"{total:,}"
        raise Failure(
            f"{name} has {many} instances, which would be removed permanently: pass --yes to confirm"
        )
    removed = 0
    reported_at = time.monotonic()
    while True:
        removal = await remove_instances(ledger, template, BATCH)
        removed += removal.removed
        if removal.done:
            break
        if time.monotonic() - reported_at > PROGRESS_SECONDS:
            reported_at = time.monotonic()
            report(f"removed {removed:,} instance records so far")
    if (await store.load([template.key]))[0] is not None:
        raise Failure(
            f"{name} was applied again in the meantime; {removed:,} records were removed before that"
        )
    return removed


def _refuse_wanted(name: str, record: Record) -> None:
    if not is_template(record.spec) or record.key.instance:
        raise Failure(
            f"{name} is not a dynamic task; other tasks are removed automatically after they are deleted"
        )
    if record.state.withdrawn_at is None:
        raise Failure(f"{name} is not stopped: delete its resource or remove its manifest first")
