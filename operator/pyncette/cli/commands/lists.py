"""The commands that list what is stored: tasks, runs and workers."""

from __future__ import annotations

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
from pyncette.cli.output import print_json, print_table
from pyncette.store.base import Store


@click.command(
    cls=WithExamples,
    short_help="List what is scheduled.",
    examples=[
        "pyncette tasks --path examples/quickstart",
        "pyncette tasks --namespace shop --pool reports  # in the operator's pod",
        "pyncette tasks remind --instances",
        "pyncette tasks remind/alice --output json",
    ],
)
@click.argument("task", metavar="[TASK[/INSTANCE]]", required=False)
@click.option("--instances", is_flag=True, help="List the instances of TASK, a dynamic one, by their names.")
@click.option(
    "--limit", type=WholeNumber(min=1), metavar="N", default=20, show_default=True, help="So many of them."
)
@handler_option
@realm_options
@output_option
def tasks(
    task: str | None,
    limit: int,
    handler: str | None,
    realm: Realm,
    output: str,
    *,
    instances: bool,
) -> None:
    """List what is scheduled: when it is next due, and how it has gone. With TASK, all about that one."""
    from pyncette.cli import stored
    from pyncette.cli.tables import Tasks, instances_of, tasks_in

    async def look(store: Store) -> Tasks:
        if not instances:
            return await tasks_in(store, realm.name, task, handler)
        if task is None:
            raise Failure("--instances needs the TASK whose instances are to be listed")
        return await instances_of(store, realm.name, task, handler, limit)

    found = stored.with_store(realm.backend, look)
    if output == "json":
        print_json(found.as_json())
    else:
        print_table(found.as_table())


@click.command(
    cls=WithExamples,
    short_help="List the latest runs of a task.",
    examples=["pyncette runs hello --path examples/quickstart"],
)
@click.argument("task", metavar="TASK[/INSTANCE]")
@handler_option
@realm_options
@output_option
def runs(task: str, handler: str | None, realm: Realm, output: str) -> None:
    """
    List the latest runs of a task, the last one first, as far as its history limits keep them.

    Occurrences that ended without a run, because they were missed or skipped, are one line for each gap.
    """
    from pyncette.cli import stored
    from pyncette.cli.tables import runs_of

    found = stored.with_store(realm.backend, lambda store: runs_of(store, realm.name, task, handler))
    if output == "json":
        print_json(found.as_json())
    else:
        print_table(found.as_table())


@click.command(
    cls=WithExamples,
    short_help="List the workers that run.",
    examples=[
        "pyncette workers --backend postgresql://user:password@host/database",
        "pyncette workers --realm cluster/shop/default --output json",
    ],
)
@realm_options
@output_option
def workers(realm: Realm, output: str) -> None:
    """
    List the workers that run in the realm, with the version and the handlers of each.

    One that drains is no longer among them. One that was killed is for another minute.
    """
    from pyncette.cli import stored
    from pyncette.cli.tables import workers_of

    found = stored.with_store(realm.backend, lambda store: workers_of(store, realm.name))
    if output == "json":
        print_json(found.as_json())
    else:
        print_table(found.as_table())
