"""Which changes of a pool's status are told by Events."""

import pytest

from pyncette.clock import SECOND
from pyncette.controller.status.events import MESSAGE_BYTES_MAX, Regarding
from pyncette.controller.status.observed import Access
from pyncette.controller.status.pool_events import events_of_pool
from pyncette.resources.pool import PoolStatus
from tests.controller.deployments import COMPLETE, LATE, NONE, STARTING, deployment
from tests.controller.test_pool_status import EXTERNAL, NOW, REFUSAL, UNSEEN, then, told

POOL = Regarding("shop", "reports", "0-0-1")

FAILED = deployment(updated=1, available=0, reason=COMPLETE)
STUCK = deployment(updated=1, available=0, reason=LATE)
AWAY = {"access": Access.DOWN, "members": None}


def events(before, after, at=0):
    return events_of_pool(POOL, before, after, NOW + at * SECOND, "operator-1")


def reasons(before, after):
    return [(event["type"], event["reason"]) for event in events(before, after)]


TOLD = {
    "a rollout is over": ({"deployment": STARTING}, {}, [("Normal", "RolledOut")]),
    "a rollout is stuck": (
        {"deployment": STARTING},
        {"deployment": STUCK},
        [("Warning", "ProgressDeadlineExceeded")],
    ),
    "workers fail": ({}, {"deployment": FAILED}, [("Warning", "WorkersUnavailable")]),
    "workers are well again": ({"deployment": FAILED}, {}, [("Normal", "RolledOut")]),
    "workers are stopped": ({}, {"deployment": NONE, "members": ()}, [("Normal", "ScaledToZero")]),
    "the template is refused": ({}, {"pool_": REFUSAL}, [("Warning", "TemplateRefused")]),
    "the backend goes away": ({}, AWAY, [("Warning", "BackendUnreachable")]),
    "the backend goes away, and workers notice": (
        {},
        AWAY | {"deployment": FAILED},
        [("Warning", "BackendUnreachable")],
    ),
    "the database is found to be a copy": ({}, {"is_copy": True}, [("Warning", "DatabaseCopied")]),
    "the database stays a copy": ({"is_copy": True}, {"is_copy": True}, []),
    "the backend comes back": (AWAY, {}, [("Normal", "WorkersRegistered")]),
    "the backend is no longer open": ({}, {"access": Access.REFUSED}, [("Warning", "BackendNotAllowed")]),
    "others start a worker": (
        {"pool_": EXTERNAL, "members": ()},
        {"pool_": EXTERNAL},
        [("Normal", "WorkersRegistered")],
    ),
    "others stop their last worker": (
        {"pool_": EXTERNAL},
        {"pool_": EXTERNAL, "members": ()},
        [],
    ),
    "pods of a rollout are not ready for long": (
        {"deployment": STARTING},
        {"deployment": STARTING, "at": 30},
        [("Warning", "PodsNotReady")],
    ),
    "a rollout begins": ({}, {"deployment": STARTING}, []),
    "a rollout goes on": ({"deployment": STARTING}, {"deployment": deployment(2, updated=1)}, []),
    "nothing changes": ({}, {"tasks": 5}, []),
}


@pytest.mark.parametrize(("before", "after", "expected"), TOLD.values(), ids=TOLD)
def test_events_tell_when(before, after, expected):
    first = told(**before)

    assert reasons(first.status, told(**{"seen": then(UNSEEN, first), "at": 5} | after).status) == expected


def test_a_pool_that_is_seen_for_the_first_time_is_no_news_unless_it_is_stalled():
    assert reasons(PoolStatus(), told().status) == []
    assert reasons(PoolStatus(), told(deployment=NONE, members=()).status) == []
    assert reasons(PoolStatus(), told(REFUSAL).status) == [("Warning", "TemplateRefused")]


def test_an_event_is_about_the_pool():
    [event] = events(PoolStatus(), told(REFUSAL).status)

    assert event["involvedObject"] == {
        "apiVersion": "pyncette.dev/v1alpha1",
        "kind": "PyncetteWorkerPool",
        "namespace": "shop",
        "name": "reports",
        "uid": "0-0-1",
    }
    assert event["metadata"]["namespace"] == "shop"
    assert "spec.template.spec.hostNetwork: no" in event["message"]
    assert len(event["message"].encode()) <= MESSAGE_BYTES_MAX


def test_an_autoscaler_does_not_flood():
    first = told(deployment=STARTING)
    after = told(seen=then(UNSEEN, first))
    next_generation = after.status.model_copy(update={"observed_generation": 3})

    [one] = events(first.status, after.status)
    [other] = events(first.status, next_generation, at=60)

    assert one["metadata"]["name"] == other["metadata"]["name"]


def test_problems_of_each_generation_are_reported():
    stuck = told(deployment=STUCK)
    next_generation = stuck.status.model_copy(update={"observed_generation": 3})
    before = told(deployment=STARTING).status

    [one] = events(before, stuck.status)
    [other] = events(before, next_generation)

    assert one["metadata"]["name"] != other["metadata"]["name"]
