"""The costs that the reference tells of are those that DynamoDB counts."""

from pathlib import Path

import pytest

from benchmarks.dynamodb_costs import measured, table_of
from tests.servers import DynamoDb

pytestmark = pytest.mark.xdist_group("dynamodb")

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "stores-dynamodb.md"


async def test_the_costs_in_the_reference_are_those_that_are_measured(dynamodb: DynamoDb):
    with dynamodb.fresh_table() as table:
        found = table_of(await measured(dynamodb.endpoint, table))

    assert found in REFERENCE.read_text()
