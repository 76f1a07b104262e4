"""What the tests of the resources share: objects with little in them."""

from pyncette.resources.pool import PyncetteWorkerPool
from pyncette.resources.reading import Refusal, read
from pyncette.resources.task import PyncetteTask

API_VERSION = "pyncette.dev/v1alpha1"


def manifest(kind="PyncetteTask", name="report", **spec):
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": name, "namespace": "shop"},
        "spec": spec,
    }


def task(**spec):
    """A task by its camelCase fields; an interval of a minute, unless they say when it is due."""
    times = {"schedule", "intervalSeconds", "executeAt", "dynamic"}
    due = {} if times & spec.keys() else {"intervalSeconds": 60}
    return accepted(PyncetteTask, manifest(**({"handler": "send"} | due | spec)))


def pool(**spec):
    given = {"image": "example.org/tasks:1", "module": "tasks"} | spec
    return accepted(PyncetteWorkerPool, manifest(kind="PyncetteWorkerPool", **given))


def accepted(model, given):
    resource = read(model, given)
    assert not isinstance(resource, Refusal), [str(problem) for problem in resource.problems]
    return resource


def problems(model, given):
    refusal = read(model, given)
    assert isinstance(refusal, Refusal), "was accepted"
    return [str(problem) for problem in refusal.problems]
