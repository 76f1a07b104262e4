"""Runs the operator until it is told to stop, or until it cannot know any more what there is."""

from __future__ import annotations

import asyncio
import logging

from pyncette.cli.failures import ExitCode, Failure, first_of
from pyncette.controller.api import ApiError
from pyncette.controller.process import operate
from pyncette.controller.service import OperatorError
from pyncette.controller.settings import OperatorSettings

logger = logging.getLogger(__name__)


def run_operator(settings: OperatorSettings) -> int:
    """
    Run until SIGINT or SIGTERM; return the exit code.

    Raises ConfigurationError if it cannot begin, and Failure if this process cannot go on: it is to be started again.
    """
    try:
        asyncio.run(operate(settings))
    except Exception as error:
        cause = first_of(error)
        if isinstance(cause, ApiError | OperatorError):
            raise Failure(f"the operator has to start again: {cause}", ExitCode.FAILED) from error
        raise
    return ExitCode.DONE
