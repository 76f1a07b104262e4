"""The text of this repository is free of the words that its glossary retired."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

LIST = Path(__file__).with_name("retired_words.txt")

READ = ("operator", "tests", "docs", "charts", "crds", "benchmarks", "tools", "examples", "*.md")

KINDS = {".py", ".md", ".yaml", ".yml", ".json", ".lua", ".tpl", ".txt", ".toml", ""}


def retired() -> list[tuple[str, str]]:
    """Return each retired expression with the words to use instead."""
    lines = (line.strip() for line in LIST.read_text().splitlines())
    return [
        tuple(re.split(r"\s{2,}", line, maxsplit=1)) for line in lines if line and not line.startswith("#")
    ]


def texts() -> Iterator[tuple[Path, str]]:
    for pattern in READ:
        for top in ROOT.glob(pattern):
            for path in (top,) if top.is_file() else sorted(top.rglob("*")):
                if (
                    path.is_file()
                    and path.suffix in KINDS
                    and "__pycache__" not in path.parts
                    and path != LIST
                ):
                    yield path.relative_to(ROOT), path.read_text(encoding="utf-8", errors="replace")


@pytest.fixture(scope="module")
def repository() -> list[tuple[Path, str]]:
    return list(texts())


@pytest.mark.parametrize(("expression", "instead"), retired())
def test_no_retired_word_is_used(repository, expression, instead):
    pattern = re.compile(expression)

    found = [
        f"{path}:{number}: {line.strip()[:100]}"
        for path, text in repository
        if pattern.search(text)
        for number, line in enumerate(text.splitlines(), start=1)
        if pattern.search(line)
    ]

    assert not found, f"instead: {instead}\n" + "\n".join(found)


def test_the_words_are_looked_for_where_people_read(repository):
    names = {str(path) for path, _ in repository}

    assert {"README.md", "CHANGELOG.md", "operator/README.md", "operator/pyncette/core/rules.py"} <= names
    assert any(name.startswith("docs/") for name in names)
