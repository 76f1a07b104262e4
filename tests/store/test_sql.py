"""The parts that SQL stores share: numbered parameters, and rows that become records."""

import msgspec
import pytest

from pyncette.core.record import Change, Key, Partition
from pyncette.errors import StoreUnavailableError
from pyncette.store.postgres.arrays import BIGINT, DOCUMENT, INT, TEXT
from pyncette.store.postgres.dialect import PostgresDialect
from pyncette.store.postgres.rows import completion_values, swap_values
from pyncette.store.postgres.schema import tables_named
from pyncette.store.postgres.statements import SWAP, SWAP_TOGETHER, statements_for
from pyncette.store.postgres.store import PostgresStore
from pyncette.store.sql import rows
from pyncette.store.sql.connections import RetryableError
from pyncette.store.sql.parameters import Array, Parameters
from pyncette.store.sql.scan_start import ScanStarts
from pyncette.store.sql.store import SqlStore
from pyncette.testing.conformance import HERE, T0, a_record, changed, completed

PLAIN = Array("{}::int[]", list)


def test_parameters_are_numbered_in_the_order_of_their_tables_columns_and_scalars():
    parameters = Parameters(("now",), first={"a": PLAIN, "b": PLAIN}, second={"c": PLAIN})

    assert parameters.unnest("first") == "unnest($1::int[], $2::int[]) AS u(a, b)"
    assert (
        parameters.unnest("second", alias="s", position="n") == "unnest($3::int[]) WITH ORDINALITY AS s(c, n)"
    )
    assert parameters.unnest("first", ["b"]) == "unnest($2::int[]) AS u(b)"
    assert parameters["now"] == "$4"


def test_values_follow_the_numbers_whatever_the_order_in_which_they_are_given():
    parameters = Parameters(("now",), first={"a": PLAIN, "b": PLAIN}, second={"c": PLAIN})

    values = parameters.values(second={"c": [3]}, first={"b": [2], "a": [1]}, scalars=(4,))

    assert values == ([1], [2], [3], 4)


@pytest.mark.parametrize("columns", [{"a": [1]}, {"a": [1], "b": [2], "c": [3]}])
def test_values_of_a_missing_or_unknown_column_are_refused(columns):
    with pytest.raises(AssertionError):
        Parameters(first={"a": PLAIN, "b": PLAIN}).values(first=columns)


def test_a_swap_has_one_value_for_each_parameter_of_its_statement():
    record = a_record()
    edits = [(7, Change(record, changed(record)))]
    grouped = [(7, Change(record, changed(record), group=1))]

    assert len(swap_values(edits, [], {HERE: 1})) == sum(map(len, SWAP._tables.values()))
    assert len(swap_values(grouped, [], {HERE: 1})) == sum(map(len, SWAP_TOGETHER._tables.values()))
    assert completion_values([(7, Change(record, completed(record, T0)))])[:2] == (
        "{7}",
        f"{{{record.version}}}",
    )


@pytest.mark.parametrize("array", [INT, BIGINT])
def test_integers_are_passed_as_the_text_of_an_array(array):
    assert array.encode([1, -2, None]) == "{1, -2, NULL}"
    assert array.encode([]) == "{}"


def test_texts_are_passed_as_the_text_of_an_array():
    assert TEXT.encode(["a", 'b"\\', None, "NULL", ""]) == '{"a","b\\"\\\\",NULL,"NULL",""}'


def test_a_document_that_contains_the_separator_is_refused():
    with pytest.raises(ValueError, match="must be JSON"):
        DOCUMENT.encode([msgspec.json.encode("a").decode(), "\x1e"])


def test_a_key_made_without_its_class_is_the_same_key():
    """The fields of `Key` have the order in which claims pass them."""
    partition = Partition("realm", "handler", 1)

    key = rows._key((partition, "task", "instance", "occurrence"))

    assert type(key) is Key
    assert key == Key(partition=partition, task="task", instance="instance", occurrence="occurrence")


# --- Statements that the server rolled back ----------------------------------------------------------------------------


class RollingBack:
    """Connections to a server that rolls back some statements, and answers the others with the same rows."""

    place = "the server"

    def __init__(self, times):
        self.times = times
        self.sent = 0

    async def rows(self, query):
        self.sent += 1
        if self.sent <= self.times:
            raise RetryableError("deadlock detected")
        return [(T0,)]


class OnSuch(PostgresStore):
    def __init__(self, connections, retry_seconds=10.0):
        SqlStore.__init__(
            self,
            connections,
            "tasks",
            "",
            create=False,
            scan_starts=ScanStarts(),
            retry_seconds=retry_seconds,
        )
        self._sql = PostgresDialect(statements_for(tables_named("tasks")))


async def test_a_statement_that_was_rolled_back_is_retried_and_logged_once(caplog):
    store = OnSuch(RollingBack(times=20))

    with caplog.at_level("INFO"):
        assert await store.now() == T0

    assert len([entry for entry in caplog.records if "rolled back a statement" in entry.getMessage()]) == 1


async def test_a_statement_that_is_rolled_back_for_too_long_makes_the_backend_unavailable():
    store = OnSuch(RollingBack(times=10**6), retry_seconds=0.05)

    with pytest.raises(
        StoreUnavailableError, match=r"the server is too busy: deadlock detected, for 0\.05 seconds"
    ):
        await store.now()


async def test_a_check_of_the_tables_that_was_rolled_back_is_retried_too():
    connections = RollingBack(times=0)
    store = OnSuch(connections, retry_seconds=0.05)
    store._forget()
    connections.times = 10**6

    with pytest.raises(StoreUnavailableError, match="too busy"):
        await store.now()
