"""Handlers that write down each of their runs, on a volume that no store has a part in. tests/cluster/account.py reads it."""

import asyncio
import datetime
import json
import os
import time
from pathlib import Path
from typing import Any

from pyncette import Context, Pyncette

FOLDER = Path(os.environ.get("ACCOUNT_FOLDER", "/account"))
POD = os.environ["HOSTNAME"]
RELEASE = Path(__file__).with_name("release").read_text().strip()

app = Pyncette()


def write(what: str, context: Context) -> None:
    """Append a line. What was written stays if the process is killed, since it is the system's by then."""
    line: dict[str, Any] = {
        "what": what,
        "at": time.time(),
        "task": context.task.name,
        "scheduled_at": context.scheduled_at.timestamp(),
        "attempt": context.attempt,
        "fence": context.fencing_token,
        "pod": POD,
        "release": RELEASE,
        "args": context.args,
    }
    with (FOLDER / f"{POD}.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


@app.handler()
async def tick(context: Context) -> None:
    """Be over at once."""
    write("started", context)
    write("ended", context)


@app.handler()
async def work(context: Context) -> None:
    """Take some seconds."""
    write("started", context)
    try:
        await asyncio.sleep(context.args.get("seconds", 1))
    except asyncio.CancelledError:
        write("told", context)
        raise
    write("ended", context)


@app.handler()
async def fail(context: Context) -> None:
    """Fail, the first so many times."""
    write("started", context)
    if context.attempt <= context.args.get("times", 1_000_000):
        raise ValueError(context.args.get("message", "as it was told to"))
    write("ended", context)


@app.dynamic_task()
async def remind(context: Context) -> None:
    """Be over at once, for each of those that were enrolled."""
    write("started", context)
    write("ended", context)


@app.handler()
async def enrol(context: Context) -> None:
    """Schedule instances, each of which is due every two seconds."""
    for number in range(context.args["instances"]):
        await context.app_context.schedule_task(
            remind, f"person-{number}", interval=datetime.timedelta(seconds=2)
        )


if RELEASE != "1":

    @app.handler()
    async def later(context: Context) -> None:
        """Be over at once, from the second release on."""
        write("started", context)
        write("ended", context)
