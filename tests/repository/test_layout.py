"""What a stranger who works in this repository can rely on."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_python_in_the_repositorys_root_finds_the_standard_librarys_operator():
    program = "import collections, operator; assert operator.add(1, 2) == 3; print(operator.__file__)"

    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)

    assert found.returncode == 0, found.stderr
    assert not Path(found.stdout.strip()).is_relative_to(ROOT / "operator")


def test_operator_is_a_source_root_that_holds_one_package_and_no_module():
    inside = {path.name for path in (ROOT / "operator").iterdir()} - {"__pycache__"}

    assert inside == {"pyncette"}
