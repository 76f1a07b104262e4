"""The commands of an installation: run workers and the operator, confirm removals, and migrate tables."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from pyncette.cli.commands.command import WithExamples, end
from pyncette.cli.commands.options import WholeNumber, output_option, settings_options
from pyncette.cli.failures import Failure
from pyncette.cli.output import print_json, print_line
from pyncette.cli.settings import OPERATOR_CONFIG, OPERATOR_FILE, Settings
from pyncette.telemetry.logs import set_up_logging

if TYPE_CHECKING:
    from pyncette.store.backend import Backend


@click.command(
    cls=WithExamples,
    short_help="Run the handlers of a module on a backend.",
    examples=[
        "pyncette worker tasks --backend-file url.txt",
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

    MODULE is an import path or a .py file. APP is its app: by default `app`, or the only one. The backend is that of the
    settings, never that of the module.

    On SIGTERM the worker drains: it claims nothing more, lets runs finish within --drain-seconds, and releases the rest. A
    second signal ends it immediately; two SIGTERM within half a second are one signal. While the backend is unavailable the worker is not ready, and retries. If the
    backend is unavailable at the start, the worker exits.
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
    help="The settings of the operator. By default /etc/pyncette/operator.yaml. [PYNCETTE_OPERATOR_CONFIG]",
)


@click.command(
    cls=WithExamples,
    short_help="Run the operator: mirror the tasks of a cluster into a backend, and run its worker pools.",
    examples=["pyncette operator", "pyncette operator --config operator.yaml"],
)
@CONFIG
def operator(config: Path | None) -> None:
    """
    Run the operator, in a pod of the cluster or with your KUBECONFIG.

    It mirrors PyncetteTasks into the backends of its settings, manages the Deployments of PyncetteWorkerPools, and
    writes the status of both. Install it with the chart. It needs the extra `operator`.
    """
    from pyncette.controller.settings import load_settings
    from pyncette.store.backend import needing

    with (
        needing("kopf", "the operator", "operator"),
        needing("kubernetes_asyncio", "the operator", "operator"),
    ):
        from pyncette.cli.operator import run_operator

    settings = load_settings(config or OPERATOR_FILE, os.environ)
    set_up_logging(settings.log_format, settings.log_level)
    end(run_operator(settings))


@click.command(
    cls=WithExamples,
    short_help="Show or confirm removals that the operator holds back.",
    examples=["pyncette sweep", "pyncette sweep --namespace shop --confirm 12"],
)
@click.option(
    "--confirm",
    type=WholeNumber(min=1),
    metavar="COUNT",
    help="Stop the tasks that are held back, if this is their number.",
)
@click.option("--namespace", metavar="NAMESPACE", help="Show or confirm the tasks of this namespace only.")
@click.option("--cluster", metavar="ID", help="The ID of the cluster, if several clusters use one backend.")
@CONFIG
@settings_options("backend")
@output_option
def sweep(
    confirm: int | None,
    namespace: str | None,
    cluster: str | None,
    config: Path | None,
    settings: Settings,
    output: str,
) -> None:
    """
    List the tasks that were deleted from the cluster but still run, because too many of a namespace were deleted together.

    So an empty GitOps branch or a `kubectl delete --all` by mistake stops nothing. If it was intended, confirm the number
    of tasks, of one namespace or of all: the operator stops them within seconds, and removes their records after its grace
    period. In the operator's pod, the backends are those of the operator's settings.
    """
    from pyncette.cli.sweep import Selection, backends_of, confirmed, held_back

    backends, selection = backends_of(settings.backend, config), Selection(cluster, namespace)
    held = held_back(backends, selection) if confirm is None else confirmed(backends, selection, confirm)
    if output == "json":
        print_json([item._asdict() for item in held])
        return
    if not held:
        print_line("nothing is held back")
    for item in held:
        verb = "confirmed" if confirm else "held back"
        print_line(
            f"{item.tasks} tasks of the namespace {item.namespace} (cluster {item.cluster}) are {verb} on {item.backend}:"
        )
        for name in item.names:
            print_line(f"  {name}")
        if item.tasks > len(item.names):
            print_line(f"  and {item.tasks - len(item.names)} whose names cannot be read")
    if held and confirm is None:
        only = "" if namespace is None else f"--namespace {namespace} "
        print_line(f"to stop them: pyncette sweep {only}--confirm {sum(item.tasks for item in held)}")
        if len(held) > 1:
            print_line("to stop those of one namespace: pyncette sweep --namespace NAMESPACE --confirm COUNT")


@click.command(
    cls=WithExamples,
    short_help="Create the tables of a backend, or upgrade them.",
    examples=[
        "pyncette migrate --backend-file url.txt",
        "pyncette migrate --backend-file url.txt --new-identity",
    ],
)
@click.option(
    "--new-identity",
    is_flag=True,
    help="Give the database a new identity, if it is a copy of another one that the operator uses.",
)
@settings_options("backend")
@output_option
def migrate(new_identity: bool, settings: Settings, output: str) -> None:
    """
    Upgrade the tables of the backend to the schema of this release, or create them.

    Workers may run meanwhile. Programs of the previous release continue to work; those of older releases are refused from
    then on. While workers of such an older release are running, they are not refused yet, and the exit code is 4.
    """
    from pyncette.coordination import members

    if settings.backend is None:
        raise Failure("no backend configured: set PYNCETTE_BACKEND or pass --backend")
    if settings.backend.in_memory:
        raise Failure("the memory backend is lost when this process ends: use a file or a server")
    migrated = asyncio.run(members.migrate(settings.backend))
    if new_identity:
        asyncio.run(_renew_identity(settings.backend))
    if output == "json":
        print_json({"backend": str(settings.backend), "before": migrated.before, "after": migrated.after})
    elif new_identity:
        print_line(f"{settings.backend} has a new identity")
    elif migrated.before == migrated.after:
        print_line(f"{settings.backend} has schema {migrated.after} already")
    elif migrated.before:
        print_line(f"{settings.backend}: schema {migrated.before} is now {migrated.after}")
    else:
        print_line(f"{settings.backend}: tables of schema {migrated.after} were created")


async def _renew_identity(backend: Backend) -> None:
    """Give the database of *backend* a new identity. Raises StoreError, and Failure if another process changes it, too."""
    from pyncette.coordination.identity import renew_identity

    async with backend.new_store(create=False) as store:
        if not await renew_identity(store):
            raise Failure("the identity was changed at the same time: run the command again")
