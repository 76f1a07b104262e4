"""Starts a worker process, receives its events and output, and stops it. No process is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from typing import Any, Final

import msgspec

from pyncette.cli.dev.child import GO, Orders
from pyncette.cli.dev.events import LINE_BYTES_MAX, Event, Fault, Loaded, decode

BEYOND_DRAIN_SECONDS: Final = 20.0
"""After its grace a worker cancels, writes what became of its runs, and tears down fixtures; then it is killed."""

AT_ONCE_SECONDS: Final = 3.0
"""How long a worker that has to stop at once may take to release its leases."""


class WorkerProcess:
    """A worker process. *heard* is called with its events, *printed* with the lines that handlers print."""

    def __init__(
        self,
        process: Process,
        events: asyncio.StreamReader,
        transport: asyncio.ReadTransport,
        heard: Callable[[Event], None],
        printed: Callable[[str], None],
    ) -> None:
        self._process = process
        self._transport = transport
        self._heard = heard
        self._printed = printed
        self._ready: asyncio.Future[Loaded | Fault] = asyncio.get_running_loop().create_future()
        self._draining = False
        self.fault: Fault | None = None
        """Why it ended, if it said so."""
        assert process.stdout is not None
        assert process.stderr is not None
        self._reading = [
            asyncio.create_task(self._listen(events)),
            asyncio.create_task(self._pass_on(process.stdout)),
            asyncio.create_task(self._pass_on(process.stderr)),
        ]
        self.ended: asyncio.Future[int] = asyncio.ensure_future(self._end())
        """Done once it has ended and all its events and output were passed on; its result is the exit code."""

    @classmethod
    async def start(
        cls, orders: Orders, heard: Callable[[Event], None], printed: Callable[[str], None]
    ) -> WorkerProcess:
        """Start one. It imports the module, and then waits for `go`."""
        read, write = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "pyncette.cli.dev.child",
                msgspec.json.encode(msgspec.structs.replace(orders, events=write)).decode(),
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE,
                pass_fds=(write,),
                limit=LINE_BYTES_MAX,
                # A group of its own: ctrl-C is for us to hand on, and what handlers start can be ended with it.
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8:backslashreplace"},
            )
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        events = asyncio.StreamReader(limit=LINE_BYTES_MAX)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(events), os.fdopen(read, "rb", buffering=0)
        )
        return cls(process, events, transport, heard, printed)

    async def loaded(self) -> Loaded | Fault:
        """Wait until the module is imported, and say what it declares, or what is wrong with it."""
        waited: list[asyncio.Future[Any]] = [self._ready, self.ended]
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if self._ready.done():
            return self._ready.result()
        return self.fault or Fault(f"the worker exited during import with code {self.ended.result()}", 1)

    def go(self) -> None:
        """Let it run."""
        assert self._process.stdin is not None
        self._process.stdin.write(GO)

    async def drain(self, seconds: float) -> None:
        """Let current runs end within *seconds*, then stop the process, or kill it. Idempotent."""
        if not self._draining:
            self._draining = True
            self._signal(signal.SIGTERM)
        await self._ended_within(seconds + BEYOND_DRAIN_SECONDS)

    async def end(self) -> None:
        """End it at once: it cancels what runs and gives it back, if it still can."""
        if not self._draining:
            self._draining = True
            self._signal(signal.SIGTERM)
            await asyncio.sleep(0.05)  # until it has the first signal
        self._signal(signal.SIGINT)  # a second SIGTERM so soon would count as the first one
        await self._ended_within(AT_ONCE_SECONDS)

    async def _ended_within(self, seconds: float) -> None:
        await asyncio.wait([self.ended], timeout=seconds)
        if not self.ended.done():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            await self.ended

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _end(self) -> int:
        code = await self._process.wait()
        # What handlers started may keep the pipes open; it is not waited for.
        await asyncio.wait(self._reading, timeout=1)
        for task in self._reading:
            task.cancel()
        results = await asyncio.gather(*self._reading, return_exceptions=True)
        self._transport.close()
        for result in results:
            if isinstance(result, Exception):
                raise result
        return code

    async def _listen(self, events: asyncio.StreamReader) -> None:
        while line := await events.readline():
            try:
                event = decode(line)
            except msgspec.MsgspecError:  # cut off by the end of the process
                continue
            if isinstance(event, Fault):
                self.fault = event
            if isinstance(event, Loaded | Fault) and not self._ready.done():
                self._ready.set_result(event)
            self._heard(event)

    async def _pass_on(self, stream: asyncio.StreamReader) -> None:
        while line := await _line(stream):
            self._printed(line.decode("utf-8", "replace").rstrip("\r\n"))


async def _line(stream: asyncio.StreamReader) -> bytes:
    """Return the next line; one that is too long comes in parts."""
    try:
        return await stream.readuntil()
    except asyncio.IncompleteReadError as error:
        return error.partial
    except asyncio.LimitOverrunError as error:
        return await stream.read(error.consumed or 1)
