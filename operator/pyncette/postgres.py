"""Opens a PostgreSQL database as the backend."""

from __future__ import annotations

from pyncette.app.configuration import takes_all_settings
from pyncette.errors import ConfigurationError
from pyncette.store.base import Store
from pyncette.store.postgres.url import check_url

try:
    from pyncette.store.postgres.store import PostgresStore
except ImportError as error:
    raise ImportError("pyncette.postgres needs asyncpg: pip install 'pyncette-operator[postgres]'") from error


@takes_all_settings("postgres_")
def postgres_repository(
    *,
    postgres_url: str,
    postgres_table_name: str = "pyncette_tasks",
    postgres_skip_table_create: bool = False,
) -> Store:
    """
    Return a store in the tables of *postgres_table_name*, in the database at *postgres_url*.

    Missing tables are created. Set *postgres_skip_table_create* if `pyncette migrate` creates them. Raises
    ConfigurationError if the URL is invalid, or if the table name has other characters than lower-case letters, digits
    and underscores.
    """
    try:
        check_url(postgres_url)
    except ConfigurationError as error:
        raise ConfigurationError(f"postgres_url: {error}") from None
    return PostgresStore(postgres_url, postgres_table_name, create=not postgres_skip_table_create)
