"""The commands about schedules, which need neither a folder nor a backend."""

from __future__ import annotations

import click

from pyncette.cli.commands.command import WithExamples
from pyncette.cli.commands.options import WholeNumber, output_option
from pyncette.cli.failures import Failure
from pyncette.cli.output import print_json, print_line, print_table

TIMES_MAX = 1000
"""Of one command: three years of a daily schedule."""


@click.group(short_help="Explain a schedule.")
def schedule() -> None:
    """Explain a schedule, without a folder and without a backend."""


@schedule.command(
    cls=WithExamples,
    short_help="Explain a cron expression, with its next times.",
    examples=[
        'pyncette schedule explain "0 9 * * *" --timezone Asia/Tokyo',
        'pyncette schedule explain "30 2 * * *" --timezone Europe/Berlin --after 2026-03-28',
        'pyncette schedule explain "H 4 * * *" --key default/report --output json',
    ],
)
@click.argument("expression", nargs=-1, required=True, metavar="EXPRESSION")
@click.option(
    "--timezone",
    metavar="ZONE",
    default="UTC",
    show_default=True,
    help="The time zone of the schedule, such as Europe/Dublin.",
)
@click.option(
    "--after",
    metavar="TIME",
    help="Show the times after this one: ISO 8601, on the clocks of the time zone unless it has an offset. By default now.",
)
@click.option(
    "-n",
    "--next",
    "count",
    type=WholeNumber(min=1, max=TIMES_MAX),
    metavar="N",
    default=5,
    show_default=True,
    help="The number of next times.",
)
@click.option(
    "--key",
    metavar="KEY",
    default="",
    help="The key from which H is hashed: NAMESPACE/NAME of a PyncetteTask. Needed if EXPRESSION has an H.",
)
@output_option
def explain(
    expression: tuple[str, ...], timezone: str, after: str | None, count: int, key: str, output: str
) -> None:
    """
    Explain a cron expression: in words, with its next times, and with warnings if it is easily misread.

    The times are those at which a task with this schedule is due, also across changes of the clocks. Put EXPRESSION in
    quotes. An invalid expression is an error; a warning does not change the exit code.
    """
    from pyncette.cli.explain import explained

    if len(expression) > 1:
        raise Failure('put the expression in quotes, so that it is one argument: "0 9 * * *"')
    found = explained(expression[0], timezone, after, count, key)
    if output == "json":
        print_json(found.as_json())
        return
    print_table(found.as_table())
    for warning in found.warnings:
        print_line(f"warning: {warning.message}", err=True)
