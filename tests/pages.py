"""What the pages for those who run Pyncette on Kubernetes show: commands, and files with their names."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[1]
DOCS: Final = ROOT / "docs"

PAGES: Final = (
    ROOT / "README.md",
    ROOT / "examples" / "kubernetes" / "README.md",
    DOCS / "tutorial" / "kubernetes.md",
    *(
        DOCS / "how-to" / f"{name}.md"
        for name in (
            "backends",
            "from-cronjob",
            "install",
            "observe",
            "operate",
            "outages",
            "security",
            "troubleshoot",
            "your-own-image",
        )
    ),
    DOCS / "explanation" / "operator.md",
)


class Block(NamedTuple):
    """A block of a page."""

    page: Path
    language: str
    title: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {self.title or self.text[:40]}"


def blocks(page: Path, language: str) -> Iterator[Block]:
    """Yield the blocks of a page in one language."""
    begin = rf'^```{language}(?: title="([^"]*)")?\n'
    for title, text in re.findall(rf"{begin}(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        yield Block(page, language, title, text)


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of each command of a page; one that runs another in a pod is yielded as both."""
    for block in blocks(page, "shell"):
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words
            if "--" in words:
                yield words[words.index("--") + 1 :]
