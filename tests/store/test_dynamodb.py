"""DynamoDB keeps what every store promises, on the vendor's own server and on another one."""

from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

import pytest

from pyncette.core.record import Key, Partition
from pyncette.store.backend import read_backend
from pyncette.store.base import Store
from pyncette.store.dynamodb.items import key_of, partition_of
from pyncette.store.dynamodb.store import DynamoStore
from pyncette.testing.conformance import StoreConformance
from tests.servers import DynamoDb, Moto
from tests.servers.dynamodb import credentials

pytestmark = pytest.mark.xdist_group("dynamodb")

numbers = count(1)


class Backend(NamedTuple):
    """A prefix of its own in a table of all: it is there in no time."""

    server: DynamoDb
    table: str
    prefix: str

    def open(self, **options: object) -> DynamoStore:
        store = read_backend(self.server.url_of(self.table, prefix=self.prefix, **options)).new_store()
        assert isinstance(store, DynamoStore)
        return store


@pytest.fixture(scope="module")
def table(dynamodb: DynamoDb) -> Iterator[str]:
    with dynamodb.fresh_table() as table:
        yield table


@pytest.fixture
def backend(dynamodb: DynamoDb, table: str) -> Backend:
    return Backend(dynamodb, table, f"test {next(numbers)}")


class OnDynamoDb(StoreConformance):
    def open_store(self, backend: Backend) -> Store:
        return backend.open()

    async def poison(self, backend: Backend, key: Key) -> None:
        await self.overwrite(backend, key, "{")

    async def overwrite(self, backend: Backend, key: Key, spec: str) -> None:
        async with backend.open() as store:
            await store._requests.call(
                "update_item",
                Key=store._layout.record(key).key,
                UpdateExpression="SET spec = :spec",
                ExpressionAttributeValues={":spec": {"S": spec}},
            )


class TestDynamoDbLocal(OnDynamoDb):
    @pytest.fixture
    def backend(self, backend: Backend) -> Backend:
        return backend


@pytest.fixture(scope="module")
def moto() -> Iterator[DynamoDb]:
    with credentials(), Moto() as server:
        yield server


@pytest.mark.long
class TestMoto(OnDynamoDb):
    @pytest.fixture
    def backend(self, moto: DynamoDb) -> Backend:
        return Backend(moto, "pyncette", f"test {next(numbers)}")


@pytest.mark.parametrize(
    ("name", "names"), [(b"a\0b\0c", ("a", "b", "c")), (b"a", ("a",)), (b"\xff\0\0\0", ("\\xff\0\0\0",))]
)
def test_a_sort_key_that_another_program_wrote_becomes_a_key_with_that_name(name, names):
    here = Partition("realm", "handler")

    assert key_of(here, {"sk": {"B": name}}) == Key(here, *names)


@pytest.mark.parametrize("name", [b"\xff\0\0\0\0\1", b"a\0b\0\0\0\0\1", b"handler\0\xff\xff\xff\xff"])
def test_an_item_that_stands_for_no_partition_of_any_store_is_none(name):
    assert partition_of("realm", {"sk": {"B": name}}) is None
    assert partition_of("realm", {"sk": {"B": b"handler\0\0\0\0\1"}}) == Partition("realm", "handler", 1)
