"""The commands, their options and their help texts. What they do stands in the modules beside this one."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from pyncette._version import __version__
from pyncette.cli.failures import MEANINGS, ExitCode, Failure, failure_of, first_of
from pyncette.cli.output import Table, print_json, print_table
from pyncette.settings import BACKEND, BACKEND_FILE, SETTINGS, Settings, read_settings
from pyncette.store.backend import Backend
from pyncette.store.base import Store
from pyncette.telemetry.logs import set_up_logging

F = TypeVar("F", bound=Callable[..., Any])

FOLDER: Final = click.Path(path_type=Path)

OUTPUTS: Final = click.Choice(["table", "json"])


class _Number(click.FloatRange):
    name = "number"


class _WholeNumber(click.IntRange):
    name = "whole number"


class WithExamples(click.Command):
    """A command whose help shows examples."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **options: Any) -> None:
        super().__init__(*args, **options)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                formatter.write("".join(f"  {example}\n" for example in self.examples))


class Commands(WithExamples, click.Group):
    """A group whose commands end with a sentence and an exit code, and not with a traceback, where it is not our fault."""

    command_class = WithExamples

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            ctx.exit(ExitCode.INTERRUPTED)
        except Exception as error:
            cause = first_of(error)
            if isinstance(cause, BrokenPipeError):
                raise cause from None  # whoever read what we print has enough; click ends quietly on that
            failure = failure_of(cause)
            if failure is None:
                raise
            logging.getLogger(__name__).debug("cannot go on", exc_info=error)
            raise failure from error

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        with formatter.section("Exit codes"):
            formatter.write_dl(
                [(str(code.value), meaning.replace("`", "")) for code, meaning in MEANINGS.items()]
            )


def main() -> None:
    """Run the command that the program's arguments name, and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                errors="backslashreplace"
            )  # what a terminal cannot show must not end a command
    cli.main(prog_name="pyncette")


def settings_options(*names: str) -> Callable[[F], F]:
    """Add the options of settings; the command gets all that is set as one argument, `settings`."""
    if BACKEND.name in names:
        names = (*names, BACKEND_FILE.name)

    def decorator(command: F) -> F:
        @wraps(command)  # the options of the command so far come along
        def with_settings(*args: Any, **given: Any) -> Any:
            options = {name: given.pop(name) for name in names}
            return command(*args, settings=_settings(options), **given)

        decorated: Any = with_settings
        for setting in reversed(SETTINGS):
            if setting.name in names:
                decorated = click.option(
                    setting.option,
                    setting.name,
                    metavar=setting.shown,
                    help=f"{setting.meaning} [{setting.variable}]",
                )(decorated)
        return decorated  # type: ignore[no-any-return]

    return decorator


def _settings(options: Mapping[str, str | None]) -> Settings:
    settings = read_settings(os.environ, options)
    for warning in settings.warnings:
        click.echo(f"pyncette: warning: {warning}", err=True)
    return settings


def output_option(command: F) -> F:
    return click.option(
        "--output", "-o", type=OUTPUTS, default="table", show_default=True, help="How to print it."
    )(command)


def path_option(command: F) -> F:
    return click.option(
        "--path",
        type=FOLDER,
        metavar="PATH",
        help="A folder where pyncette dev ran; by default the backend of the settings, or else the current folder.",
    )(command)


def handler_option(command: F) -> F:
    return click.option(
        "--handler", metavar="HANDLER", help="Of this handler: a name may be that of several tasks."
    )(command)


def _backend_of(settings: Settings, path: Path | None) -> Backend:
    from pyncette.cli import stored

    given = click.get_current_context().params
    for setting in (BACKEND, BACKEND_FILE):
        if path is not None and given.get(setting.name) is not None:
            raise Failure(f"--path and {setting.option} name two different ones: give one of them")
    return stored.backend_of(settings, path)


@click.group(
    cls=Commands,
    examples=[
        "pyncette dev examples/quickstart        run a folder of handlers and manifests",
        "pyncette tasks                          see what is scheduled",
        "pyncette run hello --args '{\"n\": 1}'    run one now, and wait for its outcome",
    ],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="pyncette")
def cli() -> None:
    """
    Cron for Python functions: run handlers when they are due, and see how it went.


    Where records are kept is said by PYNCETTE_BACKEND, for example sqlite:///tasks.db or
    postgresql://user:password@host/database. PATH/.pyncette is where dev keeps its own.
    """


# --- dev -------------------------------------------------------------------------------------------------------------


@cli.command(
    short_help="Run a folder of handlers and manifests, and reload on changes.",
    examples=["pyncette dev .", "pyncette dev jobs --module nightly.py"],
)
@click.argument("path", type=FOLDER, default=".")
@click.option(
    "--module", metavar="MODULE[:APP]", help="The task module, if it is not tasks.py or the only one."
)
@click.option(
    "--plain", is_flag=True, help="Print line after line, as it does anyway where there is no terminal."
)
@settings_options("drain_seconds", "log_level")
def dev(path: Path, module: str | None, settings: Settings, *, plain: bool) -> None:
    """
    Run the handlers of a folder by its manifests, on an embedded database, and reload when a file changes.

    PATH holds a task module, which declares handlers, and PyncetteTask manifests, exactly those that kubectl apply takes. What
    has run and what is due is kept in PATH/.pyncette, so that the next start goes on from there; delete it to begin
    afresh. The backend that the module or PYNCETTE_BACKEND names is not touched.
    """
    from pyncette.cli.dev.folder import Folder
    from pyncette.cli.dev.screens import LiveScreen, PlainScreen
    from pyncette.cli.dev.supervisor import Supervisor
    from pyncette.cli.modules import find_target

    folder = Folder(path)
    folder.prepare()
    target = find_target(path, module)
    if settings.backend is not None:
        click.echo(
            f"pyncette: PYNCETTE_BACKEND is ignored: dev keeps its own database in {folder.backend.path}",
            err=True,
        )
    live = not plain and sys.stdout.isatty() and os.environ.get("TERM") not in {None, "", "dumb"}
    screen = LiveScreen() if live else PlainScreen()
    supervisor = Supervisor(folder, target, screen, settings.drain_seconds, settings.log_level)
    with folder.alone():
        _exit(asyncio.run(supervisor.run()))


@cli.command(
    short_help="Say what is wrong with a folder of handlers and manifests, or with a backend.",
    examples=[
        "pyncette check examples/quickstart",
        "pyncette check --backend postgresql://user:password@host/database",
    ],
)
@click.argument("path", type=FOLDER, required=False)
@click.option(
    "--module", metavar="MODULE[:APP]", help="The task module, if it is not tasks.py or the only one."
)
@settings_options("backend", "realm")
@output_option
def check(path: Path | None, module: str | None, settings: Settings, output: str) -> None:
    """
    Say what is wrong with the manifests and the task module of a folder, and run nothing; or with a backend.

    With PATH, or where no backend is set, it is about a folder, by default the current one. Each problem is a line with its
    file, line and column; if the task module cannot be imported the manifests are checked without it. Else it is about the backend: all that a worker does is done once, with a record of its own that
    no worker sees and that is removed again; the first step that does not work says why. The exit code is 1 if there is a
    problem.
    """
    if path is None and settings.backend is not None:
        _check_backend(settings.backend, settings.realm or "", output)
    else:
        _check_folder(path or Path(), module, output)


def _check_folder(path: Path, module: str | None, output: str) -> None:
    from pyncette.cli.check import problems_of

    problems, notes, summary = problems_of(path, module)
    if output == "json":
        found = {"problems": problems, "notes": notes}
        told = {name: [finding._asdict() for finding in findings] for name, findings in found.items()}
        print_json({"folder": str(path), **told})
        _exit(ExitCode.FAILED if problems else ExitCode.DONE)
    for problem in problems:
        click.echo(str(problem))
    for note in notes:
        click.echo(f"note: {note}", err=True)
    if problems:
        raise Failure(
            f"{len(problems)} {'problem' if len(problems) == 1 else 'problems'} in {path}", ExitCode.FAILED
        )
    click.echo(summary)


def _check_backend(backend: Backend, realm: str, output: str) -> None:
    from pyncette.cli.check_backend import try_out

    steps = asyncio.run(try_out(backend, realm))
    if output == "json":
        print_json({"backend": str(backend), "steps": [step._asdict() for step in steps]})
    else:
        rows = [
            (step.name, "works" if step.works else "fails", f"{step.seconds * 1000:.1f} ms", step.told)
            for step in steps
        ]
        print_table(Table(("STEP", "", "TOOK", "NOTE"), rows))
    _exit(ExitCode.DONE if steps[-1].works else ExitCode.FAILED)


# --- worker ----------------------------------------------------------------------------------------------------------


@cli.command(
    short_help="Run the handlers of a module on a backend.",
    examples=[
        "pyncette worker tasks --backend postgresql://user:password@host/database",
        "PYNCETTE_BACKEND=sqlite:///tasks.db pyncette worker jobs/nightly.py:app --health 8080",
    ],
)
@click.argument("module", metavar="MODULE[:APP]")
@settings_options(
    *("backend", "realm", "concurrency", "drain_seconds", "health", "metrics", "stall_seconds"),
    *("log_format", "log_level"),
)
def worker(module: str, settings: Settings) -> None:
    """
    Run the handlers of a task module on a backend, as one of any number of workers.

    MODULE is an import path or a .py file; the app in it is `app`, or the only one. The backend comes from the settings
    and never from the module. SIGTERM drains: nothing more is claimed, what runs may finish within --drain-seconds, and
    what is left is given back; a second signal ends it at once. A backend that goes away makes it unready and is waited
    for; one that is not there at the start ends it.
    """
    from pyncette.cli.modules import read_target
    from pyncette.cli.worker import run_worker

    set_up_logging(settings.log_format, settings.log_level)
    _exit(run_worker(read_target(module), settings))


# --- operator --------------------------------------------------------------------------------------------------------


CONFIG: Final = click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="PYNCETTE_OPERATOR_CONFIG",
    metavar="FILE",
    help="The operator's settings; by default /etc/pyncette/operator.yaml. [PYNCETTE_OPERATOR_CONFIG]",
)


@cli.command(
    short_help="Keep a backend equal to the tasks of a cluster, and run worker pools there.",
    examples=["pyncette operator", "pyncette operator --config operator.yaml"],
)
@CONFIG
def operator(config: Path | None) -> None:
    """
    Run the operator, in a pod of the cluster or with the KUBECONFIG of whoever runs it.

    It mirrors PyncetteTasks into the backends of its settings, keeps the Deployments of PyncetteWorkerPools, and tells in
    their status how all goes. Install it with the chart. It needs the extra `operator`.
    """
    from pyncette.controller.settings import DEFAULT_FILE, load_settings
    from pyncette.store.backend import needing

    with (
        needing("kopf", "the operator", "operator"),
        needing("kubernetes_asyncio", "the operator", "operator"),
    ):
        from pyncette.cli.operator import run_operator

    settings = load_settings(config or DEFAULT_FILE, os.environ)
    set_up_logging(settings.log_format, settings.log_level)
    _exit(run_operator(settings))


@cli.command(
    short_help="Show, and confirm, removals that the operator holds back.",
    examples=["pyncette sweep", "pyncette sweep --confirm 12"],
)
@click.option(
    "--confirm", type=_WholeNumber(min=1), metavar="COUNT", help="Let as many be stopped as are held back."
)
@click.option("--cluster", metavar="ID", help="Whose, where several clusters use one backend.")
@CONFIG
@settings_options("backend")
@output_option
def sweep(
    confirm: int | None, cluster: str | None, config: Path | None, settings: Settings, output: str
) -> None:
    """
    Show which tasks are gone from the cluster and go on running all the same, since they are too many at once.

    So a mistake (a namespace, a CRD, a branch of GitOps) stops nothing. If it was none, confirm their number: the
    operator stops them within seconds, and removes their records after its grace. The backend is that of the settings,
    or in the operator's pod those of its own settings.
    """
    from pyncette.cli.sweep import backends_of, confirmed, held_back

    backends = backends_of(settings.backend, config)
    held = held_back(backends, cluster) if confirm is None else confirmed(backends, cluster, confirm)
    if output == "json":
        print_json([item._asdict() for item in held])
        return
    if not held:
        click.echo("nothing is held back")
    for item in held:
        verb = "confirmed" if confirm else "held back"
        click.echo(f"{item.tasks} tasks of the cluster {item.cluster} are {verb} on {item.backend}:")
        for name in item.names:
            click.echo(f"  {name}")
        if item.tasks > len(item.names):
            click.echo(f"  and {item.tasks - len(item.names)} more")
    if held and confirm is None:
        click.echo(f"stop them by: pyncette sweep --confirm {sum(item.tasks for item in held)}")


# --- what is stored --------------------------------------------------------------------------------------------------


@cli.command(
    short_help="Run a task once more, now.",
    examples=[
        "pyncette run hello --path examples/quickstart",
        'pyncette run report --args \'{"audience": "finance"}\' --timeout 60',
    ],
)
@click.argument("task", metavar="TASK[/INSTANCE]")
@click.option("--args", metavar="JSON", help="Arguments of this run, an object, in place of the task's own.")
@click.option("--timeout", type=_Number(min=0), metavar="SECONDS", help="Wait no longer; the run goes on.")
@handler_option
@path_option
@settings_options("backend", "realm")
@output_option
def run(
    task: str,
    args: str | None,
    timeout: float | None,
    handler: str | None,
    path: Path | None,
    settings: Settings,
    output: str,
) -> None:
    """
    Run a task once more, now, and wait for its outcome.

    A worker runs it, so one has to be running: pyncette dev, or pyncette worker. It is a run of its own: the schedule goes
    on as if nothing had happened, and a task that is suspended runs, too. The exit code is 0 if it succeeded, 1 if
    not, 5 if it was not over in time.
    """
    from pyncette.cli import stored, words
    from pyncette.cli.survey import run_as_json
    from pyncette.core.record import Outcome

    given = stored.read_args(args)

    def say(text: str) -> None:
        click.echo(text, err=True)

    fired = stored.with_store(
        _backend_of(settings, path),
        lambda store: stored.fire(store, settings.realm or "", task, given, timeout, say, handler),
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
    _exit(ExitCode.DONE if succeeded else ExitCode.FAILED)


@cli.command(
    short_help="Have dead letters tried again.",
    examples=["pyncette redrive report", "pyncette redrive reminders/alice --path examples/quickstart"],
)
@click.argument("task", metavar="TASK[/INSTANCE]")
@path_option
@handler_option
@settings_options("backend", "realm")
@output_option
def redrive(task: str, path: Path | None, handler: str | None, settings: Settings, output: str) -> None:
    """
    Have the dead letters of a task tried again: occurrences that failed and were kept, by onExhausted DeadLetter.

    Each gets all its attempts anew, with the arguments that it had, as soon as a worker has a slot. What is being tried
    again already is left alone. With a dynamic TASK, those of all its instances. The exit code is 0, also if there are none.
    """
    from pyncette.cli import again, stored

    redriven = stored.with_store(
        _backend_of(settings, path), lambda store: again.redrive(store, settings.realm or "", task, handler)
    )
    if output == "json":
        print_json({"task": task, "redriven": redriven.done})
    else:
        click.echo(
            f"{task}: {redriven.done:,} {'dead letter' if redriven.done == 1 else 'dead letters'} redriven"
        )


@cli.command(
    short_help="End the suspension of a task whose attempts were spent.",
    examples=["pyncette resume report", "pyncette resume reminders/alice --path examples/quickstart"],
)
@click.argument("task", metavar="TASK[/INSTANCE]")
@path_option
@handler_option
@settings_options("backend", "realm")
@output_option
def resume(task: str, path: Path | None, handler: str | None, settings: Settings, output: str) -> None:
    """
    End the suspension of a task whose attempts were spent, by onExhausted Suspend.

    Its schedule goes on with the first time from now. With a dynamic TASK, this is about all its instances. What a manifest
    suspends by suspend: true is resumed there, and not here. The exit code is 0, also if nothing was suspended.
    """
    from pyncette.cli import again, stored

    resumed = stored.with_store(
        _backend_of(settings, path), lambda store: again.resume(store, settings.realm or "", task, handler)
    )
    if resumed.suspended:
        click.echo(f"pyncette: {task} is suspended by its manifest, and stays so", err=True)
    if output == "json":
        print_json({"task": task, "resumed": resumed.done})
    else:
        click.echo(f"{task}: {resumed.done:,} resumed")


@cli.command(
    short_help="Remove what a dynamic task that was deleted has left behind.",
    examples=["pyncette purge remind --yes"],
)
@click.argument("task")
@click.option("--yes", is_flag=True, help="Do it: what is removed cannot be brought back.")
@path_option
@handler_option
@settings_options("backend", "realm")
@output_option
def purge(
    task: str, path: Path | None, handler: str | None, settings: Settings, output: str, *, yes: bool
) -> None:
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
        _backend_of(settings, path),
        lambda store: purged(store, settings.realm or "", task, handler, say, sure=yes),
    )
    if output == "json":
        print_json({"task": task, "removed": removed})
    else:
        click.echo(f"{task}: {removed:,} {'record' if removed == 1 else 'records'} of instances removed")


@cli.command(
    short_help="List what is scheduled.",
    examples=[
        "pyncette tasks --path examples/quickstart",
        "pyncette tasks remind --instances",
        "pyncette tasks remind/alice --output json",
    ],
)
@click.argument("task", metavar="[TASK[/INSTANCE]]", required=False)
@click.option("--instances", is_flag=True, help="List the instances of TASK, a dynamic one, by their names.")
@click.option(
    "--limit", type=_WholeNumber(min=1), metavar="N", default=20, show_default=True, help="So many of them."
)
@handler_option
@path_option
@settings_options("backend", "realm")
@output_option
def tasks(
    task: str | None,
    limit: int,
    handler: str | None,
    path: Path | None,
    settings: Settings,
    output: str,
    *,
    instances: bool,
) -> None:
    """List what is scheduled: when it is next due, and how it has gone. With TASK, all about that one."""
    from pyncette.cli import stored
    from pyncette.cli.tables import Tasks, instances_of, tasks_in

    async def look(store: Store) -> Tasks:
        realm = settings.realm or ""
        if not instances:
            return await tasks_in(store, realm, task, handler)
        if task is None:
            raise Failure("--instances needs the TASK whose instances are to be listed")
        return await instances_of(store, realm, task, handler, limit)

    found = stored.with_store(_backend_of(settings, path), look)
    if output == "json":
        print_json(found.as_json())
    else:
        print_table(found.as_table())


@cli.command(
    short_help="List the latest runs of a task.", examples=["pyncette runs hello --path examples/quickstart"]
)
@click.argument("task", metavar="TASK[/INSTANCE]")
@handler_option
@path_option
@settings_options("backend", "realm")
@output_option
def runs(task: str, handler: str | None, path: Path | None, settings: Settings, output: str) -> None:
    """
    List the latest runs of a task, the last one first, as far as its history limits keep them.

    Occurrences that ended without a run, because they were missed or skipped, are one line for each gap.
    """
    from pyncette.cli import stored
    from pyncette.cli.tables import runs_of

    found = stored.with_store(
        _backend_of(settings, path), lambda store: runs_of(store, settings.realm or "", task, handler)
    )
    if output == "json":
        print_json(found.as_json())
    else:
        print_table(found.as_table())


@cli.command(
    short_help="List the workers that run.",
    examples=[
        "pyncette workers --backend postgresql://user:password@host/database",
        "pyncette workers --realm cluster/shop/default --output json",
    ],
)
@path_option
@settings_options("backend", "realm")
@output_option
def workers(path: Path | None, settings: Settings, output: str) -> None:
    """
    List the workers that run in the realm, with the version and the handlers of each.

    One that drains is no longer among them. One that was killed is for another minute.
    """
    from pyncette.cli import stored
    from pyncette.cli.tables import workers_of

    found = stored.with_store(
        _backend_of(settings, path), lambda store: workers_of(store, settings.realm or "")
    )
    if output == "json":
        print_json(found.as_json())
    else:
        print_table(found.as_table())


@cli.command(
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
    _exit(ExitCode.FAILED if loaded.refused else ExitCode.DONE)


@cli.command(
    short_help="Bring the tables of a backend up to date.",
    examples=["pyncette migrate --backend postgresql://owner:password@host/database"],
)
@settings_options("backend")
@output_option
def migrate(settings: Settings, output: str) -> None:
    """
    Bring the tables of the backend to the schema of this release; create them where there are none.

    Programs of the release before go on working on them. It can be done while workers run. Those of older releases are refused from then on:
    where such workers still run they go on, and the exit code is 4.
    """
    from pyncette import members

    if settings.backend is None:
        raise Failure("no backend is said: set PYNCETTE_BACKEND or --backend")
    if settings.backend.in_memory:
        raise Failure("tables in the memory of this process are gone with it: name a file or a server")
    migrated = asyncio.run(members.migrate(settings.backend))
    if output == "json":
        print_json({"backend": str(settings.backend), "before": migrated.before, "after": migrated.after})
    elif migrated.before == migrated.after:
        click.echo(f"{settings.backend} has schema {migrated.after} already")
    elif migrated.before:
        click.echo(f"{settings.backend}: schema {migrated.before} is now {migrated.after}")
    else:
        click.echo(f"{settings.backend}: tables of schema {migrated.after} were created")


def _exit(code: int) -> None:
    with suppress(BrokenPipeError):
        sys.stdout.flush()
    click.get_current_context().exit(code)
