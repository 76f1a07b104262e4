"""`pyncette migrate --new-identity` gives a copy of a database an identity of its own."""

import asyncio

from pyncette.coordination.identity import identity_of
from pyncette.store.backend import read_backend
from tests.cli import called


def test_a_copy_of_a_database_gets_an_identity_of_its_own(tmp_path):
    url = f"sqlite:///{tmp_path / 'tasks.db'}"

    async def identity():
        async with read_backend(url).new_store() as store:
            return await identity_of(store)

    before = asyncio.run(identity())
    assert asyncio.run(identity()) == before

    code, output = called("migrate", "--backend", url, "--new-identity")

    assert code == 0
    assert "has a new identity" in output
    assert asyncio.run(identity()) != before


def test_a_database_without_an_identity_gets_one(tmp_path):
    url = f"sqlite:///{tmp_path / 'tasks.db'}"

    code, _ = called("migrate", "--backend", url, "--new-identity")

    assert code == 0
