"""What the benchmark says of the peers that it measures beside us."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import peers
from benchmarks.peers import environments
from benchmarks.peers.known import KEPT, OURS_KEEPS, PEERS, beside
from benchmarks.peers.report import compared
from tests.servers.errors import MissingToolError

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = environments.PROGRAMS
PACKAGES = json.loads((PROGRAMS / "node" / "package.json").read_text())["dependencies"]
MODULES = dict(re.findall(r"^\t(\S+) v(\S+)$", (PROGRAMS / "river" / "go.mod").read_text(), re.MULTILINE))
LIBRARIES = {
    f"{group}:{artifact}": version
    for group, artifact, version in re.findall(
        r"<dependency>\s*<groupId>(.+)</groupId>\s*<artifactId>(.+)</artifactId>\s*<version>(.+)</version>",
        (PROGRAMS / "db_scheduler" / "pom.xml").read_text(),
    )
}
ASKED_FOR = "".join((ROOT / "requirements" / f"{name}.in").read_text() for name in ("peers", "peers-arq"))
DISTRIBUTIONS = re.findall(r"^([a-z]+)(?:\[.*\])?(?:==(.+))?$", ASKED_FOR, re.MULTILINE)


def test_the_version_that_a_peer_is_shown_with_is_the_one_that_runs():
    pinned = {name.lower(): version for name, version in (*PACKAGES.items(), *DISTRIBUTIONS)}
    pinned["river"] = MODULES["github.com/riverqueue/river"]
    pinned["db-scheduler"] = LIBRARIES["com.github.kagkarlsson:db-scheduler"]

    shown = {re.split(r"[ ,]", peer.name)[0].lower(): peer.version for peer in PEERS}

    assert shown == {name: pinned[name] for name in shown}


def test_what_has_no_hashes_is_pinned_exactly():
    versions = [*PACKAGES.values(), *LIBRARIES.values()]

    assert [version for version in versions if not re.fullmatch(r"\d+\.\d+\.\d+", version)] == []


def test_each_dependency_of_a_peer_has_its_reason_and_no_other_is_named():
    section = (ROOT / "docs" / "dependencies.md").read_text().split("\n## Benchmark peers\n")[1]
    named = {
        name for row in re.findall(r"^\| ([^|]+) \|", section, re.MULTILINE)[1:] for name in row.split(", ")
    }

    assert named == {*PACKAGES, *MODULES, *LIBRARIES, *(name for name, _ in DISTRIBUTIONS)}


def test_the_table_has_the_guarantees_of_each_peer():
    assert {len(peer.keeps) for peer in PEERS} == {len(OURS_KEEPS)} == {len(KEPT)}


def test_a_drain_is_timed_from_the_due_instant_to_the_last_handler():
    figures = peers.drain_of([1_000.0, 4_000.0, 2_000.0, 1_500.0])

    assert figures == {"runs": 4, "seconds": 4.0, "rate": 1.0}


def test_latency_has_the_fields_of_the_driver():
    figures = peers.latency_of([float(late) for late in range(199, -1, -1)])

    assert figures == {"p50_ms": 100.0, "p99_ms": 198.0, "max_ms": 199.0, "early": 0}


def test_the_report_sets_each_peer_of_a_store_beside_ours():
    def measured(rate: float) -> dict[str, float]:
        return {
            "rate": rate, "worker_cpu_us": 20.0, "server_cpu_us": 10.0, "p50_ms": 1.0, "p99_ms": 2.0, "max_ms": 3.0
        }  # fmt: skip

    names = [peer.name for peer in beside("postgres")]
    figures = {"ours": measured(40_000.0), **{name: measured(10_000.0) for name in names}}

    text = "\n".join(compared({"postgres": figures, "sqlite": {}}, {}))

    assert "| this package |  | 40,000 | 20 | 10 | 1.0 | 2.0 | 3.0 |" in text
    assert "| River 0.51.2 | 4.0× | 10,000 |" in text
    # In the table of figures, in that of what each keeps, and in that of settings.
    assert [text.count(f"\n| {name}") for name in names] == [3] * len(names)
    assert "BullMQ" not in text


@pytest.mark.parametrize(
    ("program", "brings"),
    [
        (lambda: environments.node_program("bullmq.mjs"), "apt-get install"),
        (environments.river_program, "go.dev"),
        (environments.db_scheduler_program, "maven"),
    ],
)
def test_a_tool_that_is_missing_is_an_error_that_says_what_brings_it(program, brings, monkeypatch, tmp_path):
    monkeypatch.setattr(environments, "MADE", environments.ROOT / ".cache" / "no" / "peers")
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(MissingToolError, match=brings):
        program()
