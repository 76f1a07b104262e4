"""Workers and editors under faults that are drawn from a seed: every occurrence is judged by what handlers wrote."""

import os
import secrets
from pathlib import Path

import pytest

from tests.processes.account_backends import NAMES
from tests.processes.reported import play
from tests.rotation import part_of_today

SECONDS = 35

DAYS = 2
"""In which each backend has its turn, by `make test-long` once a day."""

SEED_VARIABLE = "PYNCETTE_SEED"


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "backend",
    [
        pytest.param(name, marks=pytest.mark.xdist_group(f"accounts-{number % 2}"))
        for number, name in enumerate(part_of_today(NAMES, DAYS))
    ],
)
def test_every_occurrence_is_as_promised_under_faults_and_edits(backend: str, tmp_path: Path):
    seed = int(os.environ.get(SEED_VARIABLE) or secrets.randbelow(10**6))

    report = play(backend, seed, SECONDS, tmp_path)

    assert not report.judged.violations, report.summary
    assert report.judged.ran > 0
    assert report.judged.judged_in_time + report.judged.too_busy > 0, report.row
