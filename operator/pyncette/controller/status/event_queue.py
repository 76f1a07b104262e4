"""Tells people what happened by Events of Kubernetes, one after the other, and leaves some out rather than hold up work."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Final

from pyncette.controller.cluster.api import Api, ApiError, ConflictError, Manifest

logger = logging.getLogger(__name__)

WAITING_MAX: Final = 1000
"""Events that wait to be created; the oldest are left out, since conditions say the same."""

PER_SECOND: Final = 10.0
"""An API server keeps Events for an hour, in the same store as all else."""


class EventQueue:
    """Events that are to be created."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._waiting: deque[Manifest] = deque(maxlen=WAITING_MAX)
        self._changed = asyncio.Event()

    def add(self, event: Manifest) -> None:
        """Queue *event* to be created in its own namespace."""
        self._waiting.append(event)
        self._changed.set()

    async def run(self) -> None:
        """Create them, until this is cancelled. What the API server does not take is left out, and logged."""
        while True:
            await self._changed.wait()
            while self._waiting:
                event = self._waiting.popleft()
                try:
                    await self._api.create_event(event["metadata"]["namespace"], event)
                except ConflictError:
                    pass  # it was created a moment ago: equal Events have the same name
                except ApiError as error:
                    logger.info(
                        "could not create an Event", extra={"reason": event["reason"], "error": str(error)}
                    )
                await asyncio.sleep(1 / PER_SECOND)
            self._changed.clear()
