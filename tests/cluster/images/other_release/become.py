"""
Makes the installed library one of the release VERSION, which knows the schema of tables SCHEMA: all that others go by.

Nothing but this tells releases apart as long as there is only one to be had.
"""

import importlib.metadata
import py_compile
import re
import shutil
import sys
import sysconfig
from pathlib import Path

DISTRIBUTION = "pyncette-operator"


def put(file: Path, pattern: str, text: str) -> None:
    """Put *text* in the one place where *pattern* is."""
    changed, count = re.subn(pattern, text, file.read_text(), flags=re.MULTILINE)
    assert count == 1, f"{count} places in {file} are like {pattern}"
    file.write_text(changed)


def main(version: str, schema: str) -> None:
    package = Path(sysconfig.get_path("purelib")) / "pyncette"
    facts = {
        package / "_version.py": (r'^__version__ = ".*"$', f'__version__ = "{version}"'),
        package / "store" / "base.py": (
            r"^SCHEMA_VERSION: Final = \d+$",
            f"SCHEMA_VERSION: Final = {schema}",
        ),
    }
    for file, (pattern, text) in facts.items():
        put(file, pattern, text)
        # The image's bytecode is taken as it is, whatever its source says.
        py_compile.compile(
            str(file), doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
        )
    (known,) = package.parent.glob(f"{DISTRIBUTION.replace('-', '_')}-*.dist-info")
    put(known / "METADATA", r"^Version: .*$", f"Version: {version}")
    # A folder of a layer below cannot be renamed.
    shutil.move(known, known.with_name(f"{DISTRIBUTION.replace('-', '_')}-{version}.dist-info"))
    assert importlib.metadata.version(DISTRIBUTION) == version


if __name__ == "__main__":
    main(*sys.argv[1:])
