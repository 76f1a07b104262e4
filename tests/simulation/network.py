"""Lies between a process and the backend: requests and replies take their time, come in another order, or get lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from random import Random
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from pyncette.clock import Duration, Instant
from pyncette.core.record import Change, Key, Partition, Record, Run
from pyncette.errors import StoreUnavailableError
from pyncette.store.base import Capabilities, Claimed, Counted, Notification, Renewal, Renewed, Store

from .loop import SECOND, Process, SimulatedLoop
from .servers import Server

TIMEOUT: Final = 5 * SECOND
"""After this a process gives up on an answer. What it asked for may still be done later."""

LATEST_ARRIVAL: Final = 20 * SECOND
"""How much later: what a server finishes although its client is long gone."""


TELL_THE_TIME: Final = frozenset({"claim", "renew", "now"})


class Weather(NamedTuple):
    """How likely a request goes wrong, and in which way."""

    lost_request: float = 0.0
    lost_reply: float = 0.0
    slow: float = 0.0
    """An answer that takes up to the timeout."""
    late: float = 0.0
    """A request that is carried out after its process has given up."""
    lost_notification: float = 0.0
    round_trip: int = 10_000
    """What an undisturbed answer takes, at most."""


NEAR: Final = Weather(round_trip=1_000)


class Network:
    """What all connections have in common: the way to *server*, and its weather."""

    def __init__(self, loop: SimulatedLoop, random: Random, weather: Weather, server: Server) -> None:
        self.loop = loop
        self.random = random
        self.weather = weather
        self.server = server
        self.down: str | None = None
        """While the backend is away: whether it "refuses" or "hangs"."""


class Request(NamedTuple):
    """What a process has asked of the backend."""

    process: Process
    verb: str
    arguments: tuple[Any, ...]
    asked_at: int
    heard_at: int
    """When the process had last heard what time it is there: of a step since it cannot know."""


class Watcher:
    """Sees each request when it is carried out. It must not change anything."""

    def carried_out(self, request: Request, answer: Any) -> None: ...


class RemoteStore:
    """
    A connection of *process* to *store*, which all processes share.

    It tells what time it is there wrongly by *misled*: as if requests always took longer than their replies, or the
    other way round, which nobody who asks can tell.
    """

    def __init__(
        self,
        store: Store,
        network: Network,
        process: Process,
        watcher: Watcher,
        *,
        notifies: bool,
        misled: Duration = 0,
    ) -> None:
        self._store = store
        self._network = network
        self._process = process
        self._watcher = watcher
        self._capabilities = store.capabilities._replace(notifies=notifies)
        self._misled = misled
        self.is_near = False
        """Whether it is next to the backend: what it asks is answered within a millisecond, and never gets lost."""
        self.loses: list[str] = []
        """What gets lost of its next requests: for each "nothing", the "request" or the "reply"."""
        self.failed_at: list[int] = []
        """When it has asked for something and heard no answer."""
        self.heard_at = 0
        """Of when the last time is that it heard from the backend."""
        self.heard_own = 0
        """When it heard that, by the clock of its machine."""
        self.worst_round_trip = 0
        """The longest that an answer took: as exactly its process can know the backend's time, at worst."""

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    async def load(self, keys: Sequence[Key]) -> list[Record | None]:
        return await self._ask("load", keys)

    async def swap(self, changes: Sequence[Change]) -> list[bool]:
        return await self._ask("swap", changes)

    async def claim(
        self,
        limits: Mapping[Partition, int],
        lease_id: str,
        holder: str,
        now: Instant,
        expired_at: Instant,
        ahead: Duration = 0,
    ) -> Claimed:
        return await self._ask("claim", limits, lease_id, holder, now, expired_at, ahead)

    async def renew(self, renewals: Sequence[Renewal], now: Instant) -> Renewed:
        return await self._ask("renew", renewals, now)

    async def scan(
        self, partition: Partition, task: str | None, after: Key | None, limit: int
    ) -> list[Record]:
        return await self._ask("scan", partition, task, after, limit)

    async def count(
        self, partition: Partition, task: str | None, now: Instant, longest_lease: Duration, limit: int
    ) -> Counted:
        return await self._ask("count", partition, task, now, longest_lease, limit)

    async def partitions(self, realm: str) -> list[Partition]:
        return await self._ask("partitions", realm)

    async def history(self, key: Key) -> list[Run]:
        return await self._ask("history", key)

    async def now(self) -> Instant:
        return await self._ask("now")

    async def notify(self, notifications: Sequence[Notification]) -> None:
        await self._ask("notify", notifications)

    async def notified(self) -> AsyncIterator[Notification]:
        async for notification in self._store.notified():
            network = self._network
            if network.down is not None:
                raise StoreUnavailableError("the connection for notifications broke")
            if network.random.random() >= network.weather.lost_notification:
                yield notification

    async def _ask(self, verb: str, *arguments: Any) -> Any:
        network = self._network
        loop = network.loop
        if network.down == "refuses":
            self.failed_at.append(loop.now)
            raise StoreUnavailableError("the backend refuses connections")
        answer = loop.create_future()
        asked_at = loop.now
        there, back = self._way(NEAR if self.is_near else network.weather)
        if network.down is None and there is not None:
            reply = None if back is None else (answer, back)
            request = Request(self._process, verb, arguments, asked_at, self.heard_at)
            loop.at(asked_at + there, self._carry_out, request, reply)
        if (
            there is None
            or back is None
            or there + back > TIMEOUT
            or network.server.takes_time
            or network.down
        ):
            loop.at(asked_at + TIMEOUT, _give_up, answer, verb)
        try:
            result, done_at = await answer
        except StoreUnavailableError:
            self.failed_at.append(loop.now)
            raise
        if verb in TELL_THE_TIME:
            if done_at >= self.heard_at:
                self.heard_at, self.heard_own = done_at, self._process.own_time(loop.now)
            result = self._told(verb, result)
        self.worst_round_trip = max(self.worst_round_trip, loop.now - asked_at)
        return result

    def _way(self, weather: Weather) -> tuple[int | None, int | None]:
        """Return how long a request takes, and how long its reply; None for what gets lost."""
        random = self._network.random
        fate = random.random()
        there = int(random.random() * weather.round_trip) // 2 + 1
        back = int(random.random() * weather.round_trip) // 2 + 1
        lost = self.loses.pop(0) if self.loses else "nothing"
        if lost != "nothing":
            return (None if lost == "request" else there), None
        if fate < weather.lost_request:
            return None, back
        if (fate := fate - weather.lost_request) < weather.lost_reply:
            return there, None
        if (fate := fate - weather.lost_reply) < weather.slow:
            share = random.random()
            there += int(TIMEOUT * share * random.random())
            back += int(TIMEOUT * (1 - share) * random.random())
        elif fate - weather.slow < weather.late:
            return TIMEOUT + int(LATEST_ARRIVAL * random.random()), None
        return there, back

    def _carry_out(self, request: Request, reply: tuple[asyncio.Future[Any], int] | None) -> None:
        """Do what was asked for, at one instant, as the backend does it."""
        if self._network.down is not None:
            if reply is not None:
                self._network.loop.at(self._network.loop.now, _break, reply[0])
            return
        self._network.server.arrived(request, lambda result: self._carried_out(request, reply, result))

    def _carried_out(
        self, request: Request, reply: tuple[asyncio.Future[Any], int] | None, result: Any
    ) -> None:
        """Show what was done to those who judge, at that very instant, and answer."""
        self._watcher.carried_out(request, result)
        if reply is not None and self._network.down is None:
            answer, back = reply
            loop = self._network.loop
            loop.at(loop.now + back, _answer, answer, (result, loop.now))

    def _told(self, verb: str, result: Any) -> Any:
        """What its process is told of the time that the backend has."""
        if not self._misled:
            return result
        if verb == "now":
            return result + self._misled
        return result._replace(backend_now=result.backend_now + self._misled)


def _answer(answer: asyncio.Future[Any], result: Any) -> None:
    if not answer.done():
        answer.set_result(result)


def _break(answer: asyncio.Future[Any]) -> None:
    if not answer.done():
        answer.set_exception(StoreUnavailableError("the connection broke"))


def _give_up(answer: asyncio.Future[Any], verb: str) -> None:
    if not answer.done():
        answer.set_exception(StoreUnavailableError(f"no answer to {verb} within {TIMEOUT // SECOND} s"))
