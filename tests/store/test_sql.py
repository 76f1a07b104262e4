"""The parts that SQL stores share: numbered parameters, and rows that become records."""

import msgspec
import pytest

from pyncette.core.record import Change, Key, Partition
from pyncette.store.postgres.arrays import BIGINT, DOCUMENT, INT, TEXT
from pyncette.store.postgres.rows import completion_values, swap_values
from pyncette.store.postgres.statements import SWAP, SWAP_TOGETHER
from pyncette.store.sql import rows
from pyncette.store.sql.parameters import Array, Parameters
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
