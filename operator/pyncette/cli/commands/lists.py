"""The commands that list tasks, runs and workers."""

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
    short_help="List tasks.",
    examples=[
        "pyncette tasks --path examples/quickstart",
        "pyncette tasks --namespace shop --pool reports  # in the operator's pod",
        "pyncette tasks remind --instances",
        "pyncette tasks remind/alice --output json",
    ],
)
@click.argument("task", metavar="[TASK[/INSTANCE]]", required=False)
@click.option(
    "--instances", is_flag=True, help="List the instances of TASK, which is a dynamic task, by name."
)
@click.option(
    "--limit",
    type=WholeNumber(min=1),
    metavar="N",
    default=20,
    show_default=True,
    help="The number of instances to list.",
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
    """List tasks with their next due time and their last result. With TASK, show its details."""
    from pyncette.cli import stored
    from pyncette.cli.tables import Tasks, instances_of, tasks_in

    async def read(store: Store) -> Tasks:
        if not instances:
            return await tasks_in(store, realm.name, task, handler)
        if task is None:
            raise Failure("--instances needs a TASK")
        return await instances_of(store, realm.name, task, handler, limit)

    found = stored.with_store(realm.backend, read)
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
    List the latest runs of a task, the last one first. Its history limits decide how many are kept.

    Occurrences that were missed or skipped are listed as one line per gap.
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
    short_help="List running workers.",
    examples=[
        "pyncette workers --backend-file url.txt",
        "pyncette workers --realm cluster/shop/default --output json",
    ],
)
@realm_options
@output_option
def workers(realm: Realm, output: str) -> None:
    """
    List the running workers of the realm, with the version and the handlers of each.

    A draining worker is not listed. A worker that was killed is listed for another minute.
    """
    from pyncette.cli import stored
    from pyncette.cli.tables import workers_of

    found = stored.with_store(realm.backend, lambda store: workers_of(store, realm.name))
    if output == "json":
        print_json(found.as_json())
    else:
        print_table(found.as_table())
