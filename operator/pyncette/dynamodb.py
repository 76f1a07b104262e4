"""Opens a DynamoDB table as the backend."""

from __future__ import annotations

from pyncette.app.configuration import takes_all_settings
from pyncette.store.base import Store

try:
    from pyncette.store.dynamodb.store import DynamoStore
except ImportError as error:
    raise ImportError(
        "pyncette.dynamodb needs aioboto3: pip install 'pyncette-operator[dynamodb]'"
    ) from error


@takes_all_settings("dynamodb_")
def dynamodb_repository(
    *,
    dynamodb_region_name: str | None = None,
    dynamodb_endpoint: str | None = None,
    dynamodb_table_name: str = "pyncette",
    dynamodb_partition_prefix: str = "",
    dynamodb_skip_table_create: bool = False,
) -> Store:
    """
    Return a store in the table *dynamodb_table_name*, with the credentials of the usual AWS sources.

    Region and endpoint are by default those of the environment. Programs with different values of
    *dynamodb_partition_prefix* are isolated from each other in one table. A missing table is created. Set
    *dynamodb_skip_table_create* if `pyncette migrate` creates it. Raises ValueError if the table name has other
    characters than lower-case letters, digits and underscores.
    """
    return DynamoStore(
        dynamodb_region_name,
        dynamodb_table_name,
        endpoint=dynamodb_endpoint,
        prefix=dynamodb_partition_prefix,
        create=not dynamodb_skip_table_create,
    )
