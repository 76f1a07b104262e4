"""The commands for development: run a folder of handlers, and check a folder or a backend."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import click

from pyncette.cli.commands.command import WithExamples, end
from pyncette.cli.commands.options import (
    FOLDER,
    Realm,
    is_given,
    output_option,
    pool_options,
    realm_of_pool,
    settings_options,
)
from pyncette.cli.failures import ExitCode, Failure
from pyncette.cli.output import Table, print_json, print_line, print_table
from pyncette.cli.settings import Settings
from pyncette.store.backend import Backend


@click.command(
    cls=WithExamples,
    short_help="Run a folder of handlers and manifests, and reload on changes.",
    examples=["pyncette dev .", "pyncette dev jobs --module nightly.py"],
)
@click.argument("path", type=FOLDER, default=".")
@click.option(
    "--module",
    metavar="MODULE[:APP]",
    help="The task module. By default tasks.py, or the only module that creates an app.",
)
@click.option(
    "--plain",
    is_flag=True,
    help="Print lines instead of a live table. This is the default if stdout is not a terminal.",
)
@settings_options("drain_seconds", "log_level")
def dev(path: Path, module: str | None, settings: Settings, *, plain: bool) -> None:
    """
    Run the handlers of a folder on an embedded database, and reload them when a file changes.

    PATH contains a task module, which declares handlers, and PyncetteTask manifests, in the form that kubectl apply
    accepts. State is kept in PATH/.pyncette, so that the next start continues from there; delete it to start over. The
    backend of the module or of PYNCETTE_BACKEND is not used.
    """
    from pyncette.cli.dev.folder import Folder
    from pyncette.cli.dev.screens import LiveScreen, PlainScreen
    from pyncette.cli.dev.supervisor import Supervisor
    from pyncette.cli.modules import find_target

    folder = Folder(path)
    folder.prepare()
    target = find_target(path, module)
    if settings.backend is not None:
        print_line(
            f"pyncette: PYNCETTE_BACKEND is ignored: dev uses its own database, {folder.backend.path}",
            err=True,
        )
    live = not plain and sys.stdout.isatty() and os.environ.get("TERM") not in {None, "", "dumb"}
    screen = LiveScreen() if live else PlainScreen()
    supervisor = Supervisor(folder, target, screen, settings.drain_seconds, settings.log_level)
    with folder.alone():
        end(asyncio.run(supervisor.run()))


@click.command(
    cls=WithExamples,
    short_help="Check a folder of handlers and manifests, or a backend.",
    examples=[
        "pyncette check examples/quickstart",
        "pyncette check --backend-file url.txt",
        "pyncette check --backend-file url.txt --realm production/shop/default",
        "pyncette check --namespace shop --pool reports  # in the operator's pod",
    ],
)
@click.argument("path", type=FOLDER, required=False)
@click.option(
    "--module",
    metavar="MODULE[:APP]",
    help="The task module. By default tasks.py, or the only module that creates an app.",
)
@pool_options
@settings_options("backend", "realm")
@output_option
def check(
    path: Path | None,
    module: str | None,
    namespace: str | None,
    pool: str | None,
    settings: Settings,
    output: str,
) -> None:
    """
    Check the manifests and the task module of a folder without running them, or check a backend.

    Without an option for a backend, check the folder PATH, by default the current one. The variables PYNCETTE_BACKEND and
    PYNCETTE_BACKEND_FILE do not change that. Each problem is printed with its file, line and column. If the task module
    cannot be imported, the manifests are checked without it.

    With --backend, --backend-file or --namespace, check that backend: do all that a worker does, with a test record that no
    worker runs and that is removed afterwards, and stop at the first step that fails. With a realm, also report whether the
    credential reaches more than that realm, such as the tables of another team. The exit code is 1 if there is a problem.
    """
    realm = realm_of_pool(namespace, pool)
    if realm is None and settings.backend is not None and (is_given("backend") or is_given("backend_file")):
        realm = Realm(settings.backend, settings.realm or "")
    if realm is None:
        _check_folder(path or Path(), module, output)
    elif path is not None or module is not None:
        raise Failure(
            "a folder and a backend are checked separately: leave out PATH and --module, or the backend"
        )
    else:
        _check_backend(realm.backend, realm.name, output)


def _check_folder(path: Path, module: str | None, output: str) -> None:
    from pyncette.cli.check import problems_of

    problems, notes, summary = problems_of(path, module)
    if output == "json":
        found = {"problems": problems, "notes": notes}
        documents = {name: [finding._asdict() for finding in findings] for name, findings in found.items()}
        print_json({"folder": str(path), **documents})
        end(ExitCode.FAILED if problems else ExitCode.DONE)
    for problem in problems:
        print_line(str(problem))
    for note in notes:
        print_line(f"note: {note}", err=True)
    if problems:
        raise Failure(
            f"{len(problems)} {'problem' if len(problems) == 1 else 'problems'} in {path}", ExitCode.FAILED
        )
    print_line(summary)


def _check_backend(backend: Backend, realm: str, output: str) -> None:
    from pyncette.cli.check_backend import try_out

    steps = asyncio.run(try_out(backend, realm))
    if output == "json":
        print_json({"backend": str(backend), "steps": [step._asdict() for step in steps]})
    else:
        rows = [
            (step.name, "works" if step.works else "fails", f"{step.seconds * 1000:.1f} ms", step.note)
            for step in steps
        ]
        print_table(Table(("STEP", "", "TOOK", "NOTE"), rows))
    end(ExitCode.DONE if steps[-1].works else ExitCode.FAILED)
