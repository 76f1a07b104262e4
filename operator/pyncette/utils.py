"""Keeps the lease of a long-running handler, by heartbeats in the background."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, ParamSpec

from pyncette.app.calls import call_of, occurrence_of
from pyncette.app.context import Context, runtime_of
from pyncette.app.handlers import Handler, mark_as_awaiting
from pyncette.app.modes import A_MICROSECOND
from pyncette.clock import Clock, Duration, SystemClock, Timer
from pyncette.core.log_messages import naming_logger
from pyncette.errors import LeaseLostException

logger = naming_logger(__name__)

RETRIES_A_LEASE: Final = 10
"""After a failed heartbeat, the next follows after this fraction of the lease."""


_P = ParamSpec("_P")


def with_heartbeat(
    lease_remaining_ratio: float = 0.5, cancel_on_lease_lost: bool = False
) -> Callable[[Callable[_P, Awaitable[None] | None]], Callable[_P, Coroutine[Any, Any, None]]]:
    """
    Renew the lease of a running handler whenever only *lease_remaining_ratio* of it is left.

    If the lease is lost, the handler continues, and its result is discarded. With *cancel_on_lease_lost* it is cancelled,
    and raises LeaseLostException. Raises ValueError unless the ratio is between 0 and 1.

    It needs `context.heartbeat` and `context.task.lease_duration`: a test can call the handler with a context of its own
    that has both. A handler that blocks the event loop also blocks its heartbeats: `heartbeat='automatic'` renews from
    another thread.
    """
    if not 0 < lease_remaining_ratio < 1:
        raise ValueError(f"Lease remaining ratio must be in (0, 1), not {lease_remaining_ratio}")

    def decorator(handler: Handler) -> Callable[..., Coroutine[Any, Any, None]]:
        call = call_of(handler)

        @functools.wraps(handler)
        async def run(context: Context, **arguments: Any) -> None:
            pulse = _Pulse(context, lease_remaining_ratio, cancel=cancel_on_lease_lost)
            try:
                await call(context, **arguments)
            except asyncio.CancelledError:
                pulse.raise_if_lost()
                raise
            finally:
                pulse.stop()

        mark_as_awaiting(run, handler)
        return run

    return decorator


class _Pulse:
    """The heartbeats of one run."""

    def __init__(self, context: Context, ratio: float, *, cancel: bool) -> None:
        self._context = context
        # Contexts of tests and of other decorators have no occurrence.
        self._occurrence = occurrence_of(context)
        if self._occurrence is None:
            self._clock: Clock = SystemClock()
            self._heartbeats: set[asyncio.Task[None]] = set()
            self._lease: Duration = context.task.lease_duration // A_MICROSECOND
        else:
            runtime = runtime_of(context.app_context)
            self._clock = runtime.clock
            self._heartbeats = runtime.heartbeats
            self._lease = self._occurrence.held.policies.lease
        self._left = int(self._lease * ratio)
        self._cancel = cancel
        self._handler_task = asyncio.current_task()
        self._lost = False
        self._timer: Timer | None = None
        self._arm()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._handler_task = None

    def raise_if_lost(self) -> None:
        """Raise LeaseLostException if the handler was cancelled only because its lease was lost."""
        if self._lost and self._handler_task is not None and not self._handler_task.uncancel():
            raise LeaseLostException(self._context.task) from None

    def _arm(self, at_least: Duration = 0) -> None:
        # Without an occurrence, the lease has its full length after each heartbeat.
        remaining = self._lease if self._occurrence is None else self._occurrence.lease_remaining()
        self._timer = self._clock.call_later(max(at_least, remaining - self._left), self._beat)

    def _beat(self) -> None:
        # Registered before it starts, so that simulated time waits for it.
        heartbeat = asyncio.get_running_loop().create_task(self._renew())
        self._heartbeats.add(heartbeat)
        heartbeat.add_done_callback(self._heartbeats.discard)

    async def _renew(self) -> None:
        try:
            await self._context.heartbeat()
        except LeaseLostException:
            # If the backend has not answered since the lease expired, the lease may still be ours. A handler that must
            # not be cancelled continues, and so do its heartbeats.
            if self._cancel or self._occurrence is None or self._occurrence.lease_lost:
                self._lose()
                return
        except Exception as error:  # noqa: BLE001 - a middleware may have replaced the heartbeat with anything
            logger.warning(
                "a heartbeat failed: %s: %s", type(error).__name__, error, extra=self._log_fields()
            )
            if self._cancel and self._occurrence is not None and not self._occurrence.lease_remaining():
                self._lose()
                return
        if self._handler_task is not None:
            self._arm(self._lease // RETRIES_A_LEASE)

    def _lose(self) -> None:
        if self._handler_task is None:
            return
        logger.warning("the lease was lost while the handler runs", extra=self._log_fields())
        if self._cancel:
            self._lost = True
            self._handler_task.cancel()

    def _log_fields(self) -> dict[str, Any]:
        if self._occurrence is None:
            return {"task": str(self._context.task)}
        return self._occurrence.log_fields()
