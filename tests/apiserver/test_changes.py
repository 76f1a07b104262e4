"""What cannot be changed once it is there, and what can."""

import pytest

from pyncette.resources.modelling import refused_change
from pyncette.resources.pool import PyncetteWorkerPool
from pyncette.resources.reading import read
from pyncette.resources.task import PyncetteTask
from tests.apiserver import pool, refusal, task

TEMPLATE = {"handler": "send", "dynamic": True}

CHANGES = {
    "another handler": (task, TEMPLATE, {"handler": "other"}),
    "another pool": (task, TEMPLATE, {"workerPoolRef": {"name": "other"}}),
    "more partitions": (task, TEMPLATE, {"partitions": 9}),
    "no template any more": (task, TEMPLATE, {"dynamic": False, "intervalSeconds": 60}),
    "external workers": (pool, {}, {"external": True}),
}


@pytest.mark.parametrize(("made", "before", "change"), CHANGES.values(), ids=CHANGES)
def test_what_cannot_be_changed_is_refused_in_the_same_words(apiserver, namespace, made, before, change):
    model = PyncetteTask if made is task else PyncetteWorkerPool
    old, new = made(namespace, **before), made(namespace, **(before | change))
    [(path, message)] = refused_change(read(model, old), read(model, new))
    apiserver.admin.create(old)

    refused = refusal(lambda: apiserver.admin.patch(old, {"spec": change}))

    assert refused.status == 422
    assert message in refused.message
    assert ".".join(path) in [field for field, _ in refused.causes]


def test_every_transition_of_the_models_has_an_example_in_the_table():
    told = {
        message
        for made, before, change in CHANGES.values()
        for _, message in refused_change(
            *(
                read(PyncetteTask if made is task else PyncetteWorkerPool, made("shop", **spec))
                for spec in (before, before | change)
            )
        )
    }

    rules = [rule for model in (PyncetteTask, PyncetteWorkerPool) for rule in spec_of(model).transitions]
    assert {rule.message for rule in rules} == told


def spec_of(model):
    return model.model_fields["spec"].annotation


def test_a_static_task_may_change_all_that_and_become_a_template(apiserver, namespace):
    apiserver.admin.create(task(namespace))

    apiserver.admin.patch(task(namespace), {"spec": {"handler": "other", "workerPoolRef": {"name": "other"}}})
    apiserver.admin.patch(
        task(namespace), {"spec": {"dynamic": True, "intervalSeconds": None, "partitions": 3}}
    )

    assert apiserver.admin.read(task(namespace))["spec"]["partitions"] == 3
