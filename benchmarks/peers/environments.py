"""The environments that peers run in, each made under .cache/peers/ when it is first asked for."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.environments import ROOT, environment
from tests.servers.errors import MissingToolError

MADE = ROOT / ".cache" / "peers"
PROGRAMS = Path(__file__).parent / "programs"

MISSING = """\
{program} is not installed, and {peer} is measured with it. Either
  - install {brings}, or
  - leave peers out, with --only and the other measurements."""

Command = Sequence[str | Path]


def python_program(name: str, pinned: str) -> Command:
    """Return what starts *name* in an environment that holds what requirements/*pinned*.txt asks for."""
    return [environment(pinned), PROGRAMS / "python" / name]


def node_program(name: str) -> Command:
    """Return what starts *name* beside the packages, on the Node.js among them: graphile-worker asks for a new one."""
    sources = PROGRAMS / "node"
    folder = MADE / "node"
    if _stale(folder, sources / "package.json"):
        npm = _found("npm", name, "Node.js with npm (Debian, Ubuntu: apt-get install nodejs npm)")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        shutil.copy(sources / "package.json", folder)
        # npm's warning of an old engine is of the Node.js that runs npm, not of the one that runs the peers.
        subprocess.run(
            [npm, "install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"],
            check=True,
            cwd=folder,
            stdout=sys.stderr,
        )
        _mark(folder, sources / "package.json")
    # A module finds packages beside itself only.
    for module in sources.glob("*.mjs"):
        shutil.copy(module, folder)
    return [folder / "node_modules" / ".bin" / "node", folder / name]


def river_program() -> Command:
    """Return what starts River's program, which is built first."""
    sources = PROGRAMS / "river"
    folder = MADE / "river"
    inputs = [sources / name for name in ("main.go", "go.mod", "go.sum")]
    if _stale(folder, *inputs):
        go = _found(
            "go", "River", "Go (https://go.dev/doc/install), in the version that go.mod names or later"
        )
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        subprocess.run(
            [go, "build", "-mod=readonly", "-trimpath", "-o", folder / "river", "."],
            check=True,
            cwd=sources,
            env={**os.environ, "CGO_ENABLED": "0"},
        )
        _mark(folder, *inputs)
    return [folder / "river"]


def db_scheduler_program() -> Command:
    """Return what starts db-scheduler's program, which is compiled first."""
    sources = PROGRAMS / "db_scheduler"
    folder = MADE / "db_scheduler"
    inputs = [sources / "DbSchedulerPeer.java", sources / "pom.xml"]
    libraries = folder / "libraries"
    if _stale(folder, *inputs):
        brings = (
            "a JDK of 17 or later, and Maven (Debian, Ubuntu: apt-get install default-jdk-headless maven)"
        )
        javac, mvn = (_found(program, "db-scheduler", brings) for program in ("javac", "mvn"))
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run(
            [mvn, "--quiet", "--batch-mode", "--file", sources / "pom.xml", "dependency:copy-dependencies",
             f"-DoutputDirectory={libraries}"],
            check=True,
            stdout=sys.stderr,
        )  # fmt: skip
        subprocess.run([javac, "-cp", f"{libraries}/*", "-d", folder, inputs[0]], check=True)
        _mark(folder, *inputs)
    java = _found("java", "db-scheduler", "a JDK of 17 or later")
    return [java, "-cp", f"{libraries}/*{os.pathsep}{folder}", "DbSchedulerPeer"]


def _stale(folder: Path, *inputs: Path) -> bool:
    if _mark_of(folder, *inputs).exists():
        return False
    print(f"making {folder.relative_to(ROOT)} …", file=sys.stderr, flush=True)
    return True


def _mark(folder: Path, *inputs: Path) -> None:
    _mark_of(folder, *inputs).touch()


def _mark_of(folder: Path, *inputs: Path) -> Path:
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in inputs))
    return folder / f"made-from-{digest.hexdigest()[:16]}"


def _found(program: str, peer: str, brings: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise MissingToolError(MISSING.format(program=program, peer=peer, brings=brings))
    return path
