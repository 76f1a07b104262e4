"""The settings of DynamoDB that are invalid are refused before any request."""

import pytest

from pyncette import Pyncette
from pyncette.dynamodb import dynamodb_repository


@pytest.mark.parametrize("name", ["Tasks", "tasks; drop table users", "tasks-1", "täsks", "", 'ta"sks'])
def test_the_name_of_a_table_is_checked_before_anything_is_asked(name):
    with pytest.raises(ValueError, match="dynamodb_table_name"):
        Pyncette(dynamodb_repository, dynamodb_table_name=name).new_store()


def test_a_prefix_that_leaves_no_room_for_names_is_refused():
    with pytest.raises(ValueError, match="dynamodb_partition_prefix"):
        Pyncette(dynamodb_repository, dynamodb_partition_prefix="x" * 256).new_store()
