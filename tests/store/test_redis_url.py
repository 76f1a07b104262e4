"""A URL of Redis or Valkey says which server, which database, which namespace; and an invalid one is told without a password."""

import pytest

from pyncette.errors import ConfigurationError
from pyncette.store.backend import BUILT_IN, read_backend
from pyncette.store.redis.url import SCHEMES, Kind, read_url


def test_a_url_may_say_everything():
    read = read_url(
        "rediss://us%40er:p%2Fw@db.example:7000/3?namespace=shop%3A&timeout=2.5&ssl_ca_certs=/ca.pem"
    )

    assert (read.kind, read.tls, read.hosts, read.database) == (Kind.SERVER, True, (("db.example", 7000),), 3)
    assert (read.username, read.password) == ("us@er", "p/w")
    assert (read.namespace, read.timeout_seconds, read.tls_options) == (
        "shop:",
        2.5,
        {"ssl_ca_certs": "/ca.pem"},
    )


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("redis://", [("localhost", 6379)]),
        ("redis://host", [("host", 6379)]),
        ("redis://[::1]:7000", [("::1", 7000)]),
        ("redis://[::1]", [("::1", 6379)]),
        ("redis+cluster://a,b:7001", [("a", 6379), ("b", 7001)]),
        ("redis+sentinel://a,b:7001/records", [("a", 26379), ("b", 7001)]),
    ],
)
def test_hosts_and_ports_are_read_or_usual(url, hosts):
    assert list(read_url(url).hosts) == hosts


@pytest.mark.parametrize("rest", ["", "s", "+sentinel", "s+sentinel", "+cluster", "s+cluster"])
def test_urls_of_valkey_are_read_like_those_of_redis(rest):
    behind = (
        "://u:p@host:7000/records?namespace=x" if "sentinel" in rest else "://u:p@host:7000/0?namespace=x"
    )

    read = read_url(f"valkey{rest}{behind}")

    assert read == read_url(f"redis{rest}{behind}")._replace(product="Valkey")
    assert str(read).startswith("Valkey")
    assert f"valkey{rest}" in SCHEMES


def test_each_scheme_that_can_be_read_names_a_backend():
    ours = {scheme for scheme, entry in BUILT_IN.items() if entry.value.endswith(":RedisBackend")}

    assert ours == SCHEMES
    assert type(read_backend("VALKEYS://host")) is type(read_backend("redis://host"))


def test_the_database_may_be_a_parameter_as_in_1_x():
    assert read_url("redis://host?db=2").database == read_url("redis://host/2").database == 2


def test_a_url_of_sentinel_names_a_service_and_its_database():
    read = read_url("redis+sentinel://u:p@a/records/2?sentinel_password=s")

    assert (read.service, read.database, read.sentinel_password) == ("records", 2, "s")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://u:hunter2@a,b", "several hosts"),
        ("redis://u:hunter2@host:port", "percent-encode"),
        ("redis://u:hunter2@host:70000", "percent-encode"),
        ("redis://u:hunter2/x@host", "percent-encode"),
        ("redis://u:hunter2@host/name", "must be a number"),
        ("redis://u:hunter2@host/0?namespac=x", "did you mean namespace"),
        ("redis://u:hunter2@host/0?hunter2", "cannot be read"),
        ("redis://u:hunter2@host/0?timeout=0", "above 0"),
        ("redis://u:hunter2@host/0?timeout=soon", "above 0"),
        ("redis+cluster://u:hunter2@host/1", "the database 0 only"),
        ("redis+sentinel://u:hunter2@host", "no name of a service"),
    ],
)
def test_an_invalid_url_is_refused_without_its_password(url, said):
    with pytest.raises(ConfigurationError, match=said) as told:
        read_backend(url)

    assert "hunter2" not in str(told.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u:hunter2@db.example/3?namespace=x", "Redis at db.example:6379/3"),
        ("rediss://u:hunter2@[::1]:7000", "Redis at [::1]:7000"),
        ("valkey://u:hunter2@db.example", "Valkey at db.example:6379"),
        ("valkeys+cluster://u:hunter2@a", "Valkey Cluster at a:6379"),
        ("redis+cluster://u:hunter2@a,b:7001", "Redis Cluster at a:6379,b:7001"),
        (
            "redis+sentinel://u:hunter2@a/records?sentinel_password=hunter2",
            "Redis by Sentinel at a:26379/records",
        ),
    ],
)
def test_a_backend_is_shown_without_its_password(url, shown):
    assert str(read_backend(url)) == shown
    assert "hunter2" not in repr(read_backend(url)) + repr(read_url(url))
