"""What a PyncetteWorkerPool may say, and what it is told when it may not."""

import pytest

from pyncette.resources.modelling import refused_change
from pyncette.resources.pool import PoolSpec, PyncetteWorkerPool
from pyncette.resources.reading import read_stored, written
from tests.resources import accepted, manifest, pool, problems

WHOLE = {"image": "example.org/tasks@sha256:0ab1", "module": "shop.tasks:app"}

ACCEPTED = {
    "an image and a module": WHOLE,
    "workers elsewhere": {"external": True},
    "no workers": {**WHOLE, "replicas": 0},
    "a pod template": {
        **WHOLE,
        "template": {"spec": {"nodeSelector": {"disk": "fast"}, "containers": [{"name": "worker"}]}},
    },
    "all else": {
        **WHOLE,
        "imagePullPolicy": "Always",
        "imagePullSecrets": [{"name": "registry.example.org"}],
        "backendRef": {"name": "main"},
        "concurrency": 1,
        "drainSeconds": 0,
        "serviceAccountName": "reports",
        "progressDeadlineSeconds": 1,
    },
}


@pytest.mark.parametrize("spec", ACCEPTED.values(), ids=ACCEPTED)
def test_a_pool_may_say(spec):
    given = accepted(PyncetteWorkerPool, manifest(kind="PyncetteWorkerPool", **spec))

    assert read_stored(PyncetteWorkerPool, written(given)) == given


REFUSED = {
    "no image": (
        {"module": "tasks"},
        "spec: image and module are required, or external: true where the workers are run by other means",
    ),
    "no module": (
        {"image": "tasks:1"},
        "spec: image and module are required, or external: true where the workers are run by other means",
    ),
    "an image with white space": (
        {**WHOLE, "image": "tasks 1"},
        'spec.image: "tasks 1" is not the reference of an image: letters, digits and punctuation of ASCII, without white space',
    ),
    "a module that is a file": (
        {**WHOLE, "module": "tasks/app.py"},
        'spec.module: "tasks/app.py" is not a Python module, or a module and a name in it, such as tasks or tasks:app',
    ),
    "replicas below none": ({**WHOLE, "replicas": -1}, "spec.replicas: must be at least 0, not -1"),
    "no slots": ({**WHOLE, "concurrency": 0}, "spec.concurrency: must be at least 1, not 0"),
    "a secret by its name alone": (
        {**WHOLE, "imagePullSecrets": ["registry"]},
        'spec.imagePullSecrets[0]: must be a mapping of fields to values, not "registry"',
    ),
    "secrets that are no list": (
        {**WHOLE, "imagePullSecrets": {"name": "registry"}},
        "spec.imagePullSecrets: must be a list, not a mapping",
    ),
    "a secret twice": (
        {**WHOLE, "imagePullSecrets": [{"name": "registry"}, {"name": "other"}, {"name": "registry"}]},
        "spec.imagePullSecrets: names registry twice: remove one of them",
    ),
    "a field of a Deployment": (
        {**WHOLE, "template": {"spce": {}}},
        "spec.template.spce: unknown field; did you mean spec?",
    ),
    "a field of a task": (
        {**WHOLE, "handler": "send"},
        "spec.handler: unknown field; there are",
    ),
}


@pytest.mark.parametrize(("spec", "message"), REFUSED.values(), ids=REFUSED)
def test_a_pool_gets_the_message_for(spec, message):
    [told] = problems(PyncetteWorkerPool, manifest(kind="PyncetteWorkerPool", **spec))

    assert told.startswith(message)


def test_every_default_of_a_pool_is_the_one_that_is_documented():
    assert pool().spec.model_dump(by_alias=True, exclude={"image", "module"}) == {
        "imagePullPolicy": None,
        "imagePullSecrets": (),
        "external": False,
        "backendRef": {"name": "default"},
        "replicas": 1,
        "concurrency": 100,
        "drainSeconds": 30,
        "template": {"metadata": {}, "spec": {}},
        "serviceAccountName": None,
        "progressDeadlineSeconds": 600,
    }


def test_a_pool_cannot_be_called_longer_than_a_label():
    given = manifest(kind="PyncetteWorkerPool", name="a" * 64, **WHOLE)

    assert problems(PyncetteWorkerPool, given) == [
        "metadata.name: the name of a pool may have 63 characters, so that it fits into a label of its pods"
    ]


def test_a_pool_cannot_become_external_and_nothing_else_is_fixed():
    [(path, _)] = refused_change(pool(), pool(external=True))

    assert path == ("spec", "external")
    assert not list(refused_change(pool(), pool(image="other", module="other", backendRef={"name": "other"})))


def test_every_rule_of_a_pool_has_an_example_in_the_table():
    told = "\n".join(message for _, message in REFUSED.values())

    assert all(rule.message in told for rule in PoolSpec.rules)
