"""The pages about the Python API name all of it, and show modules that run, and tests of them that pass."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

from pyncette.testing import World
from tests.app.harness import free_port

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = ["reference/python-api.md", "reference/policies.md", "how-to/from-pyncette-1.md"]

BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
async def test_the_examples_of_a_page_form_a_module_whose_own_tests_pass(page):
    # Another port than the one that is shown, which may be somebody's.
    text = (DOCS / page).read_text().replace("port=8080, bind", f"port={free_port()}, bind")
    # Blank lines in place of the prose, so that errors name the line of the page.
    source = ""
    for block in BLOCK.finditer(text):
        source += "\n" * (text[: block.start(1)].count("\n") - source.count("\n")) + block[1]
    module = {"__name__": "example"}
    exec(compile(source, page, "exec"), module)

    tests = [test for name, test in module.items() if name.startswith("test_")]
    for test in tests:
        outcome = test()
        if inspect.isawaitable(outcome):
            await outcome

    assert tests


MODULES = [
    "",
    ".asgi",
    ".dynamodb",
    ".errors",
    ".executor",
    ".healthcheck",
    ".mysql",
    ".postgres",
    ".redis",
    ".schedules",
    ".sqlite",
    ".sync",
    ".testing",
    ".utils",
]


def public_names(module):
    """What a module exports, or else what it defines without an underscore."""
    return getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]


@pytest.mark.parametrize("name", MODULES)
def test_the_reference_names_all_that_a_module_has_for_users(name):
    text = (DOCS / "reference" / "python-api.md").read_text()

    names = public_names(importlib.import_module(f"pyncette{name}"))

    assert names
    assert [name for name in names if f"`{name}" not in text] == []


def test_the_reference_names_all_that_a_world_can_do():
    text = (DOCS / "reference" / "python-api.md").read_text()

    members = [name for name in vars(World) if not name.startswith("_")]

    assert [name for name in members if f"world.{name}" not in text] == []
