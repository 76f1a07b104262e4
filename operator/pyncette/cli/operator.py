"""Runs the operator until it is told to stop, or until it cannot know any more what there is."""

from __future__ import annotations

import asyncio
import logging
import signal
from pathlib import Path

from pyncette.cli.failures import Failure
from pyncette.controller.settings import DEFAULT_FILE, OperatorSettings, load_settings

logger = logging.getLogger(__name__)


def run_operator(settings: OperatorSettings) -> int:
    """Run until SIGINT or SIGTERM; return the exit code. Raises ConfigurationError and whatever makes it end by itself."""
    from pyncette.controller.process import operate

    return asyncio.run(operate(settings))
