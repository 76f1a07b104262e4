"""Pins requirements/*.txt with hashes, for all platforms and Pythons at once; names no index in them."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UV = ROOT / ".tools" / "bin" / "uv"

# In this order: what runs the package is pinned to what it was tested with.
SOURCES = {
    "uv.txt": ["requirements/uv.in"],
    "dev.txt": ["pyproject.toml", "--all-extras", "requirements/dev.in"],
    "upstream.txt": ["requirements/upstream.in"],
    "plots.txt": ["requirements/plots.in"],
    "peers.txt": ["requirements/peers.in"],
    "peers-arq.txt": ["requirements/peers-arq.in"],
    "build.txt": ["requirements/build.in", "--constraints", "requirements/dev.txt"],
    "runtime.txt": ["pyproject.toml", "--all-extras", "--constraints", "requirements/dev.txt"],
}


def main() -> None:
    for target, sources in SOURCES.items():
        print(f"requirements/{target}", flush=True)
        subprocess.run(
            [
                UV, "pip", "compile", *sources, "--output-file", f"requirements/{target}", "--quiet", "--universal",
                "--python-version", "3.11", "--generate-hashes", "--no-emit-index-url", "--no-emit-find-links",
                "--no-annotate", *sys.argv[1:],
            ],
            check=True,
            cwd=ROOT,
            env={**os.environ, "UV_CUSTOM_COMPILE_COMMAND": "make requirements", "UV_SYSTEM_CERTS": "1"},
        )  # fmt: skip


if __name__ == "__main__":
    main()
