"""What a SQL backend has to provide: the queries of the verbs that are the same on every SQL server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from pyncette.core.record import Key, Partition

Query_co = TypeVar("Query_co", covariant=True)


class Dialect(Protocol[Query_co]):
    """
    Queries in the dialect of a server, each of one statement, as its `Connections` take them.

    Positions in replies count from 1. Rows of records have the columns that `rows.record_of` reads. Texts that are longer than
    the port allows are null, and records with longer names are left out.
    """

    @property
    def now(self) -> Query_co:
        """One row of one column: the server's time in microseconds."""
        ...

    @property
    def exist(self) -> Query_co:
        """One row: whether the table `meta` exists, and whether any table of that name does."""
        ...

    @property
    def versions(self) -> Query_co:
        """One row: the version of the schema and its least reader. No row while the tables are being created."""
        ...

    def raise_min_reader(self, version: int) -> Query_co: ...

    def names(self, keys: Sequence[Key], ids: Mapping[Partition, int]) -> Any:
        """Return *keys*, with the ids of their partitions, as `load` and `find` take them."""
        ...

    def load(self, names: Any) -> Query_co:
        """Rows of records, each followed by the position of its name."""
        ...

    def find(self, names: Any) -> Query_co:
        """Rows of two columns: a record's id, and the position of its name."""
        ...

    def scan(self, partition: int, task: str | None, begin: tuple[str, str, str], limit: int) -> Query_co:
        """Rows of records in the order of their keys, from the names *begin* on."""
        ...

    def history(self, partition: int, task: str, instance: str, occurrence: str) -> Query_co:
        """Rows of one column: the encoded run."""
        ...

    def partitions(self, realm: str) -> Query_co:
        """Rows of three columns: id, handler, number."""
        ...

    def partition_ids(self, partitions: Iterable[Partition]) -> Query_co:
        """Rows of two columns: id, and the position of its partition."""
        ...

    def add_partitions(self, partitions: Iterable[Partition]) -> Query_co: ...
