"""Each test that the threat model names exists, and each of its threats has one."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "explanation" / "threat-model.md").read_text()

BOUNDARIES = dict(re.findall(r"^## \d\. (.+)\n((?:(?!## ).*\n)*)", PAGE, re.MULTILINE))
NAMED = re.compile(r"`([\w/.-]+\.py)::(\w+)`")


def threats(text: str) -> list[list[str]]:
    """The cells of the rows of the table in *text*, without its head."""
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[1:]]


@cache
def names_of_tests_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text())
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {function.name for function in functions if function.name.startswith("test_")}


def test_each_boundary_has_threats_and_says_what_is_not_stopped():
    assert list(BOUNDARIES) == [
        "Tenant → API server",
        "Tenant → database → operator",
        "Operator → API server",
        "Image → worker",
    ]
    for text in BOUNDARIES.values():
        assert len(threats(text)) > 3
        assert re.search(r"^Not stopped yet:\n\n- ", text, re.MULTILINE)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_each_threat_has_a_defence_and_a_test(boundary):
    for threat, defence, shown_by in threats(BOUNDARIES[boundary]):
        assert threat
        assert defence
        assert NAMED.sub("", shown_by).strip(", ") == "", threat
        assert NAMED.search(shown_by), threat


@pytest.mark.parametrize(("file", "name"), sorted(set(NAMED.findall(PAGE))))
def test_each_test_that_the_threat_model_names_exists(file, name):
    assert name in names_of_tests_in(file)
