"""Watches the event loop of the handlers, and names a handler that blocks it."""

from __future__ import annotations

import asyncio
import sys
import sysconfig
import threading
import time
from pathlib import Path
from typing import Final, Self

from pyncette.core.log_messages import naming_logger
from pyncette.worker.occurrence import Occurrence
from pyncette.worker.run import Runs

logger = naming_logger(__name__)

BLOCKED_AFTER_SECONDS: Final = 2.0
"""A loop that did not turn for this long is blocked by a handler; a log line then names it."""

PAUSE_SECONDS: Final = 0.5
"""The wait before the next question to the loop."""

FROZEN_SECONDS: Final = 0.5
"""If a wait takes this much too long, the whole process stood still, and not the loop alone."""


INSTALLED: Final = (
    *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    str(Path(__file__).parents[1]),
)
"""The folders of Python, of installed packages, and of this one."""


class LoopWatch:
    """
    A thread that asks the event loop whether it turns, while handlers run.

    It is a context manager, to be entered in that loop.
    """

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        threading.Thread(target=self._watch, name="pyncette-loop-watch", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(PAUSE_SECONDS):
            if not self._runs.running:
                continue
            turned = threading.Event()
            try:
                self._loop.call_soon_threadsafe(turned.set)
            except RuntimeError:  # the loop is closed
                return
            if self._is_blocked(turned):
                self._warn()
            while not turned.wait(PAUSE_SECONDS) and not self._ended.is_set():
                pass

    def _is_blocked(self, turned: threading.Event) -> bool:
        """Say whether the loop does not turn for too long, unlike all else in this process."""
        while True:
            since = time.monotonic()
            if turned.wait(BLOCKED_AFTER_SECONDS) or self._ended.is_set():
                return False
            if time.monotonic() - since < BLOCKED_AFTER_SECONDS + FROZEN_SECONDS:
                return True

    def _warn(self) -> None:
        task = asyncio.current_task(self._loop)
        occurrence = self._runs.running.get(task) if task is not None else None
        name = "a task that is no run" if occurrence is None else "a handler"
        logger.warning(
            "%s blocks the event loop; all other handlers wait",
            name,
            extra={**_fields_of(occurrence), "at": self._place()},
        )

    def _place(self) -> str:
        """Return the file and the line that the loop's thread is at: in the user's own code, if it has a part in it."""
        innermost = frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 - documented, in spite of its name
        while frame is not None and frame.f_code.co_filename.startswith(INSTALLED):
            frame = frame.f_back
        frame = frame or innermost
        return "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _fields_of(occurrence: Occurrence | None) -> dict[str, object]:
    return {} if occurrence is None else occurrence.log_fields()
