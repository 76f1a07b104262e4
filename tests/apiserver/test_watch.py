"""On a real API server: each change is told, and whatever befalls the watch ends in recovery or in an error, never in silence."""

import asyncio
import logging
import signal
import threading
import time
from contextlib import asynccontextmanager, suppress

import pytest

from pyncette.controller.cluster import watch
from pyncette.controller.cluster.api import DEPLOYMENTS, POOLS, TASKS, ObjectName
from pyncette.controller.cluster.client import Kubernetes
from pyncette.controller.cluster.credentials import Credentials
from pyncette.controller.cluster.liveness import Liveness, WatchStaleness
from pyncette.controller.cluster.objects import News, Objects
from pyncette.controller.cluster.watch import Watch, WatchEndedError, WatchTiming
from tests.apiserver import pool, task
from tests.apiserver.faulty import FaultyApiServer, is_list, is_watch

SOON_SECONDS = 20
"""What happens within some milliseconds, on a laden machine."""


IMPATIENT = WatchTiming(discovery=0.05, retries=(0.1,) * 20)


class Watcher:
    """A watch under way, and what it has told."""

    def __init__(self):
        self.told = []
        self.begun = asyncio.Event()
        self.threads = set()
        self._heard = asyncio.Event()
        self.running: asyncio.Task | None = None

    def seen(self, kind, change, body):
        self.threads.add(threading.get_ident())
        self.told.append((kind.plural, change, body["metadata"]["name"], body))
        self._heard.set()

    def changes(self, name, kind=TASKS):
        return [change for plural, change, named, _ in self.told if (plural, named) == (kind.plural, name)]

    def last(self, name, kind=TASKS):
        return next(
            (
                body
                for plural, _, named, body in reversed(self.told)
                if (plural, named) == (kind.plural, name)
            ),
            None,
        )

    async def until(self, holds, seconds=SOON_SECONDS):
        """Wait until it *holds*; the watch must not end meanwhile."""
        async with asyncio.timeout(seconds):
            while not holds():
                assert self.running is not None
                if self.running.done():
                    self.running.result()
                self._heard.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._heard.wait(), 0.05)

    async def ended(self, seconds=SOON_SECONDS):
        """Wait until the watch ends, and return the error that it ends with."""
        assert self.running is not None
        async with asyncio.timeout(seconds):
            with pytest.raises(WatchEndedError) as raised:
                await self.running
        return raised.value


@asynccontextmanager
async def watching(credentials, namespaces=(), watcher=None, timing=IMPATIENT):
    watcher = watcher or Watcher()
    async with Kubernetes(credentials) as api:
        running = Watch(credentials, watcher.seen, namespaces, timing).run(api, watcher.begun.set)
        watcher.running = asyncio.create_task(running)
        try:
            yield watcher
        finally:
            watcher.running.cancel()
            await asyncio.wait({watcher.running})


async def do(what, *args, **kwargs):
    """Call what blocks."""
    return await asyncio.to_thread(what, *args, **kwargs)


@pytest.fixture
def credentials(apiserver):
    return Credentials(str(apiserver.kubeconfig))


# --- What is told ----------------------------------------------------------------------------------------------------


async def test_what_is_there_is_reported_first_and_then_each_change(apiserver, namespace, credentials):
    await do(apiserver.admin.create, task(namespace, "old"))
    async with watching(credentials, [namespace]) as watcher:
        await watcher.until(lambda: watcher.changes("old"))
        await do(apiserver.admin.create, task(namespace, "new"))
        await do(apiserver.admin.patch, task(namespace, "new"), {"spec": {"suspend": True}})
        await do(apiserver.admin.delete, task(namespace, "new"))
        await watcher.until(lambda: "DELETED" in watcher.changes("new"))

    assert watcher.changes("old") == [None]
    assert watcher.changes("new") == ["ADDED", "MODIFIED", "DELETED"]
    assert watcher.threads == {threading.get_ident()}


async def test_all_kinds_are_reported_and_of_deployments_only_ours(apiserver, namespace, credentials):
    async with watching(credentials) as watcher:
        await watcher.until(watcher.begun.is_set)
        await do(apiserver.admin.create, pool(namespace, "workers"))
        await do(apiserver.admin.create, deployment(namespace, "theirs"))
        labels = {"app.kubernetes.io/managed-by": "pyncette-operator"}
        await do(apiserver.admin.create, deployment(namespace, "ours", labels))
        await watcher.until(
            lambda: watcher.changes("workers", POOLS) and watcher.changes("ours", DEPLOYMENTS)
        )

    assert watcher.changes("theirs", DEPLOYMENTS) == []


async def test_only_the_namespaces_that_are_named_are_watched(apiserver, namespace, credentials):
    with apiserver.fresh_namespace() as second, apiserver.fresh_namespace() as other:
        async with watching(credentials, [namespace, second]) as watcher:
            for where, name in ((other, "c"), (namespace, "a"), (second, "b")):
                await do(apiserver.admin.create, task(where, name))
            await watcher.until(lambda: watcher.changes("a") and watcher.changes("b"))

    assert watcher.changes("c") == []


async def test_nothing_is_written_into_what_is_watched(apiserver, namespace, credentials):
    made = [
        await do(apiserver.admin.create, task(namespace)),
        await do(apiserver.admin.create, pool(namespace)),
        await do(
            apiserver.admin.create,
            deployment(namespace, "ours", {"app.kubernetes.io/managed-by": "pyncette-operator"}),
        ),
    ]
    async with watching(credentials, [namespace]) as watcher:
        await watcher.until(lambda: len(watcher.told) >= 3)
        made[0] = await do(apiserver.admin.patch, task(namespace), {"spec": {"suspend": True}})
        await watcher.until(lambda: len(watcher.told) >= 4)
        await asyncio.sleep(1)

    for before in made:
        now = await do(apiserver.admin.read, before)
        assert now["metadata"] == before["metadata"]
    assert await do(apiserver.admin.list, "v1", "Event", namespace) == []


async def test_it_needs_no_rights_but_to_list_and_watch(apiserver, namespace):
    kinds = [{"apiGroups": [kind.group], "resources": [kind.plural], "verbs": ["list", "watch"]}
             for kind in (TASKS, POOLS, DEPLOYMENTS)]  # fmt: skip
    account = await do(apiserver.account, namespace, rules=kinds)
    async with watching(Credentials(str(account.kubeconfig)), [namespace]) as watcher:
        await watcher.until(watcher.begun.is_set)
        await do(apiserver.admin.create, task(namespace))
        await watcher.until(lambda: watcher.changes("report"))


async def test_signals_stay_ours(credentials, apiserver, namespace):
    ours = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, ours.set)
    try:
        async with watching(credentials, [namespace]) as watcher:
            await do(apiserver.admin.create, task(namespace))
            await watcher.until(lambda: watcher.told)
            signal.raise_signal(signal.SIGTERM)
            async with asyncio.timeout(5):
                await ours.wait()
            assert watcher.running is not None
            assert not watcher.running.done()
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


async def test_when_it_stops_it_cancels_nothing_of_ours_and_leaves_no_thread(
    credentials, apiserver, namespace
):
    async with watching(credentials, [namespace]) as watcher:
        ours = asyncio.create_task(asyncio.sleep(60))
        await do(apiserver.admin.create, task(namespace))
        await watcher.until(lambda: watcher.told)
        stopped_at = time.monotonic()

    assert not ours.done()
    ours.cancel()
    assert time.monotonic() - stopped_at < watch.STOP_SECONDS
    assert [thread for thread in threading.enumerate() if thread.name == "pyncette-watch"] == []


async def test_a_failing_callback_costs_one_event(apiserver, namespace, credentials, caplog):
    caplog.set_level(logging.CRITICAL, "pyncette.controller.cluster.watch")

    class Failing(Watcher):
        def seen(self, kind, change, body):
            assert body["metadata"]["name"] != "bad"
            super().seen(kind, change, body)

    async with watching(credentials, [namespace], Failing()) as watcher:
        await watcher.until(watcher.begun.is_set)
        await do(apiserver.admin.create, task(namespace, "bad"))
        await do(apiserver.admin.create, task(namespace, "good"))
        await watcher.until(lambda: watcher.changes("good"))

    assert watcher.changes("bad") == []


# --- CRDs ------------------------------------------------------------------------------------------------------------


async def test_it_waits_for_the_crds_and_then_watches(own_apiserver, caplog):
    caplog.set_level(logging.INFO, "pyncette.controller.cluster.watch")
    await do(own_apiserver.remove)
    async with watching(Credentials(str(own_apiserver.kubeconfig))) as watcher:
        await asyncio.sleep(1)
        assert not watcher.begun.is_set()
        await do(own_apiserver.install)
        await watcher.until(watcher.begun.is_set)
        await do(own_apiserver.admin.create, task("default"))
        await watcher.until(lambda: watcher.changes("report"))

    said = [
        record.getMessage() for record in caplog.records if record.name == "pyncette.controller.cluster.watch"
    ]
    assert said == ["cannot watch yet", "the API server serves the CRDs; starting the watch"]


async def test_a_crd_that_is_removed_ends_it_without_a_traceback(own_apiserver, caplog):
    async with watching(Credentials(str(own_apiserver.kubeconfig))) as watcher:
        await do(own_apiserver.admin.create, task("default"))
        await watcher.until(lambda: watcher.told)
        await do(own_apiserver.remove)
        await watcher.ended()

    assert watcher.changes("report") == ["ADDED", "DELETED"]
    told = [(record.name, record.getMessage()) for record in caplog.records if record.exc_info]
    assert told == []
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_crd_that_is_removed_and_put_back_never_leaves_it_blind(own_apiserver):
    async with watching(Credentials(str(own_apiserver.kubeconfig))) as watcher:
        await do(own_apiserver.admin.create, task("default"))
        await watcher.until(lambda: watcher.told)
        await do(own_apiserver.remove)
        await do(own_apiserver.install)
        await do(own_apiserver.admin.create, task("default", "again"))
        await recovered_or_ended(watcher, "again")


# --- Faults ----------------------------------------------------------------------------------------------------------


async def recovered_or_ended(watcher, *names, seconds=SOON_SECONDS):
    """Wait until all was told, or the watch has ended; return which. Anything else would be blindness."""
    try:
        await watcher.until(lambda: all(watcher.changes(name) for name in names), seconds)
    except WatchEndedError:
        return "ended"
    return "recovered"


def error_line(code, reason):
    return {"type": "ERROR", "object": {"kind": "Status", "code": code, "reason": reason, "message": reason}}


HALF_A_LINE = b'{"type": "ADDED", "object": {"metadata": {"na'


async def half_a_line_and_a_cut(server):
    server.say(HALF_A_LINE, ends=False)
    await asyncio.sleep(0.2)
    server.cut()


FAULTS = {
    "410 in the stream": (lambda server: server.say(error_line(410, "Expired")), "recovered"),
    "500 in the stream": (lambda server: server.say(error_line(500, "InternalError")), "ended"),
    "the stream ends": (lambda server: server.say(b""), "recovered"),
    "the stream is cut": (lambda server: server.cut(), "recovered"),
    "half a line, and the end": (lambda server: server.say(HALF_A_LINE), "ended"),
    "half a line, and a cut": (half_a_line_and_a_cut, "recovered"),
    "no JSON": (lambda server: server.say(b"<html>\n"), "ended"),
    "410 on request": (lambda server: (server.refuse(is_watch, 410, 1), server.cut()), "ended"),
    "some 429": (lambda server: (server.refuse(is_watch, 429, 3), server.cut()), "recovered"),
    "a burst of 403": (lambda server: (server.refuse(is_watch, 403, 5), server.cut()), "recovered"),
    "403 that stays": (lambda server: (server.refuse(is_watch, 403), server.cut()), "ended"),
    "some 500": (lambda server: (server.refuse(is_watch, 500, 5), server.cut()), "recovered"),
    "500 that stays": (lambda server: (server.refuse(is_watch, 500), server.cut()), "ended"),
    "404": (lambda server: (server.refuse(is_watch, 404, 1), server.cut()), "ended"),
    "401 with the same token": (lambda server: (server.refuse(is_watch, 401, 1), server.cut()), "ended"),
    "503 when it lists again": (
        lambda server: (server.refuse(is_list, 503, 5), server.say(error_line(410, "Expired"))),
        "recovered",
    ),
    "403 when it lists again": (
        lambda server: (server.refuse(is_list, 403), server.say(error_line(410, "Expired"))),
        "ended",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
async def test_no_fault_leaves_it_alive_and_blind(fault, apiserver, namespace, tmp_path):
    befall, outcome = FAULTS[fault]
    async with FaultyApiServer(apiserver).running() as server:
        credentials = Credentials(str(server.kubeconfig(tmp_path / "kubeconfig")))
        async with watching(credentials, [namespace]) as watcher:
            await watcher.until(lambda: len(server.streams) == 3)
            await do(apiserver.admin.create, task(namespace, "before"))
            await watcher.until(lambda: watcher.changes("before"))

            befallen = befall(server)
            if asyncio.iscoroutine(befallen):
                await befallen
            await do(apiserver.admin.create, task(namespace, "after"))
            await do(apiserver.admin.create, pool(namespace, "after-too"))

            assert await recovered_or_ended(watcher, "after") == outcome
            if outcome == "recovered":
                await watcher.until(lambda: watcher.changes("after-too", POOLS))
                assert watcher.changes("before") in (["ADDED"], ["ADDED", None])


async def test_a_stream_that_falls_silent_is_given_up_and_taken_up_again(apiserver, namespace, tmp_path):
    async with FaultyApiServer(apiserver).running() as server:
        credentials = Credentials(str(server.kubeconfig(tmp_path / "kubeconfig")))
        async with watching(credentials, [namespace], timing=IMPATIENT._replace(silence=1.0)) as watcher:
            await watcher.until(lambda: len(server.streams) == 3)
            silent = set(server.streams)
            server.fall_silent()
            await do(apiserver.admin.create, task(namespace, "meanwhile"))
            await asyncio.sleep(2)
            assert watcher.changes("meanwhile") == []
            server.speak_again()
            await watcher.until(lambda: watcher.changes("meanwhile"))
            assert len(server.streams - silent) >= 1


async def test_a_watch_that_stays_silent_is_found_out_by_a_list(apiserver, namespace, tmp_path, monkeypatch):
    sight = WatchStaleness(stale_seconds=1.0)
    objects = Objects(sight)
    operator = Liveness(sight, resync_seconds=300)
    async with FaultyApiServer(apiserver).running() as server:
        credentials = Credentials(str(server.kubeconfig(tmp_path / "kubeconfig")))
        watcher = Watcher()
        monkeypatch.setattr(
            watcher, "seen", lambda *event: (watcher.told.append(event), objects.observe(*event))
        )
        silent = IMPATIENT._replace(silence=3600.0)
        async with watching(credentials, [namespace], watcher, silent), Kubernetes(credentials) as api:
            await watcher.until(lambda: len(server.streams) == 3)
            operator.discovered()
            await objects.absorb(TASKS, namespace, api.list(TASKS, namespace))
            operator.resynced()
            assert operator.is_ready()

            server.mute_streams()
            await do(apiserver.admin.create, task(namespace))
            listed = await objects.absorb(TASKS, namespace, api.list(TASKS, namespace))
            await asyncio.sleep(1.1)

    assert listed.changed == {ObjectName(namespace, "report"): News.DESIRED}
    assert not operator.is_alive()


async def test_an_expired_token_is_exchanged_for_the_one_that_lies_there_now(apiserver, namespace, tmp_path):
    file = tmp_path / "token"
    file.write_text(apiserver.token)
    async with FaultyApiServer(apiserver).running() as server:
        config = server.kubeconfig(tmp_path / "kubeconfig", tokenFile=str(file))
        async with watching(Credentials(str(config)), [namespace]) as watcher:
            await watcher.until(lambda: len(server.streams) == 3)
            old = f"Bearer {apiserver.token}"
            rules = [{"apiGroups": [kind.group], "resources": [kind.plural], "verbs": ["list", "watch"]}
                     for kind in (TASKS, POOLS, DEPLOYMENTS)]  # fmt: skip
            account = await do(apiserver.account, namespace, rules=rules)
            file.write_text(account.token)
            server.refuse(lambda request: request.headers["Authorization"] == old, 401)
            server.cut()
            await do(apiserver.admin.create, task(namespace, "after"))
            await do(apiserver.admin.create, pool(namespace, "after-too"))

            await watcher.until(lambda: watcher.changes("after"))
            await watcher.until(lambda: watcher.changes("after-too", POOLS))


async def test_no_token_is_ever_logged(apiserver, namespace, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    async with FaultyApiServer(apiserver).running() as server:
        credentials = Credentials(str(server.kubeconfig(tmp_path / "kubeconfig")))
        async with watching(credentials, [namespace]) as watcher:
            await watcher.until(lambda: len(server.streams) == 3)
            server.refuse(is_watch, 401, 1)
            server.cut()
            error = await watcher.ended()

    assert caplog.records
    assert apiserver.token not in caplog.text + str(error)


async def test_an_api_server_that_starts_again_is_watched_on(own_apiserver):
    credentials = Credentials(str(own_apiserver.kubeconfig))
    async with watching(credentials) as watcher:
        await do(own_apiserver.admin.create, task("default", "before"))
        await watcher.until(lambda: watcher.changes("before"))
        await do(own_apiserver.stop)
        await asyncio.sleep(1)
        await do(own_apiserver.start)
        await do(own_apiserver.admin.create, task("default", "after"))

        assert await recovered_or_ended(watcher, "after", seconds=60) == "recovered"


async def test_one_namespace_that_is_forbidden_ends_all(apiserver, namespace):
    rules = [{"apiGroups": [kind.group], "resources": [kind.plural], "verbs": ["list", "watch"]}
             for kind in (TASKS, POOLS, DEPLOYMENTS)]  # fmt: skip
    account = await do(apiserver.account, namespace, rules=rules)
    with apiserver.fresh_namespace() as other:
        async with watching(Credentials(str(account.kubeconfig)), [namespace, other]) as watcher:
            await watcher.ended()


def deployment(namespace, name, labels=None):
    pod = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "it", "image": "it"}]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace, "labels": labels or {}},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": pod},
    }
