"""Connections of the driver that are closed once an answer is too large, and trust the authorities that a URL names alone."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from redis.asyncio import Connection, RedisCluster, SSLConnection
from redis.asyncio.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection

from pyncette.store.answers import Answer, limit

if TYPE_CHECKING:
    from redis.asyncio import Redis

    Base: TypeAlias = Connection
    SSLBase: TypeAlias = SSLConnection
else:
    Base = SSLBase = object


class _Limited(Base):
    """Counts what it receives since it last sent anything: to a pipeline, all answers are one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.answer = Answer()

    async def _connect(self) -> None:
        await super()._connect()  # type: ignore[no-untyped-call]
        self.answer = Answer()
        assert self._writer is not None
        limit(self._writer.transport, self.answer)

    def send_packed_command(self, command: Any, check_health: bool = True) -> Any:
        self.answer.begin()
        return super().send_packed_command(command, check_health)


class _Trusting(SSLBase):
    """Trusts the authorities in the file of the URL alone, if it names one. The driver adds those of the system."""

    async def _connect(self) -> None:
        given = self.ssl_context
        if given.ca_certs and given.context is None:
            context = ssl.create_default_context(cafile=given.ca_certs)
            context.check_hostname = given.check_hostname
            context.verify_mode = given.cert_reqs
            if given.certfile:
                context.load_cert_chain(given.certfile, given.keyfile)
            given.context = context
        await super()._connect()  # type: ignore[no-untyped-call]


class _LimitedConnection(_Limited, Connection):
    pass


class _LimitedSSLConnection(_Limited, _Trusting, SSLConnection):
    pass


class _LimitedSentinelConnection(_Limited, SentinelManagedConnection):
    pass


class _LimitedSentinelSSLConnection(_Limited, _Trusting, SentinelManagedSSLConnection):
    pass


_LIMITED: Final[dict[type, type[Any]]] = {
    Connection: _LimitedConnection,
    SSLConnection: _LimitedSSLConnection,
    SentinelManagedConnection: _LimitedSentinelConnection,
    SentinelManagedSSLConnection: _LimitedSentinelSSLConnection,
}


def limit_client(client: Redis | RedisCluster) -> None:
    """Limit the answers to *client*, which has no connection yet."""
    if isinstance(client, RedisCluster):
        options = client.nodes_manager.connection_kwargs
        options["connection_class"] = _LIMITED[options["connection_class"]]
        pools: list[Any] = list(client.nodes_manager.startup_nodes.values())
    else:
        pools = [client.connection_pool]
    for pool in pools:
        pool.connection_class = _LIMITED[pool.connection_class]
