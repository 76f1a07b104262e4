"""Removes for good what a dynamic task has left behind: its instances, their histories, and its own record."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from pyncette.cli.failures import Failure
from pyncette.cli.stored import backend_clock, the_record
from pyncette.core.record import Record
from pyncette.ledger.ledger import Ledger
from pyncette.mirror.counting import instances_of
from pyncette.mirror.instances import remove_instances
from pyncette.mirror.rules import is_template
from pyncette.store.base import Store

BATCH: Final = 1000
"""Records that are removed between two looks whether the task has been applied again."""

PROGRESS_SECONDS: Final = 5.0
"""Between two lines about how far it came."""


async def purge(
    store: Store, realm: str, name: str, handler: str | None, say: Callable[[str], None], *, sure: bool
) -> int:
    """
    Remove all that is left of the dynamic task *name*, which is stopped; return how many records of instances there were.

    What is interrupted goes on when it is asked for again. Raises Failure if it is not *sure*, or if it may not be.
    """
    template = await the_record(store, realm, name, handler)
    _refuse_wanted(name, template)
    ledger = Ledger(store, await backend_clock(store))
    if not sure:
        total = (await instances_of(store, template, ledger.clock.now())).total
        many = "an unknown number of" if total is None else f"{total:,}"
        raise Failure(
            f"{name} has {many} instances, which would be removed for good: say --yes if they shall"
        )
    removed = 0
    told_at = time.monotonic()
    while True:
        removal = await remove_instances(ledger, template, BATCH)
        removed += removal.removed
        if removal.done:
            break
        if time.monotonic() - told_at > PROGRESS_SECONDS:
            told_at = time.monotonic()
            say(f"{removed:,} records of instances are removed so far")
    if (await store.load([template.key]))[0] is not None:
        raise Failure(f"{name} was applied again in the meantime, after {removed:,} records were removed")
    return removed


def _refuse_wanted(name: str, record: Record) -> None:
    if not is_template(record.spec) or record.key.instance:
        raise Failure(
            f"{name} is no dynamic task; other tasks are removed by themselves after they were deleted"
        )
    if record.state.withdrawn_at is None:
        raise Failure(f"{name} is not stopped: delete its resource first, or remove its manifest")
