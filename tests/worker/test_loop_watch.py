"""The watch of the event loop names what blocks it, and nothing that a process suffers as a whole."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from pyncette.worker import loop_watch
from pyncette.worker.loop_watch import BLOCKED_AFTER_SECONDS, LoopWatch
from tests.worker.bench import Bench


class Turned(threading.Event):
    """The answer of a loop, after some waits in vain that took so many seconds."""

    def __init__(self, *waits: float) -> None:
        super().__init__()
        self.waits = list(waits)
        self.now = 0.0

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout == BLOCKED_AFTER_SECONDS
        if not self.waits:
            return True
        self.now += self.waits.pop(0)
        return False


@pytest.fixture
def watch() -> Iterator[LoopWatch]:
    bench = Bench()
    watch = LoopWatch(bench.runs())
    yield watch
    watch.__exit__()


@pytest.mark.parametrize(
    ("waits", "blocked"),
    [
        ((), False),
        ((BLOCKED_AFTER_SECONDS,), True),
        ((10 * BLOCKED_AFTER_SECONDS,), False),
        ((10 * BLOCKED_AFTER_SECONDS, BLOCKED_AFTER_SECONDS), True),
    ],
    ids=["turns", "blocked", "frozen", "frozen and then blocked"],
)
def test_a_process_that_stood_still_is_not_taken_for_a_blocked_loop(
    watch: LoopWatch, monkeypatch: pytest.MonkeyPatch, waits: tuple[float, ...], blocked: bool
) -> None:
    turned = Turned(*waits)
    monkeypatch.setattr(loop_watch.time, "monotonic", lambda: turned.now)

    assert watch._is_blocked(turned) is blocked


async def test_the_watch_ends_with_its_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_watch, "PAUSE_SECONDS", 0.01)
    before = threading.active_count()

    with LoopWatch(Bench().runs()):
        assert threading.active_count() == before + 1

    async with asyncio.timeout(10):
        while threading.active_count() > before:  # noqa: ASYNC110 - a thread sets no event of asyncio
            await asyncio.sleep(0.01)
