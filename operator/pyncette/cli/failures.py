"""Errors of commands as one sentence and an exit code."""

from __future__ import annotations

import sys
from enum import IntEnum
from typing import Any, Final

import click

from pyncette.core.printable import one_line, printable
from pyncette.errors import ConfigurationError, SchemaError, StoreError


class ExitCode(IntEnum):
    """The exit codes of all commands."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    BACKEND = 3
    SCHEMA = 4
    TIMEOUT = 5
    INTERRUPTED = 130


MEANINGS: Final[dict[ExitCode, str]] = {
    ExitCode.DONE: "Success. `run`: the run succeeded. `dev` and `worker`: stopped by a signal, and drained.",
    ExitCode.FAILED: "The command completed with a failure: the run failed, `check` found problems, `load` refused lines, or a worker could not continue.",
    ExitCode.USAGE: "Invalid usage: an option, setting, argument, module or folder is invalid, or a task was not found.",
    ExitCode.BACKEND: "The backend is unavailable or refused the request: no server, wrong password, or permission denied.",
    ExitCode.SCHEMA: "The tables of the backend are missing, or their version is not supported. `migrate`: workers of an unsupported version are running.",
    ExitCode.TIMEOUT: "`run`: the run did not end within --timeout, or no worker claimed it within 30 s. It stays requested.",
    ExitCode.INTERRUPTED: "Interrupted by Ctrl-C: `run` while it waited, `load` before its end, or `worker` at the second signal.",
}


class Failure(click.ClickException):
    """An error that ends a command with one sentence on stderr."""

    def __init__(self, message: str, code: ExitCode = ExitCode.USAGE) -> None:
        super().__init__(message)
        self.exit_code = code  # type: ignore[misc]  # click reads it from the instance

    def show(self, file: Any = None) -> None:
        click.echo(f"pyncette: {printable(self.message)}", file=sys.stderr if file is None else file)


def failure_of(error: BaseException) -> Failure | None:
    """Return the failure to report for *error*; None for a bug, whose traceback is needed."""
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
    """Return the first error of a group: it caused the others."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _sentence(error: Exception) -> str:
    return one_line(str(error)) or type(error).__name__
