"""PostgreSQL keeps what every store promises, and what only a server can break."""

import asyncpg
import pytest

from pyncette.core.record import Key
from pyncette.store.base import Store
from pyncette.store.postgres import PostgresStore
from pyncette.testing.conformance import StoreConformance


class TestPostgres(StoreConformance):
    @pytest.fixture
    def backend(self, postgres_url: str) -> str:
        return postgres_url

    def open_store(self, backend: str) -> Store:
        return PostgresStore(backend)

    async def poison(self, backend: str, key: Key) -> None:
        connection = await asyncpg.connect(backend)
        await connection.execute(
            "UPDATE pyncette_tasks SET spec = '{' WHERE task = $1 AND instance = $2 AND occurrence = $3",
            *key[1:],
        )
        await connection.close()
