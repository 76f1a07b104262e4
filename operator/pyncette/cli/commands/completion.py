"""The command that makes a shell complete the others."""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import get_completion_class

from pyncette.cli.commands.command import WithExamples
from pyncette.cli.output import print_line

SHELLS: Final = ("bash", "zsh", "fish")

VARIABLE: Final = "_PYNCETTE_COMPLETE"
"""The variable by which the script asks the program for completions; click derives it from the program's name."""


@click.command(
    cls=WithExamples,
    short_help="Print the completion script of a shell.",
    examples=[
        'eval "$(pyncette completion bash)"        # in ~/.bashrc',
        'eval "$(pyncette completion zsh)"         # in ~/.zshrc, after compinit',
        "pyncette completion fish > ~/.config/fish/completions/pyncette.fish",
    ],
)
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """
    Print a script that makes SHELL complete commands, options and their values, files and folders.

    It needs Bash 4.4, Zsh or Fish. Names of tasks are not completed, since each would be a request to the backend.
    """
    kind = get_completion_class(shell)
    assert kind is not None
    program = click.get_current_context().find_root()
    script = kind(program.command, {}, program.info_name or "pyncette", VARIABLE)
    for line in (script.source_template % script.source_vars()).splitlines():
        print_line(line)
