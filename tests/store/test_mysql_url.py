"""URLs of MySQL and MariaDB: what is invalid is refused, and no text shows a password."""

from urllib.parse import quote

import pytest

from pyncette.errors import ConfigurationError
from pyncette.store.mysql.address import read_address
from pyncette.store.mysql.backend import MysqlBackend
from pyncette.testing.faults import assert_is_one_sentence


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("mysql://user:hunter2@host:3307/database", "MySQL at host:3307/database"),
        ("mariadb://user@host/database", "MySQL at host:3306/database"),
        ("mysql://user:hunter2@[::1]/database", "MySQL at ::1:3306/database"),
        (f"mysql://user:{quote('p@/?#:hunter2', safe='')}@host/database", "MySQL at host:3306/database"),
        ("mysql://user:hunter2@/database?socket=/run/mysqld.sock", "MySQL at /run/mysqld.sock/database"),
        (
            "mysql://user:hunter2@host/database?ssl-mode=VERIFY_CA&ssl-ca=/ca.pem",
            "MySQL at host:3306/database",
        ),
    ],
)
def test_the_text_of_a_server_never_contains_its_password(url, place):
    backend = MysqlBackend(url)

    assert str(backend) == place
    assert "hunter2" not in repr(backend)
    assert "hunter2" not in repr(backend.address)


def test_the_parts_of_a_url_are_decoded():
    password = "p@/?#:'\\ é"

    address = read_address(f"mysql://ad%40a:{quote(password, safe='')}@host/d%20b?ssl-mode=required")

    assert address[:6] == ("host", "ad@a", password, "d b", 3306, "")
    assert address.ssl_mode == "required"


@pytest.mark.parametrize(
    "url",
    [
        "mysql://user:hunter2@host",
        "mysql://user:hunter2@host/",
        "mysql://user:hunter2@host:port/database",
        "mysql://user:pass/hunter2@host:1/database",
        "mysql://user:pass#hunter2@host/database",
        "mysql://user:p@ss:hunter2@host/database",
        "mysql://user:hunter2@host/database?hunter2=1",
        "mysql://user:hunter2@host/database?ssl-mode=hunter2",
    ],
)
def test_an_invalid_url_is_reported_without_repeating_it(url):
    with pytest.raises(ConfigurationError) as told:
        MysqlBackend(url)

    assert_is_one_sentence(told.value)
