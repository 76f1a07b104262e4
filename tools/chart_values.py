"""Makes what describes the values of the chart from values.yaml: their JSON schema, and the table of the chart's README."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

CHART = Path(__file__).resolve().parent.parent / "charts" / "pyncette-operator"

MARK = "@schema"
"""Begins the part of a comment that is no prose, but JSON schema in YAML."""

BEGIN = "<!-- Made from values.yaml by `make generate`. -->"
END = "<!-- The end of what was made. -->"

TYPES = {str: "string", bool: "boolean", int: "integer", list: "array", dict: "object"}

FROM_ABOVE: dict[str, Any] = {
    "global": {
        "description": "What a chart above this one gives to all of its parts; nothing here reads it.",
        "type": "object",
    },
    "enabled": {
        "description": "For the condition of a chart above this one; nothing here reads it.",
        "type": "boolean",
    },
}
"""Values that Helm or its users add when the chart is a part of another, and that a closed schema would refuse."""


class Value(NamedTuple):
    """One value, or a group of them, as values.yaml has it."""

    path: tuple[str, ...]
    default: Any
    description: str
    given: dict[str, Any]
    """What its comment adds to the schema."""
    inner: tuple["Value", ...]

    @property
    def is_open(self) -> bool:
        """Whether it is an object whose fields are not the chart's business but Kubernetes'."""
        return self.given.get("additionalProperties", False) is not False


def values_schema() -> str:
    """Return the JSON schema of the values. It is closed: whatever is not in values.yaml is refused."""
    values = _read()
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$comment": "Made from values.yaml by `make generate`.",
        "type": "object",
        "additionalProperties": False,
        "properties": {value.path[-1]: _schema(value) for value in values} | FROM_ABOVE,
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def chart_readme() -> str:
    """Return the README as it is, with the table of values made anew."""
    text = (CHART / "README.md").read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin, f"README.md of the chart has no place for the table: {BEGIN}"
    assert end, f"README.md of the chart does not say where the table ends: {END}"
    return f"{before}{BEGIN}\n\n{_table()}\n{END}{after}"


# --- Reading ---------------------------------------------------------------------------------------------------------


def _read() -> tuple[Value, ...]:
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    return _values(yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text), text.splitlines())


def _values(
    node: yaml.Node | None, defaults: dict[str, Any], lines: Sequence[str], above: tuple[str, ...] = ()
) -> tuple[Value, ...]:
    assert isinstance(node, yaml.MappingNode)
    found = []
    for key, value in node.value:
        path = (*above, key.value)
        description, given = _comment(key.start_mark.line, lines)
        default = defaults[key.value]
        nested = isinstance(default, dict) and default and not _opens(given)
        inner = _values(value, default, lines, path) if nested else ()
        assert description or inner, f"{'.'.join(path)} has no comment"
        found.append(Value(path, default, description, given, inner))
    return tuple(found)


def _opens(given: dict[str, Any]) -> bool:
    return "additionalProperties" in given


def _comment(line: int, lines: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Return prose and schema of the comment that ends above *line*, which is counted from 0."""
    block: list[str] = []
    while line > 0 and lines[line - 1].lstrip().startswith("#"):
        line -= 1
        block.insert(0, lines[line].lstrip().removeprefix("#").removeprefix(" "))
    prose, _, schema = "\n".join(block).partition(MARK)
    return " ".join(prose.split()), yaml.safe_load(schema) or {}


# --- Schema ----------------------------------------------------------------------------------------------------------


def _schema(value: Value) -> dict[str, Any]:
    schema: dict[str, Any] = {"description": value.description} if value.description else {}
    if "type" not in value.given:
        schema["type"] = TYPES[type(value.default)]
    if value.inner:
        schema["additionalProperties"] = False
        schema["properties"] = {one.path[-1]: _schema(one) for one in value.inner}
    elif isinstance(value.default, dict | list):
        assert _opens(value.given) or "items" in value.given, f"nothing says what {value.path} holds"
    return schema | value.given


# --- Table -----------------------------------------------------------------------------------------------------------


def _table() -> str:
    head = "| value | default | meaning |\n|---|---|---|\n"
    return head + "".join(row for value in _read() for row in _rows(value))


def _rows(value: Value) -> Iterator[str]:
    name = ".".join(value.path)
    if not value.inner:
        yield _row(name, json.dumps(value.default), value.description, value.given)
    for one in value.inner:
        yield from _rows(one)
    items = value.given.get("items", {})
    for field, schema in items.get("properties", {}).items():
        if "description" in schema:
            required = field in items.get("required", ())
            default = "**required**" if required else json.dumps(schema.get("default", []))
            yield _row(f"{name}[].{field}", default, schema["description"], schema)


def _row(name: str, default: str, meaning: str, schema: dict[str, Any]) -> str:
    choices = ", ".join(f"`{choice}`" for choice in schema.get("enum", ()))
    meaning += f" One of {choices}." if choices else ""
    shown = default if default.startswith("**") else f"`{default}`"
    return f"| `{name}` | {_cell(shown)} | {_cell(meaning)} |\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
