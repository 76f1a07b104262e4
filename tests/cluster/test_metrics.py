"""What Prometheus would scrape of a worker and of the operator: each occurrence once, and no pool that is late by a typo."""

import time
from collections.abc import Mapping

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.installation import OPERATOR, Installation
from tests.cluster.kubectl import Kubectl
from tests.cluster.team import Team

FOUND_SECONDS = 60
"""A worker looks for new tasks every 30 seconds, and counts what ends at once."""

NEAR_ZERO_SECONDS = 3.0
"""A look of the operator may find something that a worker is just about to claim."""

SCRAPE = (
    "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:9090/metrics').read().decode())"
)

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(kubectl: Kubectl, target: str) -> Samples:
    text = kubectl.run("exec", target, "--", "python", "-c", SCRAPE)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


@pytest.fixture
def team(operator: Installation, module_team: Team) -> Team:
    del operator
    return module_team


def outcomes(team: Team, task: str) -> dict[str, float]:
    """The outcomes of *task* that all workers of the pool have counted; empty while there is no series."""
    found: dict[str, float] = {}
    for pod in team.pods():
        samples = scrape(team.kubectl, pod)
        for outcome in ("succeeded", "failed", "deadLettered", "missed", "lost"):
            counted = value(
                samples,
                "pyncette_occurrences_total",
                namespace=team.kubectl.namespace,
                pool="default",
                task_name=task,
                outcome=outcome,
            )
            if counted is not None:
                found[outcome] = found.get(outcome, 0) + counted
    return found


def test_occurrences_are_counted_once_by_outcome_and_not_by_attempt(team: Team):
    quick = {"initialBackoffSeconds": 1, "maxBackoffSeconds": 1}
    team.schedule("often", intervalSeconds=2)
    team.schedule("spent", "fail", intervalSeconds=5, retryPolicy={**quick, "maxAttempts": 2})
    team.schedule(
        "third", "fail", intervalSeconds=10, args={"times": 2}, retryPolicy={**quick, "maxAttempts": 5}
    )
    team.schedule("yearly", schedule="0 0 1 1 *")

    team.kubectl.wait_until(
        "all have ended a few times",
        lambda: all(len(team.runs(name)) >= attempts for name, attempts in ENOUGH.items()),
        FOUND_SECONDS,
    )
    for name in ("often", "spent", "third"):
        team.kubectl.patch("pyncettetask", name, {"spec": {"suspend": True}})
        team.kubectl.wait_for_task(
            name,
            "is suspended, and nothing of it runs",
            lambda task: task.reason() == "Suspended" and not task.status.get("active"),
            FOUND_SECONDS,
        )
    team.kubectl.wait_until(
        "a task that has not run is there", lambda: outcomes(team, "yearly"), FOUND_SECONDS
    )

    assert set(outcomes(team, "yearly").values()) == {0}
    assert others(team, "often") == set()
    assert others(team, "third") == set()
    assert outcomes(team, "spent")["succeeded"] == 0
    for name, outcome in (("often", "succeeded"), ("third", "succeeded"), ("spent", "failed")):
        # The status follows within half a minute, and says what the record says.
        team.kubectl.wait_for_task(
            name,
            "counts what its worker has counted",
            lambda task, outcome=outcome, name=name: (
                task.status["runCounts"].get(outcome) == outcomes(team, name)[outcome] > 0
            ),
            FOUND_SECONDS,
        )


ENOUGH = {"often": 5, "spent": 4, "third": 6}
"""Attempts until several occurrences of each have ended."""


def others(team: Team, task: str) -> set[str]:
    return {
        name
        for name, number in outcomes(team, task).items()
        if number and name not in {"succeeded", "missed"}
    }


def test_a_typo_in_a_handler_makes_no_pool_late(team: Team, operator: Installation):
    team.schedule("mistyped", "tikc", wait=False)
    team.schedule("beside", intervalSeconds=2)
    began = time.monotonic()
    seen = []

    while time.monotonic() - began < 45:
        samples = scrape(operator.kubectl, OPERATOR)
        labels = {"namespace": team.kubectl.namespace, "pool": "default", "backend": "default"}
        late = value(samples, "pyncette_operator_lateness_seconds", **labels)
        assert late is not None
        seen.append(late)
        time.sleep(1)

    assert max(seen) < NEAR_ZERO_SECONDS, seen
    assert team.task("mistyped").is_true("Stalled")
    stalled = value(samples, "pyncette_operator_tasks", condition="Stalled", status="True")
    assert stalled is not None
    assert stalled >= 1
    team.kubectl.run("delete", "pyncettetask", "mistyped")
    team.kubectl.wait_until(
        "it is counted no more, long before a resync",
        lambda: (
            (
                value(
                    scrape(operator.kubectl, OPERATOR),
                    "pyncette_operator_tasks",
                    condition="Stalled",
                    status="True",
                )
                or 0
            )
            < stalled
        ),
        10,
    )


def test_the_series_of_a_pool_that_is_gone_vanish(team: Team, operator: Installation):
    labels = {"namespace": team.kubectl.namespace, "pool": "second", "backend": "default"}

    def backlog() -> float | None:
        return value(scrape(operator.kubectl, OPERATOR), "pyncette_operator_due", **labels)

    team.start_pool("second", replicas=0, wait=False)
    team.schedule("nobody-s", workerPoolRef={"name": "second"}, wait=False)
    team.kubectl.wait_until("it waits for a worker", backlog, FOUND_SECONDS)

    team.kubectl.run("delete", "pyncetteworkerpool", "second")

    team.kubectl.wait_until("there is no such series", lambda: backlog() is None, 30)
