"""Workers publish the JSON schemas of their handlers' arguments."""

import datetime

import msgspec
import pytest

from pyncette import Pyncette
from pyncette.coordination.argument_schemas import ARGUMENTS_REALM, published_schemas, schema_key
from pyncette.store.base import ARGS_BYTES_MAX
from pyncette.store.memory import MemoryBackend, MemoryStore
from pyncette.testing import VirtualClock


async def takes_a_number(context, number: int, day: datetime.date | None = None): ...


async def takes_a_name(context, name: str): ...


async def takes_anything(context): ...


@pytest.fixture
def backend():
    return MemoryBackend()


async def start(backend, *, realm="", **handlers):
    """Start and stop an app with these *handlers*, and return its store."""
    app = Pyncette(lambda: MemoryStore(backend), defaults="safe", realm=realm)
    for name, handler in handlers.items():
        app.handler(name=name)(handler)
    async with app.create(clock=VirtualClock()):
        pass


async def published(backend, *handlers, realm=""):
    async with MemoryStore(backend) as store:
        schemas = await published_schemas(store, realm, handlers)
    return {handler: msgspec.json.decode(schema) for handler, schema in schemas.items()}


async def records(backend, realm=""):
    async with MemoryStore(backend) as store:
        return await store.scan(schema_key(realm, "").partition, None, None, 100)


async def test_the_schemas_of_typed_handlers_are_published_by_realm(backend):
    await start(backend, count=takes_a_number, other=takes_anything)
    await start(backend, realm="team", count=takes_a_name)

    here, there = await published(backend, "count", "other"), await published(backend, "count", realm="team")

    assert here == {
        "count": {
            "type": "object",
            "properties": {
                "number": {"title": "Number", "type": "integer"},
                "day": {"anyOf": [{"format": "date", "type": "string"}, {"type": "null"}], "title": "Day"},
            },
            "required": ["number"],
            "additionalProperties": False,
        }
    }
    assert there["count"]["required"] == ["name"]


async def test_a_template_publishes_and_a_task_with_a_schedule_of_its_own_does_not(backend):
    app = Pyncette(lambda: MemoryStore(backend), defaults="safe")
    app.dynamic_task(name="template")(takes_a_number)
    app.task(name="static", interval=datetime.timedelta(hours=1), args={"number": 1})(takes_a_number)
    async with app.create(clock=VirtualClock()):
        pass

    assert [*await published(backend, "template", "static")] == ["template"]


async def test_the_process_that_started_last_wins_and_the_same_schema_is_not_written_again(backend):
    await start(backend, count=takes_a_number)
    (first,) = await records(backend)
    await start(backend, count=takes_a_number)
    assert await records(backend) == [first]

    await start(backend, count=takes_a_name)

    assert (await published(backend, "count"))["count"]["required"] == ["name"]


async def test_a_handler_that_takes_anything_again_withdraws_its_schema(backend):
    await start(backend, count=takes_a_number)

    await start(backend, count=takes_anything)

    assert await records(backend) == []


async def test_a_schema_that_is_too_large_is_not_published(backend, caplog):
    async def large(context, number: int): ...

    await start(backend, count=takes_a_number)
    app = Pyncette(lambda: MemoryStore(backend), defaults="safe")
    task = app.handler(name="count")(large)
    task._arguments.schema = lambda: {"description": "x" * ARGS_BYTES_MAX}
    async with app.create(clock=VirtualClock()):
        pass

    assert await records(backend) == []
    assert "the JSON schema of the arguments of count is too large" in caplog.text


async def test_no_app_can_have_the_realm_of_the_schemas(backend):
    with pytest.raises(ValueError, match="are reserved"):
        Pyncette(lambda: MemoryStore(backend), realm=ARGUMENTS_REALM)
