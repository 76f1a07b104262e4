"""Many processes at once that want the same."""

import asyncio
import subprocess
import sys

import pytest

from pyncette.core.record import Partition
from pyncette.store.backend import read_backend
from tests.processes.outcomes import stored
from tests.processes.scene import Scene

PROCESSES = 50
CROWD_SECONDS_MAX = 240


@pytest.mark.long
def test_fifty_processes_schedule_one_instance_at_once(scene: Scene):
    done = subprocess.run(
        [sys.executable, "-m", "tests.processes.crowd", scene.backend, str(PROCESSES)],
        capture_output=True,
        text=True,
        timeout=CROWD_SECONDS_MAX,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    records = asyncio.run(stored(read_backend(scene.backend).new_store, [Partition("", "remind")])).records
    assert [key.instance for key in records if key.instance] == ["ada"]
