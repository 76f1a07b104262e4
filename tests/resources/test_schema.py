"""What the models have to be, so that a CRD can be made of them and `kubectl explain` is a manual."""

import re

import pytest
from pydantic.alias_generators import to_camel

from pyncette.resources.modelling import PATTERNS, Model
from pyncette.resources.pool import PyncetteWorkerPool
from pyncette.resources.reading import written
from pyncette.resources.resource import Metadata
from pyncette.resources.task import PyncetteTask
from tests.resources import pool, task

ROOTS = [PyncetteTask, PyncetteWorkerPool]


def models(root):
    """All models that a resource is made of, but its metadata, whose schema is Kubernetes' own."""
    found = [root]
    for model in found:
        for field in model.model_fields.values():
            found += [inner for inner in inner_models(field.annotation) if inner not in {*found, Metadata}]
    return found


def inner_models(annotation):
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in inner_models(part)]


def schemas(root):
    """Every part of the schema, with its path."""
    schema = root.model_json_schema(by_alias=True)
    parts = [(name, part) for name, part in schema["$defs"].items() if name != "Metadata"]
    parts.append(("root", {**schema, "properties": {"spec": schema["properties"]["spec"]}}))
    for path, part in parts:
        yield path, part
        for name, inner in part.get("properties", {}).items():
            parts.append((f"{path}.{name}", inner))
        for number, inner in enumerate(part.get("anyOf", ())):
            parts.append((f"{path}|{number}", inner))
        if "items" in part:
            parts.append((f"{path}[]", part["items"]))
        if isinstance(part.get("additionalProperties"), dict):
            parts.append((f"{path}{{}}", part["additionalProperties"]))


@pytest.mark.parametrize("root", ROOTS)
def test_every_field_explains_itself_in_whole_sentences(root):
    silent = [
        f"{model.__name__}.{name}"
        for model in models(root)
        for name, field in model.model_fields.items()
        if not (field.description or "").strip().endswith((".", ".)"))
    ]

    assert silent == []


@pytest.mark.parametrize("root", ROOTS)
def test_everything_in_the_schema_is_bounded(root):
    bounds = {
        "string": {"maxLength", "enum", "const"},
        "integer": {"maximum"},
        "array": {"maxItems"},
        "object": {"maxProperties", "properties"},
    }

    unbounded = [
        path
        for path, part in schemas(root)
        if part.get("type") in bounds and not bounds[part["type"]] & part.keys()
    ]
    without_a_minimum = [
        path for path, part in schemas(root) if part.get("type") == "integer" and "minimum" not in part
    ]

    assert unbounded == []
    assert without_a_minimum == []


@pytest.mark.parametrize("root", ROOTS)
def test_every_list_says_how_it_is_merged(root):
    lists = [part for _, part in schemas(root) if part.get("type") == "array"]

    assert lists
    assert all("x-kubernetes-list-type" in part for part in lists)


@pytest.mark.parametrize("root", ROOTS)
def test_every_pattern_is_one_that_go_can_read_too(root):
    patterns = {part["pattern"] for _, part in schemas(root) if "pattern" in part} | PATTERNS.keys()

    # RE2 looks neither ahead nor behind, and has no references.
    assert not [pattern for pattern in patterns if re.search(r"\(\?[=!<P]|\\[1-9]", pattern)]
    assert all(pattern.startswith("^") and pattern.endswith("$") for pattern in patterns)


@pytest.mark.parametrize("root", ROOTS)
def test_every_rule_says_in_cel_what_it_says_in_python(root):
    for model in models(root):
        fields = {to_camel(name) for name in model.model_fields}
        for rule in (*model.rules, *model.transitions):
            named = set(re.findall(r"(?:self|oldSelf)\.([A-Za-z]+)", rule.cel))
            assert named <= fields | {"metadata"}, rule.cel
            assert {to_camel(name.partition(".")[0]) for name in rule.blames} <= fields, rule.message
            assert "oldSelf" in rule.cel or rule in model.rules


def test_a_default_that_a_rule_asks_for_is_left_to_the_operator():
    # CEL sees the defaults of the schema as if they had been given, so has() would always hold.
    for model in (*models(PyncetteTask), *models(PyncetteWorkerPool)):
        asked = {name for rule in model.rules for name in re.findall(r"has\(self\.([A-Za-z]+)\)", rule.cel)}
        for name, field in model.model_fields.items():
            assert to_camel(name) not in asked or field.default is None, name


@pytest.mark.parametrize("resource", [task(), pool()])
def test_defaults_of_nested_objects_are_written_out_in_full(resource):
    spec = written(resource)["spec"]

    assert spec.get("workerPoolRef") != {}
    assert spec.get("backendRef") != {}
