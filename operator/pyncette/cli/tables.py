"""The lists of `tasks`, `runs` and `workers`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pyncette.cli import formatting
from pyncette.cli.dev.state import row_of
from pyncette.cli.failures import Failure
from pyncette.cli.filters import Filter
from pyncette.cli.instances import Found, Names, find_instances, natural
from pyncette.cli.listing import Item, Listing
from pyncette.cli.output import Table
from pyncette.cli.stored import find_record
from pyncette.cli.survey import (
    Phase,
    StoredTask,
    View,
    as_json,
    describe,
    late,
    read_task,
    run_as_json,
    survey,
)
from pyncette.clock import Instant
from pyncette.coordination.members import Member, members
from pyncette.core.accounting import keeps_history, within_limits
from pyncette.core.record import Record, Run
from pyncette.store.base import Store

TASKS: Final = Table(
    ("TASK", "HANDLER", "SCHEDULE", "NEXT", "LAST", "LATE", "RUNNING", "SO FAR"),
    narrowable=("SO FAR", "HANDLER", "SCHEDULE", "LAST", "NEXT", "TASK"),
    droppable=("LATE", "HANDLER", "SO FAR"),
)

RUNS: Final = Table(
    ("RUN", "OUTCOME", "SCHEDULED", "LATE", "TOOK", "ENDED", "ATTEMPTS", "WORKER", "MESSAGE"),
    narrowable=("WORKER", "MESSAGE", "OUTCOME", "SCHEDULED", "RUN"),
    droppable=("WORKER", "ATTEMPTS", "LATE", "RUN", "TOOK", "ENDED"),
)

WORKERS: Final = Table(
    ("WORKER", "VERSION", "SLOTS", "STARTED", "HANDLERS"),
    narrowable=("HANDLERS", "WORKER", "VERSION"),
    droppable=("SLOTS",),
)


async def workers_of(store: Store, realm: str) -> Listing:
    """Return the running workers of *realm*."""
    now = await store.now()
    found = await members(store, realm, now)
    return Listing(WORKERS, [Item(member.holder, _worker(member), _cells(member, now)) for member in found])


async def tasks_in(
    store: Store, realm: str, handler: str | None, wanted: Filter, limit: int | None
) -> Listing:
    """Return the first *limit* tasks of *realm* that are *wanted*, only those of *handler* if set."""
    now = await store.now()
    views = [
        describe(found, now)
        for found in await survey(store, realm, now)
        if handler is None or found.handler == handler
    ]
    admitted = [view for view in views if view.name.startswith(wanted.prefix) and wanted.admits(view, now)]
    admitted.sort(key=lambda view: natural(view.name))
    shown = admitted[:limit]
    notes = []
    if len(shown) < len(admitted):
        notes.append(f"{len(shown):,} of {len(admitted):,} tasks are shown; --limit N shows more")
    return Listing(TASKS, [_task(view, now) for view in shown], notes)


async def task_in(store: Store, realm: str, name: str, handler: str | None = None) -> Listing:
    """Return the task *name* with its details. Raises Failure if it is not found."""
    now = await store.now()
    view = describe(await read_task(store, await find_record(store, realm, name, handler), now), now)
    details = Table(("NAME", "VALUE"), [row for row in _details(view, now) if row[1]])
    return Listing(TASKS, [_task(view, now)], details=details)


async def instances_of(
    store: Store, realm: str, name: str, handler: str | None, wanted: Filter, limit: int, scan_limit: int
) -> Listing:
    """
    Return the first *limit* instances of the task *name* that are *wanted*, of those that may be read.

    Raises Failure if there are none of any kind.
    """
    now = await store.now()

    def matches(one: StoredTask) -> bool:
        # perf: what a state needs, such as the next occurrence, takes longer than to read a record
        return not wanted.states or wanted.admits(describe(one, now), now)

    names = Names(wanted.prefix, scan_limit)
    found = await find_instances(store, realm, name, handler, names, limit, matches)
    if not found.read and not wanted.prefix:
        raise Failure(f"no instances of a task {name} found; `pyncette tasks` lists all tasks")
    items = [_task(describe(one, now), now) for one in found.instances]
    return Listing(TASKS, items, _more(found, wanted))


def _more(found: Found, wanted: Filter) -> Sequence[str]:
    """Return what to say of the instances that are not shown."""
    shown = len(found.instances)
    notes = []
    if shown < found.matched:
        which = "matching instances" if wanted.states or wanted.prefix else "instances"
        which += "" if found.is_complete else " that were read"
        notes.append(f"{shown:,} of {found.matched:,} {which} are shown; --limit N shows more")
    if not found.is_complete:
        # No total: some stores count no further than to 10,000.
        notes.append(
            f"there are more instances: only the first {found.read:,} records by name were read, up to {found.last}; "
            "select with --prefix, or read all with --scan-limit 0"
        )
    return notes


async def runs_of(store: Store, realm: str, name: str, handler: str | None = None) -> Listing:
    """Return the history of the task *name*. Raises Failure if the task is not found."""
    record = await find_record(store, realm, name, handler)
    found = within_limits(await store.history(record.key), record.spec.policies)
    now = await store.now()
    items = [Item(_name(run), run_as_json(run), _run(run, record, now)) for run in found]
    return Listing(RUNS, items, () if items else _why_no_runs(record, name), latest_first=True)


def _name(run: Run) -> str:
    """Return what identifies *run* in a history: a gap has no id."""
    return run.id or f"{run.outcome.value} {run.scheduled_at}"


def _why_no_runs(record: Record, name: str) -> Sequence[str]:
    policies = record.spec.policies
    if policies is not None and keeps_history(policies):
        return ("no run has ended yet",)
    is_template = record.spec.schedule is None and not record.key.instance
    if not is_template and not record.key.instance:
        return ("no history is kept of this task: its history limits are 0",)
    command = f"pyncette tasks {name}{' --instances' if is_template else ''}"
    return (f"no history is kept of instances of a dynamic task; `{command}` shows the last run",)


def _task(view: View, now: Instant) -> Item:
    row = row_of(view, now)
    cells = (row.task, view.handler, row.schedule, row.next, row.last, row.late, row.running, row.counts)
    return Item(f"{view.handler} {view.name}", as_json(view), cells)


def _worker(member: Member) -> dict[str, Any]:
    return {
        "worker": member.holder,
        "version": member.version,
        "schema": member.reader,
        "handlers": list(member.handlers),
        "partitions": None if member.partitions is None else dict(member.partitions),
        "refused": list(member.refused),
        "slots": member.slots,
        "startTime": formatting.rfc3339(member.started_at),
    }


def _cells(member: Member, now: Instant) -> Sequence[str]:
    return (
        member.holder,
        member.version,
        str(member.slots),
        formatting.relative(member.started_at, now),
        ", ".join(f"{name} (refused)" if name in member.refused else name for name in member.handlers),
    )


def _details(view: View, now: Instant) -> list[Sequence[str]]:
    row = row_of(view, now)
    summary = view.summary
    return [
        ("task", view.name),
        ("handler", view.handler),
        ("schedule", row.schedule),
        ("phase", view.phase.value),
        ("next", row.next),
        ("running", row.running),
        ("last", row.last),
        ("late", row.late),
        ("attempts", str(summary.last_attempts or "")),
        ("worker", summary.last_worker),
        ("message", summary.last_message),
        ("so far", row.counts),
        ("failures in a row", str(summary.consecutive_failures or "")),
        ("dead letters", str(view.dead_letters or "")),
        # Those of a template are internal to workers.
        ("arguments", "" if view.phase is Phase.TEMPLATE else bytes(view.args).decode()),
    ]


def _run(run: Run, record: Record, now: Instant) -> Sequence[str]:
    started, lateness = run.started_at, late(record, run.scheduled_at, run.started_at)
    gap = "" if run.count == 1 and run.exact else f" ({'' if run.exact else 'at least '}{run.count} of them)"
    return (
        run.id,
        f"{run.outcome.value}{gap}",
        formatting.moment(run.scheduled_at, now),
        "" if lateness is None else formatting.duration(lateness),
        "" if started is None else formatting.duration(run.ended_at - started),
        formatting.relative(run.ended_at, now),
        str(run.attempts or ""),
        run.worker,
        run.message,
    )
