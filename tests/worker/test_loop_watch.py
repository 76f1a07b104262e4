"""The watch of the event loop names what blocks it, and nothing that a process suffers as a whole."""

import asyncio
import threading

import pytest

from pyncette.worker import loop_watch
from pyncette.worker.loop_watch import LoopWatch
from tests.worker.bench import Bench


class Turned(threading.Event):
    """The answer of a loop, after some waits in vain."""

    def __init__(self, waits: int) -> None:
        super().__init__()
        self.waits = waits

    def wait(self, timeout: float | None = None) -> bool:
        self.waits -= 1
        return self.waits < 0


@pytest.mark.parametrize(
    ("waits", "blocked"), [(0, False), (1, False), (2, True)], ids=["turns", "stood still", "blocked"]
)
def test_a_process_that_stood_still_is_not_taken_for_a_blocked_loop(waits: int, blocked: bool) -> None:
    assert LoopWatch(Bench().runs())._is_blocked(Turned(waits)) is blocked


async def test_the_watch_ends_with_its_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_watch, "PAUSE_SECONDS", 0.01)
    before = threading.active_count()

    with LoopWatch(Bench().runs()):
        assert threading.active_count() == before + 1

    async with asyncio.timeout(10):
        while threading.active_count() > before:  # noqa: ASYNC110 - a thread sets no event of asyncio
            await asyncio.sleep(0.01)
