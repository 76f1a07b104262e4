"""Python and the API server agree on specs that nobody thought of: what one accepts, the other accepts, and reads the same."""

from typing import Any

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from pyncette.resources.pool import PyncetteWorkerPool
from pyncette.resources.reading import Refusal, read, read_stored
from pyncette.resources.task import PyncetteTask
from tests.apiserver import placed
from tests.resources import manifest
from tests.servers import ApiError
from tools.custom_resources import open_api_schema

EXAMPLES = 300
"""Each is a request of some milliseconds."""

ONLY_THE_OPERATOR_KNOWS = {"InvalidSchedule", "UnknownTimeZone", "ArgumentsTooLarge"}


# --- Specs, most of them nearly right --------------------------------------------------------------------------------


def anything_of(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values for a part of the schema, its edges among them; one in ten is a little off."""
    return st.sampled_from([right_of] * 9 + [wrong_of]).flatmap(lambda values: values(schema))


def right_of(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    match schema:
        case {"enum": known}:
            return st.sampled_from(known)
        case {"type": "boolean"}:
            return st.booleans()
        case {"type": "integer", "minimum": low, "maximum": high}:
            return st.sampled_from([low, high]) | st.integers(low, min(high, 1000))
        case {"format": "date-time"}:
            return st.sampled_from(INSTANTS)
        case {"pattern": pattern}:
            return st.from_regex(pattern, fullmatch=True)
        case {"type": "string", "maxLength": length}:
            return st.text(min_size=1, max_size=12) | st.just("a" * length)
        case {"type": "array", "items": items}:
            return st.lists(anything_of(items), max_size=2)
        case {"properties": fields}:
            return st.fixed_dictionaries(
                {}, optional={name: anything_of(inner) for name, inner in fields.items()}
            )
        case _:
            return st.dictionaries(st.text(max_size=4), JSON, max_size=4)


def wrong_of(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    match schema:
        case {"enum": known}:
            return st.sampled_from(["", known[0].lower()])
        case {"type": "integer", "minimum": low, "maximum": high}:
            return st.sampled_from([low - 1, high + 1, 0.5, "1"])
        case {"format": "date-time"}:
            return st.sampled_from(NOT_INSTANTS)
        case {"type": "string", "maxLength": length}:
            return st.sampled_from(["", "a" * (length + 1), 7, *BLANKS]) | st.text(max_size=6)
        case _:
            return st.sampled_from(["", 7, [], None])


INSTANTS = [
    "2030-01-01T00:00:00Z",
    "2030-01-01T01:00:00+01:00",
    "2030-01-01T00:00:00.000001Z",
    "2029-12-31T23:59:59.999999999Z",
    "2030-01-01T00:00:00+23:59",
    "2030-01-01T00:00:00-00:00",
    "2028-02-29T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "0001-01-01T00:00:00Z",
]

BLANKS = ["a b", "a\tb", "a\x0bb", "a\rb", "a\x1fb", "a\x85b", "a\u00a0b", "a\u2028b", "a\n"]

NOT_INSTANTS = [
    "2030-02-29T00:00:00Z",
    "2030-01-01T24:00:00Z",
    "2030-01-01T00:60:00Z",
    "2030-01-01T00:00:60Z",
    "2030-01-01T00:00:00+24:00",
    "2030-01-01T00:00:00+01:60",
    "2030-01-01T00:00:00",
    "2030-01-01 00:00:00Z",
    "2030-01-01t00:00:00z",
    "2030-01-01T00:00:00.0000000001Z",
    "0000-01-01T00:00:00Z",
]

EXACT = 2**53 - 1
"""Beyond this an integer and a float of JSON are no longer told apart exactly."""

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-EXACT, EXACT) | st.floats(-EXACT, EXACT) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)

TASK = open_api_schema(PyncetteTask)["properties"]["spec"]["properties"]
POOL = open_api_schema(PyncetteWorkerPool)["properties"]["spec"]["properties"]

WHEN = st.sampled_from(
    [
        {"schedule": "0 12 * * *"},
        {"schedule": "@hourly", "timeZone": "Europe/Dublin"},
        {"intervalSeconds": 60},
        {"executeAt": "2030-01-01T00:00:00Z"},
        {"dynamic": True},
        {},
    ]
)


def some_of(properties, least):
    """A spec of *least*, with up to four fields beside it, or instead."""
    names = st.lists(st.sampled_from(sorted(properties)), max_size=4, unique=True)
    fields = names.flatmap(
        lambda chosen: st.fixed_dictionaries({name: anything_of(properties[name]) for name in chosen})
    )
    return st.builds(lambda known, beside: {**known, **beside}, least, fields)


TASK_SPECS = some_of(TASK, WHEN.map(lambda when: {"handler": "send", **when}))
POOL_SPECS = some_of(POOL, st.sampled_from([{"image": "tasks:1", "module": "tasks"}, {"external": True}, {}]))


# --- The properties --------------------------------------------------------------------------------------------------

THOROUGHLY = settings(
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@THOROUGHLY
@given(spec=TASK_SPECS)
def test_a_task_that_one_accepts_the_other_accepts_and_reads_the_same(apiserver, place, spec):
    agree(apiserver, PyncetteTask, placed(manifest(**spec), place))


@THOROUGHLY
@given(spec=POOL_SPECS)
def test_a_pool_that_one_accepts_the_other_accepts_and_reads_the_same(apiserver, place, spec):
    agree(apiserver, PyncetteWorkerPool, placed(manifest("PyncetteWorkerPool", **spec), place))


def agree(apiserver, model, what):
    here = read(model, what)
    there = answer(apiserver, what)

    if isinstance(here, Refusal):
        event("refused" if isinstance(there, ApiError) else "refused by the operator alone")
        assert isinstance(there, ApiError) or all(map(is_the_operators, here.problems)), (what, here)
    else:
        event("accepted")
        assert not isinstance(there, ApiError), (what, str(there))
        assert read_stored(model, there).spec == here.spec


def answer(apiserver, what):
    try:
        return apiserver.admin.create(what, dryRun="All")
    except ApiError as refused:
        return refused


def is_the_operators(problem):
    """What no schema can express, of which each kind is in the tables of the models' tests; and the year 0, of which Go has one."""
    return problem.reason in ONLY_THE_OPERATOR_KNOWS or problem.message.startswith("is not a time: year 0")
