"""Opens a database of MySQL or MariaDB as the backend."""

from __future__ import annotations

from pyncette.app.configuration import takes_all_settings
from pyncette.store.base import Store
from pyncette.store.mysql.address import Address

try:
    from pyncette.store.mysql.store import MysqlStore
except ImportError as error:
    raise ImportError("pyncette.mysql needs asyncmy: pip install 'pyncette-operator[mysql]'") from error


@takes_all_settings("mysql_")
def mysql_repository(
    *,
    mysql_host: str,
    mysql_user: str,
    mysql_database: str,
    mysql_password: str | None = None,
    mysql_port: int = 3306,
    mysql_table_name: str = "pyncette_tasks",
    mysql_skip_table_create: bool = False,
) -> Store:
    """
    Return a store in the tables of *mysql_table_name*, in *mysql_database* on the server at *mysql_host*.

    Missing tables are created. Set *mysql_skip_table_create* if `pyncette migrate` creates them. Raises ValueError if
    the table name has other characters than lower-case letters, digits and underscores.
    """
    address = Address(mysql_host, mysql_user, mysql_password or "", mysql_database, mysql_port)
    return MysqlStore(address, mysql_table_name, create=not mysql_skip_table_create)
