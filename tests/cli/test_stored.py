"""`tasks`, `runs`, `run` and `migrate` read and write what is stored; bad input ends in a sentence and an exit code."""

import asyncio
import contextlib
import datetime
import json
import os
import re
import sqlite3
import time

import pytest
from click.testing import CliRunner

from pyncette import FailureMode, Pyncette, __version__
from pyncette.cli import stored
from pyncette.cli.commands import cli
from pyncette.cli.failures import MEANINGS, ExitCode
from pyncette.coordination.members import Member
from pyncette.core.record import Change, Key, Partition, replace
from pyncette.core.schedule import Cron
from pyncette.core.spec import Missed
from pyncette.resources.task_status import LastRun, RunCounts
from pyncette.store.backend import read_backend
from tests.cli import MODULE, Program, called
from tests.membership import there

SECOND = datetime.timedelta(seconds=1)
LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


class Store:
    """A backend with a few tasks in it, some of which have run."""

    def __init__(self, url):
        self.url = url

    def fill(self):
        asyncio.run(self._fill())
        return self

    async def _fill(self):
        app = Pyncette()
        ran = asyncio.Event()

        @app.task(interval=SECOND)
        async def beat(context):
            ran.set()

        @app.task(schedule="0 12 * * 1-5", timezone="Europe/Dublin", audience="finance")
        async def report(context):
            pass

        @app.dynamic_task()
        async def remind(context):
            pass

        async with app.create(new_store=read_backend(self.url).new_store) as context:
            for name in ("alice", "bob"):
                await context.schedule_task(remind, name, schedule="0 9 * * *")
            running = asyncio.create_task(context.run())
            await ran.wait()
            context.shutdown()
            await running


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request, tmp_path):
    """On each backend that there is."""
    if request.param == "sqlite":
        return Store(f"sqlite:///{tmp_path}/tasks.db").fill()
    return Store(request.getfixturevalue("postgres_url")).fill()


@pytest.fixture
def file(tmp_path):
    return Store(f"sqlite:///{tmp_path}/tasks.db").fill()


def invoke(*args, **variables):
    return CliRunner(env={"PYNCETTE_BACKEND": None, "PYNCETTE_REALM": None} | variables).invoke(cli, args)


def told(*args, **variables):
    """What a command prints as JSON."""
    result = invoke(*args, "--output", "json", **variables)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(*args, code=ExitCode.USAGE, **variables):
    """The sentence that a command ends with."""
    result = invoke(*args, **variables)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr.strip()


# --- Reading ---------------------------------------------------------------------------------------------------------


def test_tasks_lists_what_is_scheduled_for_people(store):
    result = invoke("tasks", PYNCETTE_BACKEND=store.url)

    head, beat, remind, report = result.stdout.splitlines()
    assert head.split("  ")[0] == "TASK"
    assert "every 1 s" in beat
    assert "1 ok" in beat
    assert "2 instances" in remind
    assert "0 12 * * 1-5 Europe/Dublin" in report
    assert "12:00:00" in report


def test_tasks_lists_what_is_scheduled_for_programs(store):
    listed = {task["name"]: task for task in told("tasks", "--backend", store.url)}

    assert listed.keys() == {"beat", "remind", "report"}
    assert listed["beat"]["runCounts"]["succeeded"] == 1
    assert listed["beat"]["lastRun"]["outcome"] == "succeeded"
    assert listed["remind"]["instances"] == {"total": 2, "due": 0, "leased": 0, "exact": True}
    assert (listed["report"]["schedule"], listed["report"]["timeZone"]) == ("0 12 * * 1-5", "Europe/Dublin")
    assert listed["beat"]["intervalSeconds"] == 1
    assert listed["report"]["nextScheduleTime"].endswith("Z")


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("counts", {"succeeded": -1}, ("runCounts", "succeeded")),
        ("counts", {"deadLettered": 2**53}, ("runCounts", "deadLettered")),
        ("last_attempts", 2**53, ("lastRun", "attempts")),
        ("last_worker", "w" * 300, ("lastRun", "worker")),
    ],
)
def test_a_row_that_no_status_could_hold_is_listed_as_it_is_stored(file, field, value, shown):
    with contextlib.closing(sqlite3.connect(file.url.removeprefix("sqlite:///"))) as connection, connection:
        (text,) = connection.execute("SELECT state FROM pyncette_tasks WHERE task = 'beat'").fetchone()
        state = json.loads(text)
        state["summary"][field] = value
        connection.execute("UPDATE pyncette_tasks SET state = ? WHERE task = 'beat'", [json.dumps(state)])

    listed = {task["name"]: task for task in told("tasks", "--backend", file.url)}

    assert listed.keys() == {"beat", "remind", "report"}
    group, name = shown
    assert listed["beat"][group][name] == (value[name] if isinstance(value, dict) else value)


def test_runs_and_counts_are_named_as_in_the_status(file):
    listed = {task["name"]: task for task in told("tasks", "--backend", file.url)}

    assert list(listed["beat"]["runCounts"]) == list(RunCounts().model_dump(by_alias=True))
    last_run = LastRun(outcome="Succeeded").model_dump(by_alias=True, exclude={"id"})
    assert list(listed["beat"]["lastRun"]) == list(last_run)


def test_one_task_or_instance_is_shown_with_all_details(store):
    report = told("tasks", "report", "--backend", store.url)
    alice = told("tasks", "remind/alice", "--backend", store.url)

    assert report["args"] == {"audience": "finance"}
    assert (alice["name"], alice["schedule"]) == ("remind/alice", "0 9 * * *")
    assert "audience" in invoke("tasks", "report", "--backend", store.url).stdout


def test_a_template_is_one_task_in_however_many_partitions_it_counts(file):
    async def spread():
        app = Pyncette()
        ran = []

        @app.partitioned_task(partition_count=4)
        async def spread(context):
            ran.append(context.task.name)
            if len(ran) == 20:
                context.app_context.shutdown()

        async with app.create(new_store=read_backend(file.url).new_store) as context:
            for number in range(20):
                await context.schedule_task(spread, f"once{number}", execute_at=LONG_AGO)
                await context.schedule_task(spread, f"daily{number}", schedule="0 9 * * *")
            await context.run()

    asyncio.run(spread())

    told_of = told("tasks", "spread", "--backend", file.url)
    assert told_of == next(task for task in told("tasks", "--backend", file.url) if task["name"] == "spread")
    assert told_of["instances"] == {"total": 20, "due": 0, "leased": 0, "exact": True}
    assert told_of["runCounts"]["succeeded"] == 20
    assert told("runs", "spread", "--backend", file.url) == []


def test_instances_of_a_task_are_listed_by_name(store):
    listed = told("tasks", "remind", "--instances", "--backend", store.url)
    first = invoke("tasks", "remind", "--instances", "--limit", "1", "--backend", store.url).stdout

    assert [task["name"] for task in listed] == ["remind/alice", "remind/bob"]
    assert "remind/alice" in first
    assert "remind/bob" not in first
    assert "0 9 * * *" in first
    assert "no instances of a task beat found" in refused(
        "tasks", "beat", "--instances", "--backend", store.url
    )
    assert "needs a TASK" in refused("tasks", "--instances", "--backend", store.url)


def test_what_a_template_keeps_for_workers_is_not_shown(file):
    assert "partition_count" not in invoke("tasks", "remind", "--backend", file.url).stdout


def test_runs_lists_the_history_of_a_task(store):
    (run,) = told("runs", "beat", "--backend", store.url)
    result = invoke("runs", "beat", "--backend", store.url)

    assert (run["outcome"], run["attempts"]) == ("succeeded", 1)
    assert run["id"] in result.stdout


def test_nothing_is_stored_in_another_realm(store):
    assert told("tasks", "--backend", store.url, "--realm", "elsewhere") == []


def test_a_task_that_there_is_not_is_refused(file):
    sentence = refused("tasks", "nothing", "--backend", file.url)

    assert sentence == "pyncette: task nothing not found; `pyncette tasks` lists all tasks"
    assert "task beat not found in the realm r" in refused(
        "runs", "beat", "--backend", file.url, "--realm", "r"
    )


def test_a_task_whose_zone_is_gone_is_listed_like_the_others(file):
    async def lose_the_zone():
        async with read_backend(file.url).new_store() as store:
            (record,) = await store.load([Key(Partition("", "report"), "report")])
            policies = replace(record.spec.policies, missed=Missed.LATEST)
            spec = replace(record.spec, schedule=Cron("0 12 * * 1-5", "Gone/Nowhere"), policies=policies)
            begun = replace(record, spec=spec, version=record.version + 1, attempt=1, began_at=record.due_at)
            assert await store.swap([Change(record, begun)]) == [True]

    asyncio.run(lose_the_zone())

    listed = {task["name"]: task for task in told("tasks", "--backend", file.url)}
    assert listed.keys() == {"beat", "remind", "report"}
    assert "0 12 * * 1-5 Gone/Nowhere" in invoke("tasks", PYNCETTE_BACKEND=file.url).stdout
    assert invoke("tasks", "report", PYNCETTE_BACKEND=file.url).exit_code == 0


# --- Workers ---------------------------------------------------------------------------------------------------------


def told_while(url, realm, member, *command):
    """What a command prints as JSON and as a table, while *member* is there."""

    async def run():
        async with read_backend(url).new_store() as store, there(store, realm, member):
            return await asyncio.to_thread(told, *command), (await asyncio.to_thread(invoke, *command)).stdout

    return asyncio.run(run())


def test_workers_that_run_are_listed_with_what_they_run(store):
    started_at = int(time.time() - 90) * 1_000_000
    counts = (("report", 4),)
    member = Member(
        "pod:1:abc", ("beat", "report"), "1.2.3", 4, 7, started_at, partitions=counts, refused=("report",)
    )

    (worker,), table = told_while(store.url, "", member, "workers", "--backend", store.url)

    start = worker.pop("startTime")
    assert datetime.datetime.fromisoformat(start).timestamp() == started_at / 1_000_000
    assert worker == {
        "worker": "pod:1:abc", "version": "1.2.3", "schema": 4, "handlers": ["beat", "report"], "slots": 7,
        "partitions": {"report": 4}, "refused": ["report"],
    }  # fmt: skip
    assert re.search(r"^pod:1:abc +1.2.3 +7 +1 min \d+ s ago +beat, report \(refused\)$", table, re.MULTILINE)


def test_workers_of_another_realm_are_listed_there(store):
    command = ("workers", "--backend", store.url)

    here, _ = told_while(store.url, "elsewhere", Member("pod:1:abc"), *command)
    there, _ = told_while(store.url, "elsewhere", Member("pod:1:abc"), *command, "--realm", "elsewhere")

    assert (here, [worker["worker"] for worker in there]) == ([], ["pod:1:abc"])


def test_workers_are_no_tasks(store):
    command = ("tasks", "--backend", store.url)

    assert told_while(store.url, "", Member("pod:1:abc"), *command)[0] == told(*command)


# --- Firing ----------------------------------------------------------------------------------------------------------

WORKER = """
    import datetime
    from pyncette import Pyncette

    app = Pyncette()

    @app.task(interval=datetime.timedelta(days=1), name="greet", who="you")
    async def greet(context):
        print("greetings", context.args["who"], flush=True)

    @app.task(interval=datetime.timedelta(days=1), failure_mode=__import__("pyncette").FailureMode.COMMIT)
    async def fail(context):
        raise ValueError("no luck")

    @app.dynamic_task()
    async def remind(context):
        print("reminded", context.task.name, flush=True)

    @app.fixture()
    async def instances(context):
        await context.schedule_task(remind, "alice", interval=datetime.timedelta(days=1))
        yield
"""


@pytest.fixture
def working(request, folder):
    """A worker that runs, and the backend that it runs on."""
    backend = f"sqlite:///{folder.path}/tasks.db"
    folder.write("tasks.py", WORKER)
    with Program("worker", "tasks", cwd=folder.path, PYNCETTE_BACKEND=backend) as program:
        program.expect("running handlers")
        program.backend = backend
        yield program


def fire(working, *args):
    return called("run", *args, PYNCETTE_BACKEND=working.backend)


def test_run_runs_a_task_now_and_tells_its_outcome(working):
    code, output = fire(working, "greet")

    working.expect("greetings you")
    assert code == 0
    assert "requested a run of greet; waiting for its outcome" in output
    assert "greet: succeeded in " in output


def test_run_gives_the_arguments_that_it_is_given(working):
    code, _ = fire(working, "greet", "--args", '{"who": "Ada"}')

    assert code == 0
    working.expect("greetings Ada")


def test_run_of_a_failing_handler_exits_with_1_and_the_error(working):
    code, output = fire(working, "fail", "--output", "json")

    document = json.loads(output[output.index("{") :])
    assert code == 1
    assert (document["outcome"], document["message"]) == ("failed", "ValueError: no luck")


def test_run_runs_an_instance_of_a_dynamic_task(working):
    code, output = fire(working, "remind/alice")

    assert code == 0
    assert "remind/alice: succeeded" in output
    working.expect("reminded alice")


def test_run_of_a_template_is_refused_with_a_hint(working):
    code, output = fire(working, "remind")

    assert (code, "remind is a dynamic task: select one of its instances" in output) == (2, True)


@pytest.fixture
def impatient(monkeypatch):
    """A command that waits for a claim as long as before, but in a shorter time."""
    monkeypatch.setattr(stored, "QUIET_SECONDS", 0.2)
    monkeypatch.setattr(stored, "CLAIM_SECONDS", 1.0)
    monkeypatch.setattr(stored, "OUTCOME_SECONDS", 0.5)


def test_run_without_a_worker_does_not_wait_for_ever(file, impatient):
    result = invoke("run", "report", "--backend", file.url)

    assert result.exit_code == ExitCode.TIMEOUT
    assert "no worker has claimed the run yet: no running worker has the handler report" in result.stderr
    assert (
        "the run of report has not ended after 1 s; no worker has claimed it: no running worker has the handler report"
        in result.stderr
    )
    (record,) = requested(file)
    assert (record.lease, record.attempt) == (None, 0)


def test_run_tells_busy_workers_from_none(file, impatient):
    async def run():
        worker = Member("pod:1:abc", ("report",), "1.2.3", 4, 7, 0)
        async with read_backend(file.url).new_store() as store, there(store, "", worker):
            return await asyncio.to_thread(invoke, "run", "report", "--backend", file.url)

    assert (
        "no worker has claimed it: all workers with the handler report (1) are busy"
        in asyncio.run(run()).stderr
    )


def test_run_waits_for_a_run_that_a_worker_has_claimed(file, impatient):
    async def run():
        async with read_backend(file.url).new_store() as store:
            waiting = asyncio.create_task(asyncio.to_thread(invoke, "run", "report", "--backend", file.url))
            while not any(record.key.occurrence for record in await records(store)):  # noqa: ASYNC110 - of another process
                await asyncio.sleep(0.05)
            now = await store.now()
            (claimed,) = (
                await store.claim({Partition("", "report"): 1}, "lease", "pod:1:abc", now, now)
            ).records
            await asyncio.sleep(2)
            assert not waiting.done()
            assert await store.swap([Change(claimed, None)]) == [True]
            return await waiting

    assert "the run has ended, but its outcome was not found" in asyncio.run(run()).stderr


def requested(file):
    async def read():
        async with read_backend(file.url).new_store() as store:
            return [record for record in await records(store) if record.key.occurrence]

    return asyncio.run(read())


async def records(store):
    return await store.scan(Partition("", "report"), "report", None, 100)


def test_run_without_a_worker_prints_a_hint_and_ends_at_its_timeout(file):
    result = invoke("run", "report", "--timeout", "6", "--backend", file.url)

    assert result.exit_code == ExitCode.TIMEOUT
    assert "the run of report has not ended after 6 s; no worker has claimed it yet" in result.stderr


def test_after_ctrl_c_a_requested_run_still_takes_place(file):
    with Program("run", "report", "--backend", file.url) as program:
        program.expect("requested a run of report")
        program.interrupt()
        assert program.ended() == ExitCode.INTERRUPTED

    assert "the requested run still takes place" in program.output


def test_a_number_that_is_none_is_refused_in_plain_words(file):
    assert "'abc' is not a valid number." in refused(
        "run", "report", "--timeout", "abc", "--backend", file.url
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("{", "--args is not valid JSON: Expecting property name"),
        ("[1]", "--args must be a JSON object, not [1]"),
        ('{"n": NaN}', "--args is not valid JSON: Out of range float values"),
        ('{"text": "' + "x" * 20_000 + '"}', "--args has 20,011 bytes; the limit is 16,384"),
    ],
)
def test_arguments_that_are_not_json_are_refused(file, args, message):
    assert message in refused("run", "report", "--args", args, "--backend", file.url)


# --- Which backend ---------------------------------------------------------------------------------------------------


def test_a_folder_where_dev_ran_is_a_backend(folder):
    folder.task("hello", intervalSeconds=1)
    with Program("dev", folder.path) as program:
        program.expect("hello: succeeded")
        code, output = called("run", "hello", "--path", folder.path)
        program.interrupt()
        program.ended()

    assert (code, "hello: succeeded" in output) == (0, True)
    assert called("tasks", cwd=folder.path)[0] == 0
    assert [task["name"] for task in told("tasks", "--path", str(folder.path))] == ["hello"]


def test_no_backend_is_refused_with_what_to_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert (
        "set PYNCETTE_BACKEND or pass --backend, or pass --path with a folder where pyncette dev has run"
        in refused("tasks")
    )
    assert f"pyncette dev has not run in {tmp_path}" in refused("tasks", "--path", str(tmp_path))


def test_looking_at_a_file_that_is_not_there_does_not_make_it(tmp_path):
    assert f"there is no file {tmp_path}/tasks.db" in refused(
        "tasks", "--backend", f"sqlite:///{tmp_path}/tasks.db"
    )
    assert not (tmp_path / "tasks.db").exists()


def test_a_folder_and_a_backend_at_once_are_refused(file, tmp_path):
    assert "--path and --backend are mutually exclusive" in refused(
        "tasks", "--path", str(tmp_path), "--backend", file.url
    )


def test_memory_is_not_migrated():
    assert "lost when this process ends: use a file or a server" in refused(
        "migrate", "--backend", "sqlite://"
    )


def test_memory_holds_nothing_to_look_at():
    assert "the memory backend is empty" in refused("tasks", "--backend", "sqlite://")


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("not a database, although it is long enough to be looked at" * 100)

    sentence = refused("tasks", "--backend", f"sqlite:///{tmp_path}/notes.txt", code=ExitCode.BACKEND)

    assert "is not an SQLite database" in sentence


def test_an_unavailable_server_is_reported_without_its_password():
    sentence = refused("tasks", "--backend", "postgresql://u:hunter2@127.0.0.1:9/d", code=ExitCode.BACKEND)

    assert "127.0.0.1:9" in sentence
    assert "hunter2" not in sentence


# --- Migrating -------------------------------------------------------------------------------------------------------


def test_a_migration_waits_with_shutting_out_workers_that_still_run(file):
    async def while_an_old_one_runs():
        old = Member("pod:1:abc", version="0.0.9", reader=0)
        async with read_backend(file.url).new_store() as store, there(store, "shop", old):
            return await asyncio.to_thread(refused, "migrate", "--backend", file.url, code=ExitCode.SCHEMA)

    with contextlib.closing(sqlite3.connect(file.url.removeprefix("sqlite:///"))) as connection, connection:
        connection.execute("UPDATE pyncette_tasks_meta SET min_reader = 0")
    sentence = asyncio.run(while_an_old_one_runs())

    assert sentence.startswith("pyncette: workers run that know no schema from 1 on: pod:1:abc (0.0.9).")
    assert told("migrate", "--backend", file.url)["after"] == 1
    with contextlib.closing(sqlite3.connect(file.url.removeprefix("sqlite:///"))) as connection:
        assert connection.execute("SELECT min_reader FROM pyncette_tasks_meta").fetchall() == [(1,)]


def test_migrate_creates_tables_and_reports_that_nothing_is_to_do(tmp_path, postgres_url):
    for url in (f"sqlite:///{tmp_path}/new.db", postgres_url):
        assert refused_schema(url)
        assert told("migrate", "--backend", url)["before"] == 0
        assert told("migrate", "--backend", url) == told("migrate", "--backend", url)
        assert "has schema 1 already" in invoke("migrate", "--backend", url).stdout
        assert told("tasks", "--backend", url) == []


def test_tables_of_another_name_are_reached_by_the_url(tmp_path, postgres_url):
    for url in (f"sqlite:///{tmp_path}/tasks.db", postgres_url):
        theirs = f"{url}?table_name=reminders"
        Store(theirs).fill()

        assert len(told("tasks", "--backend", theirs)) == 3
        assert told("migrate", "--backend", url)["before"] == 0
        assert told("tasks", "--backend", url) == []
        assert "(tables reminders) has schema 1 already" in invoke("migrate", "--backend", theirs).stdout


def refused_schema(url):
    if url.startswith("sqlite"):
        return "there is no file" in refused("tasks", "--backend", url)
    return "pyncette migrate" in refused("tasks", "--backend", url, code=ExitCode.SCHEMA)


# --- All of them -----------------------------------------------------------------------------------------------------


def test_the_version_is_printed():
    assert invoke("--version").stdout == f"pyncette, version {__version__}\n"


def test_help_tells_of_every_exit_code():
    text = " ".join(invoke("--help").stdout.split())

    assert MEANINGS.keys() == set(ExitCode)
    for code in ExitCode:
        assert f" {code.value} " in text


@pytest.mark.parametrize(
    "command", ["dev", "check", "worker", "run", "redrive", "resume", "tasks", "runs", "migrate"]
)
def test_each_command_helps_with_examples(command):
    result = invoke(command, "--help")

    assert result.exit_code == 0
    assert (
        f"\n  pyncette {command}" in result.stdout
        or f" pyncette {command} " in result.stdout.split("Examples:")[1]
    )


def test_a_misspelt_variable_is_warned_of(file):
    result = invoke("tasks", "--backend", file.url, PYNCETTE_BAKCEND="x")

    assert result.exit_code == 0
    assert (
        "warning: PYNCETTE_BAKCEND is not a setting and has no effect; did you mean PYNCETTE_BACKEND?"
        in result.stderr
    )


# --- Checking --------------------------------------------------------------------------------------------------------


def test_check_reports_that_there_are_no_problems(folder):
    folder.task("hello", intervalSeconds=1)

    code, output = called("check", "jobs", cwd=folder.path.parent)

    assert (code, output) == (0, "jobs: 1 manifest, 1 handler, no problems\n")


def test_check_tells_each_problem_with_its_place_and_exits_with_1(folder):
    folder.task("one", handler="greeet", intervalSeconds=1).task("two", schedule='"* *"')

    code, output = called("check", "jobs", cwd=folder.path.parent)

    assert code == 1
    assert "jobs/one.yaml:6:12: spec.handler: " in output
    assert "jobs/two.yaml:7:13: spec.schedule: " in output
    assert "pyncette: 2 problems in jobs" in output


def test_check_refuses_a_dynamic_task_that_the_module_has_otherwise(folder):
    folder.write(
        "tasks.py",
        """
        from pyncette import Pyncette

        app = Pyncette()
        app.handler(name="greet")(print)
        app.dynamic_task(name="remind")(print)
        app.partitioned_task(name="spread", partition_count=4)(print)
        """,
    )
    folder.task("right", handler="remind", dynamic="true")
    folder.task("second", handler="remind", dynamic="true")
    folder.task("static", dynamic="true")
    folder.task("wide", handler="spread", dynamic="true", partitions=8)

    code, output = called("check", "jobs", cwd=folder.path.parent)

    assert code == 1
    assert (
        "jobs/second.yaml:4:9: metadata.name: remind is the task at jobs/right.yaml:4:9 already: a dynamic"
        in output
    )
    assert 'jobs/static.yaml:6:12: spec.handler: "greet" cannot have instances: declare it with' in output
    assert "jobs/wide.yaml:8:15: spec.partitions: must be 4, as in the task module, not 8" in output
    assert "pyncette: 3 problems in jobs" in output


def test_check_refuses_a_schedule_whose_years_were_over_when_it_was_written(folder):
    folder.task("late", schedule='"0 0 1 1 * 0 2020"').task("done", schedule='"0 0 1 1 * 0 2020"')
    os.utime(folder / "done.yaml", (0, 0))

    code, output = called("check", "jobs", cwd=folder.path.parent)

    assert code == 1
    assert "jobs/late.yaml:7:13: spec.schedule: [0 0 1 1 * 0 2020] never fires after" in output
    assert "done.yaml" not in output


BROKEN = "from pyncette import Pyncette\napp = Pyncette()\napp.nothing\n"


def test_check_reports_problems_of_the_module_and_of_the_manifests(folder):
    folder.task("two", schedule='"* *"').write("tasks.py", BROKEN)

    code, output = called("check", "jobs", cwd=folder.path.parent)

    assert code == 1
    assert "jobs/tasks.py:3: AttributeError: " in output
    assert "jobs/two.yaml:7:13: spec.schedule: " in output
    assert "pyncette: 2 problems in jobs" in output


YIELDING = """
    from collections.abc import Awaitable
    from pyncette import Pyncette

    app = Pyncette()

    @app.handler()
    def greet(context):
        yield

    @app.handler()
    def fine(context) -> Awaitable[None]:
        return other(context)

    @app.handler()
    def plain(context):
        print("greetings")

    @app.dynamic_task(name="again")
    @app.dynamic_task()
    async def remind(context):
        yield
"""


PLAIN_MIDDLEWARE = """\
from pyncette import Pyncette

app = Pyncette()

@app.middleware
def trace(context, next):
    return next()
"""


def test_check_reports_each_handler_that_yields(folder):
    folder.task("two", schedule='"* *"').write("tasks.py", YIELDING)

    result = invoke("check", str(folder.path))

    assert result.exit_code == 1
    assert (
        f"{folder.path}/tasks.py:6: The handler greet is a generator function: a handler must not yield"
        in result.stdout
    )
    assert f"{folder.path}/tasks.py:18: The handler remind is an async generator function" in result.stdout
    assert "two.yaml:7:13: spec.schedule: " in result.stdout
    assert "pyncette: 3 problems" in result.stderr
    assert "Warning" not in result.stderr


def test_check_reports_a_middleware_that_is_not_a_coroutine_function(folder):
    folder.write("tasks.py", PLAIN_MIDDLEWARE)

    result = invoke("check", str(folder.path))

    assert result.exit_code == 1
    assert f"{folder.path}/tasks.py:5: The middleware trace is not a coroutine function" in result.stdout


def test_check_tells_programs_each_problem_with_its_place(folder):
    folder.task("two", schedule='"* *"').write("tasks.py", BROKEN)

    result = invoke("check", str(folder.path), "--output", "json")

    module, manifest = json.loads(result.stdout)["problems"]
    assert result.exit_code == 1
    assert (module["file"], module["line"], module["column"]) == (str(folder / "tasks.py"), 3, None)
    assert (manifest["file"], manifest["line"], manifest["column"]) == (str(folder / "two.yaml"), 7, 13)
    assert manifest["message"].startswith("spec.schedule: ")


STATIC = (
    MODULE
    + """
    import datetime

    @app.task(interval=datetime.timedelta(seconds=1))
    async def tick(context):
        pass
"""
)


def test_check_counts_tasks_of_the_module_and_notes_names_that_are_used_twice(folder):
    folder.write("tasks.py", STATIC).task("tick", intervalSeconds=1)

    code, output = called("check", "jobs", cwd=folder.path.parent)

    assert code == 0
    assert "note: jobs/tick.yaml:4:9: metadata.name: the module has a task tick, too" in output
    assert "jobs: 1 manifest, 1 handler, 1 task, no problems" in output


def test_check_notes_manifests_in_subfolders(folder):
    (folder / "below").mkdir()
    folder.task("below/hello", intervalSeconds=1)

    code, output = called("check", "jobs", cwd=folder.path.parent)

    assert (code, "note: jobs/below: manifests in subfolders are ignored" in output) == (0, True)


def test_of_several_tasks_of_a_name_one_is_chosen_by_its_handler(folder):
    folder.write("tasks.py", STATIC).task("tick", intervalSeconds=1)
    with Program("dev", folder.path) as program:
        program.expect("greetings")
        program.interrupt()
        program.ended()

    assert ": greet, tick; select one with --handler" in refused("tasks", "tick", "--path", str(folder.path))
    one = told("tasks", "tick", "--handler", "greet", "--path", str(folder.path))
    assert (one["name"], one["handler"]) == ("tick", "greet")
    assert told("runs", "tick", "--handler", "greet", "--path", str(folder.path))
    assert len(told("tasks", "--handler", "tick", "--path", str(folder.path))) == 1


@pytest.mark.parametrize("command", ["dev", "check"])
def test_a_folder_that_is_none_is_refused(command, tmp_path):
    (tmp_path / "file").write_text("")

    assert "does not exist" in refused("dev", f"{tmp_path}/nowhere")
    assert "folder" in refused(command, f"{tmp_path}/file")
    assert "no task module found in" in refused(command, str(tmp_path))


def test_the_instances_of_a_template_are_counted_and_not_read(store):
    async def add():
        async with read_backend(store.url).new_store() as opened:
            template = Key(Partition("", "remind"), "remind")
            (model,) = await opened.load([template._replace(instance="alice")])
            late = [
                replace(model, key=template._replace(instance=f"{n}"), claimable_at=1) for n in range(12_000)
            ]
            for at in range(0, len(late), 500):
                await opened.swap([Change(None, record) for record in late[at : at + 500]])

    asyncio.run(add())

    (remind,) = [task for task in told("tasks", "--backend", store.url) if task["name"] == "remind"]
    assert remind["instances"] == {"total": None, "due": 10_000, "leased": 0, "exact": False}
    assert "many instances, 10,000 or more due" in invoke("tasks", "remind", "--backend", store.url).stdout


# --- What is stored is not trusted -----------------------------------------------------------------------------------

HOSTILE = "no\n\r\x1b]52;c;cm0gLXJm\x07\x1b]8;;http://evil\x1b\\\x1b[2J\x9b2J\u202e\u2066end"
"""A line end, the clipboard, a link, an erased screen by seven bits and by eight, and two marks that reorder text."""


@pytest.fixture
def hostile(tmp_path):
    """A database with a run whose handler raised what a terminal obeys, and an instance of such a name."""
    url = f"sqlite:///{tmp_path}/tasks.db"
    asyncio.run(_run_hostile(url))
    return url


async def _run_hostile(url):
    app = Pyncette()
    ran = asyncio.Event()

    @app.task(interval=SECOND, failure_mode=FailureMode.COMMIT)
    async def beat(context):
        ran.set()
        raise ValueError(HOSTILE)

    @app.dynamic_task()
    async def remind(context):
        pass

    async with app.create(new_store=read_backend(url).new_store) as context:
        await context.schedule_task(remind, HOSTILE, schedule="0 9 * * *")
        running = asyncio.create_task(context.run())
        await ran.wait()
        context.shutdown()
        await running


@pytest.mark.parametrize(
    "command",
    [
        ("runs", "beat"),
        ("runs", "beat", "--output", "json"),
        ("tasks",),
        ("tasks", "beat"),
        ("tasks", "remind", "--instances"),
        ("tasks", f"remind/{HOSTILE}"),
        ("tasks", "remind", "--instances", "--output", "json"),
        ("tasks", f"remind/{HOSTILE}x"),
        ("redrive", f"remind/{HOSTILE}"),
    ],
    ids=lambda command: " ".join(command).encode("unicode_escape").decode()[:40],
)
def test_no_control_character_from_the_database_reaches_a_terminal(hostile, command):
    with Program(*command, terminal=True, PYNCETTE_BACKEND=hostile) as program:
        program.ended()
        text = re.sub(
            r"\x1b\[(?:1|0)m|\r?\n", "", program._text
        )  # the header in bold, and line ends of the terminal

    assert text
    assert text.isprintable(), [one for one in text if not one.isprintable()]
