"""What the CRDs are made to be, whatever is in the models: whole, small, bounded, and pointing at what there is."""

import re

import pytest
import yaml

from pyncette.resources.modelling import Model
from pyncette.resources.pool import PyncetteWorkerPool
from pyncette.resources.task import PyncetteTask, RetryPolicy, TaskSpec
from tests.resources.test_schema import models
from tools.custom_resources import custom_resource_definition, document, kustomization, open_api_schema

ROOTS = [PyncetteTask, PyncetteWorkerPool]

FILE_BYTES_MAX = 256 * 1024
"""kubectl apply keeps what it applied in an annotation, which may not be larger."""

ANY_OF = {
    "string": {"maxLength", "enum"},
    "object": {"properties", "maxProperties"},
}
ALL_OF = {
    "integer": {"minimum", "maximum", "format"},
    "array": {"maxItems", "items", "x-kubernetes-list-type"},
    None: {"maxLength", "maxItems", "maxProperties"},
}
"""By type; None is of what may be anything."""


def parts(schema, path=""):
    """Every part of a schema below the fields that Kubernetes has, with its path."""
    for name, field in schema.get("properties", {}).items():
        if path or name in {"spec", "status"}:
            yield f"{path}.{name}", field
            yield from parts(field, f"{path}.{name}")
    for name in ("items", "additionalProperties"):
        if name in schema:
            yield f"{path}[]", schema[name]
            yield from parts(schema[name], f"{path}[]")


def part_at(model, json_path):
    """The part of the schema that a JSONPath leads to: of several fields the first, of a condition its items."""
    schema = open_api_schema(model)
    for condition, choice, name in re.findall(r"(\[\?[^]]*])|\['(\w+)'|\.(\w+)", json_path):
        schema = schema["items"] if condition else schema["properties"][choice or name]
    return schema


@pytest.mark.parametrize("model", ROOTS)
def test_a_crd_is_read_back_as_it_is_meant_and_is_small(model):
    text = document(model)

    assert yaml.safe_load(text) == custom_resource_definition(model)
    assert len(text.encode()) < FILE_BYTES_MAX


@pytest.mark.parametrize("model", ROOTS)
def test_the_schema_is_in_one_piece_and_says_nothing_that_the_api_server_does_not_know(model):
    text = document(model)

    for unknown in ("$ref", "$defs", "anyOf", "title:", "examples:", "const:", ": null", "&id", "*id"):
        assert unknown not in text


@pytest.mark.parametrize("model", ROOTS)
def test_every_part_of_the_schema_is_bounded(model):
    unbounded = []
    for path, part in parts(open_api_schema(model)):
        kind = part.get("type")
        any_of, all_of = ANY_OF.get(kind, set()), ALL_OF.get(kind, set())
        if not all_of <= part.keys() or (any_of and not any_of & part.keys()):
            unbounded.append(path)

    assert unbounded == []


@pytest.mark.parametrize("model", ROOTS)
def test_every_rule_stands_at_its_own_model_and_nowhere_else(model):
    schema = open_api_schema(model)
    ruled = {path: part["x-kubernetes-validations"] for path, part in [("", schema), *parts(schema)] if "x-kubernetes-validations" in part}  # fmt: skip

    expected = {rule.cel for part in models(model) for rule in (*part.rules, *part.transitions)}
    assert {rule["rule"] for rules in ruled.values() for rule in rules} == expected
    homes = {".spec": TaskSpec, ".spec.retryPolicy": RetryPolicy} if model is PyncetteTask else {"": model}
    for path, home in homes.items():
        assert [rule["message"] for rule in ruled[path]] == [
            rule.message for rule in (*home.rules, *home.transitions)
        ]


@pytest.mark.parametrize("model", ROOTS)
def test_a_rule_that_blames_one_field_points_at_it(model):
    for _, part in parts(open_api_schema(model)):
        for rule in part.get("x-kubernetes-validations", ()):
            if "fieldPath" in rule:
                assert rule["fieldPath"].removeprefix(".") in part["properties"]
                assert rule["fieldPath"].removeprefix(".") in rule["rule"]


@pytest.mark.parametrize("model", ROOTS)
def test_a_default_of_an_object_says_all_that_is_filled_in_within_it(model):
    for path, part in parts(open_api_schema(model)):
        if "properties" in part and "default" in part:
            within = {name for name, inner in part["properties"].items() if "default" in inner}
            assert within <= part["default"].keys(), path


@pytest.mark.parametrize("model", ROOTS)
def test_columns_and_selectors_and_the_scale_lead_to_fields_of_their_type(model):
    for column in model.columns:
        if column.path != ".metadata.creationTimestamp":
            found = part_at(model, column.path)
            kind = "date" if column.type == "date" else found["type"]
            assert column.type == kind
            assert kind != "date" or found["format"] == "date-time"
    for path in (*model.selectable, *(model.scale or ())):
        assert part_at(model, path)["type"] in {"string", "integer"}


def test_a_column_of_a_time_to_come_is_no_date_which_kubectl_would_show_as_invalid():
    assert {column.type for column in PyncetteTask.columns if column.name == "Next"} == {"string"}


def test_a_pools_scale_counts_no_further_than_the_api_server_does():
    assert PyncetteWorkerPool.scale is not None
    for path in PyncetteWorkerPool.scale[:2]:
        assert part_at(PyncetteWorkerPool, path)["format"] == "int32"


@pytest.mark.parametrize("model", ROOTS)
def test_texts_are_prose_without_the_line_breaks_of_the_code(model):
    texts = [part.get("description", "") for _, part in parts(open_api_schema(model))]

    assert not [text for text in texts if "\n" in text.replace("\n\n", "") or "  " in text]


def test_a_model_is_known_by_its_name_alone_so_that_its_rules_are_found():
    names = [found.__name__ for found in _all_models(Model)]

    assert len(names) == len(set(names))


def _all_models(root):
    return [model for child in root.__subclasses__() for model in (child, *_all_models(child))]


def test_the_folder_of_crds_names_both():
    assert yaml.safe_load(kustomization())["resources"] == ["pyncettetasks.yaml", "pyncetteworkerpools.yaml"]
