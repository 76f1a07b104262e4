"""
Reads YAML as kubectl does, into the JSON that an API server would get, and remembers where each value stood.

kubectl turns YAML 1.1 into JSON by its own rules: bare words such as `no` and `on` are booleans, `012` is octal, but
`12:30` and dates stay text, and keys that are no text become it. What it passes over in silence, and what then goes
wrong elsewhere (a field written twice, a tag), is a fault here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import isfinite, nan
from typing import Any, Final, NamedTuple, TypeAlias

import yaml

JsonPath: TypeAlias = tuple[str | int, ...]

NODES_MAX: Final = 200_000
"""Values of one document, each alias counted with all that it stands for: a few lines of aliases can mean billions."""

NESTING_MAX: Final = 100
"""Lists and mappings within each other. A parser in C that recurses ends the whole process some way above."""

_DEEP: Final = f"more than {NESTING_MAX} lists and mappings within each other"

_BOOLEANS: Final = {
    word: value
    for value, spellings in ((True, ("y", "yes", "true", "on")), (False, ("n", "no", "false", "off")))
    for spelling in spellings
    for word in (spelling, spelling.capitalize(), spelling.upper())
}
_NULLS: Final = dict.fromkeys(("", "~", "null", "Null", "NULL"))
_NOT_FINITE: Final = dict.fromkeys(
    (".nan", ".NaN", ".NAN", *(sign + word for sign in ("", "+", "-") for word in (".inf", ".Inf", ".INF"))),
    nan,
)
_WORDS: Final[dict[str, Any]] = {**_BOOLEANS, **_NULLS, **_NOT_FINITE}

_INTEGER = re.compile(
    r"([-+]?)(?:0[bB](?P<b>[01]+)|0[xX](?P<x>[0-9a-fA-F]+)|0[oO]?(?P<o>[0-7]+)|(?P<d>0|[1-9][0-9]*))",
    re.ASCII,
)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_BASES: Final = {"b": 2, "x": 16, "o": 8, "d": 10}

_SEPARATOR = re.compile(r"---\s*(#.*)?", re.ASCII)

INTEGER_MIN: Final = -(2**63)
INTEGER_MAX: Final = 2**63 - 1
"""An API server reads integers of 64 bits; beyond them a number is a float."""


class Spot(NamedTuple):
    """A position in a file, both numbers counted from 1."""

    line: int
    column: int


class Fault(NamedTuple):
    """Something that cannot be read."""

    spot: Spot
    message: str


class Document(NamedTuple):
    """One document of a file, as JSON, with the positions of its parts."""

    value: Any
    """Where there is a fault, null."""
    spot: Spot
    faults: tuple[Fault, ...]
    names: dict[JsonPath, Spot]
    """Where the name of each field stands."""
    values: dict[JsonPath, Spot]
    """Where each value begins; a list or a mapping does so at its name, not at the first thing in it."""
    odd: dict[JsonPath, str]
    """Bare words that look like text, or like decimal numbers, and are neither."""

    def spot_of(self, path: JsonPath) -> Spot:
        """Return where the value at *path* stands, or what should have held it."""
        while path and path not in self.values:
            path = path[:-1]
        return self.values.get(path, self.spot)

    def spot_of_name(self, path: JsonPath) -> Spot:
        """Return where the name of the field at *path* stands."""
        return self.names.get(path) or self.spot_of(path)


def documents(text: str) -> Iterator[Document | Fault]:
    """Yield each document of *text* that is not empty, and the fault of each that is no YAML."""
    for first_line, part in _parts(text):
        document = _document(first_line, part)
        if document is not None:
            yield document


def _parts(text: str) -> Iterator[tuple[int, str]]:
    """Yield the documents with the numbers of their first lines: they are told apart before anything is parsed."""
    first_line, lines = 1, list[str]()
    for number, line in enumerate(text.split("\n"), 1):
        if _SEPARATOR.fullmatch(line.rstrip()):
            yield first_line, "\n".join([*lines, ""])
            first_line, lines = number + 1, []
        else:
            lines.append(line)
    yield first_line, "\n".join(lines)


def _document(first_line: int, part: str) -> Document | Fault | None:
    try:
        too_deep = _too_deep(part, first_line)
        if too_deep is not None:
            return too_deep
        node = yaml.compose(part, Loader=_Loader)
        return None if node is None else _Conversion(first_line).of(node)
    except yaml.MarkedYAMLError as error:
        return _syntax_fault(error, part, first_line)
    except yaml.reader.ReaderError as error:
        return _character_fault(error, part, first_line)


def _too_deep(part: str, first_line: int) -> Fault | None:
    depth = 0
    for event in yaml.parse(part, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > NESTING_MAX:
                return Fault(_spot(event.start_mark, first_line), f"has {_DEEP}")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return None


def _syntax_fault(error: yaml.MarkedYAMLError, part: str, first_line: int) -> Fault:
    mark = error.problem_mark or error.context_mark
    line = part.split("\n")[mark.line] if mark is not None and mark.line <= part.count("\n") else ""
    spot = _spot(mark, first_line)
    value = _UNQUOTED.search(line)
    if error.context == "while scanning an alias" and value is not None:
        spot = spot._replace(column=value.start(1) + 1)
        quoted = value[1].rstrip().replace('"', "'")
        return Fault(spot, f'is not YAML: a value that begins with * needs quotes: "{quoted}"')
    if _TAB.match(line):
        return Fault(spot, "is not YAML: the line is indented with a tab; use spaces")
    what = ", ".join(text for text in (error.context, error.problem) if text)
    return Fault(spot, f"is not YAML: {what}")


_UNQUOTED: Final = re.compile(r"[:-][ \t]+(\*.*?)(?:\s#.*)?$")
"""A value that begins with an asterisk, which YAML takes for an alias: `schedule: * * * * *`."""

_TAB: Final = re.compile(r"[ -]*\t")
"""The beginning of a line that is indented with a tab, which YAML does not allow."""


def _character_fault(error: yaml.reader.ReaderError, part: str, first_line: int) -> Fault:
    code = error.character if isinstance(error.character, int) else ord(error.character)
    before = part.partition(chr(code))[0].split("\n")
    spot = Spot(first_line + len(before) - 1, len(before[-1]) + 1)
    return Fault(spot, f"is not YAML: the character U+{code:04X} is not allowed")


try:
    from yaml import CSafeLoader as _SafeLoader  # ten times as fast
except ImportError:  # a PyYAML that was built without libyaml
    from yaml import SafeLoader as _SafeLoader  # type: ignore[assignment]


class _Loader(_SafeLoader):
    """Composes nodes, and constructs nothing: a tag names a type here, never code."""

    def resolve(self, kind: type[yaml.Node], _value: Any, implicit: Any) -> str:
        """Return the tag of what has none: whether a scalar is bare, and so may be more than text, or quoted."""
        if kind is yaml.ScalarNode:
            return BARE if implicit[0] else TEXT
        return MAPPING if kind is yaml.MappingNode else SEQUENCE


BARE: Final = "bare"
TEXT: Final = "tag:yaml.org,2002:str"
MAPPING: Final = "tag:yaml.org,2002:map"
SEQUENCE: Final = "tag:yaml.org,2002:seq"

_TAGS: Final[dict[str, tuple[type, ...]]] = {
    "tag:yaml.org,2002:int": (int,),
    "tag:yaml.org,2002:float": (int, float),
    "tag:yaml.org,2002:bool": (bool,),
    "tag:yaml.org,2002:null": (type(None),),
}


def bare(word: str) -> Any:
    """Return what *word*, without quotes and without a tag, is in JSON; NaN for a number that JSON has not."""
    if word in _WORDS:
        return _WORDS[word]
    if word[0] not in "+-.0123456789":
        return word
    digits = word.replace("_", "") if word[0] != "." else word
    integer = _INTEGER.fullmatch(digits)
    if integer is not None:
        name = str(integer.lastgroup)
        number = int(integer[1] + integer[name], _BASES[name])
        return number if INTEGER_MIN <= number <= INTEGER_MAX else float(number)
    if _FLOAT.fullmatch(digits) is not None and isfinite(float(digits)):
        return _as_json(float(digits))
    return word


def _as_json(number: float) -> float | int:
    """Return the number as JSON brings it to the other side: 60.0 is written as 60."""
    return int(number) if number.is_integer() and INTEGER_MIN <= number <= INTEGER_MAX else number


class _Conversion:
    """The way of one document from nodes to JSON."""

    def __init__(self, first_line: int) -> None:
        self._first_line = first_line
        self._faults: list[Fault] = []
        self._names: dict[JsonPath, Spot] = {}
        self._values: dict[JsonPath, Spot] = {}
        self._odd: dict[JsonPath, str] = {}
        self._above: set[int] = set()
        self._nodes = 0

    def of(self, root: yaml.Node) -> Document:
        value = self._value(root, ())
        return Document(value, self._spot(root), tuple(self._faults), self._names, self._values, self._odd)

    def _value(self, node: yaml.Node, path: JsonPath) -> Any:
        self._values[path] = self._spot(node)
        self._nodes += 1
        if self._nodes > NODES_MAX:
            return self._once_only(node, f"has more than {NODES_MAX:,} values once its aliases are expanded")
        if id(node) in self._above:
            return self._fault(node, "an alias refers to itself")
        if len(self._above) >= NESTING_MAX:
            return self._fault(node, f"its aliases make {_DEEP}")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        self._above.add(id(node))
        try:
            return (
                self._mapping(node, path)
                if isinstance(node, yaml.MappingNode)
                else self._sequence(node, path)
            )
        finally:
            self._above.discard(id(node))

    def _scalar(self, node: yaml.ScalarNode, path: JsonPath) -> Any:
        word = str(node.value)
        if node.tag in {TEXT, "tag:yaml.org,2002:timestamp"}:
            return word
        value = bare(word)
        if isinstance(value, float) and not isfinite(value):
            return self._fault(node, f"JSON has no number {word}; quote it if it is text")
        if node.tag == BARE:
            if _is_odd(word, value):
                self._odd[path] = word
            return value
        if node.tag not in _TAGS:
            return self._fault(node, f"the tag {node.tag} is not used in manifests: remove it")
        if not isinstance(value, _TAGS[node.tag]) or (
            isinstance(value, bool) and bool not in _TAGS[node.tag]
        ):
            return self._fault(
                node, f"{word!r} is not of the type that its tag !!{node.tag.rpartition(':')[2]} names"
            )
        return value

    def _sequence(self, node: yaml.Node, path: JsonPath) -> Any:
        if node.tag != SEQUENCE:
            return self._fault(node, f"the tag {node.tag} is not used in manifests: remove it")
        return [self._value(item, (*path, index)) for index, item in enumerate(node.value)]

    def _mapping(self, node: yaml.MappingNode, path: JsonPath) -> Any:
        if node.tag != MAPPING:
            return self._fault(node, f"the tag {node.tag} is not used in manifests: remove it")
        inherited = self._inherited(node, path)
        own: dict[str, Any] = {}
        for name_node, value_node in node.value:
            name = None if _is_merge(name_node) else self._name(name_node)
            if name is None:
                continue
            if name in own:
                line = self._names[*path, name].line
                self._fault(
                    name_node, f'the field "{name}" is duplicate, first used in line {line}: keep one'
                )
                continue
            self._names[*path, name] = self._spot(name_node)
            own[name] = self._value(value_node, (*path, name))
            if not isinstance(value_node, yaml.ScalarNode):
                self._values[*path, name] = self._names[*path, name]
        return inherited | own

    def _inherited(self, node: yaml.MappingNode, path: JsonPath) -> dict[str, Any]:
        """Return what << brings in from other mappings, of which the first counts."""
        inherited: dict[str, Any] = {}
        for name_node, value_node in node.value:
            if _is_merge(name_node):
                others = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                for other in reversed(others):
                    if isinstance(other, yaml.MappingNode):
                        inherited |= self._value(other, path) or {}
                    else:
                        self._fault(other, "<< takes a mapping, or a list of mappings")
        self._values[path] = self._spot(node)
        return inherited

    def _name(self, node: yaml.Node) -> str | None:
        """Return the name of a field, which may have been no text; None after a fault."""
        if not isinstance(node, yaml.ScalarNode):
            self._fault(node, "the name of a field must be text, not a list or a mapping")
            return None
        value = bare(node.value) if node.tag == BARE else node.value
        if value is None:
            self._fault(node, "the name of a field is empty: quote it if it is text")
            return None
        if isinstance(value, bool):
            return "true" if value else "false"
        return (
            value if isinstance(value, str) else f"{value:.15g}" if isinstance(value, float) else str(value)
        )

    def _once_only(self, node: yaml.Node, message: str) -> None:
        if self._nodes == NODES_MAX + 1:
            self._fault(node, message)

    def _fault(self, node: yaml.Node, message: str) -> None:
        self._faults.append(Fault(self._spot(node), message))

    def _spot(self, node: yaml.Node) -> Spot:
        return _spot(node.start_mark, self._first_line)


def _spot(mark: Any, first_line: int) -> Spot:
    """Return where a mark is in its file: PyYAML counts from 0, within the part that it was given."""
    return Spot(first_line, 1) if mark is None else Spot(first_line + mark.line, mark.column + 1)


def _is_merge(name: yaml.Node) -> bool:
    return name.tag == BARE and name.value == "<<"


def _is_odd(word: str, value: Any) -> bool:
    if isinstance(value, bool):
        return word.lower() not in {"true", "false"}
    return (
        isinstance(value, int)
        and word.lstrip("+-")[:1] == "0"
        and word.isdecimal()
        and len(word) > 1
        and value > 7
    )
