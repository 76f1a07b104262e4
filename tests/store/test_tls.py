"""What a backend makes of its URL where the settings of an installation demand TLS, and what its servers then see."""

import asyncio
import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest

from pyncette.errors import ConfigurationError, StoreError, StoreRefusedError
from pyncette.store.backend import Backend, read_backend
from pyncette.store.backend_file import read_backend_file
from pyncette.store.postgres.store import PostgresStore
from pyncette.store.tls import CA_FILE, Tls, with_parameters
from pyncette.testing.conformance import a_record, claim, create, instances
from pyncette.testing.faults import assert_is_one_sentence
from tests.servers import (
    MARIADB,
    MYSQL,
    InstalledMysql,
    InstalledPostgres,
    open_dynamodb_with_tls,
    open_mysql,
    open_postgres,
    open_redis_with_tls,
)
from tests.servers.certificates import make_certificate
from tests.servers.dynamodb import CREDENTIALS

pytestmark = pytest.mark.xdist_group("tls")

VERIFYING = [
    # the URL, and what becomes of it with TLS required
    ("postgresql://u:p@h/d", "sslmode=verify-full&sslrootcert=system"),
    ("postgresql://u:p@h/d?sslmode=verify-full", "sslmode=verify-full&sslrootcert=system"),
    ("postgresql://u:p@h/d?sslrootcert=/own.crt", "sslmode=verify-full&sslrootcert=/own.crt"),
    ("postgresql://h,i:1/d?table_name=t", "table_name=t&sslmode=verify-full&sslrootcert=system"),
    ("postgresql:///d?host=h&user=a%26b", "host=h&user=a%26b&sslmode=verify-full&sslrootcert=system"),
    ("mysql://u:p@h/d", "ssl-mode=verify-identity"),
    ("mariadb://u:p@h/d?ssl-mode=VERIFY_IDENTITY", "ssl-mode=verify-identity"),
    ("mysql://u:p@h/d?ssl-ca=/own.crt", "ssl-mode=verify-identity&ssl-ca=/own.crt"),
    ("rediss://u:p@h/0?namespace=shop:", "namespace=shop:"),
    ("rediss+cluster://h,i?ssl_cert_reqs=required&ssl_check_hostname=True", None),
    ("valkeys+sentinel://h/s", ""),
    ("dynamodb://eu-west-1/tasks", ""),
    ("dynamodb://eu-west-1/tasks?endpoint=https://h:8000", "endpoint=https://h:8000"),
    ("sqlite:///tasks.db", ""),
]

ASKING_FOR_LESS = [
    ("postgresql://u:hunter2@h/d?sslmode=disable", "sslmode=disable", "verify-full"),
    ("postgresql://u:hunter2@h/d?sslmode=prefer", "sslmode=prefer", "verify-full"),
    ("postgresql://u:hunter2@h/d?sslmode=require", "sslmode=require", "verify-full"),
    ("postgresql://u:hunter2@h/d?ssl%6Dode=verify-ca", "sslmode=verify-ca", "verify-full"),
    ("postgresql://u:hunter2@h/d?sslmode=verify-full&sslmode=allow", "sslmode=allow", "verify-full"),
    ("postgresql:///d", "local socket", "name a host"),
    ("postgresql://u:hunter2@%2Frun%2Fpostgresql/d", "local socket", "name a host"),
    ("postgresql:///d?host=h,/run/postgresql", "local socket", "name a host"),
    ("mysql://u:hunter2@h/d?ssl-mode=disabled", "ssl-mode=disabled", "verify-identity"),
    ("mysql://u:hunter2@h/d?ssl-mode=REQUIRED", "ssl-mode=required", "verify-identity"),
    ("mysql://u:hunter2@h/d?ssl-mode=verify-ca", "ssl-mode=verify-ca", "verify-identity"),
    ("mysql://u:hunter2@h/d?socket=/run/mysqld.sock", "local socket", "name a host"),
    ("redis://u:hunter2@h/0", "redis://", "rediss://"),
    ("valkey+cluster://u:hunter2@h", "valkey+cluster://", "valkeys+cluster://"),
    ("rediss://u:hunter2@h/0?ssl_cert_reqs=none", "ssl_cert_reqs=none", "leave ssl_cert_reqs out"),
    ("rediss://u:hunter2@h/0?ssl_cert_reqs=optional", "ssl_cert_reqs=optional", "leave ssl_cert_reqs out"),
    ("rediss://u:hunter2@h/0?ssl_check_hostname=no", "ssl_check_hostname=no", "leave ssl_check_hostname out"),
    ("dynamodb://eu-west-1/tasks?endpoint=http://h:8000", "http://", "https://"),
]

FOLLOWING = [
    ("postgresql://u:p@h/d", Tls.PREFERRED, "sslmode=prefer"),
    ("postgresql://u:p@h/d", Tls.DISABLED, "sslmode=disable"),
    ("postgresql://u:p@h/d?sslmode=verify-full", Tls.DISABLED, "sslmode=verify-full"),
    ("postgresql://u:p@h/d?sslmode=disable", Tls.PREFERRED, "sslmode=disable"),
    ("mysql://u:p@h/d", Tls.PREFERRED, "ssl-mode=preferred"),
    ("mysql://u:p@h/d", Tls.DISABLED, "ssl-mode=disabled"),
    ("mysql://u:p@h/d?ssl-mode=verify-ca", Tls.DISABLED, "ssl-mode=verify-ca"),
    ("redis://u:p@h/0", Tls.PREFERRED, ""),
    ("rediss://u:p@h/0", Tls.DISABLED, ""),
    ("dynamodb://eu-west-1/tasks?endpoint=http://h:8000", Tls.PREFERRED, "endpoint=http://h:8000"),
    ("sqlite://", Tls.DISABLED, ""),
]


@pytest.mark.parametrize(("url", "query"), VERIFYING)
def test_tls_is_verified_where_it_is_required_and_the_url_leaves_it_open(url, query):
    backend = read_backend(url)

    held = backend.with_tls(Tls.REQUIRED)

    assert urlsplit(held.url).query == (urlsplit(url).query if query is None else query)
    assert urlsplit(held.url)._replace(query="") == urlsplit(url)._replace(query="")
    assert str(held) == str(backend)
    assert held.with_tls(Tls.REQUIRED) == held


@pytest.mark.parametrize(("url", "problem", "fix"), ASKING_FOR_LESS)
def test_a_url_that_asks_for_less_than_is_required_is_refused(url, problem, fix):
    with pytest.raises(ConfigurationError) as told:
        read_backend(url).with_tls(Tls.REQUIRED, "/ca.crt")

    assert_is_one_sentence(told.value, "TLS is required", problem, fix)


@pytest.mark.parametrize(("url", "tls", "query"), FOLLOWING)
def test_otherwise_a_url_that_says_anything_is_followed(url, tls, query):
    assert urlsplit(read_backend(url).with_tls(tls, "/ca.crt").url).query == query


@pytest.mark.parametrize(
    ("url", "query"),
    [
        ("postgresql://h/d", "sslmode=verify-full&sslrootcert=/a%20b/ca.crt"),
        ("postgresql://h/d?sslrootcert=/own.crt", "sslmode=verify-full&sslrootcert=/own.crt"),
        ("mysql://h/d", "ssl-mode=verify-identity&ssl-ca=/a%20b/ca.crt"),
        ("mysql://h/d?ssl-ca=/own.crt", "ssl-mode=verify-identity&ssl-ca=/own.crt"),
        ("rediss://h/0", "ssl_ca_certs=/a%20b/ca.crt"),
        ("rediss://h/0?ssl_ca_certs=/own.crt", "ssl_ca_certs=/own.crt"),
        ("dynamodb://eu-west-1/tasks?endpoint=https://h", "endpoint=https://h&ca=/a%20b/ca.crt"),
        ("dynamodb://eu-west-1/tasks?ca=/own.crt", "ca=/own.crt"),
    ],
)
def test_the_authorities_beside_the_url_are_trusted_unless_the_url_names_others(url, query):
    assert urlsplit(read_backend(url).with_tls(Tls.REQUIRED, "/a b/ca.crt").url).query == query


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:hunter2@h/d#",
        "postgresql://u:hunter2@h/d#note",
        "postgresql://u:hunter2@h/d?application_name=jobs#1",
        "postgresql://u:hunter2@h/d?table_name=t&application_name=jobs#1",
        "postgresql://u:hunter2#1@h/d",
        "mysql://u:hunter2@h/d#",
        "mysql://u:hunter2@h/d?ssl-mode=disabled#",
        "mysql://u:hunter2#1@h/d",
        "dynamodb://eu-west-1/tasks#",
        "dynamodb://eu-west-1/tasks?endpoint=http://h#",
    ],
)
def test_a_url_with_a_fragment_is_refused_since_a_driver_ignores_the_fragment(url):
    with pytest.raises(ConfigurationError) as told:
        read_backend(url)

    assert_is_one_sentence(told.value, "the URL has a #", "%23")


@pytest.mark.parametrize(
    "url",
    [
        "rediss://u:p#1@h/0",
        "rediss://h/0?namespace=a#b",
        "valkeys+sentinel://h/s#1?namespace=a%23b",
        "rediss+cluster://u:p#1@h,i?namespace=a#b",
    ],
)
def test_a_url_of_redis_has_no_fragment_and_keeps_its_meaning(url):
    before = read_backend(url)

    held = before.with_tls(Tls.REQUIRED, "/ca.crt")

    assert held.address.tls_options == {"ssl_ca_certs": "/ca.crt"}
    assert held.address._replace(tls_options={}) == before.address


@pytest.mark.parametrize("url", ["scheme://h/d#", "scheme://h/d#note", "scheme://h/d?a=1#b?c=2#"])
def test_parameters_are_never_part_of_a_fragment(url):
    parts = urlsplit(with_parameters(url, {"sslmode": "verify-full"}))

    assert dict(parse_qsl(parts.query))["sslmode"] == "verify-full"
    assert not parts.fragment


def test_a_backend_that_knows_nothing_of_tls_cannot_be_required_to_use_it():
    class Foreign(Backend):
        def new_store(self, *, create=True):
            raise NotImplementedError

        def __str__(self):
            return "a foreign backend"

    with pytest.raises(ConfigurationError, match="a foreign backend does not say whether it is encrypted"):
        Foreign("foreign://h").with_tls(Tls.REQUIRED)
    assert Foreign("foreign://h").with_tls(Tls.PREFERRED).url == "foreign://h"


@pytest.mark.parametrize("mode", ["", "sslmode=require&", "sslmode=verify-ca&"])
def test_the_authorities_of_the_system_are_of_use_only_if_the_host_name_is_verified(mode):
    with pytest.raises(ConfigurationError, match="sslrootcert=system needs sslmode=verify-full"):
        read_backend(f"postgresql://h/d?{mode}sslrootcert=system")


def test_a_file_whose_url_now_asks_for_less_is_not_used_any_more_than_any_other_invalid_one(tmp_path):
    file = tmp_path / "url"
    file.write_text("postgresql://u:p@h/d")
    backend = read_backend_file(str(file), Tls.REQUIRED)

    file.write_text("postgresql://u:new@h/d?sslmode=disable")
    before = backend.with_current_credentials().url
    file.write_text("postgresql://u:new@h/d")

    assert before == backend.url
    assert backend.with_current_credentials().url == (
        "postgresql://u:new@h/d?sslmode=verify-full&sslrootcert=system"
    )


# Servers


class Encrypted:
    """A server with a certificate for `localhost`, and without a database yet."""

    def __init__(self, url: str, ca: Path) -> None:
        self.url = url
        self.ca = ca


@contextmanager
def postgres() -> Iterator[Encrypted]:
    with open_postgres(own=True) as server:
        assert isinstance(server, InstalledPostgres)
        yield Encrypted(server.url, server.encrypt().file)


@contextmanager
def mysql() -> Iterator[Encrypted]:
    yield from _mysql(MYSQL)


@contextmanager
def mariadb() -> Iterator[Encrypted]:
    yield from _mysql(MARIADB)


def _mysql(product) -> Iterator[Encrypted]:
    with open_mysql(product, own=True) as server:
        assert isinstance(server, InstalledMysql)
        yield Encrypted(server.url, server.encrypt().file)


@contextmanager
def redis() -> Iterator[Encrypted]:
    with open_redis_with_tls() as server:
        yield Encrypted(server.url, server.authority)


@contextmanager
def dynamodb() -> Iterator[Encrypted]:
    with open_dynamodb_with_tls() as server:
        yield Encrypted(server.url_of("pyncette_tls"), server.authority)


SERVERS = {"postgres": postgres, "mysql": mysql, "mariadb": mariadb, "redis": redis, "dynamodb": dynamodb}


@pytest.fixture(scope="module", params=list(SERVERS))
def server(request) -> Iterator[Encrypted]:
    with SERVERS[request.param]() as encrypted:
        yield encrypted


def at(server: Encrypted, host: str) -> str:
    return server.url.replace("127.0.0.1", host).replace("localhost", host)


def mounted(folder: Path, url: str, ca: Path | None) -> Path:
    """Return the file with *url* in *folder*, as it is mounted from a Secret, with the authorities beside it."""
    (folder / "url").write_text(url)
    if ca is not None:
        (folder / CA_FILE).write_bytes(ca.read_bytes())
    return folder / "url"


async def test_a_server_whose_certificate_the_authorities_beside_the_url_vouch_for_is_used(server, tmp_path):
    backend = read_backend_file(str(mounted(tmp_path, at(server, "localhost"), server.ca)), Tls.REQUIRED)

    async with backend.new_store() as store:
        await create(store, a_record())
        assert instances(await claim(store)) == ["a"]


async def test_a_server_that_nobody_vouches_for_is_refused(server, tmp_path):
    other = make_certificate(tmp_path).file

    for ca in (None, other):
        backend = read_backend_file(str(mounted(tmp_path, at(server, "localhost"), ca)), Tls.REQUIRED)
        with pytest.raises(StoreRefusedError, match="is not trusted"):
            async with backend.new_store():
                pass


async def test_a_server_with_the_certificate_of_another_host_is_refused(server, tmp_path):
    backend = read_backend_file(str(mounted(tmp_path, at(server, "127.0.0.1"), server.ca)), Tls.REQUIRED)

    with pytest.raises(StoreRefusedError, match="is not trusted"):
        async with backend.new_store():
            pass


async def test_a_server_that_the_authorities_of_the_system_vouch_for_is_used(server, tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(server.ca))
    monkeypatch.setenv("AWS_CA_BUNDLE", str(server.ca))
    backend = read_backend_file(str(mounted(tmp_path, at(server, "localhost"), None)), Tls.REQUIRED)

    async with backend.new_store() as store:
        assert await store.now()


async def test_the_driver_of_postgresql_verifies_the_server_even_if_it_misreads_the_url():
    with postgres() as server:
        url = f"{server.url}#?sslmode=verify-full&sslrootcert={server.ca}"
        with pytest.raises((ConfigurationError, StoreError)):
            async with PostgresStore(url):
                pass


@pytest.fixture(scope="module")
def plain() -> Iterator[dict[str, str]]:
    """URLs of servers that cannot encrypt."""
    with open_postgres(own=True) as one, open_mysql(MARIADB, own=True) as other:
        yield {"postgres": one.url, "mariadb": other.url}


@pytest.mark.parametrize("name", ["postgres", "mariadb"])
async def test_a_server_that_cannot_encrypt_is_used_only_if_that_is_not_required(plain, tmp_path, name):
    file = str(mounted(tmp_path, plain[name], None))

    with pytest.raises(StoreError):
        async with read_backend_file(file, Tls.REQUIRED).new_store():
            pass
    for tls in (Tls.PREFERRED, Tls.DISABLED):
        async with read_backend_file(file, tls).new_store() as store:
            assert await store.now()


@pytest.mark.parametrize(
    ("name", "question"),
    [
        ("postgres", "SELECT ssl::int FROM pg_stat_ssl WHERE pid = pg_backend_pid()"),
        ("mysql", "SELECT VARIABLE_VALUE <> '' FROM performance_schema.session_status WHERE VARIABLE_NAME = 'Ssl_cipher'"),
        ("mariadb", "SELECT VARIABLE_VALUE <> '' FROM information_schema.session_status WHERE VARIABLE_NAME = 'Ssl_cipher'"),
    ],
)  # fmt: skip
async def test_a_preference_encrypts_where_the_server_can(name, question):
    with SERVERS[name]() as server:
        for tls, encrypted in ((Tls.PREFERRED, 1), (Tls.DISABLED, 0)):
            backend = read_backend(server.url).with_tls(tls)
            async with backend.new_store() as store:
                query = (question,) if name == "postgres" else question
                ((answer,),) = await store._connections.rows(query)
            assert answer == encrypted


@pytest.mark.parametrize(("host", "trusted"), [("localhost", True), ("127.0.0.1", False)])
async def test_credentials_of_a_role_come_from_a_server_that_is_verified_too(
    tmp_path, monkeypatch, host, trusted
):
    with dynamodb() as server:
        for name in CREDENTIALS:
            monkeypatch.delenv(name)
        (tmp_path / "token").write_text("a token of Kubernetes")
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
        monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/pyncette")
        monkeypatch.setenv("AWS_CA_BUNDLE", str(server.ca))
        endpoint = parse_qs(urlsplit(server.url).query)["endpoint"][0]
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", endpoint.replace("localhost", host))
        refused = pytest.raises(StoreRefusedError, match="is not trusted")
        with contextlib.nullcontext() if trusted else refused:
            async with read_backend(server.url).with_tls(Tls.REQUIRED).new_store() as store:
                assert await store.now()


tunnels: set[asyncio.Task[None]] = set()


async def _tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one client as an HTTP proxy does for TLS: connect to where it says, and pass all on."""
    tunnels.add(asyncio.current_task())  # type: ignore[arg-type]
    host, _, port = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode().rpartition(":")
    far_reader, far_writer = await asyncio.open_connection(host, int(port))
    writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")

    async def pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                target.write(data)
        target.close()
        with contextlib.suppress(OSError):
            await target.wait_closed()

    await asyncio.gather(pass_on(reader, far_writer), pass_on(far_reader, writer))


@pytest.mark.parametrize(
    ("host", "vouched", "trusted"),
    [("localhost", True, True), ("localhost", False, False), ("127.0.0.1", True, False)],
)
async def test_a_proxy_on_the_way_to_dynamodb_changes_nothing_about_that(
    tmp_path, monkeypatch, host, vouched, trusted
):
    with dynamodb() as server:
        async with await asyncio.start_server(_tunnel, "127.0.0.1", 0) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
            file = mounted(tmp_path, at(server, host), server.ca if vouched else None)
            refused = pytest.raises(StoreRefusedError, match="is not trusted")
            with contextlib.nullcontext() if trusted else refused:
                async with read_backend_file(str(file), Tls.REQUIRED).new_store() as store:
                    assert await store.now()
            while tunnels:
                await tunnels.pop()
