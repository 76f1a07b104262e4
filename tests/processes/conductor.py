"""Plays a fault-injection account: workers run what editors change, while both meet faults that are drawn from a seed."""

import asyncio
import json
import math
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.processes.account_backends import AccountBackend
from tests.processes.accounted import LEASE
from tests.processes.canary import Canary
from tests.processes.proxy import Proxy
from tests.processes.shifted_clock import ShiftedClock
from tests.processes.subjects import A_SECOND, KINDS, Drawn, Edit, Once, Subject, Wanted
from tests.processes.true_time import true_now
from tests.processes.workers import ROOT, WorkerProcess, environment

LEASE_SECONDS: Final = LEASE.total_seconds()

WORKERS: Final = 3

FAULTS_A_SECOND: Final = 0.7
EDITS_A_SECOND: Final = 4.0

FAULTY_SECONDS: Final = 24.0
QUIET_SECONDS: Final = 16.0
"""Edits go on without faults: leases of the dead expire, what waited is done, and then all has to be in time."""

LAST_SECONDS: Final = 5.0
"""Without edits, at the end."""

READY_SECONDS: Final = 60.0
ANSWER_SECONDS: Final = 30.0
"""An editor that has not answered by then is killed; the product itself gives up much earlier."""

SURE_SECONDS: Final = 4.0
"""After so long nothing of an edit is under way any more whose result is not known."""

LOST_MOMENTS: Final = 0.25
"""Seconds before a failover, of which it may lose writes that were acknowledged, though the replica was in step."""

ONE_OFFS: Final = 0.25
"""The share of edits that schedule a new instance, which is due once."""

EDITS_AT_THE_TIME: Final = 0.35
"""The share of edits that are made about a full second, when occurrences are due."""


class Fault(NamedTuple):
    """What was done to a process (or to all), and between which true times it may have been felt."""

    kind: str
    process: int
    """0: all of them."""
    began: int
    ended: int

    def concerns(self, process: int) -> bool:
        return self.process in {0, process}


@dataclass
class Place:
    """Where one worker runs, and then its successor."""

    number: int
    proxy: Proxy | None
    worker: WorkerProcess
    clock: ShiftedClock | None
    busy: bool = False
    cut_off: bool = False


class EditorProcess:
    """A process that edits, and what it has been asked and not answered yet."""

    def __init__(self, name: str, url: str, folder: Path, clock: ShiftedClock | None, error: float) -> None:
        self.name = name
        self.error = error
        """By how many seconds it may be wrong about the backend's time, either way."""
        self.clock = clock
        self._url = url
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reading: asyncio.Task[None] | None = None
        self.ready = asyncio.Event()
        self.busy = False

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process is not None and self._process.returncode is not None

    async def start(self) -> None:
        wrapper = ["-m"] if self.clock is None else ["-m", "tests.processes.shifted_clock"]
        with (self._folder / f"editor-{self.name}.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, *wrapper, "tests.processes.editor", self._url,
                cwd=ROOT,
                env={
                    **environment(self._folder, self._url),
                    **({} if self.clock is None else self.clock.environment),
                },
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log,
            )  # fmt: skip
        self._reading = asyncio.create_task(self._read(self._process))

    async def edit(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Have it edit, and return its answer; one that says that nothing is known if it died, or took too long."""
        assert self._process is not None
        assert self._process.stdin is not None
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[wanted["number"]] = answer
        before = true_now()
        try:
            self._process.stdin.write(json.dumps(wanted).encode() + b"\n")
            return await asyncio.wait_for(answer, ANSWER_SECONDS)
        except (TimeoutError, OSError) as error:
            self.kill()
            return {"before": before, "after": true_now(), "known": False, "error": f"no answer: {error!r}"}
        finally:
            self._waiting.pop(wanted["number"], None)

    def kill(self) -> None:
        self.ready.clear()
        self.send(signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    async def end(self) -> None:
        self.kill()
        if self._process is not None:
            await self._process.wait()
        if self._reading is not None:
            await self._reading

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            answer = json.loads(line)
            if "ready" in answer:
                self.ready.set()
            elif (waiting := self._waiting.get(answer["number"])) is not None and not waiting.done():
                waiting.set_result(answer)
        self.ready.clear()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(ConnectionError("the editor has died"))


@dataclass
class Played:
    """What was done in an account, to be judged against what handlers wrote."""

    backend: AccountBackend
    seed: int
    seconds: float
    folder: Path
    subjects: list[Subject] = field(default_factory=list)
    edits: list[Edit] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    errors: dict[str, float] = field(default_factory=dict)
    """By editor: by how many seconds it may be wrong about the time."""
    failures: list[str] = field(default_factory=list)
    """Processes that did what no process may do."""
    began: int = 0
    ended: int = 0


class Conductor:
    """Plays one account on a *backend*, everything drawn from *seed*, and leaves its files in *folder*."""

    def __init__(
        self, backend: AccountBackend, folder: Path, seed: int, seconds: float, instances: int = 0
    ) -> None:
        self.backend = backend
        self.folder = folder
        self.chance = random.Random(seed)
        self.drawn = Drawn(random.Random(seed + 1), backend.steps)
        self.played = Played(backend, seed, seconds, folder)
        self.wanted: dict[Subject, Wanted] = {
            Subject(kind, f"{kind.task}-{number}"): Wanted()
            for kind in KINDS.values()
            for number in range(instances or backend.instances)
        }
        self.played.subjects = list(self.wanted)
        self.places: list[Place] = []
        self.editors: list[EditorProcess] = []
        self._proxies: list[Proxy] = []
        self._started = 0
        self._locking = asyncio.Lock()
        self._failing_over = False
        self._tasks: set[asyncio.Task[Any]] = set()

    async def play(self) -> Played:
        played = self.played
        with Canary(
            self.folder, lambda began, ended: played.faults.append(Fault("starved", 0, began, ended))
        ):
            return await self._play()

    async def _play(self) -> Played:
        played = self.played
        try:
            await self._set_up()
            played.began = true_now()
            end = time.monotonic() + played.seconds - LAST_SECONDS
            edits = asyncio.create_task(self._edit_until(end))
            while (left := end - time.monotonic()) > QUIET_SECONDS:
                await self._inject_until(time.monotonic() + min(FAULTY_SECONDS, left - QUIET_SECONDS))
                while self._tasks:
                    await asyncio.wait(self._tasks)
                await self._stay_quiet(QUIET_SECONDS)
            await edits
            await self._become_calm()
            await self._drain()
        finally:
            await self._clean_up()
        return played

    # --- Setting up, and ending ----------------------------------------------------------------------------------

    async def _set_up(self) -> None:
        for number in range(WORKERS):
            proxy = self._proxy()
            clock = self._clock(f"worker-{number}", 90)
            self.places.append(Place(number, proxy, self._start(number, proxy, clock), clock))
        behind, ahead = self._proxy(), self._proxy()
        if behind is not None and ahead is not None:
            behind.delay(0.6)
            ahead.delay_requests(0.3)
        for name, proxy, off, slow in (
            ("steady", self._proxy(), 0, 0.0),
            ("behind", behind, -900, 0.35),
            ("ahead", ahead, 900, 0.2),
        ):
            wrong = self.backend.time_error + (0 if proxy is None else slow)
            clock = self._clock(f"editor-{name}", off)
            url = self.backend.url if proxy is None else proxy.url_of(self.backend.url)
            self.editors.append(EditorProcess(name, url, self.folder, clock, wrong))
            self.played.errors[name] = wrong
        await asyncio.gather(*(editor.start() for editor in self.editors))
        for editor in self.editors:
            await asyncio.wait_for(editor.ready.wait(), READY_SECONDS)
        for place in self.places:
            assert await asyncio.to_thread(self._wait_until_ready, place.worker), place.worker.last_words()

    def _wait_until_ready(self, worker: WorkerProcess) -> bool:
        end = time.monotonic() + READY_SECONDS
        while not worker.is_ready:
            if time.monotonic() > end or not worker.is_alive:
                return False
            time.sleep(0.1)
        return True

    def _proxy(self) -> Proxy | None:
        if self.backend.address is None:
            return None
        host, port = self.backend.address
        proxy = Proxy(port, host)
        proxy.__enter__()
        self._proxies.append(proxy)
        return proxy

    def _clock(self, name: str, off_seconds: float) -> ShiftedClock | None:
        """A clock that is wrong by up to *off_seconds*, or by just that if it is negative or large."""
        if self.backend.one_machine:
            return None
        clock = ShiftedClock(self.folder / f"{name}.clock")
        clock.step(self.chance.uniform(-90, 90) if off_seconds == 90 else off_seconds)
        return clock

    def _start(self, number: int, proxy: Proxy | None, clock: ShiftedClock | None) -> WorkerProcess:
        self._started += 1
        url = self.backend.url if proxy is None else proxy.url_of(self.backend.url)
        return WorkerProcess(f"worker-{number}-{self._started}", self.folder, url, clock=clock)

    async def _become_calm(self) -> None:
        """Have every instance known as it is, and then leave all alone for a while."""
        steady = self.editors[0]
        self._replace_editors()
        await asyncio.wait_for(steady.ready.wait(), READY_SECONDS)
        for subject, wanted in self.wanted.items():
            if wanted.busy_until < math.inf and (wanted.unsure or not wanted.exists or wanted.suspended):
                await self._edit(subject, wanted, steady)
        await self._stay_quiet(LAST_SECONDS)
        self.played.ended = true_now()

    async def _stay_quiet(self, seconds: float) -> None:
        for place in self.places:
            self._look_after(place)
        await asyncio.sleep(seconds)

    async def _drain(self) -> None:
        for place in self.places:
            self._look_after(place)
            if not await asyncio.to_thread(self._wait_until_ready, place.worker):
                self.played.failures.append(f"{place.worker.name} is not ready\n{place.worker.last_words()}")
        for place in self.places:
            place.worker.send(signal.SIGTERM)
        for place in self.places:
            try:
                code = await asyncio.to_thread(place.worker.wait)
            except AssertionError as error:
                self.played.failures.append(str(error))
            else:
                if code:
                    self.played.failures.append(f"{place.worker.name} ended its drain with {code}")

    async def _clean_up(self) -> None:
        for editor in self.editors:
            with suppress(ProcessLookupError, AssertionError):
                await editor.end()
        for place in self.places:
            if place.worker.is_alive:
                place.worker.kill()
        for proxy in self._proxies:
            proxy.__exit__()

    def _look_after(self, place: Place) -> None:
        """Note a worker that ended although nobody asked it to, and start another."""
        try:
            place.worker.check()
        except AssertionError as error:
            if self._could_not_begin(place.worker):
                self._note("start in vain", place.worker.pid, true_now())
            else:
                self.played.failures.append(str(error))
            place.worker = self._start(place.number, place.proxy, place.clock)

    def _could_not_begin(self, worker: WorkerProcess) -> bool:
        """Whether the backend did not answer when the worker began: it ends, says so, and is to be started again."""
        return not worker.entries("running handlers") and worker.log.rstrip().rpartition("\n")[2].startswith(
            "pyncette: "
        )

    # --- Faults --------------------------------------------------------------------------------------------------

    async def _inject_until(self, end: float) -> None:
        kinds: list[tuple[Callable[[], Any], int]] = [
            (self._kill, 3), (self._freeze_briefly, 6), (self._freeze_for_long, 5), (self._terminate, 2),
        ]  # fmt: skip
        if self._proxies:
            kinds += [(self._lose_replies, 6), (self._cut, 3), (self._silence, 1)]
        if not self.backend.one_machine:
            kinds += [(self._suspend, 2), (self._step, 2)]
        if self.backend.end_sessions is not None:
            kinds.append((self._end_sessions, 2))
        if self.backend.lock is not None:
            kinds.append((self._lock, 5))
        if self.backend.fail_over is not None:
            kinds.append((self._fail_over, 4))
        kinds.append((self._kill_editor, 1))
        if not self.backend.one_machine:
            kinds.append((self._suspend_editor, 3))
        while (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(left, self.chance.expovariate(FAULTS_A_SECOND)))
            for place in self.places:
                if not place.busy:
                    self._look_after(place)
            (inject,) = self.chance.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])
            self._spawn(inject())

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.played.failures.append(f"a fault could not be injected: {task.exception()!r}")

    def _idle_place(self) -> Place | None:
        idle = [place for place in self.places if not place.busy]
        return self.chance.choice(idle) if idle else None

    def _note(self, kind: str, process: int, began: int) -> None:
        self.played.faults.append(Fault(kind, process, began, true_now()))

    async def _kill(self) -> None:
        place = self._idle_place()
        if place is not None:
            place.busy = True
            began = true_now()
            await asyncio.to_thread(place.worker.kill)
            self._note("kill", place.worker.pid, began)
            await self._replace(place)

    async def _terminate(self) -> None:
        place = self._idle_place()
        if place is not None:
            place.busy = True
            # Before that, Python itself ends it.
            if not await asyncio.to_thread(self._wait_until_ready, place.worker):
                self._look_after(place)
                place.busy = False
                return
            began = true_now()
            try:
                code = await asyncio.to_thread(place.worker.stop)
            except AssertionError as error:
                self.played.failures.append(str(error))
                place.worker.kill()
            else:
                if code:
                    self.played.failures.append(f"{place.worker.name} ended its drain with {code}")
            self._note("term", place.worker.pid, began)
            await self._replace(place)

    async def _replace(self, place: Place) -> None:
        await asyncio.sleep(self.chance.uniform(0, 1.5))
        if place.clock is not None:
            place.clock.step(self.chance.uniform(-60, 60))
        began = true_now()
        place.worker = self._start(place.number, place.proxy, place.clock)
        place.busy = False
        worker = place.worker
        await asyncio.to_thread(self._wait_until_ready, worker)
        self._note("start", worker.pid, began)

    async def _freeze_briefly(self) -> None:
        await self._freeze("stop", self.chance.uniform(0.05, LEASE_SECONDS / 2))

    async def _freeze_for_long(self) -> None:
        await self._freeze("stop", self.chance.uniform(LEASE_SECONDS * 1.1, LEASE_SECONDS * 2))

    async def _suspend(self) -> None:
        await self._freeze(
            "suspend", self.chance.uniform(LEASE_SECONDS / 2, LEASE_SECONDS * 2), suspended=True
        )

    async def _freeze(self, kind: str, seconds: float, *, suspended: bool = False) -> None:
        place = self._idle_place()
        if place is None:
            return
        place.busy = True
        began = true_now()
        with suppress(ChildProcessError):
            await asyncio.to_thread(place.worker.freeze)
        stood_at = time.monotonic()
        await asyncio.sleep(seconds)
        if suspended and place.clock is not None:
            place.clock.stand_still(time.monotonic() - stood_at)
        place.worker.wake()
        self._note(kind, place.worker.pid, began)
        place.busy = False

    async def _step(self) -> None:
        """A step of a machine's own clock, which is no fault: nobody goes by it."""
        place = self.chance.choice(self.places)
        if place.clock is not None:
            began = true_now()
            place.clock.step(self.chance.uniform(-120, 120))
            self._note("step", place.worker.pid, began)

    def _proxied(self) -> tuple[Place, Proxy]:
        return self.chance.choice([(place, place.proxy) for place in self.places if place.proxy is not None])

    def _note_at(self, place: Place, kind: str, first: int, began: int) -> None:
        """Note what the worker with the number *first* has felt, and the one that has taken its place since."""
        for process in {first, place.worker.pid}:
            self._note(kind, process, began)

    async def _lose_replies(self) -> None:
        place, proxy = self._proxied()
        lost = [
            0 if self.chance.random() < 0.6 else self.chance.randrange(200)
            for _ in range(self.chance.randint(1, 4))
        ]
        began, first, before = true_now(), place.worker.pid, proxy.torn
        proxy.tear(iter(lost))
        await asyncio.sleep(self.chance.uniform(0.3, 1.2))
        proxy.tear(iter(()))
        for _ in range(proxy.torn - before):
            self._note_at(place, "lost reply", first, began)

    async def _cut(self) -> None:
        place, proxy = self._proxied()
        began = true_now()
        proxy.cut()
        self._note("cut", place.worker.pid, began)

    async def _silence(self) -> None:
        place, proxy = self._proxied()
        if place.cut_off:
            return
        place.cut_off = True
        began, first = true_now(), place.worker.pid
        proxy.hold()
        await asyncio.sleep(self.chance.uniform(0.5, 2 * LEASE_SECONDS))
        proxy.release()
        self._note_at(place, "silence", first, began)
        place.cut_off = False

    async def _end_sessions(self) -> None:
        assert self.backend.end_sessions is not None
        began = true_now()
        await asyncio.to_thread(self.backend.end_sessions)
        self._note("sessions", 0, began)

    async def _lock(self) -> None:
        assert self.backend.lock is not None
        seconds = self.chance.uniform(0.2, LEASE_SECONDS)
        async with self._locking:  # what waits for one lock holds none
            began = true_now()
            await asyncio.to_thread(self.backend.lock, seconds)
            self._note("lock", 0, began)

    async def _fail_over(self) -> None:
        assert self.backend.fail_over is not None
        if self._failing_over:
            return
        self._failing_over = True
        began = true_now()
        behind = self.chance.choice((0.0, self.chance.uniform(0.05, 1.0)))
        taken_over_at = None
        try:
            taken_over_at = await asyncio.to_thread(self.backend.fail_over, behind)
        finally:  # also if the old primary does not come back
            self._note("failover" if behind else "failover in step", 0, began)
            self._doubt_edits_since(began, time.time() if taken_over_at is None else taken_over_at)
        self._failing_over = False

    def _doubt_edits_since(self, began: int, taken_over_at: float) -> None:
        """Note that edits which were acknowledged in the last moments before a failover may be lost."""
        until = int((taken_over_at + LOST_MOMENTS) * A_SECOND)
        for edit in self.played.edits:
            if edit.before <= until and edit.after >= began - LOST_MOMENTS * A_SECOND:
                edit.known = False
                edit.error = edit.error or "perhaps lost at the failover"
                self.wanted[edit.subject].unsure = True

    async def _kill_editor(self) -> None:
        editor = self.chance.choice(self.editors)
        if not editor.ready.is_set() or editor.busy:
            return
        editor.busy = True
        self._note("editor killed", editor.pid, true_now())
        await self._restart(editor)

    async def _restart(self, editor: EditorProcess) -> None:
        await editor.end()
        await editor.start()
        editor.busy = False

    def _replace_editors(self) -> None:
        """Start editors again that were killed since they did not answer."""
        for editor in self.editors:
            if editor.has_ended and not editor.busy:
                editor.busy = True
                self._spawn(self._restart(editor))

    async def _suspend_editor(self) -> None:
        """The machine of an editor is suspended, which the clock of its process does not count."""
        editor = self.chance.choice(self.editors)
        if editor.clock is None or not editor.ready.is_set() or editor.busy:
            return
        editor.busy = True
        began, stood_at = true_now(), time.monotonic()
        editor.send(signal.SIGSTOP)
        await asyncio.sleep(self.chance.uniform(0.1, 1.0))
        editor.clock.stand_still(time.monotonic() - stood_at)
        editor.send(signal.SIGCONT)
        self._note("editor suspended", editor.pid, began)
        editor.busy = False

    # --- Edits ---------------------------------------------------------------------------------------------------

    async def _edit_until(self, end: float) -> None:
        edits: set[asyncio.Task[None]] = set()
        for subject, wanted in self.wanted.items():
            await self._edit(subject, wanted, self.editors[0])
        while (left := end - time.monotonic()) > 0:
            pause = self.chance.expovariate(EDITS_A_SECOND * self.backend.instances / 3)
            if self.chance.random() < EDITS_AT_THE_TIME:
                # An editor whose replies are late decides so much later, and by a clock that is half of it behind.
                early = self.chance.choice((0.03, 0.55))
                pause = 1 - time.time() % 1 + self.chance.uniform(-early, 0.08)
            await asyncio.sleep(min(left, max(0.0, pause)))
            now = time.monotonic()
            free = [
                subject
                for subject, wanted in self.wanted.items()
                if not wanted.editing and wanted.busy_until <= now
            ]
            self._replace_editors()
            ready = [editor for editor in self.editors if editor.ready.is_set() and not editor.busy]
            if ready and self.chance.random() < ONE_OFFS:
                edit = asyncio.create_task(self._schedule_once(self.chance.choice(ready)))
                edits.add(edit)
                edit.add_done_callback(edits.discard)
            elif free and ready:
                subject, editor = self.chance.choice(free), self.chance.choice(ready)
                self.wanted[subject].editing = True
                edit = asyncio.create_task(self._edit(subject, self.wanted[subject], editor))
                edits.add(edit)
                edit.add_done_callback(edits.discard)
        if edits:
            await asyncio.wait(edits)

    async def _edit(self, subject: Subject, wanted: Wanted, editor: EditorProcess) -> None:
        """Draw an edit of *subject*, have *editor* make it, and note what became of it."""
        kind = subject.kind
        operation = self.drawn.operation(kind, wanted)
        times, seconds, suspended = wanted.times, wanted.seconds, wanted.suspended
        if operation == "toggle":
            operation, suspended = "suspend", True
        elif operation == "resume":
            suspended = False
        elif operation in {"create", "schedule", "force", "edit"}:
            times, seconds = self.drawn.schedule(kind)
            suspended = False
        exists = operation != "remove"
        if operation not in {"run", "redrive"}:
            wanted.generation += 1
        edit = Edit(
            len(self.played.edits), subject, operation,
            None if suspended or not exists else times, editor.name, seconds,
        )  # fmt: skip
        wanted.editing = True
        await self._ask(editor, edit, cron=times.cron, suspended=suspended, generation=wanted.generation)
        wanted.unsure = (wanted.unsure and not (edit.known and edit.made)) or not edit.known
        if edit.moves and (edit.made or not edit.known):
            wanted.times, wanted.seconds = times, seconds
            wanted.exists, wanted.suspended = exists, suspended
        pause = self.chance.expovariate(1 / 2.5) + 0.2 if edit.known else SURE_SECONDS
        wanted.busy_until = time.monotonic() + pause
        wanted.editing = False

    async def _schedule_once(self, editor: EditorProcess) -> None:
        """Have *editor* schedule a new instance that is due once, soon."""
        kind = self.drawn.chance.choice(
            [kind for kind in KINDS.values() if not kind.is_mirrored and not kind.limit]
        )
        subject = Subject(kind, f"{kind.task}-once-{len(self.played.edits)}")
        self.wanted[subject] = Wanted(exists=True, busy_until=math.inf)
        self.played.subjects.append(subject)
        at = true_now() + int(self.drawn.chance.uniform(0.8, 4) * A_SECOND)
        edit = Edit(
            len(self.played.edits), subject, "create", Once(at), editor.name,
            self.drawn.chance.choice((0, 0, 0.1, 1.0)),
        )  # fmt: skip
        await self._ask(editor, edit, at=at)

    async def _ask(self, editor: EditorProcess, edit: Edit, **further: Any) -> None:
        """Have *editor* make an *edit*, and note what became of it."""
        kind = edit.subject.kind
        self.played.edits.append(edit)
        edit.before = true_now()
        answer = await editor.edit(
            {
                "number": edit.number,
                "operation": edit.operation,
                "task": kind.task,
                "name": edit.subject.name,
                "mirrored": kind.is_mirrored,
                "at_most_once": kind.at_most_once,
                "cron": "",
                "options": self.drawn.options(kind, edit.seconds),
                **further,
            }
        )
        edit.before, edit.after = answer["before"], answer["after"]
        edit.known, edit.made = answer["known"], answer.get("made", True)
        edit.error = answer.get("error", "")
        if not edit.known:
            edit.after = true_now()


def faults_by_kind(played: Played) -> Counter[str]:
    return Counter(fault.kind for fault in played.faults if fault.kind != "start")


__all__ = ["A_SECOND", "Conductor", "Fault", "Once", "Played", "faults_by_kind"]
