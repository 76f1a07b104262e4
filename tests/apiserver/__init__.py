"""What the tests of the custom resources on a real API server share."""

import pytest

from tests.resources import manifest
from tests.servers import ApiError

OPERATOR = "pyncette-operator"
"""The manager of fields that writes the status."""


def placed(given, namespace):
    """The object in a namespace of the API server."""
    return {**given, "metadata": {**given["metadata"], "namespace": namespace}}


def task(namespace, name="report", **spec):
    times = {"schedule", "intervalSeconds", "executeAt", "dynamic"}
    due = {} if times & spec.keys() else {"intervalSeconds": 60}
    return placed(manifest(name=name, **({"handler": "send"} | due | spec)), namespace)


def pool(namespace, name="default", **spec):
    whole = {"image": "example.org/tasks:1", "module": "tasks"}
    return placed(manifest(kind="PyncetteWorkerPool", name=name, **(whole | spec)), namespace)


def status_of(given, **status):
    """What is applied to write the status of an object."""
    return {**{part: given[part] for part in ("apiVersion", "kind", "metadata")}, "status": status}


def said(kind, status="True"):
    """A condition."""
    return {
        "type": kind,
        "status": status,
        "reason": "AsExpected",
        "message": "",
        "lastTransitionTime": "2030-01-01T00:00:00Z",
    }


def refusal(ask):
    """What the API server says of something that it is to refuse."""
    with pytest.raises(ApiError) as refused:
        ask()
    return refused.value
