"""How a part of a pod template is merged into a whole one. That kubectl does the same is tested in tests/apiserver."""

import pytest

from pyncette.controller.workloads.strategic_merge import MergeRefusedError, merge

WHOLE = {
    "metadata": {"labels": {"app": "worker"}},
    "spec": {
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "worker",
                "args": ["worker", "tasks"],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                "ports": [{"containerPort": 8080, "name": "health"}],
            }
        ],
        "tolerations": [{"key": "old"}],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    },
}

MERGED = {
    "nothing": ({}, {}),
    "a field beside others": (
        {"securityContext": {"runAsUser": 5}},
        {
            "securityContext": {
                "runAsNonRoot": True,
                "seccompProfile": {"type": "RuntimeDefault"},
                "runAsUser": 5,
            }
        },
    ),
    "a field that is removed": (
        {"securityContext": {"seccompProfile": None}},
        {"securityContext": {"runAsNonRoot": True}},
    ),
    "a mapping that is replaced": (
        {"securityContext": {"$patch": "replace", "runAsUser": 5}},
        {"securityContext": {"runAsUser": 5}},
    ),
    "a mapping that is emptied": ({"securityContext": {"$patch": "delete"}}, {"securityContext": {}}),
    "a mapping of which keys are retained": (
        {"volumes": [{"name": "tmp", "$retainKeys": ["name", "image"], "image": {"reference": "x"}}]},
        {"volumes": [{"name": "tmp", "image": {"reference": "x"}}]},
    ),
    "a list without names, which is replaced": (
        {"tolerations": [{"key": "new"}]},
        {"tolerations": [{"key": "new"}]},
    ),
    "a list of text, which is replaced": (
        {"containers": [{"name": "worker", "args": ["x"]}]},
        {"containers": [{**WHOLE["spec"]["containers"][0], "args": ["x"]}]},
    ),
    "a list that was not there": (
        {"initContainers": [{"name": "first", "image": "i", "env": None}, {"name": "x", "$patch": "delete"}]},
        {"initContainers": [{"name": "first", "image": "i"}]},
    ),
    "a new item, which goes before": (
        {"volumes": [{"name": "data", "emptyDir": {}}]},
        {"volumes": [{"name": "data", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]},
    ),
    "an item that is deleted": ({"volumes": [{"name": "tmp", "$patch": "delete"}]}, {"volumes": []}),
    "an item that is deleted and was not there": (
        {"volumes": [{"name": "other", "$patch": "delete"}]},
        {"volumes": [{"name": "tmp", "emptyDir": {}}]},
    ),
    "a list that is replaced": (
        {"volumes": [{"$patch": "replace"}, {"name": "data", "emptyDir": {}}]},
        {"volumes": [{"name": "data", "emptyDir": {}}]},
    ),
    "a null where nothing was": ({"nodeSelector": None, "affinity": {"podAffinity": None}}, {"affinity": {}}),
    "a mapping that was not there and is deleted": ({"affinity": {"$patch": "delete"}}, {}),
}


@pytest.mark.parametrize(("part", "changed"), MERGED.values(), ids=MERGED)
def test_a_template_is_merged_with(part, changed):
    assert merge(WHOLE, {"spec": part}) == {**WHOLE, "spec": {**WHOLE["spec"], **changed}}


def test_items_of_lists_in_items_are_identified_by_what_the_api_says():
    part = {
        "name": "worker",
        "env": [{"name": "B", "value": "3"}, {"name": "C", "value": "4"}],
        "ports": [{"containerPort": 8080, "protocol": "TCP"}],
    }

    [worker] = merge(WHOLE, {"spec": {"containers": [part]}})["spec"]["containers"]

    assert worker["env"] == [
        {"name": "A", "value": "1"},
        {"name": "B", "value": "3"},
        {"name": "C", "value": "4"},
    ]
    assert worker["ports"] == [{"containerPort": 8080, "name": "health", "protocol": "TCP"}]


def test_items_that_were_there_keep_their_place_and_new_ones_come_before_what_follows():
    whole = {"spec": {"volumes": [{"name": name} for name in "abcd"]}}
    part = {"spec": {"volumes": [{"name": name} for name in "xcy"]}}

    assert "".join(each["name"] for each in merge(whole, part)["spec"]["volumes"]) == "xabcyd"


def test_what_is_merged_is_left_as_it_was():
    before = repr(WHOLE)

    merge(WHOLE, {"spec": {"containers": [{"name": "worker", "env": [{"name": "A", "value": "9"}]}]}})

    assert repr(WHOLE) == before


REFUSED = {
    "another directive": (
        {"securityContext": {"$patch": "merge"}},
        "spec.securityContext[$patch]: must be replace or delete, not merge",
    ),
    "another directive in a list": (
        {"volumes": [{"name": "tmp", "$patch": "remove"}]},
        "spec.volumes[0][$patch]: must be replace or delete, not remove",
    ),
    "an order": (
        {"$setElementOrder/volumes": [{"name": "tmp"}]},
        "spec[$setElementOrder/volumes]: is not supported",
    ),
    "a deletion from a list of text": (
        {"containers": [{"name": "worker", "$deleteFromPrimitiveList/args": ["tasks"]}]},
        "spec.containers[name=worker][$deleteFromPrimitiveList/args]: is not supported",
    ),
    "a replacement of nothing, which kubectl would drop with all that it says": (
        {"affinity": {"$patch": "replace", "podAffinity": {}}},
        "spec.affinity[$patch]: there is nothing here to replace; leave this out",
    ),
    "keys to retain that are no list": (
        {"securityContext": {"$retainKeys": "runAsUser"}},
        "spec.securityContext[$retainKeys]: must be a list",
    ),
    "keys to retain without a key that is given": (
        {"securityContext": {"$retainKeys": ["runAsUser"], "fsGroup": 5}},
        "spec.securityContext[$retainKeys]: must also list fsGroup",
    ),
    "an item without a name": ({"volumes": [{"emptyDir": {}}]}, "spec.volumes[0]: needs name"),
    "an item that is none": ({"volumes": ["tmp"]}, "spec.volumes[0]: must be a mapping"),
}


@pytest.mark.parametrize(("part", "message"), REFUSED.values(), ids=REFUSED)
def test_a_template_is_not_merged_with(part, message):
    with pytest.raises(MergeRefusedError) as refused:
        merge(WHOLE, {"spec": part})

    assert str(refused.value).startswith(message)


@pytest.mark.parametrize("nested", [lambda inner: {"a": inner}, lambda inner: [inner]])
def test_a_template_that_is_nested_without_end_is_refused(nested):
    deep = 0
    for _ in range(900):
        deep = nested(deep)

    with pytest.raises(MergeRefusedError, match="nested"):
        merge(WHOLE, {"spec": {"affinity": deep}})
