"""Why a backend cannot be used is told in the words of the log, and nothing of that opens it."""

import asyncio
import contextlib
import logging
from contextlib import asynccontextmanager
from urllib.parse import quote

import pytest

from pyncette.cli.check_backend import try_out
from pyncette.controller.metrics import Metrics
from pyncette.controller.reconcile.backends import Backends, OpenBackend, Reach
from pyncette.controller.reconcile.databases import Databases
from pyncette.controller.reconcile.queue import Queue
from pyncette.controller.settings import BackendSettings, OperatorSettings
from pyncette.errors import StoreRefusedError, StoreUnavailableError
from pyncette.store.backend import Backend, read_backend

PASSWORD = "s3cr3t/p@ss:w0rd"
ENCODED = quote(PASSWORD, safe="")
PATIENCE_SECONDS = 30


def alone():
    """The databases of a backend that is the only one."""
    return Databases(lambda name, error: None, lambda name: None)


async def fault_of(folder, url, reach=None, tls="Preferred", roles=None):
    """Have the backend of *url* looked after until it is said why it cannot be used."""
    (folder / "url").write_text(url)
    settings = BackendSettings.model_validate(
        {"urlFile": str(folder / "url"), "namespaces": ["*"], "tls": tls, "roles": roles}
    )
    backend = OpenBackend(settings, alone(), Metrics(), **({} if reach is None else {"reach": reach}))
    told = asyncio.Event()
    keeping = asyncio.ensure_future(backend.keep(told.set))
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await told.wait()
    finally:
        keeping.cancel()
        await asyncio.wait([keeping])
    assert not backend.ready
    return backend.fault


def assert_tells_no_secret(text):
    for secret in (PASSWORD, ENCODED, f"shop:{ENCODED}"):
        assert secret not in text


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://shop:{}@127.0.0.1:1/shop",
        "postgresql://shop:{}@no-such-host.invalid/shop",
        "mysql://shop:{}@127.0.0.1:1/shop",
        "mysql://shop:{}@127.0.0.1:port/shop",
        "redis://shop:{}@127.0.0.1:1/0",
        "redis+sentinel://shop:{}@127.0.0.1:1/primary",
        "redis+cluster://shop:{}@127.0.0.1:1",
        "dynamodb://eu-west-1/jobs?endpoint=http://shop:{}@127.0.0.1:1",
        "sqlite:////no/such/folder/{}.db?password={}",
        "postgresql://shop:" + PASSWORD + "@127.0.0.1:1/shop",
        "no-such-scheme://shop:{}@host",
    ],
)
@pytest.mark.parametrize("tls", ["Preferred", "Required"])
async def test_no_backend_that_cannot_be_reached_shows_its_password(tmp_path, caplog, monkeypatch, url, tls):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, ENCODED)

    with caplog.at_level(logging.DEBUG, "pyncette"):
        fault = await fault_of(tmp_path, url.replace("{}", ENCODED), tls=tls)

    assert fault
    assert_tells_no_secret(fault)
    for record in caplog.records:
        if record.name.startswith("pyncette"):
            assert_tells_no_secret(
                f"{record.getMessage()} {vars(record)}" if not record.exc_info else record.getMessage()
            )


async def test_a_password_that_a_server_repeats_is_redacted(tmp_path):
    async def refuse(reader, writer):
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            while await reader.read(4096):
                writer.write(
                    f"-WRONGPASS {PASSWORD} of redis://shop:{ENCODED}@127.0.0.1 is wrong\r\n".encode()
                )

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        fault = await fault_of(tmp_path, f"redis://shop:{ENCODED}@127.0.0.1:{port}/0")
        await asyncio.sleep(0.1)  # until the server has seen that its client is gone

    assert "is wrong" in fault
    assert_tells_no_secret(fault)


class Saying(Backend):
    """A backend whose driver says something each time that it is opened."""

    def __init__(self, url, *errors):
        super().__init__(url)
        self.errors = list(errors)

    def new_store(self, *, create=True):
        raise self.errors.pop(0) if len(self.errors) > 1 else self.errors[0]

    def __str__(self):
        return "a backend"


@pytest.mark.parametrize("kind", [StoreRefusedError, StoreUnavailableError, RuntimeError])
async def test_messages_of_a_driver_are_redacted(tmp_path, kind):
    url = f"postgresql://shop:{ENCODED}@db.example/shop"
    saying = Saying(url, kind(f"{url}: cannot log in with {PASSWORD}"))

    fault = await fault_of(tmp_path, url, Reach(lambda _: saying))

    assert_tells_no_secret(fault)
    assert ("cannot log in" in fault) is (kind is not RuntimeError)


async def test_a_message_that_changes_at_each_attempt_is_reported_once_in_a_while(tmp_path):
    url = f"postgresql://shop:{ENCODED}@db.example/shop"
    saying = Saying(url, *(StoreUnavailableError(f"try {number}") for number in range(100)))
    told = []
    settings = BackendSettings.model_validate({"urlFile": str(tmp_path / "url"), "namespaces": ["*"]})
    backend = OpenBackend(settings, alone(), Metrics(), reach=Reach(lambda _: saying))

    keeping = asyncio.ensure_future(backend.keep(lambda: told.append(backend.fault)))
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(saying.errors) > 97:  # noqa: ASYNC110 - nothing tells of a try
            await asyncio.sleep(0.01)
    keeping.cancel()
    await asyncio.wait([keeping])

    assert told == ["try 0"]


@pytest.mark.parametrize("kind", [StoreRefusedError, StoreUnavailableError])
async def test_the_log_of_a_pass_that_a_backend_failed_reports_no_secret(tmp_path, caplog, kind):
    url = f"redis://shop:{ENCODED}@cache.example/0"
    (tmp_path / "url").write_text(url)
    named = {"name": "default", "urlFile": str(tmp_path / "url"), "namespaces": ["*"]}
    saying = Saying(url, StoreUnavailableError("it is away"))
    backends = Backends(
        OperatorSettings.model_validate({"backends": [named]}), Metrics(), reach=Reach(lambda _: saying)
    )
    (backend,) = backends
    keeping = asyncio.ensure_future(backend.keep(lambda: None))
    queue = Queue(
        lambda key: "shop",
        lambda error: "a backend" if kind is StoreUnavailableError else None,
        0,
        backends.message_of,
    )
    failed = asyncio.Event()

    async def reconcile(key):
        failed.set()
        raise kind(f"wrong: {PASSWORD} of {url}")

    passing = asyncio.ensure_future(queue.run(reconcile, 1))
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not backend.fault:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)
        queue.add("report")
        await failed.wait()
        await queue.idle()
    for task in (passing, keeping):
        task.cancel()
    await asyncio.wait([passing, keeping])

    assert "wrong: …" in str([vars(record) for record in caplog.records])
    assert_tells_no_secret(caplog.text + str([vars(record) for record in caplog.records]))


@asynccontextmanager
async def looked_after(folder, place, password, owner="owner"):
    """Have the operator look after the database at *place*, in which it has the *password* of the superuser."""
    (folder / "url").write_text(f"postgresql://{owner}:pw-1@{place}")
    (folder / "worker-url").write_text(f"postgresql://worker:pw-2@{place}\n")
    (folder / "password").write_text(f"{password}\n")
    roles = {"passwordFile": str(folder / "password"), "workerUrlFile": str(folder / "worker-url")}
    settings = BackendSettings.model_validate(
        {"urlFile": str(folder / "url"), "namespaces": ["*"], "tls": "Disabled", "roles": roles}
    )
    backend = OpenBackend(settings, alone(), Metrics())
    changed = asyncio.Event()
    keeping = asyncio.ensure_future(backend.keep(changed.set))
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await changed.wait()
        yield backend
    finally:
        keeping.cancel()
        await asyncio.wait([keeping])


async def works_for_workers(folder):
    worker = read_backend((folder / "worker-url").read_text().strip())
    return all(step.works for step in await try_out(worker, ""))


async def test_a_database_of_its_own_gets_a_role_for_the_operator_and_one_for_workers(tmp_path, own_postgres):
    with own_postgres.fresh_database() as url:
        place = url.rpartition("@")[2]
        async with looked_after(tmp_path, place, own_postgres.password) as backend:
            assert not backend.fault
            users = own_postgres.execute(
                f"SELECT DISTINCT usename FROM pg_stat_activity WHERE datname = '{place.rpartition('/')[2]}'"
            )
            assert [row["usename"] for row in users] == ["owner"]
        assert await works_for_workers(tmp_path)


async def test_roles_that_exist_are_used_if_the_password_of_the_superuser_is_wrong(
    tmp_path, own_postgres, caplog
):
    with own_postgres.fresh_database() as url:
        place = url.rpartition("@")[2]
        async with looked_after(tmp_path, place, own_postgres.password):
            pass
        with caplog.at_level(logging.WARNING, "pyncette"):
            async with looked_after(tmp_path, place, PASSWORD) as backend:
                assert backend.ready
        assert await works_for_workers(tmp_path)

    warned = [
        record for record in caplog.records if "correct the password of postgres" in record.getMessage()
    ]
    assert [record.backend for record in warned] == ["default", "default"]
    assert "pyncette-backend" in warned[0].getMessage()
    assert "password authentication failed" in warned[0].error


async def test_without_roles_the_wrong_password_of_the_superuser_is_reported(tmp_path, own_postgres):
    with own_postgres.fresh_database() as url:
        async with looked_after(tmp_path, url.rpartition("@")[2], PASSWORD, "nobody") as backend:
            assert 'password authentication failed for user "postgres"' in backend.fault
            assert_tells_no_secret(backend.fault)


@pytest.mark.parametrize("missing", ["password", "worker-url"])
async def test_a_missing_file_for_the_roles_of_a_database_is_named(tmp_path, missing):
    (tmp_path / "url").write_text("postgresql://owner:pw-1@127.0.0.1:1/d")
    (tmp_path / "worker-url").write_text("postgresql://worker:pw-2@127.0.0.1:1/d")
    (tmp_path / "password").write_text("pw")
    (tmp_path / missing).unlink()
    roles = {"passwordFile": str(tmp_path / "password"), "workerUrlFile": str(tmp_path / "worker-url")}

    fault = await fault_of(tmp_path, "postgresql://owner:pw-1@127.0.0.1:1/d", roles=roles)

    assert f"{tmp_path}/{missing} cannot be read: No such file or directory" in fault
