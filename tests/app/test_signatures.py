"""Arguments by the signature of a handler: validated, stored as JSON, and passed with their types."""

import datetime
import enum
import functools
import subprocess
import sys
import uuid
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic
import pytest

from pyncette import Context, Pyncette
from pyncette.errors import InvalidArgumentsError
from pyncette.task import Task
from pyncette.utils import with_heartbeat
from tests.app.harness import NOON, at, running, seconds

if TYPE_CHECKING:
    from somewhere import Unknown

AN_ID = uuid.UUID("12345678-1234-5678-1234-567812345678")


class Colour(enum.Enum):
    RED = "red"


class Address(pydantic.BaseModel):
    city: str
    since: datetime.date = pydantic.Field(alias="from")


@pytest.fixture
def safe(memory):
    return Pyncette(memory, defaults="safe")


# --- What is stored, and what comes back ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hint", "value", "stored"),
    [
        (int, 3, 3),
        (str, "ada", "ada"),
        (bool, True, True),
        (float, 1.5, 1.5),
        (int | None, None, None),
        (list[int], [1, 2], [1, 2]),
        (tuple[int, str], (1, "a"), [1, "a"]),
        (set[int], {1}, [1]),
        (dict[str, datetime.date], {"a": datetime.date(2030, 1, 2)}, {"a": "2030-01-02"}),
        (Literal["a", "b"], "a", "a"),
        (Annotated[int, pydantic.Field(gt=0)], 1, 1),
        (datetime.datetime, datetime.datetime(2030, 6, 1, 12, tzinfo=datetime.UTC), "2030-06-01T12:00:00Z"),
        (datetime.datetime, datetime.datetime(2030, 6, 1, 12, 0, 0, 1), "2030-06-01T12:00:00.000001"),  # noqa: DTZ001 - without a zone
        (datetime.date, datetime.date(2030, 6, 1), "2030-06-01"),
        (datetime.timedelta, datetime.timedelta(minutes=5), "PT5M"),
        (uuid.UUID, AN_ID, str(AN_ID)),
        (Decimal, Decimal("1.10"), "1.10"),
        (Colour, Colour.RED, "red"),
        (
            Address,
            Address(**{"city": "Cork", "from": datetime.date(2030, 1, 2)}),
            {"city": "Cork", "from": "2030-01-02"},
        ),
        (list[Address], [], []),
        (Any, {"a": [1, None]}, {"a": [1, None]}),
    ],
)
@pytest.mark.parametrize("form", ["value", "json"])
async def test_an_argument_is_stored_as_json_and_comes_back_with_its_type(
    safe, clock, hint, value, stored, form
):
    seen = []

    @safe.dynamic_task()
    async def remind(context, given: hint):
        seen.append((given, context.args))

    async with running(safe, clock) as app_context:
        args = {"given": value if form == "value" else stored}
        instance = await app_context.schedule_task(remind, "ada", execute_at=at(1), args=args)
        await clock.advance(seconds(1))

    assert instance.extra_args == {"given": stored}
    assert seen == [(value, {"given": stored})]
    assert type(seen[0][0]) is type(value)


async def test_missing_arguments_come_from_the_template_and_then_from_the_signature(safe, clock):
    seen = []

    @safe.dynamic_task(args={"day": datetime.date(2030, 1, 2)})
    async def remind(context, person_id: int, day: datetime.date, *, greeting: str = "hello"):
        seen.append((person_id, day, greeting))

    async with running(safe, clock) as app_context:
        await app_context.schedule_task(remind, "ada", execute_at=at(1), args={"person_id": 1})
        items = [("bob", {"execute_at": at(2), "args": {"person_id": 2, "greeting": "hi"}})]
        assert [r.error async for r in app_context.schedule_many(remind, items)] == [None]
        await clock.advance(seconds(2))

    assert seen == [(1, datetime.date(2030, 1, 2), "hello"), (2, datetime.date(2030, 1, 2), "hi")]


async def test_a_static_task_gets_its_arguments_with_their_types(safe, clock):
    seen = []

    @safe.task(interval=seconds(1), args={"day": datetime.date(2030, 1, 2)})
    async def report(context, day: datetime.date):
        seen.append(day)

    async with running(safe, clock):
        await clock.advance(seconds(1))

    assert seen == [datetime.date(2030, 1, 2)]


async def test_middlewares_see_plain_arguments_and_decorators_get_those_of_the_handler(safe, clock):
    seen = []

    @safe.middleware
    async def note(context, following):
        seen.append(context.args)
        await following()

    def decorated(handler):
        @functools.wraps(handler)
        async def wrapper(*args, **kwargs):
            seen.append("decorator")
            await handler(*args, **kwargs)

        return wrapper

    @safe.task(interval=seconds(1), args={"number": "3"})
    @with_heartbeat()
    @decorated
    async def report(context, number: int):
        seen.append(number)

    async with running(safe, clock):
        await clock.advance(seconds(1))

    assert seen == [{"number": 3}, "decorator", 3]


async def test_a_task_can_be_called_with_arguments_like_its_handler(safe):
    seen = []

    @safe.dynamic_task()
    async def remind(context, person_id: int):
        seen.append((context, person_id))

    await remind("a context", person_id=3)
    await remind("a context", 4)

    assert seen == [("a context", 3), ("a context", 4)]


# --- What is refused where it is scheduled -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"person_id": "x"}, "the argument person_id is invalid: input should be a valid integer"),
        ({"person_id": "x"}, "not 'x'"),
        ({}, "the argument person_id is missing"),
        ({"persn_id": 1}, "unknown argument persn_id; did you mean person_id?"),
        ({"person_id": 1, "zzz": 1}, "unknown argument zzz; the handler takes at, person_id"),
        ({"person_id": 1, "at": "soon"}, "the argument at is invalid: "),
        ({"person_id": "y" * 100}, "y…"),
    ],
)
async def test_an_argument_that_does_not_validate_is_refused_where_it_is_scheduled(
    safe, clock, args, message
):
    @safe.dynamic_task()
    async def remind(context, person_id: int, at: datetime.datetime | None = None): ...

    async with safe.create(clock=clock) as app_context:
        with pytest.raises(InvalidArgumentsError) as error:
            await app_context.schedule_task(remind, "ada", execute_at=NOON, args=args)
        items = [("ada", {"execute_at": NOON, "args": args})]
        (result,) = [result async for result in app_context.schedule_many(remind, items)]
        assert await app_context.get_task(remind, "ada") is None

    assert message in str(error.value)
    assert isinstance(error.value, ValueError)
    assert str(result.error) == str(error.value)


def test_a_value_without_a_json_form_is_refused(safe):
    async def remind(context, anything: Any): ...

    with pytest.raises(InvalidArgumentsError, match=r"an argument has no JSON form: .*object"):
        safe.dynamic_task(args={"anything": object()})(remind)


def test_a_secret_is_refused_rather_than_stored_as_asterisks(safe):
    class Account(pydantic.BaseModel):
        password: pydantic.SecretStr

    @safe.dynamic_task()
    async def remind(context, key: pydantic.SecretStr | None = None, account: Account | None = None):
        pass

    for args in ({"key": "hunter2"}, {"account": {"password": "hunter2"}}):
        with pytest.raises(InvalidArgumentsError, match="pass a reference to it") as refused:
            remind.instantiate("ada", interval=seconds(1), args=args)
        assert "hunter2" not in str(refused.value)


def test_the_arguments_of_a_static_task_are_checked_at_its_declaration(safe):
    async def report(context, day: datetime.date): ...

    with pytest.raises(InvalidArgumentsError, match="the argument day is missing"):
        safe.task(interval=seconds(1))(report)
    with pytest.raises(InvalidArgumentsError, match="the argument day is invalid"):
        safe.task(interval=seconds(1), args={"day": "soon"})(report)


def test_the_arguments_of_a_template_may_be_incomplete_but_not_invalid(safe):
    async def report(context, day: datetime.date, hour: int): ...

    with pytest.raises(InvalidArgumentsError, match="the argument day is invalid"):
        safe.dynamic_task(args={"day": "soon"})(report)


# --- What is refused at declaration --------------------------------------------------------------------------------------


def test_a_hint_that_cannot_be_resolved_is_refused_by_name(safe):
    async def remind(context: "Unknown", person: "Unknown"): ...

    with pytest.raises(ValueError, match="'Unknown' of the parameter person of the handler remind cannot be"):
        safe.dynamic_task()(remind)


def test_a_type_without_a_json_form_is_refused_by_name(safe):
    class Connection: ...

    async def remind(context, number: int, connection: Connection): ...

    with pytest.raises(
        ValueError, match=r"The parameter connection of the handler remind .* its type Connection"
    ):
        safe.dynamic_task()(remind)


def test_a_parameter_without_a_hint_is_refused_by_name(safe):
    async def remind(context, person): ...

    with pytest.raises(ValueError, match="The parameter person of the handler remind has no type hint"):
        safe.dynamic_task()(remind)


def test_a_parameter_that_has_no_name_for_callers_is_refused(safe):
    async def remind(context, number: int, /): ...

    with pytest.raises(ValueError, match=r"takes .*number: int, /"):
        safe.dynamic_task()(remind)


# --- An app with the defaults of 1.x -------------------------------------------------------------------------------------


async def test_a_handler_of_1_x_whose_further_parameters_have_defaults_gets_the_context_alone(memory, clock):
    seen, app = [], Pyncette(memory)

    @app.task(interval=seconds(1), person_id=5, cache=6)
    async def report(context, person_id: int = 0, cache=None):
        seen.append((person_id, cache, context.args))

    async with running(app, clock):
        await clock.advance(seconds(1))

    assert seen == [(0, None, {"person_id": 5, "cache": 6})]


async def test_a_decorator_of_1_x_may_provide_parameters(memory, clock):
    seen, app = [], Pyncette(memory)

    def provided(handler):
        @functools.wraps(handler)
        async def wrapper(*args, **kwargs):
            await handler(*args, **kwargs, number=3)

        return wrapper

    @app.task(interval=seconds(1))
    @provided
    async def report(context, number: int):
        seen.append(number)

    async with running(app, clock):
        await clock.advance(seconds(1))

    assert seen == [3]


async def test_a_handler_of_an_app_with_the_defaults_of_1_x_can_name_its_arguments(memory, clock):
    seen, app = [], Pyncette(memory)

    @app.dynamic_task()
    async def remind(context, person_id: int, day: datetime.date):
        seen.append((person_id, day))

    async with running(app, clock) as app_context:
        await app_context.schedule_task(
            remind, "ada", execute_at=at(1), person_id=1, day=datetime.date(2030, 1, 2)
        )
        await clock.advance(seconds(1))

    assert seen == [(1, datetime.date(2030, 1, 2))]


def test_a_task_without_an_app_reads_its_signature_too():
    async def remind(context, day: datetime.date): ...

    task = Task(name="remind", func=remind, interval=seconds(1), day=datetime.date(2030, 1, 2))

    assert task.extra_args == {"day": "2030-01-02"}


# --- What is stored and does not validate --------------------------------------------------------------------------------


async def test_an_invalid_stored_argument_is_a_failed_attempt_until_a_handler_accepts_it(
    memory, clock, caplog
):
    async def stored(context): ...

    old = Pyncette(memory, defaults="safe")
    old_remind = old.dynamic_task(name="remind")(stored)
    async with old.create(clock=clock) as app_context:
        await app_context.schedule_task(old_remind, "ada", execute_at=at(1), args={"person_id": "ada"})

    seen = []
    strict, lenient = (Pyncette(memory, defaults="safe") for _ in range(2))

    @strict.dynamic_task(name="remind")
    async def remind_by_number(context, person_id: int):
        seen.append(person_id)

    @lenient.dynamic_task(name="remind")
    async def remind_by_name(context, person_id: str):
        seen.append((context.attempt, person_id))

    async with running(strict, clock):
        await clock.advance(seconds(2))
    async with running(lenient, clock):
        await clock.advance(seconds(10))

    assert seen == [(2, "ada")]
    assert "InvalidArgumentsError: the argument person_id is invalid" in caplog.text


async def test_a_stored_argument_that_the_handler_no_longer_takes_is_left_out(memory, clock):
    async def stored(context): ...

    old, new = Pyncette(memory, defaults="safe"), Pyncette(memory, defaults="safe")
    old_remind = old.dynamic_task(name="remind")(stored)
    async with old.create(clock=clock) as app_context:
        await app_context.schedule_task(
            old_remind, "ada", execute_at=at(1), args={"person_id": 1, "removed": True}
        )

    seen = []

    @new.dynamic_task()
    async def remind(context, person_id: int):
        seen.append((person_id, context.args))

    async with running(new, clock):
        await clock.advance(seconds(1))

    assert seen == [(1, {"person_id": 1, "removed": True})]


# --- The class of the context --------------------------------------------------------------------------------------------


class Mine(Context):
    db: str

    def query(self) -> str:
        return f"select from {self.db} for {self.task.name}"


async def test_a_context_is_of_the_class_that_the_first_parameter_names(safe, clock):
    seen = []

    @safe.fixture()
    async def db(app_context):
        yield "a pool"

    @safe.task(interval=seconds(1))
    async def named(context: "Mine"):
        seen.append(context.query())

    @safe.task(interval=seconds(1))
    async def unnamed(context):
        seen.append(type(context))

    async with running(safe, clock):
        await clock.advance(seconds(1))

    assert sorted(seen, key=str) == [Context, "select from a pool for named"]


# --- What it costs -------------------------------------------------------------------------------------------------------


def test_pydantic_is_loaded_only_for_typed_arguments():
    program = """
import sys
from pyncette import Pyncette
app = Pyncette(defaults="safe")
@app.dynamic_task()
async def plain(context): ...
before = "pydantic" in sys.modules
@app.dynamic_task()
async def typed(context, number: int): ...
print(before, "pydantic" in sys.modules)
"""
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout

    assert answer.split() == ["False", "True"]
