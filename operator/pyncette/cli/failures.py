"""Says in one sentence why a command could not do what it was asked for, and with which exit code it ends."""

from __future__ import annotations

import sys
from enum import IntEnum
from typing import Any, Final

import click

from pyncette.errors import ConfigurationError, SchemaError, StoreError


class ExitCode(IntEnum):
    """What the exit code of every command means."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    BACKEND = 3
    SCHEMA = 4
    TIMEOUT = 5
    INTERRUPTED = 130


MEANINGS: Final[dict[ExitCode, str]] = {
    ExitCode.DONE: "It was done; a run that was waited for succeeded; dev and worker were told to stop, and drained.",
    ExitCode.FAILED: "It was done and did not go well: the run failed, `check` found problems, `load` refused lines, the worker could not go on.",
    ExitCode.USAGE: "Wrongly asked for: an option, a setting, arguments, a module, a folder, or a task that there is not.",
    ExitCode.BACKEND: "The backend did not answer, or refused: no server, wrong password, missing right.",
    ExitCode.SCHEMA: "The tables of the backend are missing, or of a version that this release does not know; `migrate`: workers run that are too old for the new one.",
    ExitCode.TIMEOUT: "`run`: the run was not over within --timeout; it goes on.",
    ExitCode.INTERRUPTED: "Ended by ctrl-C: `run` while it waited, `load` on its way, or `worker` at the second signal.",
}


class Failure(click.ClickException):
    """Ends a command with a sentence on stderr."""

    def __init__(self, message: str, code: ExitCode = ExitCode.USAGE) -> None:
        super().__init__(message)
        self.exit_code = code  # type: ignore[misc]  # click reads it of the instance

    def show(self, file: Any = None) -> None:
        click.echo(f"pyncette: {self.message}", file=sys.stderr if file is None else file)


def failure_of(error: BaseException) -> Failure | None:
    """Return how *error* is told; None for what is nobody's fault but ours, whose traceback is wanted."""
    error = first_of(error)
    if isinstance(error, Failure):
        return error
    if isinstance(error, SchemaError):
        return Failure(_sentence(error), ExitCode.SCHEMA)
    if isinstance(error, StoreError):
        return Failure(_sentence(error), ExitCode.BACKEND)
    if isinstance(error, ConfigurationError):
        return Failure(_sentence(error), ExitCode.USAGE)
    return None


def first_of(error: BaseException) -> BaseException:
    """Return the first of errors that came together: the others followed from it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
