"""Arguments of a manifest against the JSON schema of the handler's arguments, as workers publish it."""

import datetime
import enum
import uuid
from decimal import Decimal

import pydantic
import pytest

from pyncette.app.signatures import arguments_by_signature
from pyncette.resources.argument_problems import (
    PROBLEMS_MAX,
    TEXT_CHARACTERS_MAX,
    ArgumentProblem,
    argument_problems,
    published_argument_problems,
)


class Colour(enum.Enum):
    RED = "red"


class Address(pydantic.BaseModel):
    city: str
    numbers: list[int] = []


async def handler(
    context,
    person_id: int,
    at: datetime.datetime,
    day: datetime.date | None = None,
    key: uuid.UUID | None = None,
    price: Decimal = Decimal(0),
    colour: Colour = Colour.RED,
    address: Address | None = None,
): ...


SCHEMA = arguments_by_signature(handler, all_parameters=True).schema()
VALID = {"person_id": 1, "at": "2030-06-01T12:00:00Z"}


@pytest.mark.parametrize(
    "args",
    [
        {},
        {
            "day": "2030-06-01",
            "key": "12345678-1234-5678-1234-567812345678",
            "price": "1.10",
            "colour": "red",
        },
        {"day": None, "price": 3, "address": {"city": "Cork", "numbers": [1, 2]}},
    ],
)
def test_arguments_that_the_handler_accepts_have_no_problems(args):
    assert argument_problems(SCHEMA, VALID | args) == []
    assert arguments_by_signature(handler, all_parameters=True).stored(VALID | args)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({"person_id": "x"}, "spec.args.person_id: 'x' is not of type 'integer'"),
        ({"at": "soon"}, "spec.args.at: 'soon' is not a 'date-time'"),
        ({"colour": "blue"}, "spec.args.colour: 'blue' is not one of ['red']"),
        ({"persn_id": 3}, "spec.args.persn_id: unknown argument; did you mean person_id?"),
        (
            {"zzz": 3},
            "spec.args.zzz: unknown argument; the handler takes address, at, colour, day, key, person_id, price",
        ),
    ],
)
def test_each_problem_has_its_place_and_says_what_is_wrong(args, expected):
    assert [str(problem) for problem in argument_problems(SCHEMA, VALID | args)] == [expected]


@pytest.mark.parametrize("args", [{"day": "soon"}, {"key": "x"}, {"address": {"city": 3}}])
def test_what_no_alternative_accepts_is_a_problem(args):
    (problem,) = argument_problems(SCHEMA, VALID | args)

    assert problem.path == tuple(args)


def test_missing_arguments_are_named_one_by_one():
    assert argument_problems(SCHEMA, {}) == [
        ArgumentProblem((), "the argument at is missing"),
        ArgumentProblem((), "the argument person_id is missing"),
    ]


def test_the_arguments_of_a_template_may_be_incomplete_but_not_invalid():
    assert argument_problems(SCHEMA, {}, complete=False) == []
    assert [problem.path for problem in argument_problems(SCHEMA, {"at": 3}, complete=False)] == [("at",)]


def test_the_place_of_a_problem_inside_of_an_argument_is_exact():
    async def nested(context, address: Address): ...

    schema = arguments_by_signature(nested, all_parameters=True).schema()
    (problem,) = argument_problems(schema, {"address": {"city": "Cork", "numbers": [1, "x"]}})

    assert str(problem) == "spec.args.address.numbers[1]: 'x' is not of type 'integer'"


@pytest.mark.parametrize("schema", [{"type": 3}, {"properties": []}, {"required": "x"}])
def test_a_schema_that_is_invalid_says_nothing(schema):
    assert argument_problems(schema, {"a": 1}) == []


def test_problems_are_bounded_in_number_and_length():
    schema = {"properties": {str(n): {"type": "integer"} for n in range(100)}}

    problems = argument_problems(schema, {str(n): "x" * 1000 for n in range(100)})

    assert len(problems) == PROBLEMS_MAX
    assert {len(problem.message) for problem in problems} == {TEXT_CHARACTERS_MAX + 1}


# --- Schemas of a hostile database -----------------------------------------------------------------------------------


def doubling(levels):
    """A schema of some lines that applies its last rule 2 ** *levels* times."""
    rules = {f"r{level}": {"allOf": [{"$ref": f"#/$defs/r{level + 1}"}] * 2} for level in range(levels)}
    return {"$ref": "#/$defs/r0", "$defs": {**rules, f"r{levels}": {"type": "object"}}}


def nested(levels):
    return b'{"not":' * levels + b"{}" + b"}" * levels


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "schema",
    [
        pytest.param(doubling(60), id="doubling"),
        pytest.param({"$ref": "#"}, id="itself"),
        pytest.param({"$ref": "#/$defs/gone"}, id="gone"),
        pytest.param({"$id": "::::", "$ref": "//["}, id="not-a-url"),
        pytest.param(
            {"properties": {"text": {"type": "string", "pattern": "^(a+)+$"}}}, id="a-regular-expression"
        ),
        pytest.param({"patternProperties": {"^(t|t)+x$": {"type": "integer"}}}, id="a-pattern-of-names"),
        pytest.param({"properties": {"number": {"multipleOf": 1e-320}}}, id="an-overflow"),
        pytest.param({"anyOf": [{"type": "array"}] * 5_000}, id="many-rules"),
    ],
)
def test_a_hostile_schema_takes_no_time_and_has_no_problems(schema):
    args = {"text": "a" * 50 + "!", "t" * 60: 1, "number": 1e308}

    found = argument_problems(schema, args)

    assert all("spec.args" in str(problem) for problem in found)
    assert len(str(found)) < 5_000


@pytest.mark.parametrize("schema", [b"", b"{", b"7", b"null", b"\xff", nested(5_000)])
def test_a_text_that_is_no_schema_has_no_problems(schema):
    assert published_argument_problems(schema, VALID) == []


def test_a_schema_elsewhere_is_not_fetched(monkeypatch):
    def connect(*_args):
        raise AssertionError("a schema was fetched")

    monkeypatch.setattr("socket.socket.connect", connect)
    monkeypatch.setattr("socket.getaddrinfo", connect)

    for reference in ("http://127.0.0.1:1/schema", "file:///etc/passwd", "https://json-schema.org/other"):
        assert argument_problems({"$ref": reference}, VALID) == []
