"""Answers without an end take little memory, and the largest that our own records need are read."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from pyncette.clock import SECOND
from pyncette.core.schedule import Interval
from pyncette.core.spec import Spec
from pyncette.store.answers import TOO_LARGE
from pyncette.store.backend import read_backend
from pyncette.store.base import ANSWER_RECORDS_MAX, ARGS_BYTES_MAX, KEY_BYTES_MAX
from pyncette.testing.conformance import HERE, T0, a_record, create
from tests.store.endless import CASES

ROOT = Path(__file__).resolve().parents[2]

MEBIBYTES_MAX = 250
"""Several answers of the largest size, since drivers copy, or the largest number of values. It is up to the server without a limit."""

REASONS = {"redis-sentinel": "No master found", "dynamodb-headers": "Too many headers"}
"""What a driver says instead of why it lost a connection, or where it has a limit of its own."""


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """The file with key and certificate of a server."""
    folder = tmp_path_factory.mktemp("certificate")
    made = folder / "made.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", "/CN=localhost", "-keyout", folder / "key.pem", "-out", made,
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    both = folder / "both.pem"
    both.write_text((folder / "key.pem").read_text() + made.read_text())
    return both


@pytest.mark.parametrize("case", CASES)
async def test_a_server_with_endless_responses_takes_little_memory(case, request):
    options = [request.getfixturevalue("certificate")] if case.endswith("-tls") else []
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.store.endless", case, *options, cwd=ROOT, stdout=subprocess.PIPE
    )
    output, _ = await process.communicate()
    result = json.loads(output)

    assert result["mebibytes"] < MEBIBYTES_MAX
    kind, _, message = result["error"].partition(": ")
    assert kind == "StoreUnavailableError"
    place, _, reason = message.partition(" does not answer")
    assert "127.0.0.1:PORT" in place or place == "the DynamoDB table table in region"
    if case not in REASONS:
        assert reason == f" as a database does: {TOO_LARGE}"
    else:
        assert REASONS[case] in reason


@pytest.mark.parametrize("kind", ["redis_url", "postgres_url", "mariadb_url"])
async def test_a_page_of_records_with_the_longest_arguments_is_read(kind, request):
    arguments = msgspec.Raw(b'"' + b"1" * (ARGS_BYTES_MAX - 2) + b'"')
    names = [f"{number:03}" + "n" * (KEY_BYTES_MAX - 10) for number in range(ANSWER_RECORDS_MAX)]
    records = [a_record(name, spec=Spec(Interval(SECOND), arguments)) for name in names]
    async with read_backend(request.getfixturevalue(kind)).new_store() as store:
        for at in range(0, len(records), 100):
            await create(store, *records[at : at + 100])

        loaded = await store.load([record.key for record in records])

        assert [record and record.spec for record in loaded] == [record.spec for record in records]
        assert len(await store.scan(HERE, "task", None, ANSWER_RECORDS_MAX)) == ANSWER_RECORDS_MAX
        claimed = await store.claim({HERE: ANSWER_RECORDS_MAX}, "lease", "worker", T0, T0)
        assert len(claimed.records) == ANSWER_RECORDS_MAX
