"""Plays many histories in a row."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

from .history import History, HistoryError

COLLECT_EACH: Final = 30
"""Histories between two collections of garbage: each takes as long as a history, and finds what a few have left."""


def play_all(seeds: Iterable[int]) -> int:
    """Play the histories of *seeds*, and return how many handlers were called. Raises HistoryError at the first that fails."""
    return sum(result if isinstance(result, int) else _raised(result) for result in played(seeds))


def played(seeds: Iterable[int]) -> Iterator[int | HistoryError]:
    """Play the histories of *seeds*, and yield for each how many handlers were called, or what was wrong."""
    with in_quiet():
        for number, seed in enumerate(seeds, 1):
            yield _play(seed)
            if number % COLLECT_EACH == 0:
                gc.collect()


def _play(seed: int) -> int | HistoryError:
    history = History(seed)
    try:
        history.play()
    except HistoryError as error:
        return error
    return history.calls.number


def _raised(error: HistoryError) -> NoReturn:
    raise error


@contextmanager
def in_quiet() -> Iterator[None]:
    """Without the warnings that faults are meant to cause, and without looking for garbage at each turn."""
    enabled, level = gc.isenabled(), logging.root.manager.disable
    gc.disable()
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(level)
        if enabled:
            gc.enable()
        gc.collect()
