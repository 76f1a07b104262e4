"""Reads URLs of MySQL and MariaDB: mysql://user:password@host:port/database, or mariadb://…"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Self

from pyncette.store.backend import Backend, needing
from pyncette.store.base import Store
from pyncette.store.mysql.address import VERIFIED, read_address
from pyncette.store.tls import Tls, parameters_of, tls_refusal, with_parameters


class MysqlBackend(Backend):
    """A database of a MySQL or MariaDB server."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.address: Final = read_address(url)

    def with_tls(self, tls: Tls, ca_file: str = "") -> Self:
        is_open = "ssl-mode" not in parameters_of(self.url)
        if tls is not Tls.REQUIRED:
            mode = tls.value.lower()
            return type(self)(with_parameters(self.url, {"ssl-mode": mode})) if is_open else self
        if not is_open and self.address.ssl_mode != VERIFIED:
            raise tls_refusal(
                f"the URL has ssl-mode={self.address.ssl_mode}", f"leave ssl-mode out, or write {VERIFIED}"
            )
        if self.address.socket:
            raise tls_refusal("the URL leads to a local socket", "name a host")
        demanded = {"ssl-mode": VERIFIED, "ssl-ca": self.address.ssl_ca or ca_file}
        return type(self)(
            with_parameters(self.url, {name: value for name, value in demanded.items() if value})
        )

    def new_store(self, *, create: bool = True) -> Store:
        with needing("asyncmy", "MySQL", "mysql"):
            from pyncette.store.mysql.store import MysqlStore  # noqa: PLC0415 - the driver is an extra

        return MysqlStore(
            self.address, create=create, current_address=lambda: self.with_current_credentials().address
        )

    async def beyond(self) -> Sequence[str]:
        from pyncette.store.mysql.store import MysqlStore  # noqa: PLC0415 - as above

        async with MysqlStore(self.with_current_credentials().address, create=False) as store:
            return [f"the table {name}" for name in await store.other_tables()]

    def __str__(self) -> str:
        return str(self.address)
