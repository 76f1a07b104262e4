"""The task module that the workers of these tests load: its handlers do little, and account for it."""

import asyncio
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from pathlib import Path

from pyncette import BlockingContext, Context, ExecutionMode, FailureMode, Pyncette
from pyncette.errors import LeaseLostException
from tests.processes.account import ENDED, RAISED, STARTED, STOPPED, Occurrence, Writer

FOLDER_VARIABLE = "PYNCETTE_TEST_ACCOUNT"

LEASE = timedelta(seconds=3)
"""Short, so that tests need not wait long for its end; long enough for a laden machine to renew it in time."""

BEAT_SECONDS = 0.5
"""How often a handler that takes long shows that it lives."""

LIMIT = 3
"""Of the runs of `limited` at once, on all workers together."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

app = Pyncette(concurrency_limit=100, batch_size=100)


@app.dynamic_task(lease_duration=LEASE, failure_mode=FailureMode.NONE)
async def at_least_once(context: Context) -> None:
    await accounted("at_least_once", context)


@app.dynamic_task(lease_duration=LEASE, execution_mode=ExecutionMode.AT_MOST_ONCE)
async def at_most_once(context: Context) -> None:
    await accounted("at_most_once", context)


@app.dynamic_task(lease_duration=LEASE, heartbeat="automatic")
async def renewed(context: Context) -> None:
    await accounted("renewed", context)


@app.dynamic_task(lease_duration=LEASE, heartbeat="automatic", max_concurrent_runs=LIMIT)
async def limited(context: Context) -> None:
    await accounted("limited", context)


@app.dynamic_task(lease_duration=LEASE, fast_forward=True)
async def ticking(context: Context) -> None:
    """For schedules without an end."""
    await accounted("ticking", context)


@app.dynamic_task(lease_duration=LEASE)
def in_thread(context: BlockingContext) -> None:
    """A plain function: nothing interrupts it, and it asks nobody whether it should stop."""
    write = account_of("in_thread", context)
    write(STARTED)
    time.sleep(context.args.get("seconds", 0))
    while not _may_end(context):
        time.sleep(BEAT_SECONDS)
    write(ENDED)


# Two handlers for records whose policies are their own, as those of resources are.


@app.handler()
async def mirrored_at_least_once(context: Context) -> None:
    await accounted("mirrored_at_least_once", context)


@app.handler()
async def mirrored_at_most_once(context: Context) -> None:
    await accounted("mirrored_at_most_once", context)


class AskedToFailError(Exception):
    """What the arguments of a run asked for."""


async def accounted(task: str, context: Context) -> None:
    """Do what the arguments say, and write into the account when that began, and how it ended."""
    write = account_of(task, context)
    write(STARTED)
    try:
        await _work(context)
    except (LeaseLostException, asyncio.CancelledError):
        write(STOPPED)
        raise
    if _is_to_fail(context.args.get("failing", 0), _key_of(context), context.attempt):
        write(RAISED)
        raise AskedToFailError
    write(ENDED)


def account_of(task: str, context: Context) -> Callable[[str], None]:
    """Return what writes into the account of a run."""
    occurrence = Occurrence(task, context.task.name, instant_of(context.scheduled_at))
    key = _key_of(context)

    def write(what: str) -> None:
        _writer().write(what, occurrence, context.fencing_token, context.attempt, key)

    return write


def _key_of(context: Context) -> str:
    return blake2b(context.idempotency_key.encode(), digest_size=8).hexdigest()


def _is_to_fail(share: float, key: str, attempt: int) -> bool:
    """Say whether an attempt is one of the *share* that fail: drawn anew for each attempt, and the same on any worker."""
    drawn = blake2b(f"{key} {attempt}".encode(), digest_size=4).digest()
    return int.from_bytes(drawn) < share * 2**32


async def _work(context: Context) -> None:
    """
    Keep the loop from turning for `blocked_seconds`; wait for `seconds`, and until there is a file `until`.

    With a heartbeat now and then.
    """
    time.sleep(context.args.get("blocked_seconds", 0))  # noqa: ASYNC251 - what a handler should not do, and does
    end = time.monotonic() + context.args.get("seconds", 0)
    while (left := end - time.monotonic()) > 0:
        await _wait(context, min(left, BEAT_SECONDS))
    while not _may_end(context):
        await _wait(context, BEAT_SECONDS)


def _may_end(context: Context) -> bool:
    return "until" not in context.args or Path(context.args["until"]).exists()


async def _wait(context: Context, seconds: float) -> None:
    began_at = time.monotonic()
    await asyncio.sleep(seconds)
    # A short run needs no heartbeat, unless it turned out to be a long one.
    if time.monotonic() - began_at > BEAT_SECONDS / 2:
        await context.heartbeat()


def instant_of(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


_writers: list[Writer] = []


def _writer() -> Writer:
    """The account of this process. Only a process that runs something has one, and not the test that imports this."""
    if not _writers:
        _writers.append(Writer(Path(os.environ[FOLDER_VARIABLE])))
    return _writers[0]
