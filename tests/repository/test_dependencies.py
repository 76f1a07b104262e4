"""What the package depends on, and that each dependency has its reason."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
REASONS = (ROOT / "docs" / "dependencies.md").read_text()


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^A-Za-z0-9-]", requirement)[0].lower() for requirement in requirements}


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under *heading* in docs/dependencies.md, without its head."""
    section = REASONS.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_each_dependency_of_the_package_has_its_reason_and_no_other_is_named():
    assert {row[0] for row in rows("The package")} == names(PROJECT["dependencies"])


def test_each_dependency_of_an_extra_has_its_reason_and_no_other_is_named():
    wanted = {(extra, name) for extra in EXTRAS if extra != "all" for name in names(EXTRAS[extra])}

    assert {(row[0], row[1]) for row in rows("Extras")} == wanted


def test_each_tool_has_its_reason_and_no_other_is_named():
    asked_for = "\n".join(
        (ROOT / "requirements" / name).read_text() for name in ("dev.in", "plots.in", "uv.in")
    )
    tools = [line for line in asked_for.splitlines() if line and not line.startswith("#")]
    named = {name for row in rows("Development") for name in row[0].split(", ")}

    assert named == names(tools)


def test_all_is_every_extra():
    (everything,) = EXTRAS["all"]

    assert set(re.findall(r"[a-z-]+", everything.partition("[")[2])) == set(EXTRAS) - {"all"}


@pytest.mark.parametrize("pinned", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda path: path.name)
def test_what_is_pinned_is_hashed_and_names_no_index(pinned: Path):
    text = pinned.read_text()
    versions = re.findall(r"^[a-z0-9.-]+==\S+.*(?:\n    --hash=sha256:[0-9a-f]{64}.*)+", text, re.MULTILINE)

    assert len(versions) == len(re.findall(r"^[a-z]", text, re.MULTILINE)) > 0
    assert "://" not in text
    assert not re.search(r"^-", text, re.MULTILINE)
