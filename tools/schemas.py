"""Reads the JSON schemas that pydantic makes of the models, as those need it who make something of them."""

from typing import Any, TypeAlias

Schema: TypeAlias = dict[str, Any]


def resolved(field: Schema, types: Schema) -> Schema:
    """Return *field* with what it refers to, and without the null that a manifest can leave out as well."""
    around = {key: value for key, value in field.items() if key not in ("anyOf", "$ref")}
    for choice in field.get("anyOf", [field]):
        if choice.get("type") != "null":
            reference = choice.get("$ref", "").rpartition("/")[2]
            return {**(types[reference] if reference else choice), **around}
    raise AssertionError(field)
