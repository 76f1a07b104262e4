"""Which pod templates are below the restricted Pod Security Standard. That Kubernetes agrees is tested in tests/apiserver."""

import pytest

from pyncette.controller.workloads.pod_security import CHECKS, violations
from pyncette.controller.workloads.pod_template import PoolBackend, own_template
from pyncette.controller.workloads.strategic_merge import merge
from tests.controller.pod_parts import BELOW, UP_TO_STANDARD
from tests.resources import pool

OURS = own_template(pool(), PoolBackend("default", "pyncette-backend", "url"), "abc/shop/report")

EACH_BELOW = [(check, spec) for check, specs in BELOW.items() for spec in specs]


@pytest.mark.parametrize("spec", UP_TO_STANDARD.values(), ids=UP_TO_STANDARD)
def test_up_to_the_standard_is(spec):
    assert violations(merge(OURS, {"spec": spec})) == []


@pytest.mark.parametrize(("check", "spec"), EACH_BELOW)
def test_below_the_standard_is(check, spec):
    assert check in {found.check for found in violations(merge(OURS, {"spec": spec}))}


def test_every_check_has_something_that_it_notices():
    assert CHECKS.keys() == BELOW.keys()


def test_containers_that_look_into_a_pod_are_checked_too():
    looking = {"ephemeralContainers": [{"name": "look", "image": "x"}]}

    assert {found.check for found in violations(merge(OURS, {"spec": looking}))} == {
        "allowPrivilegeEscalation",
        "capabilities_restricted",
    }


def test_an_annotation_of_old_releases_does_not_take_a_profile_away():
    annotations = {"container.apparmor.security.beta.kubernetes.io/worker": "unconfined"}

    [found] = violations(merge(OURS, {"metadata": {"annotations": annotations}}))

    assert found.check == "appArmorProfile"
    assert found.path == ("metadata", "annotations", *annotations)


def test_a_violation_says_where_it_is_and_what_to_write():
    [found] = violations(merge(OURS, {"spec": {"securityContext": {"runAsUser": 0}}}))

    assert found.path == ("spec", "securityContext", "runAsUser")
    assert found.message == "must not be 0, which is root"


@pytest.mark.parametrize("nonsense", ["x", 5, ["x"], [5], [{}], {"a": "b"}, None])
@pytest.mark.parametrize("field", ["securityContext", "containers", "initContainers", "volumes"])
def test_a_malformed_template_raises_no_error(field, nonsense):
    violations({"metadata": {}, "spec": {field: nonsense}})
    violations({"metadata": {"annotations": "x"}, "spec": {"containers": [{field: nonsense}]}})
