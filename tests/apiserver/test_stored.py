"""What is stored outlives the schema that it was stored under."""

import json

import pytest

from pyncette.resources.reading import Refusal, read_stored
from pyncette.resources.task import PyncetteTask
from tests.apiserver import OPERATOR, refusal, said, status_of, task
from tests.servers import ApiError
from tests.servers.kubernetes import custom_resource_definitions


def test_a_stored_object_that_todays_model_refuses_is_still_read_and_its_status_still_written(own_apiserver):
    """
    As after an upgrade to narrower bounds: what was accepted before is neither lost nor an exception. Types are another
    matter: the API server applies nothing to an object with a value of another type, so a field never changes its own.
    """
    [strict, _] = custom_resource_definitions()
    lax = json.loads(json.dumps(strict))
    [version] = lax["spec"]["versions"]
    del version["selectableFields"]
    version["schema"]["openAPIV3Schema"]["properties"]["spec"] = {
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": True,
    }
    old = {
        "intervalSeconds": 0,
        "timeZone": "UTC",
        "handler": "send",
        "heartbeat": "Never",
        "mood": "good",
    }

    with own_apiserver.fresh_namespace() as namespace:
        own_apiserver.install(lax)
        until(lambda: own_apiserver.admin.create(task(namespace, **old), dryRun="All"))
        own_apiserver.admin.create(task(namespace, **old))
        own_apiserver.install(strict)
        until(
            lambda: refusal(lambda: own_apiserver.admin.create(task(namespace, "other", **old), dryRun="All"))
        )

        stored = own_apiserver.admin.read(task(namespace))
        refused = read_stored(PyncetteTask, stored)
        own_apiserver.admin.apply(
            status_of(task(namespace), conditions=[said("Stalled")]), OPERATOR, "status", force=True
        )

        assert isinstance(refused, Refusal)
        assert {problem.path for problem in refused.problems} == {
            ("spec", "heartbeat"), ("spec", "intervalSeconds"),
        }  # fmt: skip
        conditions = own_apiserver.admin.read(task(namespace))["status"]["conditions"]
        assert "Stalled" in {condition["type"] for condition in conditions}
        assert own_apiserver.admin.patch(task(namespace), {"metadata": {"labels": {"team": "mail"}}})


def until(ask, attempts=200):
    """A changed schema comes into force a moment after the change was answered."""
    for _ in range(attempts):
        try:
            return ask()
        except (ApiError, pytest.fail.Exception):
            continue
    return ask()
