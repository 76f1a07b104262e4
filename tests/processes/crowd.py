"""
Processes that schedule one instance at the same moment: `python -m tests.processes.crowd BACKEND PROCESSES`.

Each opens a context of its own and waits until all have; then each schedules the instance, with an option of its own. What
they raise is printed, and the exit code is 1 if any raised.
"""

import asyncio
import os
import sys
import traceback
from datetime import timedelta

from pyncette import Pyncette, PyncetteContext
from pyncette.backend import backend_repository
from pyncette.errors import TaskLockedException

READY = b"."


def main() -> int:
    backend, processes = sys.argv[1], int(sys.argv[2])
    ready, ready_to_parent = os.pipe()
    wait, start = os.pipe()
    children = []
    for number in range(processes):
        child = os.fork()
        if child == 0:
            os.close(ready)
            os.close(start)
            os._exit(_child(backend, number, ready_to_parent, wait))
        children.append(child)
    os.close(ready_to_parent)
    if _count(ready) == processes:
        os.close(start)  # so all that read from it go on at once
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return int(any(codes))


def _count(ready: int) -> int:
    """Return how many are ready, once all are, or have ended."""
    found = 0
    while read := os.read(ready, 1):
        found += len(read)
    return found


def _child(backend: str, number: int, ready_to_parent: int, wait: int) -> int:
    try:
        asyncio.run(_schedule(backend, number, ready_to_parent, wait))
    except BaseException:  # noqa: BLE001 - it is reported, whatever it is
        traceback.print_exc()
        return 1
    return 0


async def _schedule(backend: str, number: int, ready_to_parent: int, wait: int) -> None:
    app = Pyncette(backend_repository, backend_url=backend)

    @app.dynamic_task()
    async def remind(context: PyncetteContext) -> None:
        pass

    async with app.create() as context:
        os.write(ready_to_parent, READY)
        os.close(ready_to_parent)
        await asyncio.to_thread(os.read, wait, 1)
        try:
            await context.schedule_task(remind, "ada", interval=timedelta(hours=1), number=number)
        except TaskLockedException:
            print(f"process {number}: the instance was locked", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
