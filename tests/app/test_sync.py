"""The blocking client: in threads, across forks, at exit, and with a backend that does not answer."""

import asyncio
import inspect
import os
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from pyncette import BlockingPyncetteContext, Pyncette, PyncetteContext
from pyncette.backend import backend_repository
from pyncette.errors import ConfigurationError, StoreUnavailableError, TaskLockedException
from pyncette.store.memory import MemoryBackend, MemoryStore
from pyncette.sync import Client

DAILY = {"schedule": "0 8 * * *"}


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path):
    if request.param == "postgres":
        return request.getfixturevalue("postgres_url")
    return f"sqlite:///{tmp_path}/tasks.sqlite"


def an_app(url):
    app = Pyncette(backend_repository, backend_url=url)

    @app.dynamic_task()
    async def remind(context): ...

    return app, remind


def memory_app(store=None):
    backend = MemoryBackend()
    app = Pyncette(store or (lambda: MemoryStore(backend)))

    @app.dynamic_task()
    async def remind(context): ...

    return app, remind


def client_threads():
    return [thread for thread in threading.enumerate() if thread.name == "pyncette-client"]


def parameters(method):
    return [(one.name, one.default) for one in inspect.signature(method).parameters.values()]


CALLS = [name for name in vars(PyncetteContext) if name.endswith(("_task", "_tasks", "_many"))]


@pytest.mark.parametrize("blocking", [Client, BlockingPyncetteContext])
@pytest.mark.parametrize("name", CALLS)
def test_it_has_each_call_of_the_app_context_with_the_same_arguments(name, blocking):
    assert len(CALLS) == 6
    assert parameters(getattr(blocking, name)) == parameters(getattr(PyncetteContext, name))


def test_the_calls_do_what_those_of_the_app_context_do(url):
    app, remind = an_app(url)

    with Client(app) as client:
        scheduled = client.schedule_task(remind, "ada", **DAILY, timezone="Europe/Dublin", what="stretch")
        state = client.get_task(remind, "ada")
        (listed,) = client.list_tasks(remind).tasks
        client.unschedule_task(remind, "ada")
        assert client.get_task(remind, "ada") is None

    assert scheduled.canonical_name == str(state.task) == str(listed.task) == "remind:ada"
    assert state.task.extra_args == {"what": "stretch"}
    assert f"{state.scheduled_at:%H:%M %Z}" in {"08:00 GMT", "08:00 IST"}


def test_pages_follow_each_other(url):
    app, remind = an_app(url)
    names, token = [], None

    with Client(app) as client:
        results = list(client.schedule_many(remind, ((f"u{number}", DAILY) for number in range(1_234))))
        while True:
            page = client.list_tasks(remind, limit=500, continuation_token=token)
            names += [state.task.name for state in page.tasks]
            token = page.continuation_token
            if token is None:
                break
        (only,) = client.list_tasks(remind, prefix="u1233").tasks
        removed = list(client.unschedule_many(remind, names))
        assert client.list_tasks(remind).tasks == []

    assert [result.name for result in results] == [f"u{number}" for number in range(1_234)]
    assert only.task.name == "u1233"
    assert sorted(names) == sorted(result.name for result in results)
    assert [result.error for result in (*results, *removed)] == [None] * 2 * 1_234


def test_the_errors_are_those_of_the_app_context():
    app, remind = memory_app()

    @app.task(interval=timedelta(hours=1))
    async def static(context): ...

    with Client(app) as client:
        with pytest.raises(ValueError, match="Invalid timezone specifier"):
            client.schedule_task(remind, "ada", **DAILY, timezone="Nowhere")
        with pytest.raises(ValueError, match="instance name must be provided"):
            client.unschedule_task(remind)
        with pytest.raises(ValueError, match="Cannot list instances"):
            client.list_tasks(static)
        with pytest.raises(ValueError, match="Cannot instantiate a non-dynamic task"):
            client.schedule_many(static, [])
        (wrong, right) = client.schedule_many(remind, [("a", {"schedule": "x"}), ("b", DAILY)])

    assert "x" in str(wrong.error)
    assert right.error is None


def test_an_instance_that_runs_elsewhere_is_locked(url):
    app, remind = an_app(url)
    begun = threading.Event()

    @app.middleware
    async def hold(context, run):
        begun.set()
        await asyncio.sleep(60)

    async def work():
        async with app.create() as context:
            running = asyncio.create_task(context.run())
            await asyncio.to_thread(over.wait, 20)
            context.shutdown(timedelta(0))
            await running

    over = threading.Event()
    worker = threading.Thread(target=lambda: asyncio.run(work()))
    worker.start()
    try:
        with Client(app) as client:
            client.schedule_task(remind, "ada", execute_at=datetime(2020, 1, 1, tzinfo=UTC))
            assert begun.wait(20)
            with pytest.raises(TaskLockedException, match="remind:ada while it is locked"):
                client.schedule_task(remind, "ada", **DAILY)
    finally:
        over.set()
        worker.join()


def test_many_threads_share_one_client_and_its_one_event_loop(url):
    app, remind = an_app(url)
    client = Client(app)
    begin = threading.Barrier(20)

    def schedule(number):
        begin.wait()  # so that all of them open it
        for each in range(10):
            client.schedule_task(remind, f"{number}-{each}", **DAILY)

    try:
        with ThreadPoolExecutor(20) as pool:
            list(pool.map(schedule, range(20)))
        assert len(client_threads()) == 1
        assert len(client.list_tasks(remind, limit=500).tasks) == 200
    finally:
        client.close()
    assert client_threads() == []


def test_it_opens_nothing_before_its_first_call(tmp_path):
    app, _ = an_app(f"sqlite:///{tmp_path}/tasks.sqlite")

    client = Client(app)

    assert client_threads() == []
    assert list(tmp_path.iterdir()) == []
    client.close()


def test_a_backend_that_cannot_be_opened_is_tried_again_at_the_next_call():
    backend, tries = MemoryBackend(), []

    class Late(MemoryStore):
        async def __aenter__(self):
            tries.append(1)
            if len(tries) < 3:
                raise StoreUnavailableError("the server is starting")
            return self

    app, remind = memory_app(lambda: Late(backend))
    client = Client(app)

    with pytest.raises(StoreUnavailableError, match="is starting"):
        client.get_task(remind, "ada")
    with pytest.raises(StoreUnavailableError, match="is starting"), client:
        pass
    client = Client(app)
    assert client.get_task(remind, "ada") is None
    client.close()


def test_a_configuration_error_is_raised_by_the_with_statement():
    app = Pyncette(sqlite_table_name="No Name")

    with pytest.raises(ConfigurationError), Client(app):
        pass
    assert client_threads() == []


def test_a_call_that_does_not_end_in_time_is_an_error_and_is_cancelled():
    backend, ended = MemoryBackend(), threading.Event()

    class Hanging(MemoryStore):
        async def load(self, keys):
            try:
                await asyncio.sleep(3600 if keys[0].instance == "ada" else 0)
            finally:
                ended.set()
            return await super().load(keys)

    app, remind = memory_app(lambda: Hanging(backend))

    with Client(app, timeout=timedelta(seconds=0.2)) as client:
        ended.clear()
        with pytest.raises(
            StoreUnavailableError, match=r"within 0\.2 s; it may or may not have been executed"
        ):
            client.get_task(remind, "ada")
        assert ended.wait(5)
        assert client.get_task(remind, "bob") is None, "others go on"


def test_a_backend_that_does_not_open_in_time_is_an_error():
    class Hanging(MemoryStore):
        async def __aenter__(self):
            await asyncio.sleep(3600)
            return self

    app, remind = memory_app(Hanging)

    with pytest.raises(StoreUnavailableError, match=r"not opened within 0\.2 s"):
        Client(app, timeout=timedelta(seconds=0.2)).get_task(remind, "ada")


def test_a_closed_client_says_so_and_ends_the_calls_in_progress():
    class Hanging(MemoryStore):
        async def load(self, keys):
            await asyncio.sleep(3600 if keys[0].instance == "ada" else 0)
            return await super().load(keys)

    app, remind = memory_app(Hanging)
    client = Client(app)
    client.get_task(remind, "bob")
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.get_task, remind, "ada")
        time.sleep(0.1)
        client.close()
        client.close()
        with pytest.raises(RuntimeError, match="closed during the call"):
            call.result(5)
    with pytest.raises(RuntimeError, match="the client is closed"):
        client.get_task(remind, "bob")


def test_a_client_that_nobody_uses_any_more_ends_its_thread():
    app, remind = memory_app()
    client = Client(app)
    client.get_task(remind, "ada")
    (thread,) = client_threads()

    del client

    thread.join(5)
    assert not thread.is_alive()


def test_items_are_read_in_the_thread_of_the_caller_and_only_as_results_are():
    app, remind = memory_app()
    read = []

    def items():
        for number in range(2_000):
            read.append(threading.current_thread())
            yield f"u{number}", DAILY

    with Client(app) as client:
        results = client.schedule_many(remind, items())
        assert read == []
        next(results)
        assert len(read) == 500
        assert set(read) == {threading.current_thread()}
        results.close()


def test_a_call_in_its_own_event_loop_is_refused():
    app = Pyncette(MemoryStore)

    @app.partitioned_task(
        partition_count=2,
        partition_selector=lambda count, name: int(client.get_task(spread, "other") is None),
    )
    async def spread(context): ...

    client = Client(app)
    with pytest.raises(RuntimeError, match="cannot be called in its own event loop"):
        client.schedule_task(spread, "ada", **DAILY)
    client.close()


PROGRAM = """
import asyncio, os, sys, threading, time
from pyncette import Pyncette
from pyncette.backend import backend_repository
from pyncette.sync import Client

app = Pyncette(backend_repository, backend_url=os.environ["URL"])

@app.dynamic_task()
async def remind(context): ...

client = Client(app)

def schedule(name):
    client.schedule_task(remind, name, schedule="0 8 * * *")
"""


def run(program, url):
    """Run *program* after the common beginning, and return what it prints and how long it took."""
    began = time.monotonic()
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "always::ResourceWarning",
            "-c",
            PROGRAM + textwrap.dedent(program),
        ],
        env={**os.environ, "URL": url, "PYTHONPATH": "operator"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr, time.monotonic() - began


@pytest.mark.parametrize("in_threads", [False, True])
def test_children_of_a_fork_open_a_backend_of_their_own_and_leave_that_of_the_parent_alone(url, in_threads):
    program = """
        def sessions():
            # The sessions of this database but for the one that asks.
            if not os.environ["URL"].startswith("postgres"):
                return set()
            import asyncpg
            async def ask():
                connection = await asyncpg.connect(os.environ["URL"])
                rows = await connection.fetch(
                    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
                await connection.close()
                return {row["pid"] for row in rows}
            return asyncio.run(ask())

        schedule("parent")
        mine, own = sessions(), client._session
        stop = threading.Event()
        def keep_calling():
            while not stop.is_set():
                client.get_task(remind, "parent")
        threads = [threading.Thread(target=keep_calling) for _ in range(4 * IN_THREADS)]
        for thread in threads:
            thread.start()
        children = []
        for number in range(8):
            child = os.fork()
            if not child:
                schedule(f"child-{number}")
                schedule(f"child-{number}-again")
                sys.exit(0)  # an ordinary exit, which clears all modules
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        stop.set()
        for thread in threads:
            thread.join()
        schedule("parent-again")
        print(codes, len(client.list_tasks(remind).tasks), client._session is own, mine <= sessions())
    """

    shown, errors, _ = run(program.replace("IN_THREADS", str(int(in_threads))), url)

    assert shown == f"{[0] * 8} 18 True True\n", errors


def test_a_client_that_is_being_opened_at_a_fork_is_opened_in_the_child(url):
    shown, errors, _ = run(
        """
        client._lock.acquire()  # as if another thread opened it
        child = os.fork()
        if not child:
            schedule("child")
            sys.exit(0)
        client._lock.release()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len(client.list_tasks(remind).tasks))
        """,
        url,
    )

    assert shown == "0 1\n", errors


def test_the_exit_of_the_interpreter_does_not_wait_for_an_open_client(url):
    began = run("schedule('a')\nclient.close()", url)[2]

    _, errors, took = run("schedule('a')", url)

    assert errors == ""
    assert took < began + 5


def test_the_exit_of_the_interpreter_does_not_wait_for_a_call_that_hangs(url):
    _, _, took = run(
        """
        schedule("a")
        hang = lambda context: asyncio.sleep(3600)
        threading.Thread(target=lambda: client._call(hang), daemon=True).start()
        time.sleep(0.2)
        """,
        url,
    )

    assert took < 30
