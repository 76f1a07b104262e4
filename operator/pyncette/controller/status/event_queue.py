"""Creates Events at a limited rate, namespaces in turn. It drops Events rather than delay passes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from pyncette.controller.cluster.api import Api, ApiError, ConflictError, Manifest, ObjectName
from pyncette.controller.fair_queue import FairQueue

logger = logging.getLogger(__name__)

WAITING_MAX: Final = 1000
"""Maximum number of queued Events. Beyond it, the oldest of the namespace with the most is dropped. Conditions report the same."""

PER_SECOND: Final = 10.0
"""An API server keeps Events for an hour, in the same store as all else."""


class EventQueue:
    """Events that are to be created; namespaces take turns."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._order: FairQueue[ObjectName] = FairQueue()
        self._events: dict[ObjectName, Manifest] = {}
        self._changed = asyncio.Event()

    def waiting(self) -> Mapping[str, int]:
        """Return how many Events of each namespace wait. Safe to call from another thread."""
        return self._order.counts()

    def add(self, event: Manifest) -> None:
        """Queue *event* to be created in its own namespace. Equal Events have the same name, and are created once."""
        meta = event["metadata"]
        name = ObjectName(meta["namespace"], meta["name"])
        self._events[name] = event
        self._order.add(name, name.namespace)
        if len(self._order) > WAITING_MAX:
            del self._events[self._order.shed()]
        self._changed.set()

    async def run(self) -> None:
        """Create Events until cancelled. Drop and log those that the API server refuses."""
        while True:
            name = self._order.take()
            if name is None:
                self._changed.clear()
                await self._changed.wait()
                continue
            event = self._events.pop(name)
            try:
                await self._api.create_event(name.namespace, event)
            except ConflictError:
                pass  # it was created a moment ago: equal Events have the same name
            except ApiError as error:
                logger.info(
                    "could not create an Event", extra={"reason": event["reason"], "error": str(error)}
                )
            await asyncio.sleep(1 / PER_SECOND)
