"""The base of all commands: examples in the help, and errors as one sentence with an exit code."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import click

from pyncette.cli.failures import MEANINGS, ExitCode, failure_of, first_of


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
    """A group whose commands end with one sentence and an exit code. Only bugs end with a traceback."""

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
                raise cause from None  # the reader of our output is gone; click exits quietly
            failure = failure_of(cause)
            if failure is None:
                raise
            logging.getLogger(__name__).debug("the command failed", exc_info=error)
            raise failure from error

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        with formatter.section("Exit codes"):
            formatter.write_dl(
                [(str(code.value), meaning.replace("`", "")) for code, meaning in MEANINGS.items()]
            )


def end(code: int) -> None:
    """End the command with *code*, even if the reader of its output is gone."""
    with suppress(BrokenPipeError):
        sys.stdout.flush()
    click.get_current_context().exit(code)
