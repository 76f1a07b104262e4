"""A function in a thread cannot be cancelled: its run lasts until it returns, and only then is anything written."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import Any

import pytest

from pyncette.clock import SECOND
from pyncette.coordination.permit_records import permit_partition
from pyncette.core.record import Outcome, Record, replace
from pyncette.core.runs import Ending
from pyncette.core.schedule import Once
from pyncette.core.spec import Heartbeat, Mode, Overlap, Policies, Retry
from pyncette.errors import LeaseLostException, StopRequested, StoreUnavailableError
from pyncette.store.memory import MemoryStore
from pyncette.worker import service
from pyncette.worker import threads as module
from pyncette.worker.occurrence import Occurrence
from pyncette.worker.service import Worker
from pyncette.worker.threads import ThreadCall, Threads
from tests.worker.bench import Bench, Handler, Registered, seconds, until

LEASE = 60 * SECOND
SOON = 10.0
"""Seconds after which a test gives up."""

Function = Callable[[ThreadCall], Any]


def in_thread(function: Function) -> Handler:
    async def call(occurrence: Occurrence) -> None:
        await occurrence.call_in_thread(function)

    return call


class Stuck:
    """A function that waits in real time, for nothing but its test."""

    def __init__(self, then: Function = lambda _: None) -> None:
        self.entered = threading.Event()
        self.go = threading.Event()
        self.calls = 0
        self.then = then

    def __call__(self, call: ThreadCall) -> Any:
        self.calls += 1
        self.entered.set()
        assert self.go.wait(SOON)
        return self.then(call)


class Scene:
    """One handler, one run of it, and a worker for which time passes although the function is stuck."""

    def __init__(self, policies: Policies, function: Function) -> None:
        self.handler = Registered("h", replace(policies, keep_finished=True), in_thread(function))
        self.bench = Bench(self.handler)
        self.key = self.handler.key("a")

    async def record(self) -> Record:
        return await self.bench.record(self.key)

    async def begin(self, worker: Worker, stuck: Stuck) -> None:
        """Have the function called. From then on, time passes without it."""
        await self.bench.once(self.handler, 1, "a")
        self.bench.clock.leave(worker)
        await self.bench.advance(1)
        await until(stuck.entered.is_set)

    async def end(self, worker: Worker) -> None:
        """Return when the function has returned, and what became of its run is written."""
        await until(lambda: not worker.running)
        self.bench.clock.join(worker)
        await self.bench.clock.settle()


def returns(_: ThreadCall) -> None:
    pass


def notices(call: ThreadCall) -> None:
    assert call.stop_requested


def says_so(call: ThreadCall) -> None:
    call.raise_if_stopped()
    raise AssertionError("it was not asked to stop")


def fails(_: ThreadCall) -> None:
    raise ValueError("no luck")


ENDINGS = [returns, notices, says_so, fails]


# --- What is written -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heartbeat", Heartbeat)
@pytest.mark.parametrize("then", ENDINGS)
async def test_a_run_that_took_too_long_fails_once_its_function_has_returned(
    then: Function, heartbeat: Heartbeat, caplog: pytest.LogCaptureFixture
) -> None:
    stuck = Stuck(then)
    scene = Scene(
        Policies(lease=LEASE, active_deadline=10 * SECOND, retry=Retry(max_attempts=1), heartbeat=heartbeat),
        stuck,
    )

    async with scene.bench.worker() as worker:
        await scene.begin(worker, stuck)
        await scene.bench.advance(300)  # five leases, if nobody renews them
        during = await scene.record()
        slots = worker.figures.slots_used
        stuck.go.set()
        await scene.end(worker)

    after = await scene.record()
    assert stuck.calls == 1
    assert slots == 1
    assert during.lease is not None
    assert during.lease.expires_at > scene.bench.clock.now()
    assert during.state.summary.last_outcome is None
    assert after.state.summary.last_outcome is Outcome.FAILED
    assert "longer than its active deadline of 10 s" in after.state.summary.last_message
    assert "the handler failed" not in caplog.text


@pytest.mark.parametrize("then", ENDINGS)
async def test_a_run_is_replaced_once_its_function_has_returned(then: Function) -> None:
    stuck = Stuck(then)
    scene = Scene(Policies(lease=LEASE, overlap=Overlap.REPLACE), stuck)
    await scene.bench.every(scene.handler, 10, "a")

    async with scene.bench.worker() as worker:
        scene.bench.clock.leave(worker)
        await scene.bench.advance(10)
        await until(stuck.entered.is_set)
        await scene.bench.advance(12)
        assert (stuck.calls, worker.running[0].ending) == (1, Ending.REPLACED)
        stuck.go.set()
        stuck.then = returns
        await scene.end(worker)

    record = await scene.record()
    assert scene.handler.scheduled == [10, 20]
    assert record.state.summary.counts.replaced == 1
    assert record.state.summary.counts.succeeded == 1


@pytest.mark.parametrize(
    ("mode", "then", "outcome"),
    [
        (Mode.AT_LEAST_ONCE, returns, Outcome.SUCCEEDED),
        (Mode.AT_LEAST_ONCE, notices, None),
        (Mode.AT_LEAST_ONCE, says_so, None),
        (Mode.AT_LEAST_ONCE, fails, None),
        (Mode.AT_MOST_ONCE, returns, Outcome.SUCCEEDED),
        (Mode.AT_MOST_ONCE, notices, Outcome.LOST),
        (Mode.AT_MOST_ONCE, says_so, Outcome.LOST),
        (Mode.AT_MOST_ONCE, fails, Outcome.LOST),
    ],
)
async def test_a_drain_releases_a_run_unless_its_function_has_done_its_work(
    mode: Mode, then: Function, outcome: Outcome | None
) -> None:
    stuck = Stuck(then)
    scene = Scene(Policies(lease=LEASE, mode=mode), stuck)

    async with scene.bench.worker() as worker:
        await scene.begin(worker, stuck)
        worker.drain(0)
        await until(lambda: worker.running[0].ending is not None)
        stuck.go.set()
        scene.bench.clock.join(worker)

    record = await scene.record()
    assert record.lease is None
    assert record.state.summary.last_outcome is outcome
    if outcome is None:  # released, and the attempt is not counted
        assert (record.attempt, seconds(record.due_at)) == (0, 1)


@pytest.mark.parametrize("then", ENDINGS)
async def test_a_run_that_is_overwritten_by_force_keeps_its_slot_and_writes_nothing(
    then: Function, caplog: pytest.LogCaptureFixture
) -> None:
    stuck = Stuck(then)
    scene = Scene(Policies(lease=LEASE), stuck)

    async with scene.bench.worker() as worker:
        await scene.begin(worker, stuck)
        await scene.bench.force(scene.key, Once(scene.bench.clock.now() + 3600 * SECOND))
        forced = await scene.record()
        await scene.bench.advance(30)
        assert worker.running[0].lease_lost
        assert worker.figures.slots_used == 1
        stuck.go.set()
        await scene.end(worker)

    assert await scene.record() == forced
    assert "the run ended after its lease was lost" in caplog.text


async def test_a_lease_ends_while_its_function_runs_if_the_backend_is_away() -> None:
    class Away(MemoryStore):
        async def renew(self, *_: object, **__: object) -> Any:
            raise StoreUnavailableError("away")

    stuck = Stuck(notices)
    scene = Scene(Policies(lease=LEASE, heartbeat=Heartbeat.COOPERATIVE), stuck)
    store = Away(scene.bench.backend)

    async with scene.bench.worker(store) as worker:
        await scene.begin(worker, stuck)
        await scene.bench.advance(61)
        lost = [occurrence.lease_lost for occurrence in worker.running]
        await until(lambda: stuck.calls == 2)  # the next attempt, beside the first
        stuck.then = returns
        stuck.go.set()
        await scene.end(worker)

    assert lost[0]
    assert [occurrence.held.attempt for occurrence in scene.handler.calls] == [1, 2]


# --- The end of a worker -------------------------------------------------------------------------------------------------


async def test_a_worker_ends_without_a_function_that_is_stuck_and_keeps_its_lease(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(service, "CANCELLED_SECONDS", 0.2)
    stuck = Stuck()
    scene = Scene(Policies(lease=LEASE, max_concurrent=1), stuck)

    async with scene.bench.worker() as worker:
        await scene.begin(worker, stuck)
        leased = await scene.record()
        scene.bench.clock.join(worker)
    after = await scene.record()
    abandoned = worker.abandoned
    permits = await scene.bench.store.scan(permit_partition("", "h", "h"), None, None, 10)
    stuck.go.set()
    await until(lambda: "returned after its worker had ended" in caplog.text)

    assert abandoned == 1
    assert after == leased
    assert await scene.record() == leased
    assert permits
    assert all(record.lease is not None for record in permits)
    assert "the handler still runs in its thread; its lease will expire" in caplog.text

    stuck.then = returns
    async with scene.bench.worker(holder="w2"):
        await scene.bench.advance(LEASE / SECOND - 1)
        assert stuck.calls == 1
        await scene.bench.advance(2)

    assert (stuck.calls, scene.handler.calls[-1].held.attempt) == (2, 2)
    assert (await scene.record()).state.summary.last_outcome is Outcome.SUCCEEDED


async def test_a_function_that_waits_for_the_loop_of_a_worker_that_ends_is_interrupted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service, "CANCELLED_SECONDS", 0.2)
    waited: list[str] = []

    def stubborn(call: ThreadCall) -> None:
        for _ in range(3):
            try:
                call.wait_for(bench.sleep(5000))
            except StopRequested as error:
                waited.append(str(error))

    handler = Registered("h", Policies(lease=LEASE), in_thread(stubborn))
    bench = Bench(handler)
    await bench.once(handler, 1, "a")

    async with bench.worker() as worker:
        await bench.advance(1)

    await until(lambda: len(waited) == 3)
    assert worker.abandoned == 1
    assert waited[-1] == "the run has ended"


@pytest.mark.parametrize("used", [False, True])
async def test_no_function_begins_once_its_worker_has_ended(
    monkeypatch: pytest.MonkeyPatch, used: bool
) -> None:
    monkeypatch.setattr(service, "CANCELLED_SECONDS", 0.2)
    go, begun, ended = asyncio.Event(), [0], asyncio.Event()

    async def handle(occurrence: Occurrence) -> None:
        try:
            if used:
                await occurrence.call_in_thread(lambda _: None)  # leaves an idle thread
            while not go.is_set():
                with suppress(asyncio.CancelledError):
                    await go.wait()
            await occurrence.call_in_thread(lambda _: begun.append(1))
        finally:
            ended.set()

    handler = Registered("h", Policies(lease=LEASE), handle)
    bench = Bench(handler)
    await bench.once(handler, 1, "a")
    async with bench.worker() as worker:
        bench.clock.leave(worker)
        await bench.advance(1)
        await until(lambda: bool(handler.calls))
        bench.clock.join(worker)
    go.set()

    await asyncio.wait_for(ended.wait(), SOON)
    assert begun == [0]


# --- A call --------------------------------------------------------------------------------------------------------------


class Run:
    """What a call sees of its run."""

    stop_reason = ""

    def log_fields(self) -> dict[str, Any]:
        return {"task": "h"}


@pytest.fixture
def threads() -> Iterator[Threads]:
    threads = Threads()
    yield threads
    threads.close()


async def test_a_function_sees_the_context_variables_of_its_run_and_keeps_its_own_to_itself(
    threads: Threads,
) -> None:
    variable: ContextVar[str] = ContextVar("variable", default="")
    variable.set("of the run")

    def function() -> str:
        before = variable.get()
        variable.set("of the function")
        return before

    assert await ThreadCall(threads, Run()).run(function) == "of the run"
    assert variable.get() == "of the run"


async def test_the_event_loop_awaits_for_a_function_in_the_task_of_its_run(threads: Threads) -> None:
    call = ThreadCall(threads, Run())

    async def task() -> asyncio.Task[Any] | None:
        await asyncio.sleep(0)
        return asyncio.current_task()

    assert await call.run(lambda: call.wait_for(task())) is asyncio.current_task()


async def test_what_an_awaitable_raises_is_raised_in_the_function(threads: Threads) -> None:
    call = ThreadCall(threads, Run())

    async def fail() -> None:
        raise KeyError("x")

    async def cancelled() -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    def function() -> list[str]:
        raised = []
        for awaitable in (fail(), cancelled()):
            try:
                call.wait_for(awaitable)
            except BaseException as error:  # noqa: BLE001 - a cancellation too
                raised.append(type(error).__name__)
        return raised

    assert await call.run(function) == ["KeyError", "CancelledError"]
    assert not call.stop_requested


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(3), KeyboardInterrupt(), StopIteration()])
async def test_whatever_a_function_raises_is_raised_by_its_call(
    threads: Threads, error: BaseException
) -> None:
    def function() -> None:
        raise error

    call = ThreadCall(threads, Run())
    with pytest.raises(RuntimeError if isinstance(error, StopIteration) else type(error)):
        await call.run(function)


async def test_a_cancellation_asks_a_function_to_stop_and_interrupts_what_it_waits_for(
    threads: Threads,
) -> None:
    seen: list[Any] = []

    def function() -> None:
        seen.append(call.stop_requested)
        try:
            call.wait_for(asyncio.sleep(SOON))
        except StopRequested as error:
            seen.append(str(error))
        seen.append(call.stop_requested)
        seen.append(call.wait_for(asyncio.sleep(0, "cleaned up")))
        call.raise_if_stopped()

    async def run() -> None:
        nonlocal call
        call = ThreadCall(threads, Run())
        await call.run(function)

    call = ThreadCall(threads, Run())
    task = asyncio.create_task(run())
    await until(lambda: seen == [False])
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert seen == [False, "the run was cancelled", True, "cleaned up"]


async def test_a_function_that_stops_for_another_reason_than_it_was_given_has_failed(
    threads: Threads,
) -> None:
    def function() -> None:
        raise LeaseLostException("of another library")

    with pytest.raises(LeaseLostException):
        await ThreadCall(threads, Run()).run(function)


async def test_a_thread_that_outlives_the_function_that_began_it_cannot_wait_any_more(
    threads: Threads,
) -> None:
    call = ThreadCall(threads, Run())
    await call.run(lambda: None)

    async def never() -> None:
        raise AssertionError("nobody waits for it")

    with pytest.raises(StopRequested, match="the run has ended"):
        await asyncio.to_thread(call.wait_for, never())


async def test_a_coroutine_that_a_cancelled_function_returns_does_not_begin(threads: Threads) -> None:
    stuck = Stuck(lambda _: never())

    async def never() -> None:
        raise AssertionError("the run was cancelled")

    async def run() -> None:
        call = ThreadCall(threads, Run())
        await call.run(partial(stuck, call))

    task = asyncio.create_task(run())
    await until(stuck.entered.is_set)
    task.cancel()
    await asyncio.sleep(0)
    stuck.go.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_function_that_ignores_the_request_is_named(
    threads: Threads, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "SLOW_SECONDS", 0.01)
    stuck = Stuck()
    run = Run()

    async def called() -> None:
        call = ThreadCall(threads, run)
        await call.run(partial(stuck, call))

    task = asyncio.create_task(called())
    await until(stuck.entered.is_set)
    run.stop_reason = "the next occurrence is due"
    task.cancel()
    await until(lambda: caplog.records)
    stuck.go.set()
    await task

    (line,) = caplog.records
    assert "asked to stop, and still runs in its thread" in line.message
    assert line.message.endswith("the next occurrence is due task=h")
    assert line.__dict__["task"] == "h"


# --- Threads -------------------------------------------------------------------------------------------------------------


async def test_threads_are_reused_and_never_more_than_work_at_once(threads: Threads) -> None:
    used: set[str] = set()

    def function() -> None:
        used.add(threading.current_thread().name)

    for _ in range(20):
        call = ThreadCall(threads, Run())
        await call.run(function)
    assert len(used) == 1

    used.clear()
    barrier = threading.Barrier(3)

    def together() -> None:
        function()
        barrier.wait(SOON)

    for _ in range(5):
        await asyncio.gather(*(asyncio.create_task(_call(threads, together)) for _ in range(3)))
    assert len(used) == 3


async def _call(threads: Threads, function: Callable[[], Any]) -> Any:
    return await ThreadCall(threads, Run()).run(function)


async def test_a_call_fails_for_which_the_system_has_no_thread(
    threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    handler = Registered("h", Policies(lease=LEASE, retry=Retry(max_attempts=1)), in_thread(returns))
    bench = Bench(handler)
    await bench.every(handler, 10, "a")

    async with bench.worker(slots=1) as worker:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            await bench.advance(10)
        assert worker.figures.slots_used == 0
        await bench.advance(10)

    counts = (await bench.record(handler.key("a"))).state.summary.counts
    assert (counts.failed, counts.succeeded) == (1, 1)


async def test_threads_end_when_they_are_closed_and_keep_no_process_alive() -> None:
    threads = Threads()
    stuck = Stuck()
    names: list[threading.Thread] = []

    async def run() -> None:
        call = ThreadCall(threads, Run())
        await call.run(partial(stuck, call))

    await _call(threads, lambda: names.append(threading.current_thread()))
    await asyncio.gather(
        *(_call(threads, lambda: names.append(threading.current_thread())) for _ in range(2))
    )
    busy = asyncio.create_task(run())
    await until(stuck.entered.is_set)
    threads.close()
    stuck.go.set()
    await busy

    await until(lambda: not any(thread.is_alive() for thread in names))
    assert all(thread.daemon for thread in names)
