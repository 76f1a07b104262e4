"""Reads the backend's time for decisions."""

from __future__ import annotations

import asyncio

from pyncette.clock import Clock, Instant, synchronize
from pyncette.errors import StoreError
from pyncette.store.base import Store


class BackendTime:
    """The time of the backend of *store*, as *clock* knows it."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._reading: asyncio.Future[bool] | None = None
        """A request for the store's time; its result says whether the store has answered. None between requests."""

    async def now(self) -> Instant:
        """
        Return the time for decisions: the store's, which is read again if it was not read within `STALE_AFTER`.

        Concurrent callers share one request. Raises StoreError.
        """
        # A slow answer is stale at once, and the next one would be no better.
        is_answered = False
        while self._clock.is_stale() and not is_answered:
            request = self._reading
            is_answered = await (self._read() if request is None else asyncio.shield(request))
        return self._clock.now()

    async def _read(self) -> bool:
        request = self._reading = asyncio.get_running_loop().create_future()
        try:
            await synchronize(self._clock, self._store.now)
        except StoreError as error:
            request.set_exception(error)
            request.exception()  # marks it as retrieved, in case no caller waits for it
            raise
        else:
            request.set_result(True)
            return True
        finally:
            self._reading = None
            if not request.done():  # this was cancelled: then a waiting caller reads again
                request.set_result(False)
