"""
An event loop whose time is simulated, for several processes at once: it runs what is ready, then jumps to the next timer.

There is no selector and no thread, so nothing outside of the seed decides what comes next. Each callback belongs to the
process whose context it was made in. A process can be frozen (its callbacks wait) and killed (they never run).
"""

from __future__ import annotations

import asyncio
import heapq
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from enum import Enum
from itertools import count
from random import Random
from typing import Any, Final

SECOND: Final = 1_000_000

SPINS_MAX: Final = 50_000
"""Callbacks at one instant; whoever needs more is spinning, and would turn for ever."""

TURNS_MAX: Final = 4_000
"""Callbacks of a process in one second: it may be busy, but never for nothing."""

CLOSINGS_MAX: Final = 20
"""How often a coroutine of a killed process may await something while it is closed."""


class Being(Enum):
    RUNNING = "running"
    FROZEN = "frozen"
    GONE = "gone"


class Process:
    """What shares a fate: all that was started by one worker, or by whoever else there is."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.being = Being.RUNNING
        self.frozen_at: int | None = None
        """When it was last frozen."""
        self.thawed_at = 0
        """When it last went on, after it had been frozen."""
        self.is_suspended = False
        self.asleep: list[tuple[int, Handle]] = []
        """Timers of a machine that is suspended, each with the time that was left of it."""
        self.slept = 0
        """For how long its machine was suspended or paused, which the clock of its loop has not counted."""
        self.unseen = 0
        """How much time its clock has not counted, because its hypervisor had paused it."""
        self.paused_at: int | None = None
        """When its hypervisor paused it, if it is paused now."""
        self.second = 0
        self.turns = 0
        """Callbacks within that second."""
        self.ready: deque[Handle] = deque()
        self.fuse: tuple[int, Callable[[], None]] | None = None
        """After how many further callbacks something befalls it, and what: so that it is hit at any await."""
        self.tasks: list[asyncio.Task[Any]] = []

    def __repr__(self) -> str:
        return self.name

    def own_time(self, now: int) -> int:
        """The time that its monotonic clock has counted."""
        return (now if self.paused_at is None else self.paused_at) - self.unseen


OWN: Final[ContextVar[Process]] = ContextVar("process")


class Handle:
    """A callback to come; also what asyncio asks of a timer."""

    __slots__ = ("args", "callback", "context", "process")

    def __init__(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: Context, process: Process
    ) -> None:
        self.callback: Callable[..., object] | None = callback
        self.args = args
        self.context = context
        self.process = process

    def cancel(self) -> None:
        self.callback = None
        self.args = ()

    def cancelled(self) -> bool:
        return self.callback is None


class SpinningError(AssertionError):
    """Callbacks follow each other without end, and no time passes."""


class _Task(asyncio.Task):  # type: ignore[type-arg]
    """A task whose place in a set does not depend on where it lies in memory."""

    def __init__(self, *args: Any, number: int, **kwargs: Any) -> None:
        self._number = number
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class SimulatedLoop(asyncio.AbstractEventLoop):
    """Time is microseconds since the beginning, and only moves when there is nothing left to do at an instant."""

    def __init__(self, random: Random) -> None:
        self.now = 0
        self.processes: list[Process] = []
        self._all: list[Process] = []
        self.world = Process("world")
        """Whom everything belongs to that is no process of its own: the backend, the network, fate."""
        self.failures: list[BaseException] = []
        """What came up outside of any task, or was never looked at."""
        self.callbacks = 0
        self._random = random
        self._timers: list[tuple[int, int, Handle]] = []
        self._order = count()
        self._numbers = count(1)
        self._world_context = Context()
        self._world_context.run(OWN.set, self.world)
        self._closed = False

    # --- Processes -----------------------------------------------------------------------------------------------

    def spawn(self, name: str, main: Callable[[], Coroutine[Any, Any, None]]) -> Process:
        """Start a process, whose first task is what *main* makes."""
        process = Process(name)
        self.processes.append(process)
        self._all.append(process)
        context = Context()
        context.run(OWN.set, process)
        self.call_soon(self._start, main, context=context)
        return process

    def _start(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.create_task(main()).add_done_callback(self._look_at)

    def _look_at(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.failures.append(error)

    def kill(self, process: Process) -> None:
        """End *process* where it stands: not one further callback of it is run."""
        process.being = Being.GONE
        process.ready.clear()
        self.processes.remove(process)

    def freeze(self, process: Process) -> None:
        """Stop *process*, as SIGSTOP does: its timers and its clock go on."""
        process.being = Being.FROZEN
        process.frozen_at = self.now

    def suspend(self, process: Process) -> None:
        """Suspend the machine of *process*: its timers stand still, and its clock goes on, like CLOCK_BOOTTIME."""
        self.freeze(process)
        process.is_suspended = True
        process.asleep += [
            (max(0, at - self.now), handle) for at, _, handle in self._timers if handle.process is process
        ]
        self._timers = [timer for timer in self._timers if timer[2].process is not process]
        heapq.heapify(self._timers)

    def pause(self, process: Process) -> None:
        """Have the hypervisor pause the machine of *process*: its timers and its clock stand still, and nothing tells it."""
        self.suspend(process)
        process.paused_at = self.now

    def thaw(self, process: Process) -> None:
        """Let *process* go on."""
        if process.being is not Being.FROZEN:
            return
        process.being = Being.RUNNING
        process.thawed_at = self.now
        if process.is_suspended:
            process.is_suspended = False
            process.slept += self.now - (process.frozen_at or 0)
        if process.paused_at is not None:
            process.unseen += self.now - process.paused_at
            process.paused_at = None
        for left, handle in process.asleep:
            heapq.heappush(self._timers, (self.now + left, next(self._order), handle))
        process.asleep.clear()

    # --- What asyncio asks of a loop -----------------------------------------------------------------------------

    def time(self) -> float:
        return (self.now - self._slept()) / SECOND

    def _slept(self) -> int:
        return OWN.get(self.world).slept

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return self._closed

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Handle:  # type: ignore[override]
        if context is None:
            context = copy_context()
        process = context.get(OWN) or self.world
        handle = Handle(callback, args, context, process)
        if process.being is not Being.GONE and not self._closed:
            process.ready.append(handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Handle:  # type: ignore[override]
        return self.call_soon(callback, *args, context=context)  # there is one thread

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Handle:  # type: ignore[override]
        return self._put_off(self.now + round(delay * SECOND), callback, args, context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Handle:  # type: ignore[override]
        return self._put_off(round(when * SECOND) + self._slept(), callback, args, context)

    def _put_off(
        self, at: int, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None
    ) -> Handle:
        if context is None:
            context = copy_context()
        handle = Handle(callback, args, context, context.get(OWN) or self.world)
        heapq.heappush(self._timers, (at, next(self._order), handle))
        return handle

    def at(self, at: int, callback: Callable[..., object], *args: Any) -> Handle:
        """Call *callback* as the world, which nothing freezes or kills."""
        handle = Handle(callback, args, self._world_context, self.world)
        heapq.heappush(self._timers, (at, next(self._order), handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[Any]:  # type: ignore[override]
        if self._closed:
            coro.close()
            return self.create_future()  # type: ignore[return-value]
        number = next(self._numbers)
        if context is None:
            context = copy_context()
        task = _Task(coro, loop=self, name=name or f"task-{number}", context=context, number=number)
        process = context.get(OWN) or self.world
        process.tasks.append(task)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self._closed:
            self.failures.append(context.get("exception") or RuntimeError(context["message"]))

    # --- Running -------------------------------------------------------------------------------------------------

    def run_until(self, until: int) -> None:
        """Run what is ready and let time pass, up to and with *until*, or until something failed."""
        events._set_running_loop(self)
        try:
            while not self.failures:
                self._settle()
                if not self._pass_time(until):
                    break
        finally:
            events._set_running_loop(None)

    def _settle(self) -> None:
        """Run all that is ready, process by process in a random order, until nothing is."""
        spins = 0
        while not self.failures:
            able = [process for process in self.processes if process.ready and process.being is Being.RUNNING]
            if not able:
                return
            process = able[0] if len(able) == 1 else able[int(self._random.random() * len(able))]
            spins += self._turn(process)
            if spins > SPINS_MAX:
                raise SpinningError(f"{process} ran {spins} callbacks at {self.now / SECOND:.6f}")

    def _turn(self, process: Process) -> int:
        """Run what was ready when the turn began, in its order, as asyncio promises it."""
        ready = process.ready
        turns = len(ready)
        for _ in range(turns):
            if not ready or process.being is not Being.RUNNING:
                break
            handle = ready.popleft()
            if handle.callback is None:
                continue
            if process.fuse is not None and self._burnt_down(process):
                ready.appendleft(handle)
                break
            self._call(handle)
        self.callbacks += turns
        second = self.now // SECOND
        if process.second != second:
            process.second, process.turns = second, 0
        process.turns += turns
        if process.turns > TURNS_MAX:
            raise SpinningError(f"{process} ran {process.turns} callbacks in the second {second}")
        return turns

    def _burnt_down(self, process: Process) -> bool:
        assert process.fuse is not None
        left, strike = process.fuse
        if left > 0:
            process.fuse = (left - 1, strike)
            return False
        process.fuse = None
        strike()
        return process.being is not Being.RUNNING

    def _pass_time(self, until: int) -> bool:
        timers = self._timers
        while timers and timers[0][2].callback is None:
            heapq.heappop(timers)
        if not timers or timers[0][0] > until:
            self.now = max(self.now, until)
            return False
        self.now = max(self.now, timers[0][0])
        world = self.world
        while timers and timers[0][0] <= self.now:
            handle = heapq.heappop(timers)[2]
            if handle.callback is None:
                continue
            if handle.process is world:
                self._call(handle)
            elif handle.process.being is not Being.GONE:
                handle.process.ready.append(handle)
        return True

    def _call(self, handle: Handle) -> None:
        assert handle.callback is not None
        try:
            handle.context.run(handle.callback, *handle.args)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - whatever it is, the history ends here, and says so
            self.failures.append(error)

    def close(self) -> None:
        """Let go of what never ended, so that it says nothing more and runs nothing more."""
        self._closed = True
        events._set_running_loop(self)
        try:
            for process in (*self._all, self.world):
                _close(process)
        finally:
            events._set_running_loop(None)
        self._timers.clear()


def _close(process: Process) -> None:
    for task in process.tasks:
        if task.done():
            continue
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        coro = task.get_coro()
        for _ in range(CLOSINGS_MAX):
            try:
                coro.close()
                break
            except BaseException:  # noqa: BLE001 - whatever it says at its end: nobody is there to hear it
                continue
