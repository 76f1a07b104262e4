"""The output of `tasks`, `runs` and `workers`, as columns and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from pyncette.cli import formatting
from pyncette.cli.dev.state import row_of
from pyncette.cli.failures import Failure
from pyncette.cli.output import Table
from pyncette.cli.stored import find_record
from pyncette.cli.survey import Phase, View, as_json, describe, instances, read_task, run_as_json, survey
from pyncette.clock import Instant
from pyncette.coordination.members import Member, members
from pyncette.core.accounting import within_limits
from pyncette.core.record import Run
from pyncette.store.base import Store


class Tasks(NamedTuple):
    """The output of `tasks`."""

    now: Instant
    views: list[View]
    alone: bool
    """The details of one task instead of a list."""

    def as_json(self) -> Any:
        documents = [as_json(view) for view in self.views]
        return documents[0] if self.alone else documents

    def as_table(self) -> Table:
        if self.alone:
            return Table(("NAME", "VALUE"), [row for row in _details(self.views[0], self.now) if row[1]])
        names = ("TASK", "HANDLER", "SCHEDULE", "NEXT", "LAST", "LATE", "RUNNING", "SO FAR")
        rows: list[Sequence[str]] = []
        for view in self.views:
            row = row_of(view, self.now)
            rows.append(
                (row.task, view.handler, row.schedule, row.next, row.last, row.late, row.running, row.counts)
            )
        narrowable = ("SO FAR", "HANDLER", "SCHEDULE", "LAST", "NEXT", "TASK")
        return Table(names, rows, narrowable, droppable=("LATE", "HANDLER"))


class Runs(NamedTuple):
    """The output of `runs`."""

    now: Instant
    runs: list[Run]

    def as_json(self) -> Any:
        return [run_as_json(run) for run in self.runs]

    def as_table(self) -> Table:
        names = ("RUN", "OUTCOME", "SCHEDULED", "LATE", "TOOK", "ENDED", "ATTEMPTS", "WORKER", "MESSAGE")
        narrowable = ("WORKER", "MESSAGE", "OUTCOME")
        rows = [_run(run, self.now) for run in self.runs]
        return Table(names, rows, narrowable, droppable=("WORKER", "ATTEMPTS", "LATE", "TOOK"))


class Workers(NamedTuple):
    """The output of `workers`."""

    now: Instant
    members: list[Member]

    def as_json(self) -> Any:
        return [
            {
                "worker": member.holder,
                "version": member.version,
                "schema": member.reader,
                "handlers": list(member.handlers),
                "partitions": None if member.partitions is None else dict(member.partitions),
                "refused": list(member.refused),
                "slots": member.slots,
                "startTime": formatting.rfc3339(member.started_at),
            }
            for member in self.members
        ]

    def as_table(self) -> Table:
        rows = [
            (
                member.holder,
                member.version,
                str(member.slots),
                formatting.relative(member.started_at, self.now),
                ", ".join(
                    f"{name} (refused)" if name in member.refused else name for name in member.handlers
                ),
            )
            for member in self.members
        ]
        names = ("WORKER", "VERSION", "SLOTS", "STARTED", "HANDLERS")
        return Table(names, rows, ("HANDLERS", "WORKER"), droppable=("SLOTS",))


async def workers_of(store: Store, realm: str) -> Workers:
    """Return the running workers of *realm*."""
    now = await store.now()
    return Workers(now, await members(store, realm, now))


async def tasks_in(store: Store, realm: str, name: str | None, handler: str | None = None) -> Tasks:
    """Return the tasks of *realm*, only those of *handler* if set, or the task *name*. Raises Failure if it is not found."""
    now = await store.now()
    if name is None:
        listed = await survey(store, realm, now)
        views = [describe(found, now) for found in listed if handler is None or found.handler == handler]
        return Tasks(now, views, alone=False)
    found = await read_task(store, await find_record(store, realm, name, handler), now)
    return Tasks(now, [describe(found, now)], alone=True)


async def instances_of(store: Store, realm: str, name: str, handler: str | None, limit: int) -> Tasks:
    """Return the first *limit* instances of the task *name*, by name. Raises Failure if there are none."""
    now = await store.now()
    found = await instances(store, realm, name, handler, limit)
    if not found:
        raise Failure(f"no instances of a task {name} found; `pyncette tasks` lists all tasks")
    return Tasks(now, [describe(one, now) for one in found], alone=False)


async def runs_of(store: Store, realm: str, name: str, handler: str | None = None) -> Runs:
    """Return the history of the task *name*. Raises Failure if the task is not found."""
    record = await find_record(store, realm, name, handler)
    return Runs(await store.now(), within_limits(await store.history(record.key), record.spec.policies))


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


def _run(run: Run, now: Instant) -> Sequence[str]:
    started = run.started_at
    gap = "" if run.count == 1 and run.exact else f" ({'' if run.exact else 'at least '}{run.count} of them)"
    return (
        run.id,
        f"{run.outcome.value}{gap}",
        formatting.rfc3339(run.scheduled_at) or "",
        "" if started is None else formatting.duration(started - run.scheduled_at),
        "" if started is None else formatting.duration(run.ended_at - started),
        formatting.relative(run.ended_at, now),
        str(run.attempts or ""),
        run.worker,
        run.message,
    )
