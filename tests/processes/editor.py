"""
A process that edits instances and runs nothing, as a web server or an operator does; it reads commands, one per line.

`python -m tests.processes.editor BACKEND` reads one JSON object a line, and answers each with another, in any order.
"""

import asyncio
import contextlib
import json
import sys
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from pyncette import PyncetteContext
from pyncette.app.context import runtime_of
from pyncette.app.options import encode_args
from pyncette.core.record import Key, Owner, Partition, Requests
from pyncette.core.schedule import Cron
from pyncette.core.spec import Exhaustion, Missed, Mode, Overlap, Policies, Retry, Spec
from pyncette.errors import ContentionError, TaskLockedException
from pyncette.mirror.conversion import DesiredRecord
from pyncette.mirror.records import mirror_one
from pyncette.mirror.requests import ask
from pyncette.store.backend import read_backend
from tests.processes import accounted
from tests.processes.accounted import EPOCH, LEASE
from tests.processes.subjects import ATTEMPTS
from tests.processes.true_time import true_now

A_MICROSECOND = timedelta(microseconds=1)

LINE_BYTES_MAX = 1 << 20


async def edit(context: PyncetteContext, wanted: Mapping[str, Any]) -> None:
    """Do what a line asks for. Raises what the API raises."""
    name, operation = wanted["name"], wanted["operation"]
    if wanted["mirrored"]:
        await _edit_mirrored(context, wanted)
    elif operation == "remove":
        await context.unschedule_task(accounted.app.tasks[wanted["task"]], name)
    else:
        times = (
            {"schedule": wanted["cron"]}
            if wanted["cron"]
            else {"execute_at": EPOCH + wanted["at"] * A_MICROSECOND}
        )
        task = accounted.app.tasks[wanted["task"]]
        await context.schedule_task(task, name, force=operation == "force", **times, **wanted["options"])


async def _edit_mirrored(context: PyncetteContext, wanted: Mapping[str, Any]) -> None:
    """Do what the operator does for a resource."""
    key = Key(Partition("", wanted["task"]), wanted["name"])
    if wanted["operation"] in {"run", "redrive"}:
        (record,) = await runtime_of(context).ledger.store.load([key])
        assert record is not None
        await ask(
            runtime_of(context).ledger, record, Requests(**{wanted["operation"]: str(wanted["number"])})
        )
        return
    policies = _policies(at_most_once=wanted["at_most_once"], suspend=wanted["suspended"])
    spec = Spec(Cron(wanted["cron"]), encode_args(wanted["options"]), policies)
    owner = Owner("uid", wanted["generation"], f"generation-{wanted['generation']}")
    await mirror_one(runtime_of(context).ledger, DesiredRecord(key, spec, owner, None))


def _policies(*, at_most_once: bool, suspend: bool) -> Policies:
    """As those of a manifest; at most once with `Forbid`, which is what manifests have if they do not say otherwise."""
    kept = Policies(
        mode=Mode.AT_MOST_ONCE if at_most_once else Mode.AT_LEAST_ONCE,
        overlap=Overlap.FORBID,
        missed=Missed.ALL,
        max_catch_up=0,
        lease=LEASE // A_MICROSECOND,
        suspend=suspend,
        keep_finished=True,
        keep_successful=3,
        keep_failed=10,
    )
    if at_most_once:
        return kept
    retry = Retry(max_attempts=ATTEMPTS, initial=200_000, maximum=400_000, jitter=False)
    return Policies(
        **{
            name: getattr(kept, name) for name in kept.__struct_fields__ if name not in {"retry", "exhausted"}
        },
        retry=retry,
        exhausted=Exhaustion.DEAD_LETTER,
    )


async def _answer(context: PyncetteContext, wanted: Mapping[str, Any]) -> None:
    answer: dict[str, Any] = {"number": wanted["number"], "before": true_now(), "known": True, "made": True}
    try:
        await edit(context, wanted)
    except (TaskLockedException, ContentionError) as error:
        answer |= {"made": False, "error": type(error).__name__}
    except Exception as error:  # noqa: BLE001 - whatever went wrong, nobody knows what was carried out
        answer |= {"known": False, "error": f"{type(error).__name__}: {error}"[:200]}
    answer["after"] = true_now()
    print(json.dumps(answer), flush=True)


async def _serve(backend: str) -> None:
    reader = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    async with accounted.app.create(new_store=read_backend(backend).new_store) as context:
        print(json.dumps({"ready": True}), flush=True)
        async with asyncio.TaskGroup() as edits:
            while line := await reader.readline():
                edits.create_task(_answer(context, json.loads(line)))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(sys.argv[1]))
