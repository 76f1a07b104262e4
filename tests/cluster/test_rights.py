"""What the operator may do, against what it did in all other scenarios: these tests are run last."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import pytest
import yaml

from pyncette.controller.permissions import Scope
from tests.cluster.cluster import ROOT, BreakableCluster
from tests.cluster.installation import NAMESPACE, Installation

PERMISSIONS = ROOT / "charts" / "pyncette-operator" / "files" / "permissions.yaml"

CREATED = 201

LEAVING: Final = timedelta(seconds=10)
"""For at most this long before its ServiceAccount, Helm deletes what an operator may do, while its pod still works."""

OPERATORS: Final = f"system:serviceaccount:{NAMESPACE}:"
"""What the names of their users begin with."""


class Right(NamedTuple):
    verb: str
    group: str
    resource: str
    """With its subresource."""


class Absence(NamedTuple):
    since: datetime
    until: datetime | None

    def covers(self, time: datetime) -> bool:
        return self.since <= time and (self.until is None or time < self.until)


@pytest.fixture
def calls(breakable_cluster: BreakableCluster, operator: Installation) -> list[dict[str, Any]]:
    """What the API server was asked by operators since the beginning of the session."""
    del operator
    calls = [call for call in breakable_cluster.audit() if call["user"]["username"].startswith(OPERATORS)]
    assert calls
    return calls


@pytest.fixture
def absences(breakable_cluster: BreakableCluster) -> dict[str, list[Absence]]:
    """When operators had lost what they may do, since Helm was removing them, by user."""
    found: dict[str, list[Absence]] = {}
    for call in sorted(breakable_cluster.audit(), key=received_at):
        asked = call.get("objectRef", {})
        if (
            asked.get("resource") == "serviceaccounts"
            and asked.get("namespace") == NAMESPACE
            and succeeded(call)
        ):
            known = found.setdefault(f"{OPERATORS}{asked.get('name', '')}", [])
            if call["verb"] == "delete":
                known.append(Absence(received_at(call) - LEAVING, None))
            elif known:
                known[-1] = known[-1]._replace(until=received_at(call))
    return found


def test_every_call_of_the_operator_was_allowed(
    calls: list[dict[str, Any]], operator: Installation, absences: dict[str, list[Absence]]
):
    refused = [
        call
        for call in calls
        if decision(call) == "forbid"
        and is_there(call, operator)
        and not any(
            absence.covers(received_at(call)) for absence in absences.get(call["user"]["username"], [])
        )
    ]

    assert {f"{call['verb']} {call['requestURI']}" for call in refused} == set()


def test_the_admission_policies_denied_nothing_that_the_operator_does(calls: list[dict[str, Any]]):
    written = [call for call in calls if call["verb"] == "patch" and succeeded(call)]
    denied = [
        call
        for call in calls
        if "ValidatingAdmissionPolicy" in call.get("responseStatus", {}).get("message", "")
    ]

    assert {call["objectRef"]["resource"] for call in written} >= {"deployments", "serviceaccounts"}
    assert {f"{call['verb']} {call['requestURI']}" for call in denied} == set()


def test_nothing_is_granted_that_no_scenario_needed(calls: list[dict[str, Any]]):
    used = {right for call in calls if "objectRef" in call for right in rights_of(call)}

    assert granted() - used == set()
    # What it used beyond is what everybody may do: look for which kinds there are, and ask for its own rights.
    assert used - granted() <= {Right("create", "authorization.k8s.io", "selfsubjectaccessreviews")}


def test_it_asked_for_no_secret_and_no_pod(calls: list[dict[str, Any]]):
    asked = {call["objectRef"]["resource"] for call in calls if "objectRef" in call}

    assert asked.isdisjoint({"secrets", "pods", "configmaps", "nodes"})


def decision(call: dict[str, Any]) -> str:
    found: str = call.get("annotations", {}).get("authorization.k8s.io/decision", "")
    return found


def received_at(call: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(call["requestReceivedTimestamp"])


def succeeded(call: dict[str, Any]) -> bool:
    code: int = call.get("responseStatus", {}).get("code", 0)
    return code < 400


def is_there(call: dict[str, Any], operator: Installation) -> bool:
    """Say whether the namespace of a call is; one that goes takes its Roles along, and that is noticed by being refused."""
    namespace = call.get("objectRef", {}).get("namespace")
    return not namespace or bool(operator.kubectl.get("namespace", namespace))


def rights_of(call: dict[str, Any]) -> Iterator[Right]:
    """Yield what a call takes."""
    asked = call["objectRef"]
    right = Right(
        call["verb"],
        asked.get("apiGroup", ""),
        "/".join(asked[part] for part in ("resource", "subresource") if part in asked),
    )
    yield right
    # An apply of what is not there yet takes the right to create it, too.
    if call["verb"] == "patch" and call.get("responseStatus", {}).get("code") == CREATED:
        yield right._replace(verb="create")


def granted() -> set[Right]:
    """Return the rights of the installation of the scenarios, whose metrics ask for no token; see test_metrics_access."""
    return set(rights())


def rights() -> Iterator[Right]:
    for scope, rules in yaml.safe_load(PERMISSIONS.read_text()).items():
        for rule in rules if scope != Scope.METRICS else ():
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    for verb in rule["verbs"]:
                        yield Right(verb, group, resource)
