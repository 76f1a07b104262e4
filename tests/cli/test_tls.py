"""What the operator's settings demand of a backend holds for its own connections, and for those of the workers of a pool."""

import asyncio
import shutil

import pytest

from pyncette.cli.failures import ExitCode
from pyncette.controller.metrics import Metrics
from pyncette.controller.reconcile.backends import OpenBackend
from pyncette.controller.reconcile.databases import Databases
from pyncette.controller.reconcile.pools import pool_backend
from pyncette.controller.settings import BackendSettings
from pyncette.controller.workloads.pod_template import own_template
from pyncette.resources.pool import PyncetteWorkerPool
from tests.cli import MODULE, Program
from tests.servers import InstalledPostgres, open_postgres

SECONDS_MAX = 30

POOL = PyncetteWorkerPool.model_validate(
    {
        "apiVersion": "pyncette.dev/v1alpha1",
        "kind": "PyncetteWorkerPool",
        "metadata": {"name": "default", "namespace": "shop"},
        "spec": {"image": "example.org/tasks:1", "module": "tasks"},
    }
)


@pytest.fixture(scope="module")
def server():
    """A server with the certificate `authority` for `localhost`."""
    with open_postgres(own=True) as server:
        assert isinstance(server, InstalledPostgres)
        server.authority = server.encrypt().file
        yield server


@pytest.fixture
def secret(server, tmp_path):
    """The folder that a Secret is mounted at, with the URL of an empty database and what vouches for its server."""
    with server.fresh_database() as url:
        (tmp_path / "url").write_text(url.replace("127.0.0.1", "localhost"))
        shutil.copy(server.authority, tmp_path / "ca.crt")
        yield tmp_path


def settings_for(secret):
    return BackendSettings.model_validate({"urlFile": str(secret / "url"), "namespaces": ["*"]})


async def opened(secret):
    """Have the operator open the backend, and return why it cannot; empty: it can."""
    changed = asyncio.Event()
    nothing_to_compare = Databases(lambda name, error: None, lambda name: None)
    backend = OpenBackend(settings_for(secret), nothing_to_compare, Metrics())
    keeping = asyncio.ensure_future(backend.keep(changed.set))
    async with asyncio.timeout(SECONDS_MAX):
        await changed.wait()
    fault = backend.fault
    keeping.cancel()
    await asyncio.wait([keeping])
    return fault


def worker(folder, secret):
    """Start a worker of a pool on that backend, as its pod does."""
    folder.write("tasks.py", MODULE)
    template = own_template(POOL, pool_backend(settings_for(secret)), "east/shop/default")
    [container] = template["spec"]["containers"]
    variables = {each["name"]: each["value"] for each in container["env"]}
    variables |= {"PYNCETTE_BACKEND_FILE": str(secret / "url"), "PYNCETTE_HEALTH": "0"}
    del variables["PYNCETTE_METRICS"]
    return Program(*container["args"], cwd=folder.path, **variables)


async def test_the_operator_and_the_workers_connect_by_tls_and_verify_the_server(folder, server, secret):
    fault = await opened(secret)

    assert not fault
    with worker(folder, secret) as program:
        program.expect("running handlers")
        encrypted = server.execute(
            "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'pyncette'"
        )
        assert encrypted
        assert all(row["ssl"] for row in encrypted)


async def test_neither_connects_to_a_server_that_nobody_vouches_for(folder, secret):
    assert not await opened(secret)
    (secret / "ca.crt").unlink()

    fault = await opened(secret)

    assert "the certificate is not trusted" in fault
    with worker(folder, secret) as program:
        assert program.ended() == ExitCode.BACKEND
        assert "the certificate is not trusted" in program.output


async def test_both_say_so_if_their_url_asks_for_less(folder, secret):
    assert not await opened(secret)
    (secret / "url").write_text((secret / "url").read_text() + "?sslmode=prefer")

    fault = await opened(secret)

    assert "TLS is required, but the URL has sslmode=prefer: leave sslmode out, or write verify-full" in fault
    with worker(folder, secret) as program:
        assert program.ended() == ExitCode.USAGE
        assert "TLS is required, but the URL has sslmode=prefer" in program.output
