"""The commands of an installation: run workers and the operator, confirm what it holds back, and bring tables up to date."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final

import click

from pyncette.cli.commands.command import WithExamples, end
from pyncette.cli.commands.options import WholeNumber, output_option, settings_options
from pyncette.cli.failures import Failure
from pyncette.cli.output import print_json
from pyncette.cli.settings import OPERATOR_CONFIG, Settings
from pyncette.telemetry.logs import set_up_logging


@click.command(
    cls=WithExamples,
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
    end(run_worker(read_target(module), settings))


CONFIG: Final = click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar=OPERATOR_CONFIG,
    metavar="FILE",
    help="The operator's settings; by default /etc/pyncette/operator.yaml. [PYNCETTE_OPERATOR_CONFIG]",
)


@click.command(
    cls=WithExamples,
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
    end(run_operator(settings))


@click.command(
    cls=WithExamples,
    short_help="Show, and confirm, removals that the operator holds back.",
    examples=["pyncette sweep", "pyncette sweep --confirm 12"],
)
@click.option(
    "--confirm", type=WholeNumber(min=1), metavar="COUNT", help="Let as many be stopped as are held back."
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


@click.command(
    cls=WithExamples,
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
    from pyncette.coordination import members

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
