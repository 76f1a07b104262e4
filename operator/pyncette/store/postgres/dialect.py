"""The queries of a store on PostgreSQL: statements with their arguments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pyncette.core.record import Key, Partition
from pyncette.store.postgres.connection import Query
from pyncette.store.postgres.rows import names_of
from pyncette.store.postgres.statements import LOAD, Statements


class PostgresDialect:
    """Queries made of *statements*; see `Dialect`."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements
        self.now: Query = (statements.now,)
        self.exist: Query = (statements.exist,)
        self.versions: Query = (statements.versions,)

    def raise_min_reader(self, version: int) -> Query:
        return self._statements.raise_min_reader, version

    def names(self, keys: Sequence[Key], ids: Mapping[Partition, int]) -> Query:
        return LOAD.values(named=names_of(keys, ids))

    def load(self, names: Query) -> Query:
        return self._statements.load, *names

    def find(self, names: Query) -> Query:
        return self._statements.find, *names

    def scan(self, partition: int, task: str | None, begin: tuple[str, str, str], limit: int) -> Query:
        statement = self._statements.scan_all if task is None else self._statements.scan_task
        return statement, partition, limit, *begin

    def history(self, partition: int, task: str, instance: str, occurrence: str) -> Query:
        return self._statements.history, partition, task, instance, occurrence

    def partitions(self, realm: str) -> Query:
        return self._statements.partitions, realm

    def partition_ids(self, partitions: Iterable[Partition]) -> Query:
        return self._statements.partition_ids, *_columns(partitions)

    def add_partitions(self, partitions: Iterable[Partition]) -> Query:
        return self._statements.add_partitions, *_columns(partitions)


def _columns(partitions: Iterable[Partition]) -> list[list[Any]]:
    return [list(column) for column in zip(*partitions, strict=True)]
