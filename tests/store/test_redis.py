"""Redis keeps what every store promises, by itself and as a cluster, and what only its keys and scripts can break."""

from collections.abc import Iterator

import pytest

from pyncette.core.record import Key
from pyncette.store.base import Store
from pyncette.store.redis import RedisStore
from pyncette.store.redis_keys import Keyspace, name_of
from pyncette.store.redis_url import read_url
from pyncette.testing.conformance import StoreConformance
from tests.servers import OwnCluster, Redis


class RedisConformance(StoreConformance):
    server: Redis

    def open_store(self, backend: str) -> Store:
        return RedisStore(backend)

    async def poison(self, backend: str, key: Key) -> None:
        records = Keyspace(read_url(backend).namespace).of(key.partition).records
        value = self.server.execute("HGET", records, name_of(key))
        self.server.execute("HSET", records, name_of(key), value.replace(b'{"schedule"', b'["schedule"'))


class TestRedis(RedisConformance):
    @pytest.fixture
    def backend(self, redis_server: Redis) -> Iterator[str]:
        self.server = redis_server
        with redis_server.fresh_namespace() as url:
            yield url


class TestRedisCluster(RedisConformance):
    @pytest.fixture
    def backend(self, redis_cluster: OwnCluster) -> Iterator[str]:
        self.server = redis_cluster
        with redis_cluster.fresh_namespace() as url:
            yield url
