"""`pyncette worker` is what a pod runs: it claims, says how it is, drains on SIGTERM, and ends when it cannot go on."""

import contextlib
import json
import re
import signal
import socket
import sqlite3
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pyncette import __version__
from tests.cli import Program, called, is_gone

MODULE = """
    import asyncio
    import datetime
    import logging
    from pyncette import Pyncette

    app = Pyncette()

    @app.task(interval=datetime.timedelta(seconds=1))
    async def beat(context):
        logging.getLogger("mine").info("a beat", extra={{"n": 1}})
        await asyncio.sleep({seconds})
        logging.getLogger("mine").info("over")
"""


@pytest.fixture
def jobs(folder):
    return folder.write("tasks.py", MODULE.format(seconds=0))


def worker(folder, *args, **variables):
    backend = f"sqlite:///{folder.path}/tasks.db"
    return Program("worker", "tasks", *args, cwd=folder.path, **({"PYNCETTE_BACKEND": backend} | variables))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_it_runs_until_sigterm_and_exits_with_0(jobs):
    with worker(jobs) as program:
        program.expect(r"INFO +pyncette.cli.worker: running handlers  task_module=tasks")
        program.expect(r"INFO +mine: a beat  task=beat n=1")
        program.signal(signal.SIGTERM)
        assert program.ended() == 0

    assert "Traceback" not in program.output


def test_logs_are_json_when_asked_for(jobs):
    with worker(jobs, "--log-format", "json", "--realm", "shop") as program:
        program.expect('"message": "over"')
        program.signal(signal.SIGTERM)
        assert program.ended() == 0

    lines = [json.loads(line) for line in program.output.splitlines()]
    (started,) = [line for line in lines if line["message"] == "running handlers"]
    beat = next(line for line in lines if line["message"] == "a beat")
    assert (started["realm"], started["handlers"]) == ("shop", "beat")
    assert {"time", "level", "logger", "task", "run_id", "attempt", "scheduled_at", "n"} <= beat.keys()


def test_health_tells_live_from_ready(jobs):
    port = free_port()
    with worker(jobs, "--health", f"127.0.0.1:{port}") as program:
        program.expect("a beat")

        assert get(port, "/healthz") == (200, b"ok")
        assert get(port, "/readyz") == (200, b"ok")
        assert get(port, "/elsewhere") == (404, b"not found")

        program.signal(signal.SIGTERM)
        assert program.ended() == 0


@pytest.mark.long
def test_a_worker_is_listed_for_as_long_as_it_lives_also_while_a_handler_blocks_its_loop(folder):
    """Longer than its lease, of a minute; and for a while after it was killed."""
    folder.write("tasks.py", STALLED.replace("time.sleep(9)", "time.sleep(90)"))
    backend = f"sqlite:///{folder.path}/tasks.db"

    def listed():
        return len(json.loads(called("workers", "--backend", backend, "-o", "json")[1]))

    with worker(folder) as program:
        blocked = program.expect("it blocks")
        time.sleep(75)
        assert listed() == 1
        assert "it goes on" not in program.output[blocked:]

        program.signal(signal.SIGKILL)
        program.ended()

    assert listed() == 1
    time.sleep(61)
    assert listed() == 0


STALLED = """
    import datetime
    import time
    from pyncette import Pyncette

    app = Pyncette()

    @app.task(interval=datetime.timedelta(seconds=1))
    async def block(context):
        print("it blocks", flush=True)
        time.sleep(9)
        print("it goes on", flush=True)
"""


def test_a_worker_whose_loop_stands_still_for_too_long_is_not_live(folder):
    folder.write("tasks.py", STALLED)
    port = free_port()
    with worker(folder, "--health", f"127.0.0.1:{port}", "--stall-seconds", "5") as program:
        blocked = program.expect("it blocks")
        time.sleep(1)
        assert get(port, "/healthz") == (200, b"ok")

        time.sleep(6)
        assert get(port, "/healthz") == (503, b"not ok")
        assert "it goes on" not in program.output[blocked:]


def test_a_worker_that_is_not_to_care_is_live_however_long_its_loop_stands_still(folder):
    folder.write("tasks.py", STALLED)
    port = free_port()
    with worker(folder, "--health", f"127.0.0.1:{port}", "--stall-seconds", "0") as program:
        program.expect("it blocks")
        time.sleep(7)
        assert get(port, "/healthz") == (200, b"ok")


# --- Metrics ---------------------------------------------------------------------------------------------------------

DOCUMENTED = Path(__file__).resolve().parents[2] / "docs/reference/metrics.md"

MEASURED = """
    import asyncio
    import datetime
    from pyncette import FailureMode, Pyncette
    from pyncette.prometheus import use_prometheus

    app = Pyncette()
    {more}

    @app.task(interval=datetime.timedelta(seconds=1))
    async def beat(context):
        print("a beat", flush=True)

    @app.task(interval=datetime.timedelta(seconds=1), failure_mode=FailureMode.COMMIT)
    async def fail(context):
        raise LookupError("no luck")
"""


def families(port):
    """What is served, but for what the library tells by itself: of the process, and since when it counts."""
    status, text = get(port, "/metrics")
    assert status == 200
    return {
        family.name: family
        for family in text_string_to_metric_families(text.decode())
        if family.name.startswith("pyncette") and not family.name.endswith("_created")
    }


def sample(families, name, **labels):
    (found,) = [
        sample.value
        for family in families.values()
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    ]
    return found


def metrics_of(folder, more=""):
    """What a worker serves after two beats."""
    folder.write("tasks.py", MEASURED.format(more=more))
    port = free_port()
    with worker(folder, "--metrics", f"127.0.0.1:{port}", "--concurrency", "7") as program:
        program.expect("a beat", after=program.expect("a beat"))
        time.sleep(0.3)  # until what has run is written
        served = families(port)
        program.signal(signal.SIGTERM)
        assert program.ended() == 0
    return served


def test_metrics_tell_how_a_worker_and_its_tasks_are(folder):
    served = metrics_of(folder)

    assert sample(served, "pyncette_worker_ready") == 1
    assert sample(served, "pyncette_worker_slots") == 7
    assert sample(served, "pyncette_worker_slots_used") <= 2
    assert sample(served, "pyncette_worker_claims_total") >= 4
    assert sample(served, "pyncette_worker_backlogged_partitions") == 0
    assert sample(served, "pyncette_worker_unwritten_results") == 0
    assert sample(served, "pyncette_worker_stalled_seconds") < 5
    assert sample(served, "pyncette_tasks_total", task_name="beat") >= 2
    assert (
        sample(served, "pyncette_tasks_failures_total", task_name="fail", exception_type="LookupError") >= 1
    )
    labels = {"namespace": "", "pool": ""}
    name = "pyncette_occurrences_total"
    assert sample(served, name, task_name="beat", outcome="succeeded", **labels) >= 1
    assert sample(served, name, task_name="beat", outcome="failed", **labels) == 0
    assert sample(served, name, task_name="fail", outcome="failed", **labels) >= 1
    assert 0 <= sample(served, "pyncette_tasks_staleness_seconds_sum", task_name="beat") < 5
    assert sample(served, "pyncette_ticks_total") >= 2
    assert sample(served, "pyncette_info", version=__version__) == 1


def test_metrics_are_those_that_are_documented(folder):
    rows = re.findall(r"^\| `(pyncette\w*)` \| (\w+) \| (.*?) \|", DOCUMENTED.read_text(), re.MULTILINE)
    documented = {name: (type_, set(re.findall(r"`(\w+)`", labels))) for name, type_, labels in rows}

    served = metrics_of(folder)

    def name_of(family):
        # A counter is called by the name of its sample, as in queries.
        return f"{family.name}_total" if family.type == "counter" else family.name

    assert {name_of(family): family.type for family in served.values()} == {
        name: "gauge" if type_ == "info" else type_ for name, (type_, _) in documented.items()
    }
    for family in served.values():
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        assert not family.samples or labels == documented[name_of(family)][1]


def test_a_module_that_measures_by_itself_is_not_measured_twice(folder):
    once = metrics_of(folder, more="use_prometheus(app)")

    beats = sample(once, "pyncette_tasks_total", task_name="beat")
    assert sample(once, "pyncette_worker_claims_total") >= beats
    assert sample(once, "pyncette_tasks_staleness_seconds_count", task_name="beat") == beats
    runs = sum(sample(once, "pyncette_tasks_total", task_name=name) for name in ("beat", "fail"))
    assert runs <= sample(once, "pyncette_worker_claims_total")


def test_the_port_of_metrics_may_be_taken(jobs):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with worker(jobs, "--metrics", f"127.0.0.1:{port}") as program:
            assert program.ended() == 2

    assert f"metrics cannot be served on 127.0.0.1:{port}: Address already in use" in program.output


def test_metrics_without_their_library_are_refused_with_how_to_get_it(jobs):
    (jobs.path / "prometheus_client.py").write_text('raise ModuleNotFoundError("none")\n')
    backend = f"sqlite:///{jobs.path}/tasks.db"
    operator = Path(__file__).parents[2] / "operator"
    code, output = called(
        "worker", "tasks", "--metrics", "0", "--backend", backend, cwd=jobs.path,
        PYTHONPATH=f"{jobs.path}:{operator}",
    )  # fmt: skip

    assert code == 2
    assert "metrics need prometheus-client: pip install 'pyncette-operator[prometheus]'" in output


def test_a_draining_worker_is_live_and_not_ready_and_lets_its_handler_finish(folder):
    folder.write("tasks.py", MODULE.format(seconds=3))
    port = free_port()
    with worker(folder, PYNCETTE_HEALTH=f"127.0.0.1:{port}") as program:
        program.expect("a beat")
        program.signal(signal.SIGTERM)
        program.expect("SIGTERM: draining; no more tasks are claimed")

        assert get(port, "/healthz") == (200, b"ok")
        assert get(port, "/readyz") == (503, b"not ok")

        program.expect("over")
        program.expect(r"INFO +pyncette.app.process: ended$")
        assert program.ended() == 0


def test_a_drain_ends_after_its_seconds_and_what_ran_is_due_again(folder):
    folder.write("tasks.py", MODULE.format(seconds=60))
    with worker(folder, "--drain-seconds", "0.5") as program:
        program.expect("a beat")
        program.signal(signal.SIGTERM)
        program.expect("the grace period is over; cancelling the remaining runs")
        assert program.ended() == 0

    code, output = called("tasks", "beat", "--backend", f"sqlite:///{folder.path}/tasks.db", "-o", "json")
    told = json.loads(output)
    assert (code, told["active"], told["runCounts"]["succeeded"]) == (0, 0, 0)


def test_a_second_signal_ends_it_at_once(folder):
    folder.write("tasks.py", MODULE.format(seconds=60))
    with worker(folder) as program:
        program.expect("a beat")
        program.interrupt()
        program.expect("SIGINT: draining; no more tasks are claimed")
        program.interrupt()
        assert program.ended(10) == 130


def test_its_backend_is_the_one_of_the_settings_and_not_that_of_the_module(folder, tmp_path):
    folder.write(
        "tasks.py",
        MODULE.format(seconds=0).replace("Pyncette()", f'Pyncette(sqlite_database="{tmp_path}/own.db")'),
    )
    with worker(folder) as program:
        program.expect("WARNING pyncette.cli.worker: the backend of the task module is ignored")
        program.expect("a beat")
        program.signal(signal.SIGTERM)
        assert program.ended() == 0

    assert not (tmp_path / "own.db").exists()


def test_a_worker_is_listed_from_its_start_to_its_drain(jobs):
    backend = f"sqlite:///{jobs.path}/tasks.db"
    with worker(jobs, "--concurrency", "7") as program:
        program.expect("a beat")
        (listed,) = json.loads(called("workers", "--backend", backend, "-o", "json")[1])
        program.signal(signal.SIGTERM)
        assert program.ended() == 0

    assert (listed["handlers"], listed["slots"]) == (["beat"], 7)
    assert json.loads(called("workers", "--backend", backend, "-o", "json")[1]) == []


def test_two_workers_share_one_file(jobs):
    with worker(jobs) as one, worker(jobs) as other:
        one.expect("running handlers")
        other.expect("running handlers")
        one.signal(signal.SIGTERM)
        one.ended()
        other.expect("a beat", after=len(other.output))
        other.signal(signal.SIGTERM)
        assert other.ended() == 0


@pytest.mark.parametrize(
    ("args", "variables", "code", "message"),
    [
        ((), {"PYNCETTE_BACKEND": ""}, 2, "no backend configured: set PYNCETTE_BACKEND or pass --backend"),
        (("--backend", "oracle://:hunter2@h"), {}, 2, "--backend: unknown backend oracle"),
        (("--backend", "sqlite:////nowhere/to/be/tasks.db"), {}, 3, "/nowhere/to/be"),
        (("--concurrency", "none"), {}, 2, "--concurrency: must be a whole number"),
        ((), {"PYNCETTE_BACKEND": "postgresql://u:hunter2@127.0.0.1:9/d"}, 3, "127.0.0.1:9"),
        ((), {"PYNCETTE_BACKEND": "postgresql://u:hunter2@nowhere.invalid/d"}, 3, "nowhere.invalid"),
    ],
)
def test_what_cannot_begin_ends_with_a_sentence_and_a_code(jobs, args, variables, code, message):
    with worker(jobs, *args, **variables) as program:
        assert program.ended() == code

    told = program.output.strip().splitlines()[-1]
    assert told.startswith("pyncette: ")
    assert message in told
    assert "Traceback" not in program.output
    assert "hunter2" not in program.output


def test_a_port_that_is_taken_ends_it_with_a_sentence(jobs):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with worker(jobs, "--health", f"127.0.0.1:{other.getsockname()[1]}") as program:
            assert program.ended() == 2

    assert "health cannot be served on 127.0.0.1:" in program.output


def test_a_wrong_password_is_refused_without_showing_it(jobs, own_postgres):
    parts = urlsplit(own_postgres.url)
    wrong = urlunsplit(parts._replace(netloc=parts.netloc.replace(":", ":hunter2", 1)))

    code, output = called("worker", "tasks", "--backend", wrong, cwd=jobs.path)

    assert code == 3
    assert "password authentication failed" in output
    assert "hunter2" not in output
    assert "Traceback" not in output


def test_a_newer_schema_is_refused_with_its_own_code(jobs):
    with worker(jobs) as program:
        program.expect("a beat")
        program.signal(signal.SIGTERM)
        program.ended()
    make_newer(jobs.path / "tasks.db")

    with worker(jobs) as program:
        assert program.ended() == 4

    assert "schema 99" in program.output
    assert "Traceback" not in program.output


def make_newer(database):
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE pyncette_tasks_meta SET schema_version = 99, min_reader = 99")


def test_a_worker_ends_with_its_process(jobs):
    with worker(jobs) as program:
        program.expect("a beat")
        program.signal(signal.SIGKILL)
        program.ended()

    assert is_gone(program.process.pid)
