"""The operator holds a task within the limits of a task, however large the objects are that the API server stores."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

LIMIT_MIB = 512
"""
The memory limit of the operator's container in the chart. The API server in memory, which keeps each status that was ever
written, has its part of it here.
"""

SIXTY_MIB = 32
"""What sixty tasks may add, while they are read and afterwards. They are sixty megabytes, and decoded up to 1.5 GB."""


def memory_among(form, count, seconds):
    """Run an operator among *count* tasks of this *form*, and return what it printed."""
    command = [sys.executable, "-m", "tests.controller.largest", form, str(count)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=True)
    return json.loads(ended.stdout)


@pytest.mark.parametrize("form", ["largest", "nested"])
def test_a_task_of_a_megabyte_takes_some_kilobytes(form):
    told = memory_among(form, 60, 300)

    assert told["reasons"] == ["ArgumentsTooLarge"]
    assert told["peak"] - told["before"] < SIXTY_MIB


@pytest.mark.timeout(1800)  # half a minute of the processor
def test_ten_thousand_of_the_largest_tasks_fit_into_the_limit_of_the_chart():
    told = memory_among("largest", 10_000, 1800)

    assert told["reasons"] == ["ArgumentsTooLarge"]
    assert told["peak"] < LIMIT_MIB
