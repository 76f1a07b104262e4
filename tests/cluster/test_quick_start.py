"""The first minutes: what examples/kubernetes shows, in the operator's own namespace."""

import time

from tests.cluster.installation import Installation


def test_a_task_is_ready_with_a_next_time_and_a_last_success_within_a_minute_of_its_apply(
    operator: Installation, example: list[str]
):
    kubectl = operator.kubectl
    began_at = time.monotonic()

    kubectl.apply(*example)
    try:
        kubectl.wait_until_ready("greeting", "daily-report")
        seen = kubectl.wait_for_task(
            "greeting", "has succeeded", lambda task: task.time("lastSuccessfulTime")
        )

        assert time.monotonic() - began_at < 60
        assert seen.time("nextScheduleTime") is not None
        shown = kubectl.run("get", "pyncettetasks")
        assert shown.splitlines()[0].split()[:5] == ["NAME", "SCHEDULE", "HANDLER", "SUSPEND", "READY"]
        assert "Hello, Kubernetes!" in kubectl.logs("deployment/pyncette-default")
    finally:
        kubectl.run("delete", "pyncettetasks,pyncetteworkerpools", "--all")

    kubectl.wait_until("its workers are gone", lambda: not kubectl.worker_pods())
