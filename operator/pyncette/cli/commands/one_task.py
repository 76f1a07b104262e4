"""The commands for one task: run it now, redrive, resume, purge, and load instances."""

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
from pyncette.cli.output import print_json, print_line
from pyncette.cli.settings import Settings


@click.command(
    cls=WithExamples,
    short_help="Run a task now, in addition to its schedule.",
    examples=[
        "pyncette run hello --path examples/quickstart",
        'pyncette run report --args \'{"audience": "finance"}\' --timeout 60',
    ],
)
@click.argument("task", metavar="TASK[/INSTANCE]")
@click.option(
    "--args", metavar="JSON", help="The arguments of this run, a JSON object. By default those of the task."
)
@click.option(
    "--timeout",
    type=Number(min=0),
    metavar="SECONDS",
    help="Stop waiting after this time; the run continues. By default, wait until it ends, if a worker claims it within 30 s.",
)
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
    Run a task now, and wait for its outcome.

    This needs a running worker: pyncette dev or pyncette worker. The run does not affect the schedule, and also works for
    a suspended task. The exit code is 0 if the run succeeded, 1 if not, and 5 if it did not end in time, or if no worker
    claimed it within 30 seconds. It then stays requested, and runs once a worker claims it.
    """
    from pyncette.cli import formatting, stored
    from pyncette.cli.survey import run_as_json
    from pyncette.core.record import Outcome

    given = stored.read_args(args)

    def report(text: str) -> None:
        print_line(text, err=True)

    fired = stored.with_store(
        realm.backend,
        lambda store: stored.fire(store, realm.name, task, given, timeout, report, handler),
    )
    if fired.outcome is None:
        raise Failure(f"the run of {task} {fired.unfinished}", ExitCode.TIMEOUT)
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
            took = f" in {formatting.duration(fired.run.ended_at - fired.run.started_at)}"
        print_line(f"{task}: {fired.outcome.value}{took}{f': {fired.message}' if fired.message else ''}")
    end(ExitCode.DONE if succeeded else ExitCode.FAILED)


@click.command(
    cls=WithExamples,
    short_help="Redrive dead letters: try them again.",
    examples=["pyncette redrive report", "pyncette redrive reminders/alice --path examples/quickstart"],
)
@click.argument("task", metavar="TASK[/INSTANCE]")
@handler_option
@realm_options
@output_option
def redrive(task: str, handler: str | None, realm: Realm, output: str) -> None:
    """
    Redrive the dead letters of a task: failed occurrences that were kept because of onExhausted DeadLetter.

    Each is tried again with its arguments and all its attempts, when a worker has a free slot. A dead letter that is
    being redriven already is not affected. With a dynamic TASK, the dead letters of all its instances are redriven. The
    exit code is 0 even if there are none.
    """
    from pyncette.cli import redrive as redrives
    from pyncette.cli import stored

    redriven = stored.with_store(
        realm.backend,
        lambda store: redrives.redrive(store, realm.name, task, handler),
    )
    if output == "json":
        print_json({"task": task, "redriven": redriven.done})
    else:
        print_line(
            f"{task}: {redriven.done:,} {'dead letter' if redriven.done == 1 else 'dead letters'} redriven"
        )


@click.command(
    cls=WithExamples,
    short_help="Resume a task that was suspended after its last attempt failed.",
    examples=["pyncette resume report", "pyncette resume reminders/alice --path examples/quickstart"],
)
@click.argument("task", metavar="TASK[/INSTANCE]")
@handler_option
@realm_options
@output_option
def resume(task: str, handler: str | None, realm: Realm, output: str) -> None:
    """
    Resume a task that was suspended by onExhausted Suspend after its last attempt failed.

    Its schedule continues with the next time from now. With a dynamic TASK, all its instances are resumed. A task that is
    suspended by suspend: true in its manifest must be resumed in the manifest. The exit code is 0 even if nothing was
    suspended.
    """
    from pyncette.cli import redrive as redrives
    from pyncette.cli import stored

    resumed = stored.with_store(
        realm.backend, lambda store: redrives.resume(store, realm.name, task, handler)
    )
    if resumed.suspended:
        print_line(f"pyncette: {task} is suspended by its manifest and remains suspended", err=True)
    if output == "json":
        print_json({"task": task, "resumed": resumed.done})
    else:
        print_line(f"{task}: {resumed.done:,} resumed")


@click.command(
    cls=WithExamples,
    short_help="Remove the instances of a deleted dynamic task.",
    examples=["pyncette purge remind --yes"],
)
@click.argument("task")
@click.option("--yes", is_flag=True, help="Confirm: this cannot be undone.")
@handler_option
@realm_options
@output_option
def purge(task: str, handler: str | None, realm: Realm, output: str, *, yes: bool) -> None:
    """
    Remove the instances of a deleted dynamic task, their history, and the record of the task itself.

    With deletionPolicy Retain, a deleted task is stopped and its instances are kept; a new task of the same name takes
    them over. This works only for a stopped TASK. Runs in progress are cancelled. If it is interrupted, run the same
    command again to continue.
    """
    from pyncette.cli import stored
    from pyncette.cli.purge import purge as purged

    def report(text: str) -> None:
        print_line(f"pyncette: {text}", err=True)

    removed = stored.with_store(
        realm.backend,
        lambda store: purged(store, realm.name, task, handler, report, confirmed=yes),
    )
    if output == "json":
        print_json({"task": task, "removed": removed})
    else:
        print_line(f"{task}: {removed:,} {'instance record' if removed == 1 else 'instance records'} removed")


@click.command(
    cls=WithExamples,
    short_help="Schedule instances from a file.",
    examples=[
        "pyncette load tasks remind users.jsonl --backend-file url.txt",
        '# users.jsonl: {"name": "ada", "schedule": "0 8 * * *", "timezone": "Asia/Tokyo", "args": {"id": 1}}',
    ],
)
@click.argument("module", metavar="MODULE[:APP]")
@click.argument("task")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path))
@click.option(
    "--force",
    is_flag=True,
    help="Overwrite existing instances, even if they run, or have an earlier next time.",
)
@click.option("--restart", is_flag=True, help="Start over instead of continuing an interrupted load.")
@settings_options("backend", "realm")
@output_option
def load(
    module: str, task: str, file: Path, settings: Settings, output: str, *, force: bool, restart: bool
) -> None:
    """
    Schedule any number of instances of a dynamic TASK, one for each line of FILE.

    Each line is a JSON object with name, one of schedule (with timezone, if not UTC), interval_seconds and execute_at
    (RFC 3339), and the arguments in args. An invalid line is reported with its number and skipped; the exit code is then
    1. If a load is interrupted, or the backend becomes unavailable, run the same command again to continue. An existing
    instance keeps the earlier of both times, unless --force is passed.
    """
    from pyncette.cli.load import load_file
    from pyncette.cli.modules import read_target

    def report(text: str) -> None:
        print_line(f"pyncette: {text}", err=True)

    loaded = load_file(read_target(module), task, file, settings, force=force, restart=restart, report=report)
    if output == "json":
        print_json({"scheduled": loaded.scheduled, "refused": loaded.refused})
    else:
        print_line(f"{loaded.scheduled:,} scheduled, {loaded.refused:,} refused")
    end(ExitCode.FAILED if loaded.refused else ExitCode.DONE)
