"""The environments that are compared: this checkout, and others each in one of its own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
UV = ROOT / ".tools" / "bin" / "uv"
DRIVER = ROOT / "benchmarks" / "driver.py"

SIDES = ("ours", "upstream")


def python_of(side: str) -> Path:
    """Where the Python of *side* is; upstream's environment is made when it is first asked for."""
    return Path(sys.executable) if side == "ours" else environment("upstream")


def environment(name: str) -> Path:
    """Return the Python of an environment with what requirements/*name*.txt pins; it is made when it is first asked for."""
    pinned, folder = ROOT / "requirements" / f"{name}.txt", ROOT / ".cache" / "environments" / name
    mark = folder / f"made-from-{hashlib.sha256(pinned.read_bytes()).hexdigest()[:16]}"
    python = folder / "bin" / "python"
    if not mark.exists():
        print(f"making the environment {name} …", file=sys.stderr, flush=True)
        subprocess.run([UV, "venv", "--quiet", "--clear", "--python", sys.executable, folder], check=True)
        subprocess.run(
            [UV, "pip", "install", "--quiet", "--python", python, "--require-hashes", "-r", pinned],
            check=True,
        )
        mark.touch()
    return python


def draw(results: Path, folder: Path) -> None:
    """Draw *results* as SVG files in *folder*."""
    folder.mkdir(exist_ok=True)
    subprocess.run([environment("plots"), "-m", "benchmarks.plots", results, folder], check=True, cwd=ROOT)


def drive(
    side: str, *arguments: object, heard: Callable[[str], None] | None = None, timeout_seconds: float = 3600
) -> dict[str, Any]:
    """Run the driver in the environment of *side*; *heard* is told each line that it prints before its result."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYNCETTE_")}
    environment.pop("PYTHONPATH", None)
    process = subprocess.Popen(
        [python_of(side), DRIVER, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=ROOT / "benchmarks",
    )
    last = ""
    assert process.stdout is not None
    assert process.stderr is not None
    for line in process.stdout:
        last = line.strip()
        if heard is not None:
            heard(last)
    errors = process.stderr.read()
    if process.wait(timeout_seconds) != 0:
        raise RuntimeError(f"{side} {' '.join(map(str, arguments))} failed:\n{errors[-3000:]}")
    result: dict[str, Any] = json.loads(last)
    return result
