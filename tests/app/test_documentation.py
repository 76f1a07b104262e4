"""The pages about the Python API show modules that run, and tests of them that pass."""

import re
from pathlib import Path

import pytest

from tests.app.harness import free_port

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = ["reference/python-api.md", "how-to/from-pyncette-1.md"]

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
        await test()

    assert tests
