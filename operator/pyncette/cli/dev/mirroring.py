"""Mirrors the manifests of a folder into its database, each as the operator mirrors a resource."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable

from pyncette.clock import Duration
from pyncette.ledger.ledger import Ledger
from pyncette.mirror.conversion import DesiredRecord
from pyncette.mirror.records import (
    WITHDRAWAL_GRACE,
    MisplacedRecord,
    mirror_one,
    remove_stopped,
    stop,
    task_records,
)
from pyncette.mirror.rules import MirrorResult, is_template


async def mirror_all(
    ledger: Ledger,
    realm: str,
    desired: Iterable[DesiredRecord],
    *,
    keep: Container[str] = (),
    grace: Duration = WITHDRAWAL_GRACE,
) -> list[MirrorResult]:
    """
    Make the records of resources in *realm* equal to *desired*, and return what was done.

    A record that is not desired any more is stopped at once, and removed after *grace*, unless *keep* has its name. A
    template stays stopped, and so do its instances. Records that no resource owns are left alone. No two of *desired* may
    have the same key, nor the same name unless one of them is a template. Doing this twice does it once. Raises StoreError.
    """
    by_key = {each.key: each for each in desired}
    names = {key.task for key, each in by_key.items() if not is_template(each.spec)}
    misplaced, gone = defaultdict(list), []
    async for record in task_records(ledger.store, realm):
        if record.state.owner is None or record.key in by_key:
            continue
        # A template never moves: it is where its instances are.
        if record.key.task in names and not is_template(record.spec):
            misplaced[record.key.task].append(MisplacedRecord(ledger, record))
        elif record.key.task not in keep:
            gone.append(record)
    results: list[MirrorResult | None] = []
    for key, each in by_key.items():
        old = () if is_template(each.spec) else misplaced[key.task]
        results.append(await mirror_one(ledger, each, old))
    for record in gone:
        results.append(await stop(ledger, record))
        if not is_template(record.spec):
            results.append(await remove_stopped(ledger, record, grace))
    return [result for result in results if result is not None]
