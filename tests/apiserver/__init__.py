"""What the tests of the custom resources on a real API server share."""

from tests.resources import manifest


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
