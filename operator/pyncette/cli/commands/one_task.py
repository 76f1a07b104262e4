"""The commands about one task: run it now, try again what was given up, load its instances, remove what it left behind."""

from __future__ import annotations

from pathlib import Path

import click

from pyncette.cli.commands.command import WithExamples, end
from pyncette.cli.commands.options import (
    Number,
    Realm,
    handler_option,
    output_option,
    realm_options,
    settings_options,
)
from pyncette.cli.failures import ExitCode, Failure
from pyncette.cli.output import print_json
from pyncette.cli.settings import Settings


@click.command(
    cls=WithExamples,
    short_help="Run a task once more, now.",
    examples=[
        "pyncette run hello --path examples/quickstart",
        'pyncette run report --args \'{"audience": "finance"}\' --timeout 60',
    ],
)
@click.argument("task", metavar="TASK[/INSTANCE]")
@click.option("--args", metavar="JSON", help="Arguments of this run, an object, in place of the task's own.")
@click.option("--timeout", type=Number(min=0), metavar="SECONDS", help="Wait no longer; the run goes on.")
@handler_option
@realm_options
@output_option
def run(
    task: str,
    args: str | None,
    timeout: float | None,
    handler: str | None,
    realm: Realm,
    output: str,
) -> None:
    """
    Run a task once more, now, and wait for its outcome.

    A worker runs it, so one has to be running: pyncette dev, or pyncette worker. It is a run of its own: the schedule goes
    on as if nothing had happened, and a task that is suspended runs, too. The exit code is 0 if it succeeded, 1 if
    not, 5 if it was not over in time.
    """
    from pyncette.cli import formatting as words
    from pyncette.cli import stored
    from pyncette.cli.survey import run_as_json
    from pyncette.core.record import Outcome

    given = stored.read_args(args)

    def say(text: str) -> None:
        click.echo(text, err=True)

    fired = stored.with_store(
        realm.backend,
        lambda store: stored.fire(store, realm.name, task, given, timeout, say, handler),
    )
    if fired.outcome is None:
        going = "it goes on" if fired.begun else "no worker has begun it yet, and the next one that can will"
        raise Failure(f"{task} is not over after {timeout:g} s; {going}", ExitCode.TIMEOUT)
    succeeded = fired.outcome is Outcome.SUCCEEDED
    if output == "json":
        details = (
            run_as_json(fired.run)
            if fired.run
            else {"outcome": fired.outcome.value, "message": fired.message}
        )
        print_json({"task": task, **details})
    else:
        took = ""
        if fired.run is not None and fired.run.started_at is not None:
            took = f" in {words.duration(fired.run.ended_at - fired.run.started_at)}"
        click.echo(f"{task}: {fired.outcome.value}{took}{f': {fired.message}' if fired.message else ''}")
    end(ExitCode.DONE if succeeded else ExitCode.FAILED)


@click.command(
    cls=WithExamples,
    short_help="Have dead letters tried again.",
    examples=["pyncette redrive report", "pyncette redrive reminders/alice --path examples/quickstart"],
)
@click.argument("task", metavar="TASK[/INSTANCE]")
@handler_option
@realm_options
@output_option
def redrive(task: str, handler: str | None, realm: Realm, output: str) -> None:
    """
    Have the dead letters of a task tried again: occurrences that failed and were kept, by onExhausted DeadLetter.

    Each gets all its attempts anew, with the arguments that it had, as soon as a worker has a slot. What is being tried
    again already is left alone. With a dynamic TASK, those of all its instances. The exit code is 0, also if there are none.
    """
    from pyncette.cli import redrive as again
    from pyncette.cli import stored

    redriven = stored.with_store(
        realm.backend,
        lambda store: again.redrive(store, realm.name, task, handler),
    )
    if output == "json":
        print_json({"task": task, "redriven": redriven.done})
    else:
        click.echo(
            f"{task}: {redriven.done:,} {'dead letter' if redriven.done == 1 else 'dead letters'} redriven"
        )


@click.command(
    cls=WithExamples,
    short_help="End the suspension of a task whose attempts were spent.",
    examples=["pyncette resume report", "pyncette resume reminders/alice --path examples/quickstart"],
)
@click.argument("task", metavar="TASK[/INSTANCE]")
@handler_option
@realm_options
@output_option
def resume(task: str, handler: str | None, realm: Realm, output: str) -> None:
    """
    End the suspension of a task whose attempts were spent, by onExhausted Suspend.

    Its schedule goes on with the first time from now. With a dynamic TASK, this is about all its instances. What a manifest
    suspends by suspend: true is resumed there, and not here. The exit code is 0, also if nothing was suspended.
    """
    from pyncette.cli import redrive as again
    from pyncette.cli import stored

    resumed = stored.with_store(realm.backend, lambda store: again.resume(store, realm.name, task, handler))
    if resumed.suspended:
        click.echo(f"pyncette: {task} is suspended by its manifest, and stays so", err=True)
    if output == "json":
        print_json({"task": task, "resumed": resumed.done})
    else:
        click.echo(f"{task}: {resumed.done:,} resumed")


@click.command(
    cls=WithExamples,
    short_help="Remove what a dynamic task that was deleted has left behind.",
    examples=["pyncette purge remind --yes"],
)
@click.argument("task")
@click.option("--yes", is_flag=True, help="Do it: what is removed cannot be brought back.")
@handler_option
@realm_options
@output_option
def purge(task: str, handler: str | None, realm: Realm, output: str, *, yes: bool) -> None:
    """
    Remove what a dynamic task that was deleted has left behind: its instances, what became of them, and its own record.

    Under deletionPolicy Retain they are kept, stopped, until this is done; a task of the same name that is applied before takes them
    over. Only for a TASK that is stopped. Runs under way are cancelled. What was interrupted goes on when the same command is given again.
    """
    from pyncette.cli import stored
    from pyncette.cli.purge import purge as purged

    def say(text: str) -> None:
        click.echo(f"pyncette: {text}", err=True)

    removed = stored.with_store(
        realm.backend,
        lambda store: purged(store, realm.name, task, handler, say, sure=yes),
    )
    if output == "json":
        print_json({"task": task, "removed": removed})
    else:
        click.echo(f"{task}: {removed:,} {'record' if removed == 1 else 'records'} of instances removed")


@click.command(
    cls=WithExamples,
    short_help="Schedule the instances that stand in a file.",
    examples=[
        "pyncette load tasks remind users.jsonl --backend postgresql://user:password@host/database",
        '# users.jsonl: {"name": "ada", "schedule": "0 8 * * *", "timezone": "Asia/Tokyo", "args": {"id": 1}}',
    ],
)
@click.argument("module", metavar="MODULE[:APP]")
@click.argument("task")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path))
@click.option(
    "--force", is_flag=True, help="Overwrite what is there: also a time that was sooner, and what runs."
)
@click.option("--restart", is_flag=True, help="Begin anew, although an interrupted load could go on.")
@settings_options("backend", "realm")
@output_option
def load(
    module: str, task: str, file: Path, settings: Settings, output: str, *, force: bool, restart: bool
) -> None:
    """
    Schedule any number of instances of a dynamic TASK, one for each line of FILE.

    A line is a JSON object with name and one of schedule (with timezone, if it is not UTC), interval_seconds and
    execute_at (RFC 3339); args holds the arguments. A line that cannot be meant is told with its number, and the rest goes on;
    the exit code is then 1. What was interrupted, or failed since the backend went away, goes on from there when the same command is given
    again. An instance that is there already keeps the sooner of both times, unless --force.
    """
    from pyncette.cli.load import load_file
    from pyncette.cli.modules import read_target

    def say(text: str) -> None:
        click.echo(f"pyncette: {text}", err=True)

    loaded = load_file(read_target(module), task, file, settings, force=force, restart=restart, say=say)
    if output == "json":
        print_json({"scheduled": loaded.scheduled, "refused": loaded.refused})
    else:
        click.echo(f"{loaded.scheduled:,} scheduled, {loaded.refused:,} refused")
    end(ExitCode.FAILED if loaded.refused else ExitCode.DONE)
