"""Reads URLs of MySQL and MariaDB: mysql://user:password@host:port/database, or mariadb://…"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pyncette.store.backend import Backend, needing
from pyncette.store.base import Store
from pyncette.store.mysql.address import read_address


class MysqlBackend(Backend):
    """A database of a MySQL or MariaDB server."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.address: Final = read_address(url)

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
