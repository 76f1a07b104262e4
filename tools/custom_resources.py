"""Makes the CustomResourceDefinitions from the models: what the API server checks, fills in, shows and explains."""

import json
from collections.abc import Iterator
from typing import Any, Final

import yaml
from pydantic.alias_generators import to_camel

from pyncette.resources.modelling import COUNT_MAX, INT32_MAX, Model, Rule, Transition
from pyncette.resources.pool import PyncetteWorkerPool
from pyncette.resources.resource import GROUP, VERSION, Column, Resource
from pyncette.resources.task import PyncetteTask
from tools.schemas import Schema, resolved

RESOURCES: Final[tuple[type[Resource], ...]] = (PyncetteTask, PyncetteWorkerPool)

CATEGORY: Final = "pyncette"
"""`kubectl get pyncette` shows both kinds."""

HEAD: Final = "# Made from the models by `make generate`.\n"

KEPT: Final = (
    "type",
    "format",
    "enum",
    "nullable",
    "default",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "pattern",
    "minItems",
    "maxItems",
    "maxProperties",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-preserve-unknown-fields",
)
"""What the API server's schemas have in common with pydantic's, in the order in which it is written."""

LINE: Final = 110
"""Characters of a line of YAML; a longer text is folded."""


def documents() -> dict[str, str]:
    """Return the file of each CRD, by its plural."""
    return {resource.plural: document(resource) for resource in RESOURCES}


def document(resource: type[Resource]) -> str:
    """Return the file of a CRD."""
    return HEAD + _yaml(custom_resource_definition(resource))


def kustomization() -> str:
    """
    Return the file that makes a folder of CRDs one for `kubectl apply -k`.

    Kustomize finds it by the name Kustomization. That name has no extension, so `kubectl apply -f` passes it over.
    """
    return HEAD + _yaml(
        {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [f"{resource.plural}.yaml" for resource in RESOURCES],
        }
    )


def custom_resource_definition(resource: type[Resource]) -> dict[str, Any]:
    """Return the CRD of a resource, as JSON."""
    kind = resource.__name__
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{resource.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": resource.plural,
                "singular": kind.lower(),
                "shortNames": [resource.short_name],
                "categories": [CATEGORY],
            },
            "versions": [_version(resource)],
        },
    }


def _version(resource: type[Resource]) -> dict[str, Any]:
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}, **_scale(resource)},
        "additionalPrinterColumns": [_column(column) for column in resource.columns],
        "selectableFields": [{"jsonPath": path} for path in resource.selectable],
        "schema": {"openAPIV3Schema": open_api_schema(resource)},
    }


def _scale(resource: type[Resource]) -> dict[str, Any]:
    if resource.scale is None:
        return {}
    wanted, running, selector = resource.scale
    return {
        "scale": {
            "specReplicasPath": wanted,
            "statusReplicasPath": running,
            "labelSelectorPath": selector,
        }
    }


def _column(column: Column) -> dict[str, Any]:
    shown = {"name": column.name, "type": column.type, "jsonPath": column.path}
    return {**shown, "priority": 1} if column.wide else shown


# --- The schema ------------------------------------------------------------------------------------------------------


def open_api_schema(resource: type[Resource]) -> Schema:
    """Return the structural schema of a resource: all in one piece, with its rules where their models are."""
    given = resource.model_json_schema(by_alias=True, mode="serialization")
    types = given.pop("$defs")
    fields = given.pop("properties")
    return {
        "type": "object",
        "description": _prose(given["description"]),
        "properties": {
            "apiVersion": _plain(fields["apiVersion"]),
            "kind": _plain(fields["kind"]),
            # Kubernetes' own: its schema is not ours to give.
            "metadata": {"type": "object"},
            "spec": _structural(fields["spec"], types, manual=True),
            "status": _structural(fields["status"], types),
        },
        "required": ["spec"],
        **_validations(resource),
    }


def _plain(field: Schema) -> Schema:
    return {"type": "string", "description": _prose(field["description"])}


def _structural(given: Schema, types: Schema, *, manual: bool = False) -> Schema:
    """Return a part of the schema; of a *manual*, the text of each field tells its default and bounds as well."""
    field = resolved(given, types)
    schema: Schema = {}
    if "description" in field:
        schema["description"] = _prose(field["description"]) + (_particulars(field) if manual else "")
    schema |= {key: _without_nulls(field[key]) for key in KEPT if field.get(key) is not None}
    if field.get("type") == "integer":
        schema["format"] = "int32" if field["maximum"] <= INT32_MAX else "int64"
    if "items" in field:
        schema["items"] = _structural(field["items"], types, manual=manual)
    if isinstance(field.get("additionalProperties"), dict):
        schema["additionalProperties"] = _structural(field["additionalProperties"], types)
    if "properties" in field:
        schema["properties"] = {
            name: _structural(inner, types, manual=manual) for name, inner in field["properties"].items()
        }
        if "required" in field:
            schema["required"] = field["required"]
        schema |= _validations(MODELS[field["title"]])
    return schema


def _without_nulls(value: Any) -> Any:
    """Return a default as it is stored: what was not given is not there."""
    match value:
        case dict():
            return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
        case list():
            return [_without_nulls(inner) for inner in value]
        case _:
            return value


def _models(root: type[Model]) -> Iterator[type[Model]]:
    for model in root.__subclasses__():
        yield model
        yield from _models(model)


MODELS: Final = {model.__name__: model for model in _models(Model)}
"""By the titles of their schemas."""


# --- Rules -----------------------------------------------------------------------------------------------------------


def _validations(model: type[Model]) -> Schema:
    rules = [*map(_validation, model.rules), *map(_validation, model.transitions)]
    return {"x-kubernetes-validations": rules} if rules else {}


def _validation(rule: Rule | Transition) -> dict[str, str]:
    """Return a rule, which points at a field where it blames one alone: the API server does not look which was given."""
    checked = {"rule": rule.cel, "message": rule.message}
    if len(rule.blames) == 1 and "." not in rule.blames[0]:
        checked["fieldPath"] = f".{to_camel(rule.blames[0])}"
    return checked


# --- Texts -----------------------------------------------------------------------------------------------------------


def _prose(text: str) -> str:
    """Return a docstring without its line breaks, but with its paragraphs."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _particulars(field: Schema) -> str:
    """Return what `kubectl explain` does not show by itself."""
    told = ""
    if field.get("type") == "integer" and field["maximum"] < COUNT_MAX:
        told += f" From {field['minimum']} to {field['maximum']}."
    if isinstance(field.get("default"), str | int):
        told += f" Default: {_value(field['default'])}."
    if field.get("examples"):
        told += f" Example: {field['examples'][0]}"
    return told


def _value(value: str | int) -> str:
    return value if isinstance(value, str) else json.dumps(value)


class _Dumper(yaml.SafeDumper):
    """Writes each value where it belongs, also if it is there twice, and lists as people indent them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        is_text = len(data) > LINE - 30 and " " in data
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=">" if is_text else None)

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        return super().increase_indent(flow, indentless=False)


_Dumper.add_representer(str, _Dumper.represent_str)


def _yaml(content: dict[str, Any]) -> str:
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=LINE)
