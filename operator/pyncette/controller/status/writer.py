"""Writes the statuses of resources, the most urgent first and namespaces in turn, at a limited rate."""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from pyncette.controller.cluster.api import (
    POOLS,
    Api,
    ApiError,
    ApiUnavailableError,
    ConflictError,
    Manifest,
    NoSuchObjectError,
    Reference,
)
from pyncette.controller.fair_queue import FairQueue, fair_share
from pyncette.controller.metrics import STATUS_WAITING, Metrics
from pyncette.controller.status.differences import Difference
from pyncette.resources.modelling import Model

logger = logging.getLogger(__name__)

PAUSE_SECONDS: Final = 30.0
"""Time between two writes to one resource, after its first few."""

BURST: Final = 4
"""Number of writes to one resource that do not wait: it becomes known, is scheduled, runs, and has run."""

AT_ONCE: Final = 16
"""Maximum concurrent writes: a slow API server must not serialize them."""

SHORTEST_SECONDS: Final = 0.001
"""Shorter timers may fire before their time."""

RETRY_SECONDS: Final = 1.0
"""Time before a failed write is retried."""

CATCH_UP_SECONDS: Final = 0.2
"""How far writes may lag behind their rate and catch up: a busy loop wakes late every time."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.decode


class _Wanted(NamedTuple):
    status: bytes
    """The manifest as JSON: ten thousand can wait at the start, and as dicts they would take ten times the memory."""
    difference: Difference


class _Allowance(NamedTuple):
    """The number of writes that a resource may have without waiting, at a time of the loop."""

    writes: float
    at: float


class Statuses:
    """
    Statuses that are to be written, the latest of each resource, at most *rate* a second; namespaces take turns.

    *seen* returns the cached resource just before the write. *written* is called with it and with the response, perhaps after
    the watch has delivered the write. *again* is called with each resource whose queued status is out of date, so that it
    has to be reconciled again.
    """

    def __init__(
        self,
        api: Api,
        rate: float,
        seen: Callable[[Reference], Manifest | None],
        written: Callable[[Reference, Manifest | None, Manifest], None],
        again: Callable[[Reference], None],
        metrics: Metrics,
    ) -> None:
        self._api = api
        self._rate = rate
        self._seen = seen
        self._written = written
        self._again = again
        self._metrics = metrics
        metrics.gauge(STATUS_WAITING).set_function(lambda: float(len(self)))
        self._wanted: dict[Reference, _Wanted] = {}
        self._wanted_of: Counter[str] = Counter()
        """By namespace: the number of queued statuses."""
        self._ready: FairQueue[Reference] = FairQueue()
        """The resources whose status may be written now, except for those with a write under way."""
        self._paused: list[tuple[float, Reference]] = []
        """A heap of the resources that pause, with the end of each pause. A resource can be in it several times."""
        self._allowances: dict[Reference, _Allowance] = {}
        self._under_way: set[Reference] = set()
        self._changed = asyncio.Event()
        self._next_at = 0.0
        """The earliest loop time of the next write."""

    def __len__(self) -> int:
        """Return the number of queued statuses and of writes under way."""
        return len(self._wanted) + len(self._under_way)

    def waits(self, reference: Reference) -> bool:
        """Return whether a status of *reference* is queued, or its write is under way."""
        return reference in self._wanted or reference in self._under_way

    def waiting(self) -> Mapping[str, int]:
        """Return the number of queued statuses of each namespace. Safe to call from another thread."""
        return dict(self._wanted_of)

    def pause_seconds(self, namespace: str) -> float:
        """Return the current time between two writes to a resource of *namespace*, after its first few."""
        waiting = fair_share(self._wanted_of[namespace], len(self._wanted), len(self._wanted_of))
        return max(PAUSE_SECONDS, waiting / self._rate)

    def want(self, reference: Reference, status: Manifest, difference: Difference) -> None:
        """Queue *status* (an object with its name, resourceVersion and status) instead of the one queued before."""
        before = self._wanted.get(reference)
        if before is None:
            self._wanted_of[reference.namespace] += 1
        else:
            difference = max(difference, before.difference)
        self._wanted[reference] = _Wanted(_encode(status), difference)
        if reference not in self._under_way:
            self._enqueue(reference, difference)
            self._changed.set()

    def drop(self, reference: Reference) -> None:
        """Drop the queued status of *reference*, if there is one."""
        if reference in self._wanted:
            self._take(reference)
            self._ready.discard(reference)

    def forget(self, reference: Reference) -> None:
        """Drop all that is known of a deleted resource."""
        self.drop(reference)
        self._allowances.pop(reference, None)

    async def run(self) -> None:
        """Write queued statuses until cancelled."""
        async with asyncio.TaskGroup() as writing:
            slots = asyncio.Semaphore(AT_ONCE)
            while True:
                await slots.acquire()
                reference = await self._next()
                wanted = self._take(reference)
                self._under_way.add(reference)
                writing.create_task(self._write(reference, wanted)).add_done_callback(
                    lambda _: slots.release()
                )
                self._next_at = max(self._next_at, _now() - CATCH_UP_SECONDS) + 1 / self._rate
                await asyncio.sleep(self._next_at - _now())

    async def _next(self) -> Reference:
        while True:
            self._end_pauses()
            reference = self._ready.take()
            if reference is not None:
                return reference
            self._changed.clear()
            timeout = max(self._paused[0][0] - _now(), SHORTEST_SECONDS) if self._paused else None
            try:
                async with asyncio.timeout(timeout):
                    await self._changed.wait()
            except TimeoutError:
                continue
            finally:
                self._next_at = max(self._next_at, _now())

    def _take(self, reference: Reference) -> _Wanted:
        """Remove and return the queued status of *reference*."""
        namespace = reference.namespace
        self._wanted_of[namespace] -= 1
        if not self._wanted_of[namespace]:
            del self._wanted_of[namespace]
        return self._wanted.pop(reference)

    async def _write(self, reference: Reference, wanted: _Wanted) -> None:
        self._spend(reference)
        status = _decode(wanted.status)
        before = self._seen(reference)
        try:
            self._written(reference, before, await self._api.apply_status(status))
            self._metrics.status_written("written")
        except (ConflictError, NoSuchObjectError):
            self._metrics.status_written("conflict")
            self._again(reference)
        except ApiUnavailableError as error:
            self._metrics.status_written("failed")
            logger.debug("did not write a status", extra={"object": str(reference), "error": str(error)})
            await asyncio.sleep(RETRY_SECONDS)
            if reference not in self._wanted:
                self.want(reference, status, wanted.difference)
        except ApiError as error:
            self._metrics.status_written("failed")
            logger.warning(
                "the API server refused a status", extra={"object": str(reference), "error": str(error)}
            )
        except Exception:
            # A bug that concerns this object alone: its next pass tries again.
            self._metrics.status_written("failed")
            logger.exception("could not write a status", extra={"object": str(reference)})
        finally:
            self._under_way.discard(reference)
            following = self._wanted.get(reference)
            if following is not None:
                self._enqueue(reference, following.difference)
                self._changed.set()

    # --- Pauses ------------------------------------------------------------------------------------------------------

    def _enqueue(self, reference: Reference, difference: Difference) -> None:
        at = _now() if _is_awaited(reference, difference) else self._next_write_at(reference)
        if at <= _now():
            self._ready.add(reference, reference.namespace, difference)
        elif reference not in self._ready:
            heapq.heappush(self._paused, (at, reference))

    def _end_pauses(self) -> None:
        while self._paused and self._paused[0][0] <= _now():
            _, reference = heapq.heappop(self._paused)
            wanted = self._wanted.get(reference)
            if wanted is not None and reference not in self._under_way:
                self._ready.add(reference, reference.namespace, wanted.difference)

    def _next_write_at(self, reference: Reference) -> float:
        """Return the loop time of the next allowed write to *reference*."""
        allowance = self._allowance(reference)
        return (
            _now()
            if allowance.writes >= 1
            else allowance.at + (1 - allowance.writes) * self.pause_seconds(reference.namespace)
        )

    def _spend(self, reference: Reference) -> None:
        allowance = self._allowance(reference)
        self._allowances[reference] = allowance._replace(writes=max(0.0, allowance.writes - 1))

    def _allowance(self, reference: Reference) -> _Allowance:
        now = _now()
        before = self._allowances.get(reference)
        if before is None:
            return _Allowance(BURST, now)
        earned = (now - before.at) / self.pause_seconds(reference.namespace)
        return _Allowance(min(BURST, before.writes + earned), now)


def _is_awaited(reference: Reference, difference: Difference) -> bool:
    """
    Return whether a user waits for this: for a new spec to be observed, a request to be handled, the effect of a pool's
    deletion, or a pool to be Ready.

    A write by a user precedes each of these, except for pools, of which there are few.
    """
    return difference >= Difference.POOL_GONE or (
        reference.kind == POOLS and difference is Difference.CONDITIONS
    )


def _now() -> float:
    return asyncio.get_running_loop().time()


def status_manifest(reference: Reference, resource_version: str, status: Any) -> Manifest:
    """Return *status* as it is applied, to the object of this *resource_version* and no other."""
    return {
        "apiVersion": reference.kind.api_version,
        "kind": reference.kind.name,
        "metadata": {
            "name": reference.name,
            "namespace": reference.namespace,
            "resourceVersion": resource_version,
        },
        "status": status,
    }


def as_json(status: Model) -> dict[str, Any]:
    """Return a status as it is applied."""
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)
