"""When an object is already as it would be applied."""

import pytest

from pyncette.controller.workloads.drift import APPLIED, covers, marked


def thing(spec, **metadata):
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "a", **metadata},
        "spec": spec,
    }


COVERED = {
    "what is equal": ({"replicas": 1}, {"replicas": 1}),
    "what the server added": ({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1}}),
    "items that others added": (
        {"containers": [{"name": "injected"}, {"name": "worker", "image": "i"}]},
        {"containers": [{"name": "worker", "image": "i"}]},
    ),
    "items in another order": (
        {"env": [{"name": "B"}, {"name": "A"}]},
        {"env": [{"name": "A"}, {"name": "B"}]},
    ),
    "a port whose protocol was left to the server": (
        {
            "ports": [
                {"containerPort": 1, "protocol": "UDP"},
                {"containerPort": 1, "protocol": "TCP", "name": "x"},
            ]
        },
        {"ports": [{"containerPort": 1, "name": "x"}]},
    ),
    "defaults in a list without names": (
        {"items": [{"key": "a", "path": "b", "mode": 5}]},
        {"items": [{"key": "a", "path": "b"}]},
    ),
    "a quantity in other words": (
        {"requests": {"cpu": "500m", "memory": "1536Mi", "x": "2k"}},
        {"requests": {"cpu": "0.5", "memory": "1.5Gi", "x": "2e3"}},
    ),
    "a quantity as a number": (
        {"limits": {"cpu": "2", "memory": "1M"}},
        {"limits": {"cpu": 2, "memory": 1e6}},
    ),
    "a quantity that is finer than the server keeps": (
        {"limits": {"cpu": "1n"}},
        {"limits": {"cpu": "0.1n"}},
    ),
    "a quantity that stands alone": (
        {"emptyDir": {"sizeLimit": "1Gi"}},
        {"emptyDir": {"sizeLimit": "1024Mi"}},
    ),
    "nothings that the server does not keep": (
        {"name": "x"},
        {"name": "x", "value": "", "hostNetwork": False, "tolerations": [], "nodeSelector": {}, "delay": 0},
    ),
}


@pytest.mark.parametrize(("actual", "wanted"), COVERED.values(), ids=COVERED)
def test_an_object_has_all_that_is_wanted_with(actual, wanted):
    assert covers(thing(actual), thing(wanted))


DIFFERING = {
    "another value": ({"replicas": 2}, {"replicas": 1}),
    "no value": ({}, {"replicas": 1}),
    "a false that the server keeps": ({}, {"automountServiceAccountToken": False}),
    "no replicas, which would be one": ({}, {"replicas": 0}),
    "no item": ({"env": [{"name": "B"}]}, {"env": [{"name": "A"}]}),
    "another item": ({"env": [{"name": "A", "value": "2"}]}, {"env": [{"name": "A", "value": "1"}]}),
    "a port of another protocol": (
        {"ports": [{"containerPort": 1, "protocol": "UDP"}]},
        {"ports": [{"containerPort": 1}]},
    ),
    "one more in a list without names": ({"drop": ["ALL", "X"]}, {"drop": ["ALL"]}),
    "another order in a list without names": ({"args": ["a", "b"]}, {"args": ["b", "a"]}),
    "another quantity": ({"requests": {"cpu": "1"}}, {"requests": {"cpu": "500m"}}),
    "a label that looks like a quantity": ({"labels": {"limits": "1000m"}}, {"labels": {"limits": "1"}}),
    "a text for a mapping": ({"emptyDir": "x"}, {"emptyDir": {"a": 1}}),
    "a text for a list": ({"args": "x"}, {"args": ["x"]}),
    "what is no quantity": ({"requests": {"cpu": "1"}}, {"requests": {"cpu": "much"}}),
}


@pytest.mark.parametrize(("actual", "wanted"), DIFFERING.values(), ids=DIFFERING)
def test_an_object_has_to_be_applied_again_with(actual, wanted):
    assert not covers(thing(actual), thing(wanted))


def test_an_item_of_a_list_does_not_say_its_kind_and_is_compared_all_the_same():
    listed = {"metadata": {"name": "a"}, "spec": {"replicas": 1}}

    assert covers(listed, thing({"replicas": 1}))


def test_a_field_that_is_no_longer_wanted_is_noticed():
    before, after = marked(thing({"replicas": 1, "paused": True})), marked(thing({"replicas": 1}))

    assert covers(before, thing({"replicas": 1}))
    assert not covers(before, after)


def test_a_mark_depends_on_what_is_applied_and_not_on_its_order():
    one, other = marked(thing({"a": 1, "b": 2})), marked(thing({"b": 2, "a": 1}))

    assert one["metadata"]["annotations"][APPLIED] == other["metadata"]["annotations"][APPLIED]
    assert covers(one, other)


def test_a_mark_stands_beside_other_annotations():
    annotations = marked(thing({}, annotations={"a": "b"}))["metadata"]["annotations"]

    assert annotations["a"] == "b"
    assert len(annotations) == 2
