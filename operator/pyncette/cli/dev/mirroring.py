"""Mirrors the manifests of a folder into its database, each as the operator mirrors a resource."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable

from pyncette.clock import Duration
from pyncette.ledger.ledger import Ledger
from pyncette.mirror.conversion import DesiredRecord
from pyncette.mirror.records import (
    WITHDRAWAL_GRACE,
    MirrorReport,
    MisplacedRecord,
    create_or_edit_all,
    mirror_one,
    remove_all_stopped,
    stop_all,
    task_records,
)
from pyncette.mirror.rules import MirrorResult, is_template


async def mirror_all(
    ledger: Ledger,
    realm: str,
    desired: Iterable[DesiredRecord],
    report: MirrorReport | None = None,
    *,
    keep: Container[str] = (),
    grace: Duration = WITHDRAWAL_GRACE,
) -> list[MirrorResult]:
    """
    Make the records of resources in *realm* equal to *desired*, and return what was done.

    A record that is not desired any more is stopped at once, and removed after *grace*, unless *keep* has its name. A
    template stays stopped, and so do its instances. Records that no resource owns are left alone. No two of *desired* may
    have the same key, nor the same name unless one of them is a template. Doing this twice does it once.

    Raises StoreError once everything else was done; after an outage, at once. *report* then holds what was done.
    """
    report = MirrorReport() if report is None else report
    by_key = {each.key: each for each in desired}
    # A template never moves: it is where its instances are.
    by_name = {key.task: key for key, each in by_key.items() if not is_template(each.spec)}
    misplaced, gone = defaultdict(list), []
    async for record in task_records(ledger.store, realm):
        if record.state.owner is None or record.key in by_key:
            continue
        if record.key.task in by_name and not is_template(record.spec):
            misplaced[by_name[record.key.task]].append(MisplacedRecord(ledger, record))
        elif record.key.task not in keep:
            gone.append(record)
    await create_or_edit_all(ledger, [each for key, each in by_key.items() if key not in misplaced], report)
    for key, each in by_key.items():
        if key in misplaced:
            with report.collecting():
                result = await mirror_one(ledger, each, misplaced[key])
                report.results.append(result)
                report.errors += (each.error for each in result.unremoved)
    await stop_all(ledger, gone, report)
    await remove_all_stopped(
        ledger, [record for record in gone if not is_template(record.spec)], grace, report
    )
    report.raise_errors()
    return report.results
