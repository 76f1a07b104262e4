"""How kopf is set up, and what is done before it starts and after it ended."""

import asyncio
import getpass
import logging

import pytest
import yaml

from pyncette.controller.cluster import watch
from pyncette.controller.cluster.api import TASKS, ApiUnavailableError
from pyncette.controller.cluster.credentials import Credentials
from pyncette.controller.cluster.watch import Watch, WatchEndedError, WatchTiming
from tests.controller.fake_api import FakeApi

IMPATIENT = WatchTiming(discovery=0.01, retries=(0.05,) * 1000)


@pytest.fixture
def nowhere(tmp_path):
    """Credentials for an API server that is not there."""
    path = tmp_path / "kubeconfig"
    path.write_text(
        yaml.safe_dump(
            {
                "current-context": "it",
                "clusters": [{"name": "it", "cluster": {"server": "http://127.0.0.1:1"}}],
                "users": [{"name": "it", "user": {"token": "secret"}}],
                "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
            }
        )
    )
    return Credentials(str(path))


def seen(*_):
    raise AssertionError("there is nothing to be seen")


def test_all_settings_of_kopf_that_matter_are_set():
    settings = watch._settings(WatchTiming())

    assert settings.scanning.disabled
    assert settings.peering.standalone
    assert not settings.posting.enabled
    assert not settings.posting.loggers
    assert settings.process.ultimate_exiting_timeout is None
    assert settings.persistence.finalizer.startswith("pyncette.dev/")
    assert settings.persistence.progress_storage.prefix == "pyncette.dev"
    assert settings.persistence.diffbase_storage.prefix == "pyncette.dev"
    assert settings.watching.server_timeout < settings.watching.client_timeout
    assert 60 < settings.watching.inactivity_timeout < settings.watching.server_timeout
    assert settings.watching.chunk_size <= 50
    assert settings.networking.request_timeout


async def test_it_begins_once_both_kinds_are_served(nowhere, caplog):
    caplog.set_level(logging.INFO, "pyncette.controller.cluster.watch")
    api, begun = FakeApi(), asyncio.Event()
    api.remove_crd(TASKS)
    running = asyncio.create_task(Watch(nowhere, seen, timing=IMPATIENT).run(api, begun.set))
    await asyncio.sleep(0.1)
    assert not begun.is_set()

    api.restore_crd(TASKS)
    async with asyncio.timeout(5):
        await begun.wait()
    running.cancel()
    await asyncio.wait({running})

    said = [(record.getMessage(), getattr(record, "reason", "")) for record in caplog.records]
    assert said[:2] == [
        ("cannot watch yet", "no CRDs for pyncettetasks"),
        ("the API server serves the CRDs; starting the watch", ""),
    ]


async def test_an_api_server_that_does_not_answer_is_waited_for(nowhere):
    api, begun = FakeApi(), asyncio.Event()
    api.fail("served", ApiUnavailableError("away"), times=5)
    running = asyncio.create_task(Watch(nowhere, seen, timing=IMPATIENT).run(api, begun.set))

    async with asyncio.timeout(5):
        await begun.wait()
    running.cancel()
    await asyncio.wait({running})

    assert api.count("served") == 6


async def test_without_credentials_it_ends(tmp_path):
    credentials = Credentials(str(tmp_path / "nothing"))

    async with asyncio.timeout(20):
        with pytest.raises(WatchEndedError):
            await Watch(credentials, seen, timing=IMPATIENT).run(FakeApi())


async def test_a_user_without_a_name_can_run_it(nowhere, monkeypatch):
    """As an arbitrary uid in a container is."""

    def nobody():
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(getpass, "getuser", nobody)
    running = asyncio.create_task(Watch(nowhere, seen, timing=IMPATIENT).run(FakeApi()))
    await asyncio.wait({running}, timeout=1)

    assert not running.done()
    running.cancel()
    await asyncio.wait({running})


async def test_it_can_be_stopped_at_once(nowhere):
    for steps in range(30):
        running = asyncio.create_task(Watch(nowhere, seen, timing=IMPATIENT).run(FakeApi()))
        for _ in range(steps):
            await asyncio.sleep(0)
        running.cancel()
        async with asyncio.timeout(watch.STOP_SECONDS * 2):
            await asyncio.wait({running})
        assert running.cancelled()
