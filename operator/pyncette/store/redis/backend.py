"""Reads URLs of Redis and Valkey: redis://user:password@host:port/database, and those of Sentinel and of a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Self

from pyncette.store.backend import Backend, needing
from pyncette.store.base import Store
from pyncette.store.redis.url import read_url
from pyncette.store.tls import Tls, tls_refusal, with_parameters

VERIFYING: Final = {"ssl_cert_reqs": "required", "ssl_check_hostname": "true"}
"""Parameters that verify the server, with the values that do so and are the driver's defaults."""


class RedisBackend(Backend):
    """A server, servers behind Sentinel, or a cluster."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.address: Final = read_url(url)

    def with_tls(self, tls: Tls, ca_file: str = "") -> Self:
        if tls is not Tls.REQUIRED:
            return self  # the scheme leaves nothing open
        scheme = self.url.partition("://")[0]
        if not self.address.tls:
            name, plus, way = scheme.partition("+")
            raise tls_refusal(f"the URL begins with {scheme}://", f"write {name}s{plus}{way}://")
        for name, verified in VERIFYING.items():
            value = self.address.tls_options.get(name, verified)
            if value.lower() != verified:
                raise tls_refusal(f"the URL has {name}={value}", f"leave {name} out")
        if not ca_file or "ssl_ca_certs" in self.address.tls_options:
            return self
        return type(self)(with_parameters(self.url, {"ssl_ca_certs": ca_file}))

    def new_store(self, *, create: bool = True) -> Store:
        with needing("redis", self.address.product, "redis"):
            from pyncette.store.redis.store import RedisStore  # noqa: PLC0415 - the driver is an extra

        return RedisStore(
            self.url, create=create, current_address=lambda: self.with_current_credentials().address
        )

    async def concerns(self) -> Sequence[str]:
        from pyncette.store.redis.store import concerns_at  # noqa: PLC0415 - as above

        return await concerns_at(self.with_current_credentials().url)

    async def servers(self) -> Sequence[str]:
        from pyncette.store.redis.store import servers_at  # noqa: PLC0415 - as above

        return await servers_at(self.with_current_credentials().url)

    async def beyond(self) -> Sequence[str]:
        from pyncette.store.redis.store import reads_elsewhere  # noqa: PLC0415 - as above

        address = self.with_current_credentials()
        return ["keys outside of its namespace"] if await reads_elsewhere(address.url) else ()

    def __str__(self) -> str:
        return str(self.address)
