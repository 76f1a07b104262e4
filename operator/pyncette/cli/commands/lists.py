"""The commands that list tasks, runs and workers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import click

from pyncette.cli.commands.command import WithExamples
from pyncette.cli.commands.options import (
    Realm,
    WholeNumber,
    handler_option,
    output_option,
    realm_options,
)
from pyncette.cli.failures import Failure
from pyncette.store.base import Store

if TYPE_CHECKING:
    from pyncette.cli.listing import Listing

STATES: Final = (
    *("due", "failing"),
    *("scheduled", "running", "retrying", "suspended", "exhausted", "stopped", "finished", "template"),
)
"""The names of `pyncette.cli.filters.STATES`, which other commands need not import."""

INSTANCES_SHOWN: Final = 20
"""The instances that a list shows unless told otherwise."""

watch_option: Final[Callable[[Any], Any]] = click.option(
    "--watch",
    "-w",
    is_flag=True,
    help="Read again every 2 seconds until Ctrl-C, and show changes. As JSON: one line for each.",
)


def _print(realm: Realm, read: Callable[[Store], Awaitable[Listing]], output: str, *, watch: bool) -> None:
    from pyncette.cli import listing, stored

    async def work(store: Store) -> None:
        if watch:
            await listing.watch(lambda: read(store), output)
        else:
            listing.show(await read(store), output)

    stored.with_store(realm.backend, work)


@click.command(
    cls=WithExamples,
    short_help="List tasks.",
    examples=[
        "pyncette tasks --path examples/quickstart",
        "pyncette tasks --state failing --state due --watch",
        "pyncette tasks --namespace shop --pool reports  # in the operator's pod",
        "pyncette tasks remind --instances --prefix user-4",
        "pyncette tasks remind/alice --output json",
    ],
)
@click.argument("task", metavar="[TASK[/INSTANCE]]", required=False)
@click.option("--instances", is_flag=True, help="List the instances of TASK, which is a dynamic task.")
@click.option(
    "--state",
    "states",
    type=click.Choice(STATES),
    multiple=True,
    help="List only those in this state; may be repeated. due: waits for a worker. failing: its last run failed, or is retried.",
)
@click.option("--prefix", metavar="TEXT", default="", help="List only those whose names begin with TEXT.")
@click.option(
    "--limit",
    type=WholeNumber(min=1),
    metavar="N",
    help=f"List at most N, the first ones by name. By default {INSTANCES_SHOWN} instances, and all tasks.",
)
@click.option(
    "--scan-limit",
    type=WholeNumber(min=0),
    metavar="N",
    default=10_000,
    show_default=True,
    help="Read at most N records of instances; 0: read all.",
)
@watch_option
@handler_option
@realm_options
@output_option
def tasks(
    task: str | None,
    states: tuple[str, ...],
    prefix: str,
    limit: int | None,
    scan_limit: int,
    handler: str | None,
    realm: Realm,
    output: str,
    *,
    instances: bool,
    watch: bool,
) -> None:
    """
    List tasks with their next due time and their last result. With TASK, show its details.

    Tables show local time with its zone; JSON has UTC, as RFC 3339. Names are sorted with numbers by value. A message on
    stderr says so if not all are shown.

    With --instances, instances are read in the order of their names, at most --scan-limit of them, and --state and the
    sorting apply to those that were read. --prefix reads only what has it. To read a million instances takes about 5,000
    requests, and some minutes.
    """
    from pyncette.cli.filters import Filter
    from pyncette.cli.tables import instances_of, task_in, tasks_in

    wanted = Filter(frozenset(states), prefix)
    if instances and task is None:
        raise Failure("--instances needs a TASK")
    if task is not None and not instances and (states or prefix or limit):
        raise Failure("--state, --prefix and --limit are for lists: add --instances, or leave out TASK")

    async def read(store: Store) -> Listing:
        if task is None:
            return await tasks_in(store, realm.name, handler, wanted, limit)
        if not instances:
            return await task_in(store, realm.name, task, handler)
        return await instances_of(
            store, realm.name, task, handler, wanted, limit or INSTANCES_SHOWN, scan_limit
        )

    _print(realm, read, output, watch=watch)


@click.command(
    cls=WithExamples,
    short_help="List the latest runs of a task.",
    examples=["pyncette runs hello --path examples/quickstart"],
)
@click.argument("task", metavar="TASK[/INSTANCE]")
@watch_option
@handler_option
@realm_options
@output_option
def runs(task: str, handler: str | None, realm: Realm, output: str, *, watch: bool) -> None:
    """
    List the latest runs of a task, the last one first. Its history limits decide how many are kept.

    Occurrences that were missed or skipped are listed as one line per gap. A message on stderr says why there are no runs.
    """
    from pyncette.cli.tables import runs_of

    _print(realm, lambda store: runs_of(store, realm.name, task, handler), output, watch=watch)


@click.command(
    cls=WithExamples,
    short_help="List running workers.",
    examples=[
        "pyncette workers --backend-file url.txt",
        "pyncette workers --realm cluster/shop/default --output json",
    ],
)
@watch_option
@realm_options
@output_option
def workers(realm: Realm, output: str, *, watch: bool) -> None:
    """
    List the running workers of the realm, with the version and the handlers of each.

    A draining worker is not listed. A worker that was killed is listed for another minute.
    """
    from pyncette.cli.tables import workers_of

    _print(realm, lambda store: workers_of(store, realm.name), output, watch=watch)
