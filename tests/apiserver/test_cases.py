"""What the models accept and refuse, the API server accepts and refuses, and says the same of it."""

import json
from typing import Any, NamedTuple

import pytest
from pydantic.alias_generators import to_camel

from pyncette.resources.pool import PoolSpec, PyncetteWorkerPool
from pyncette.resources.reading import read, read_stored
from pyncette.resources.task import PyncetteTask, RetryPolicy, TaskSpec
from tests.apiserver import placed
from tests.resources import manifest, problems, test_pool, test_task
from tests.servers import ApiError

ONLY_THE_OPERATOR_KNOWS = {
    "a cron expression with too few fields",
    "a cron expression out of range",
    "a cron expression with a wrong name",
    "a random cron expression",
    "an impossible cron expression",
    "a rule for a zone",
    "an instant before all others",
    "arguments that are too large",
}
"""Refused by the operator and by `pyncette check`, as no schema can express it. A task is Stalled, then."""


def as_json(spec: Any) -> Any:
    """The spec as it travels, or None if JSON cannot say it."""
    try:
        return json.loads(json.dumps(spec, allow_nan=False))
    except (TypeError, ValueError):
        return None


class Case(NamedTuple):
    model: Any
    spec: Any
    message: str = ""


ACCEPTED = {
    **{name: Case(PyncetteTask, spec) for name, spec in test_task.ACCEPTED.items()},
    **{name: Case(PyncetteWorkerPool, spec) for name, spec in test_pool.ACCEPTED.items()},
}
REFUSED = {
    name: Case(model, spec, message)
    for model, table in ((PyncetteTask, test_task.REFUSED), (PyncetteWorkerPool, test_pool.REFUSED))
    for name, (spec, message) in table.items()
    if as_json(spec) is not None
}


def given(case, namespace):
    return placed(manifest(kind=case.model.__name__, **case.spec), namespace)


def cases(table, *, but=()):
    chosen = {name: case for name, case in table.items() if name not in but}
    return pytest.mark.parametrize("case", chosen.values(), ids=chosen)


def asked(apiserver, what):
    return apiserver.admin.create(what, dryRun="All")


@cases(ACCEPTED)
def test_what_may_be_said_is_accepted_and_kept_as_it_is_meant(apiserver, place, case):
    stored = asked(apiserver, given(case, place))

    assert read_stored(case.model, stored).spec == read(case.model, given(case, place)).spec


@cases(REFUSED, but=ONLY_THE_OPERATOR_KNOWS)
def test_what_may_not_be_said_is_refused_at_the_same_place(apiserver, place, case):
    with pytest.raises(ApiError) as refused:
        asked(apiserver, given(case, place))

    assert refused.value.status in {400, 422}, refused.value
    [told] = problems(case.model, as_json(given(case, place)))
    path = told.partition(":")[0]
    assert any(is_at_or_within(path, field) for field in fields_named(refused.value)) or (
        # A rule is told of all that it spans, and Python points at the field of it that was given.
        is_of_a_rule(case) and is_at_or_within(fields_named(refused.value)[0], path)
    ), refused.value.message


def is_at_or_within(path, field):
    """Where there is to be no object, Python names the place, and the API server what is in it."""
    return f"{field}.".startswith((f"{path}.", f"{path}["))


def fields_named(error):
    if error.status == 422:
        return [field for field, _ in error.causes]
    # What a strict decoder refuses has no causes: strict decoding error: unknown field "spec.handeler", …
    return error.message.split('"')[1::2]


RULES = [rule for model in (TaskSpec, RetryPolicy, PoolSpec) for rule in model.rules]


def is_of_a_rule(case):
    return any(rule.message in case.message for rule in RULES)


@cases({name: case for name, case in REFUSED.items() if is_of_a_rule(case)})
def test_a_rule_across_fields_is_reported_in_the_same_words(apiserver, place, case):
    with pytest.raises(ApiError) as refused:
        asked(apiserver, given(case, place))

    [rule] = [rule for rule in RULES if rule.message in case.message]
    assert refused.value.status == 422
    assert rule.message in refused.value.message
    if len(rule.blames) == 1:
        assert f"spec.{to_camel(rule.blames[0])}" in fields_named(refused.value)


@cases({name: REFUSED[name] for name in sorted(ONLY_THE_OPERATOR_KNOWS)})
def test_what_no_schema_can_express_is_left_to_the_operator(apiserver, place, case):
    assert asked(apiserver, given(case, place))


def test_a_pool_whose_name_is_no_label_is_refused_in_the_same_words(apiserver, place):
    long = placed(manifest("PyncetteWorkerPool", "a" * 64, **test_pool.WHOLE), place)

    with pytest.raises(ApiError) as refused:
        asked(apiserver, long)

    [rule] = PyncetteWorkerPool.rules
    assert rule.message in refused.value.message


def test_all_problems_are_reported_at_once(apiserver, place):
    spec = {"handler": "", "intervalSeconds": 0, "suspend": "yes", "timeZone": "europe", "args": []}

    with pytest.raises(ApiError) as refused:
        asked(apiserver, placed(manifest(**spec), place))

    assert {field for field, _ in refused.value.causes} >= {f"spec.{name}" for name in spec}
