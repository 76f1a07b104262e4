"""Programs that tests run against a cluster or in front of one: found, or built once into the cache."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from tests.servers import machine
from tests.servers.errors import MissingToolError
from tests.servers.unpacked import unpacked

ROOT: Final = Path(__file__).resolve().parents[2]
NODE: Final = ROOT / "tests" / "cluster" / "node"

PROMTOOL_VARIABLE: Final = "PYNCETTE_TEST_PROMTOOL"
HELM_VARIABLE: Final = "PYNCETTE_TEST_HELM"
CACHE_VARIABLE: Final = "NODE_CACHE"

MISSING_HELM: Final = f"""\
No Helm was found, and none could be built. Either
  - install Go and have it on PATH: the tests build the Helm that they are meant for, once, in a minute, or
  - name one of version 4:  {HELM_VARIABLE}=/path/to/helm make test-all"""

MISSING_PROMTOOL: Final = f"""\
No promtool was found. Either
  - install Prometheus (Debian, Ubuntu: apt-get install prometheus, macOS: brew install prometheus), or
  - name it:  {PROMTOOL_VARIABLE}=/path/to/promtool make test-all"""

Values = Mapping[str, Any]


class HelmRefusedError(Exception):
    """Helm did not do it; the message is Helm's own."""


class Helm:
    """Helm, with a home of its own: it knows no repository, no plugin and no setting of whoever runs the tests."""

    def __init__(self, program: Path, home: Path) -> None:
        self.program = program
        self.home = home

    def run(self, *arguments: str | Path, kubeconfig: Path | None = None, seconds: float = 300) -> str:
        """Run Helm and return what it printed. Raises HelmRefusedError with what it complained of."""
        done = subprocess.run(
            [self.program, *arguments],
            env={**_without_clusters(os.environ), **self.environment(kubeconfig)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        if done.returncode != 0:
            raise HelmRefusedError(f"{done.stdout}{done.stderr}".strip())
        return done.stdout

    def template(
        self, chart: Path, values: Values, *, release: str = "pyncette", namespace: str = "pyncette"
    ) -> list[dict[str, Any]]:
        """Return the objects that *chart* renders, in the order in which Helm prints them."""
        with self._values(values) as options:
            text = self.run("template", release, chart, "--namespace", namespace, *options)
        return [document for document in yaml.safe_load_all(text) if document]

    def notes(
        self, chart: Path, values: Values, *, release: str = "pyncette", namespace: str = "pyncette"
    ) -> str:
        """Return the notes of an installation of *chart*. Nothing is installed, and no cluster asked."""
        with self._values(values) as options:
            text = self.run("install", release, chart, "--namespace", namespace, "--dry-run=client", *options)
        return text.partition("\nNOTES:\n")[2]

    def lint(self, chart: Path, values: Values) -> str:
        """Return what Helm thinks of *chart*; a warning is a failure."""
        with self._values(values) as options:
            return self.run("lint", chart, "--strict", *options)

    @contextmanager
    def _values(self, values: Values) -> Iterator[Sequence[str | Path]]:
        with tempfile.NamedTemporaryFile("w", suffix=".yaml", dir=self.home) as file:
            yaml.safe_dump(dict(values), file)
            file.flush()
            yield ("--values", file.name)

    def environment(self, kubeconfig: Path | None) -> dict[str, str]:
        """Return the variables that make a Helm this one, on the cluster of *kubeconfig*."""
        homes = {f"HELM_{kind}_HOME": str(self.home / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
        # A Helm that is given no cluster must not find one by itself.
        return {**homes, "KUBECONFIG": str(kubeconfig or self.home / "no-kubeconfig")}


def _without_clusters(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith(("HELM_", "KUBE"))}


@contextmanager
def open_helm() -> Iterator[Helm]:
    """Find or build Helm. Raises MissingToolError."""
    with tempfile.TemporaryDirectory(prefix="pyncette-helm-") as home:
        yield Helm(find_helm(), Path(home))


@cache
def find_helm() -> Path:
    """Return the program. Raises MissingToolError with instructions."""
    given = os.environ.get(HELM_VARIABLE)
    if given:
        return Path(given)
    folder = node_cache()
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "bin" / "helm"
    # The lock of tests/cluster/node/build, which brings the same program to the same place.
    with machine.locked(folder / "lock"):
        if not program.exists():
            _build_helm(program)
    return program


@cache
def find_promtool() -> Path:
    """Return Prometheus' own checker of rules, fetched from Debian if need be. Raises MissingToolError."""
    found = os.environ.get(PROMTOOL_VARIABLE) or shutil.which("promtool")
    if found:
        return Path(found)
    folder = unpacked("prometheus")
    if folder is None:
        raise MissingToolError(MISSING_PROMTOOL)
    return folder / "usr" / "bin" / "promtool"


def node_cache() -> Path:
    """Return where tests/cluster/node keeps what it has built."""
    given = os.environ.get(CACHE_VARIABLE)
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pyncette-tests" / "node"


def _build_helm(program: Path) -> None:
    if shutil.which("go") is None:
        raise MissingToolError(MISSING_HELM)
    version = _version_of("helm")
    print(f"building Helm {version} for the tests", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="pyncette-go-", dir=program.parent.parent) as folder:
        done = subprocess.run(
            ["go", "install", "-trimpath", "-ldflags", "-s -w", f"helm.sh/helm/v4/cmd/helm@{version}"],
            env={**os.environ, "GOBIN": folder, "CGO_ENABLED": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise MissingToolError(f"{MISSING_HELM}\n\ngo install said:\n{done.stderr}")
        program.parent.mkdir(exist_ok=True)
        (Path(folder) / "helm").rename(program)


def _version_of(tool: str) -> str:
    """Return the version that the node's build pins, which is the only place that names it."""
    found = re.search(rf"\b{tool}=(v\S+)", (NODE / "build").read_text())
    assert found, f"tests/cluster/node/build names no version of {tool}"
    return found[1]
