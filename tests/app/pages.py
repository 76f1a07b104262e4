"""The projects that how-to pages show, file by file."""

import re
from pathlib import Path

HOW_TO = Path(__file__).resolve().parents[2] / "docs" / "how-to"

FILE = re.compile(r'^```python title="([\w./]+)"\n(.*?)^```', re.MULTILINE | re.DOTALL)


def write_project(page, folder):
    """Write the files of *page* to *folder*, and return their names."""
    files = FILE.findall((HOW_TO / page).read_text())
    for name, text in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return [name for name, _ in files]
