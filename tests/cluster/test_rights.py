"""What the operator may do, against what it did in all other scenarios: these tests are run last."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import yaml

from tests.cluster.cluster import ROOT, BreakableCluster
from tests.cluster.installation import NAMESPACE, Installation

PERMISSIONS = ROOT / "charts" / "pyncette-operator" / "files" / "permissions.yaml"


CREATED = 201


class Right(NamedTuple):
    verb: str
    group: str
    resource: str
    """With its subresource."""


@pytest.fixture
def calls(breakable_cluster: BreakableCluster, operator: Installation) -> list[dict[str, Any]]:
    """What the API server was asked by operators since the beginning of the session."""
    ours = f"system:serviceaccount:{NAMESPACE}:"
    del operator
    calls = [call for call in breakable_cluster.audit() if call["user"]["username"].startswith(ours)]
    assert calls
    return calls


def test_every_call_of_the_operator_was_allowed(calls: list[dict[str, Any]], operator: Installation):
    refused = [call for call in calls if decision(call) == "forbid" and is_there(call, operator)]

    assert {f"{call['verb']} {call['requestURI']}" for call in refused} == set()


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
    return set(rights())


def rights() -> Iterator[Right]:
    for rules in yaml.safe_load(PERMISSIONS.read_text()).values():
        for rule in rules:
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    for verb in rule["verbs"]:
                        yield Right(verb, group, resource)
