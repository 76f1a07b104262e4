"""
The commands, their options and their help texts.

Each command imports its implementation from the modules of `cli` when it runs.
"""

from __future__ import annotations

import io
import sys

import click

from pyncette._version import __version__
from pyncette.cli.arguments import hide_passwords
from pyncette.cli.commands.command import Commands
from pyncette.cli.commands.completion import completion
from pyncette.cli.commands.folder import check, dev
from pyncette.cli.commands.installation import migrate, operator, sweep, worker
from pyncette.cli.commands.lists import runs, tasks, workers
from pyncette.cli.commands.one_task import load, purge, redrive, resume, run
from pyncette.cli.commands.schedule import schedule
from pyncette.cli.failures import show_warnings


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
    Cron for Python functions: run handlers when they are due, and see their results.


    PYNCETTE_BACKEND configures the backend that stores records, such as sqlite:///tasks.db or
    postgresql://user:password@host/database. dev uses a database of its own, in PATH/.pyncette.
    """


for each in (
    dev,
    check,
    worker,
    operator,
    sweep,
    run,
    redrive,
    resume,
    purge,
    tasks,
    runs,
    workers,
    load,
    schedule,
    migrate,
    completion,
):
    cli.add_command(each)


def main() -> None:
    """Run the command that the program's arguments name, and exit with its code."""
    hide_passwords()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Characters that a terminal cannot show must not end a command.
            stream.reconfigure(errors="backslashreplace")
    show_warnings()
    cli.main(prog_name="pyncette")
