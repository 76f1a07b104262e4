"""The entry of a worker process, and nothing else, changes settings of the interpreter."""

import subprocess
import sys

PROGRAM = """
import asyncio, gc, sys
from contextlib import asynccontextmanager
from pyncette.app.process import run_context

class Running:
    abandoned_runs = 0

    async def run(self):
        print(sys.getswitchinterval(), gc.get_threshold()[0])

@asynccontextmanager
async def create():
    yield Running()

asyncio.run(run_context(create))
"""


def test_a_worker_process_switches_threads_and_collects_garbage_as_a_worker_needs():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["0.0005", "50000"]


LEFT_BEHIND = """
import asyncio, threading, time
from contextlib import asynccontextmanager
from pyncette.app import process

process.EXIT_SECONDS = 0.2

class Running:
    abandoned_runs = 1

    async def run(self):
        threading.Thread(target=time.sleep, args=(600,)).start()  # of a library that a stuck function uses

@asynccontextmanager
async def create():
    yield Running()

asyncio.run(process.run_context(create))
"""


def test_a_worker_process_exits_although_a_function_that_is_stuck_has_threads_of_its_own():
    done = subprocess.run(
        [sys.executable, "-c", LEFT_BEHIND], capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stderr.startswith("pyncette: ended immediately")
