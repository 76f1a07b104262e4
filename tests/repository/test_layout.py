"""What a stranger who works in this repository can rely on."""

import ast
import pkgutil
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import pyncette

ROOT = Path(__file__).resolve().parents[2]


def test_python_in_the_repositorys_root_finds_the_standard_librarys_operator():
    program = "import collections, operator; assert operator.add(1, 2) == 3; print(operator.__file__)"

    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)

    assert found.returncode == 0, found.stderr
    assert not Path(found.stdout.strip()).is_relative_to(ROOT / "operator")


def test_operator_is_a_source_root_that_holds_one_package_and_no_module():
    inside = {path.name for path in (ROOT / "operator").iterdir()} - {"__pycache__"}

    assert inside == {"pyncette", "README.md"}


def test_the_map_of_the_source_names_modules_that_exist():
    text = (ROOT / "operator" / "README.md").read_text()
    package = ROOT / "operator" / "pyncette"
    rooms = {path.name for path in package.iterdir() if path.is_dir()}

    named = {
        name
        for name in re.findall(r"`([a-z_/]+(?:\.py|/))`", text)
        if name.split("/")[0] in rooms or (package / name).exists()
    }
    missing = [name for name in named if not (package / name).exists()]

    assert len(named) > 30
    assert missing == []


def test_the_wheel_holds_the_package_under_the_version_that_it_tells(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]

    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)

    (wheel,) = tmp_path.glob("*.whl")
    inside = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in inside} == {
        "pyncette",
        wheel.stem.rsplit("-", 3)[0] + ".dist-info",
    }
    assert wheel.name.startswith(f"pyncette_operator-{pyncette.__version__}-")
    assert "pyncette/py.typed" in inside


WHAT_EXTRAS_BRING = [
    "aioboto3",
    "aiobotocore",
    "asyncpg",
    "botocore",
    "kopf",
    "kubernetes_asyncio",
    "prometheus_client",
]
NEED_AN_EXTRA = (
    "pyncette.cli.operator",
    "pyncette.cli.pool_realm",
    "pyncette.cli.sweep",
    "pyncette.controller",
    "pyncette.dynamodb",
    "pyncette.postgres",
    "pyncette.prometheus",
    "pyncette.store.dynamodb",
    "pyncette.store.postgres",
    "pyncette.telemetry.metrics",
)


def test_a_bare_install_imports_all_that_no_extra_is_for():
    modules = [module.name for module in pkgutil.walk_packages(pyncette.__path__, "pyncette.")]
    wanted = [
        name for name in modules if not name.startswith(NEED_AN_EXTRA) and not name.endswith("__main__")
    ]
    program = f"import sys; sys.modules |= dict.fromkeys({WHAT_EXTRAS_BRING}); import {', '.join(wanted)}"

    imported = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)

    assert imported.returncode == 0, imported.stderr


ROOMS = sorted(
    path.parent
    for path in (ROOT / "operator" / "pyncette").rglob("__init__.py")
    if path.parent.name != "pyncette"
)


@pytest.mark.parametrize("room", ROOMS, ids=lambda path: path.name)
def test_each_room_opens_with_what_it_is_and_what_it_imports(room):
    docstring = ast.get_docstring(ast.parse((room / "__init__.py").read_text())) or ""

    assert docstring.count(".") >= 2, room
    assert "import" in docstring, room


def test_the_root_holds_what_the_reference_says_can_be_imported_and_nothing_else():
    modules = {path.stem for path in (ROOT / "operator" / "pyncette").glob("[a-z]*.py")}
    reference = (ROOT / "docs" / "reference" / "python-api.md").read_text()

    assert modules == set(re.findall(r"`pyncette\.(\w+)`", reference)) - {"testing"}
