"""Tests of one group run in one process, one after the other, also where several run at once."""

import os
import subprocess
import sys

TESTS = """
import os

import pytest


@pytest.mark.parametrize("number", range(8))
def test_grouped(number):
    print(f"told {os.getpid()}")


@pytest.mark.parametrize("number", range(8))
def test_alone(number):
    pass
"""

MARKS = """
import pytest


def pytest_collection_modifyitems(items):
    for item in items:
        if "grouped" in item.name:
            item.add_marker(pytest.mark.xdist_group("one"))
"""


def test_what_a_conftest_marks_as_a_group_stays_together(tmp_path):
    """As tests/processes, tests/cluster and tests/apiserver ask for it: some releases of pytest lose groups, and say nothing."""
    below = tmp_path / "below"
    below.mkdir()
    (below / "conftest.py").write_text(MARKS)
    (below / "test_these.py").write_text(TESTS)

    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "--numprocesses=2",
            "--dist=loadgroup",
            "-rP",
            "-c",
            os.devnull,
            ".",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )

    assert "16 passed" in done.stdout
    told = [line for line in done.stdout.splitlines() if line.startswith("told ")]
    assert (len(told), len(set(told))) == (8, 1)
