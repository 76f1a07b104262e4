"""URLs of PostgreSQL: what is invalid is refused, and no text shows a password."""

from urllib.parse import quote

import pytest

from pyncette.errors import ConfigurationError, StoreError
from pyncette.store.postgres.connection import place_of
from pyncette.store.postgres.store import PostgresStore
from pyncette.testing.faults import assert_is_one_sentence


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mysql://user:hunter2@host/database",
        "postgresql://user:hunter2@host:port/database",
        "user:hunter2@host",
        "postgresql://user:pass/hunter2@host:1/database",
        "postgresql://user:pass#hunter2@host/database",
    ],
)
async def test_an_invalid_url_is_reported_without_repeating_it(url):
    with pytest.raises((ConfigurationError, StoreError)) as told:
        async with PostgresStore(url):
            pass

    assert_is_one_sentence(told.value)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://user:hunter2@host:5432/database", "PostgreSQL at host:5432/database"),
        ("postgres://user@host/database", "PostgreSQL at host/database"),
        ("postgresql://host", "PostgreSQL at host"),
        (
            "postgresql://user:hunter2@one:1,two:2/database?target_session_attrs=any",
            "PostgreSQL at one:1,two:2/database",
        ),
        (f"postgresql://user:{quote('p@/?#:hunter2', safe='')}@host/database", "PostgreSQL at host/database"),
        ("postgresql://user:p@ss:hunter2@host/database", "PostgreSQL"),
        ("postgresql://user:p/hunter2@host/database", "PostgreSQL"),
        ("postgresql://user:p?hunter2@host/database", "PostgreSQL"),
        ("postgresql:///database?host=/run&password=hunter2", "PostgreSQL at /database"),
        ("postgresql://host/database?password=hunter2", "PostgreSQL at host/database"),
        ("postgresql://host/database?password=p@hunter2", "PostgreSQL"),
        ("hunter2", "PostgreSQL"),
    ],
)
def test_the_text_of_a_server_never_contains_its_password(url, place):
    assert place_of(url) == place
