"""`pyncette dev` runs a folder: what is in it runs on time, changes are taken up, and nothing is left behind."""

import contextlib
import os
import re
import signal
import sqlite3
import sys
import time

import pytest

from tests.cli import MODULE, Program, called, children_of, is_gone

LONG_AGO = '"2020-01-01T00:00:00Z"'
TEN_YEARS = 315_360_000


def dev(folder, *args, **options):
    return Program("dev", folder.path, *args, **options)


def end(program):
    program.interrupt()
    assert program.ended() == 0


def test_handlers_run_and_ctrl_c_ends_it_and_leaves_nothing_running(folder):
    folder.task("hello", intervalSeconds=1, args="{name: Ada}")

    with dev(folder) as program:
        program.expect(r"hello: greetings Ada")
        program.expect(r"hello: succeeded in \d+ ms, \d+ ms late")
        workers = children_of(program.process.pid)
        program.interrupt()
        assert program.ended() == 0

    assert workers
    assert all(is_gone(pid) for pid in workers)
    assert "Traceback" not in program.output


def test_a_terminal_shows_a_table_that_stays_and_the_lines_below_it(folder):
    folder.task("hello", schedule='"* * * * * *"', timeZone="Europe/Dublin")

    with dev(folder, terminal=True) as program:
        program.expect(r"TASK +SCHEDULE +NEXT +LAST +LATE +RUNNING +SO FAR")
        program.expect(
            r"hello +\* \* \* \* \* \* Europe/Dublin +(now|in \d s) \(\d\d:\d\d:\d\d \S+\) +succeeded"
        )
        program.expect(r"hello: greetings you")
        os.write(program._ours, b"\x03")
        assert program.ended() == 0

    assert program.output.rstrip().endswith("ended")


def test_plain_can_be_asked_for_in_a_terminal(folder):
    folder.task("hello", intervalSeconds=1)

    with dev(folder, "--plain", terminal=True) as program:
        program.expect(r"^task: hello: every 1 s, next")
        end(program)

    assert "SO FAR" not in program.output


def test_a_one_off_runs_at_the_first_start_and_at_no_later_one(folder):
    folder.task("once", executeAt=LONG_AGO, startingDeadlineSeconds=TEN_YEARS)
    folder.task("beat", intervalSeconds=1)

    with dev(folder) as first:
        first.expect("once: greetings")
        end(first)
    folder.task("once", executeAt=LONG_AGO, startingDeadlineSeconds=TEN_YEARS, args="{name: again}")
    with dev(folder) as second:
        second.expect("task: once: .*finished")
        second.expect("beat: succeeded")
        end(second)

    assert "once: greetings" not in second.output


def test_a_one_off_that_was_overdue_when_its_file_was_written_is_missed(folder):
    folder.task("late", executeAt=LONG_AGO)
    folder.task("beat", intervalSeconds=1)

    with dev(folder) as program:
        program.expect("task: late: once .*, missed: its time had passed")
        program.expect("beat: succeeded")
        end(program)

    code, output = called("tasks", "late", "--path", folder.path)
    assert (code, "1 missed" in output) == (0, True)
    code, output = called("runs", "late", "--path", folder.path)
    assert (code, " missed " in output) == (0, True)


def test_a_restart_continues_with_counts_and_schedule(folder):
    folder.task("hello", intervalSeconds=2)
    with dev(folder) as first:
        first.expect("hello: succeeded")
        end(first)

    with dev(folder) as second:
        second.expect("hello: succeeded")
        end(second)

    code, output = called("tasks", "hello", "--path", folder.path, "-o", "json")
    assert code == 0
    assert '"succeeded": 1' not in output


def test_an_edited_manifest_is_taken_up_without_a_restart_of_the_worker(folder):
    folder.task("hello", intervalSeconds=1, args="{name: before}")
    with dev(folder) as program:
        at = program.expect("hello: greetings before")
        workers = children_of(program.process.pid)

        folder.task("hello", intervalSeconds=1, args="{name: after}")

        at = program.expect("hello: edited", after=at)
        program.expect("hello: greetings after", after=at)
        assert children_of(program.process.pid) == workers
        end(program)


def test_a_new_manifest_is_run_and_one_that_is_gone_is_stopped(folder):
    folder.task("beat", intervalSeconds=1)
    with dev(folder) as program:
        program.expect("beat: succeeded")
        folder.task("new", intervalSeconds=1)
        program.expect("new: greetings")

        (folder / "new.yaml").unlink()

        at = program.expect("new: stopped, since its manifest is gone")
        for _ in range(2):
            at = program.expect("beat: succeeded", after=at)
        assert "new: greetings" not in program.output[at - 80 :]
        end(program)


def test_a_task_that_cannot_be_written_keeps_no_other_from_being_written_and_shown(folder):
    for name in ("first", "other"):
        folder.task(name, intervalSeconds=3600)
    with dev(folder) as program:
        program.expect("running")
        with contextlib.closing(sqlite3.connect(folder / ".pyncette" / "tasks.db")) as connection, connection:
            connection.execute(
                "CREATE TRIGGER refusal BEFORE UPDATE ON pyncette_tasks WHEN NEW.task = 'first' "
                "BEGIN SELECT RAISE(ABORT, 'this row is not written'); END"
            )
        for name in ("first", "other"):
            folder.task(name, intervalSeconds=7200)

        at = program.expect("other: edited")
        program.expect("could not mirror all manifests; retrying: .*this row is not written", after=at)
        end(program)


BAD = (
    (
        {"handler": "greeet", "intervalSeconds": 5},
        r':6:12: spec.handler: no handler "greeet" .*; did you mean greet\?',
    ),
    ({"schedule": '"61 * * * *"'}, r":7:13: spec.schedule: .*61"),
    (
        {"intervalSeconds": "5", "jitter": "3"},
        r":8:3: spec.jitter: unknown field; did you mean jitterSeconds",
    ),
    ({"schedule": '"0 0 30 2 *"'}, r":7:13: spec.schedule: "),
    (
        {"schedule": '"* * * * *"', "timeZone": "Europe/Dublyn"},
        r":8:13: spec.timeZone: .*did you mean Europe/Dublin",
    ),
)


def test_a_bad_manifest_is_reported_with_its_place_while_the_others_run(folder):
    folder.task("good", intervalSeconds=1)
    for number, (fields, _) in enumerate(BAD):
        folder.task(f"bad{number}", **fields)

    with dev(folder) as program:
        program.expect("good: greetings")
        end(program)

    for number, (_, message) in enumerate(BAD):
        assert re.search(f"^problem: bad{number}.yaml{message}", program.output, re.MULTILINE)
    assert "Traceback" not in program.output


def test_what_ran_goes_on_while_its_manifest_is_wrong_and_when_it_is_fixed(folder):
    folder.task("hello", intervalSeconds=1, args="{name: first}")
    with dev(folder) as program:
        program.expect("hello: greetings first")

        folder.task("hello", intervalSeconds="often")

        at = program.expect("problem: hello.yaml:7:20: spec.intervalSeconds: must be a whole number")
        at = program.expect("hello: greetings first", after=at)
        folder.task("hello", intervalSeconds=1, args="{name: second}")
        at = program.expect("fixed: hello.yaml:7:20", after=at)
        program.expect("hello: greetings second", after=at)
        end(program)

    assert "stopped" not in program.output


def test_a_start_with_a_wrong_manifest_does_not_stop_what_it_made_before(folder):
    folder.task("hello", intervalSeconds=1)
    with dev(folder) as first:
        first.expect("hello: greetings")
        end(first)

    folder.task("hello", intervalSeconds="often")

    with dev(folder) as second:
        second.expect("problem: hello.yaml")
        second.expect("hello: greetings")
        end(second)


def test_changed_code_is_run_by_a_fresh_process(folder):
    folder.task("hello", intervalSeconds=1)
    with dev(folder) as program:
        at = program.expect("hello: greetings you")
        before = children_of(program.process.pid)

        folder.write("tasks.py", (folder / "tasks.py").read_text().replace("greetings", "good day"))

        at = program.expect("reloaded", after=at)
        at = program.expect("hello: good day you", after=at)
        assert "greetings" not in program.output[at:]
        after = children_of(program.process.pid)
        assert len(after) == 1
        assert after != before
        assert all(is_gone(pid) for pid in before)
        end(program)


def test_code_of_modules_beside_it_counts_too(folder):
    folder.write("words.py", 'GREETING = "hey"\n')
    folder.write("tasks.py", (folder / "tasks.py").read_text().replace('"greetings"', "words.GREETING"))
    folder.write("tasks.py", "import words\n" + (folder / "tasks.py").read_text())
    folder.task("hello", intervalSeconds=1)
    with dev(folder) as program:
        at = program.expect("hello: hey you")

        folder.write("words.py", 'GREETING = "ahoy"\n')

        program.expect("hello: ahoy you", after=at)
        end(program)


def test_a_syntax_error_is_reported_with_its_place_and_the_previous_code_keeps_running(folder):
    folder.task("hello", intervalSeconds=1)
    good = (folder / "tasks.py").read_text()
    with dev(folder) as program:
        at = program.expect("hello: greetings")

        folder.write("tasks.py", good + "\ndef broken(:\n")

        at = program.expect(
            r"not reloaded, still running the previous code: .*tasks.py:9: SyntaxError: ", after=at
        )
        at = program.expect("hello: greetings", after=at)
        folder.write("tasks.py", good)
        at = program.expect("reloaded", after=at)
        program.expect("hello: greetings", after=at)
        end(program)

    assert "Traceback" not in program.output


STUCK = (
    MODULE
    + """
    import time
    time.sleep(1000)
"""
)


@pytest.mark.parametrize("terminal", [False, True])
def test_an_import_that_does_not_end_is_reported_and_restarts_when_code_changes(folder, terminal):
    folder.task("hello", intervalSeconds=1)
    folder.write("tasks.py", STUCK)
    with dev(folder, terminal=terminal) as program:
        program.expect("the import of tasks.py is slow: it has not finished after 5 s")
        (stuck,) = children_of(program.process.pid)

        folder.write("tasks.py", MODULE)

        program.expect("hello: greetings")
        assert is_gone(stuck)
        end(program)


def test_the_previous_code_keeps_running_while_the_import_of_new_code_does_not_end(folder):
    folder.task("hello", intervalSeconds=1)
    with dev(folder) as program:
        program.expect("hello: greetings")
        folder.write("tasks.py", STUCK)
        at = program.expect("problem: the import is slow; it restarts when code changes")
        at = program.expect("hello: greetings", after=at)

        folder.write("tasks.py", MODULE.replace("greetings", "salutations"))

        at = program.expect("fixed: the import is slow", after=at)
        program.expect("hello: salutations", after=at)
        end(program)


def test_a_handler_that_a_manifest_waits_for_is_taken_up_when_the_module_has_it(folder):
    folder.task("hello", handler="wave", intervalSeconds=1)
    with dev(folder) as program:
        at = program.expect('problem: hello.yaml:6:12: spec.handler: no handler "wave"')

        folder.write("tasks.py", (folder / "tasks.py").read_text().replace("def greet", "def wave"))

        program.expect("hello: greetings", after=at)
        end(program)


def test_a_failing_handler_is_reported_with_its_error_and_tried_again(folder):
    folder.write(
        "tasks.py",
        """
        from pyncette import Pyncette

        app = Pyncette()

        @app.handler()
        async def greet(context):
            if context.attempt < 2:
                raise ValueError("no luck")
        """,
    )
    folder.task("hello", intervalSeconds=1, retryPolicy="{initialBackoffSeconds: 1}")

    with dev(folder) as program:
        at = program.expect("ERROR hello: the handler failed: ValueError: no luck$")
        program.expect(r"^[\d:]+ hello: the next attempt, 2 of 5, follows in [\d.]+ s$", after=at)
        program.expect("hello: succeeded in .*, attempt 2", after=at)
        end(program)

    (file,) = re.findall(r'File "(.*)", line', program.output)  # one frame, that of the handler
    assert file == str(folder / "tasks.py")


def test_static_tasks_of_the_module_run_beside_manifests(folder):
    folder.write(
        "tasks.py",
        """
        import datetime
        from pyncette import Pyncette

        app = Pyncette()

        @app.task(interval=datetime.timedelta(seconds=1))
        async def own(context):
            print("by itself")
        """,
    )
    folder.task("wrong", handler="own", intervalSeconds=1)

    with dev(folder) as program:
        program.expect('"own" is a task with a schedule of its own')
        program.expect("own: by itself")
        end(program)


def test_the_instances_of_a_dynamic_task_follow_its_manifest(folder):
    folder.write(
        "tasks.py",
        """
        import datetime
        from pyncette import Pyncette

        app = Pyncette()

        @app.dynamic_task()
        async def remind(context):
            print("of", context.args["what"])

        @app.fixture()
        async def instances(context):
            await context.schedule_task(remind, "ada", interval=datetime.timedelta(seconds=1))
            yield
        """,
    )
    folder.task("reminders", handler="remind", dynamic="true", suspend="true", args="{what: tea}")

    with dev(folder) as program:
        at = program.expect("task: reminders: . instances, suspended")
        folder.task("reminders", handler="remind", dynamic="true", args="{what: tea}")

        at = program.expect("remind: edited", after=at)
        at = program.expect("remind/ada: of tea", after=at)
        (folder / "reminders.yaml").unlink()

        program.expect("remind: stopped, since its manifest is gone; so are its instances", after=at)
        end(program)


def test_the_first_ctrl_c_lets_a_handler_finish(folder):
    folder.write("tasks.py", SLOW.format(seconds=3))
    folder.task("slow", executeAt=LONG_AGO, startingDeadlineSeconds=TEN_YEARS)

    with dev(folder) as program:
        program.expect("slow: begun")
        program.interrupt()
        program.expect("slow: over")
        assert program.ended() == 0


def test_a_sigterm_that_is_sent_twice_lets_a_handler_finish(folder):
    folder.write("tasks.py", SLOW.format(seconds=3))
    folder.task("slow", executeAt=LONG_AGO, startingDeadlineSeconds=TEN_YEARS)

    with dev(folder) as program:
        program.expect("slow: begun")
        for _ in range(2):
            program.signal(signal.SIGTERM)
            time.sleep(0.1)
        program.expect("slow: over")
        assert program.ended() == 0


def test_the_second_ctrl_c_ends_it_at_once(folder):
    folder.write("tasks.py", SLOW.format(seconds=60))
    folder.task("slow", executeAt=LONG_AGO, startingDeadlineSeconds=TEN_YEARS, leaseDurationSeconds=2)

    with dev(folder) as program:
        program.expect("slow: begun")
        workers = children_of(program.process.pid)
        program.interrupt()
        program.expect("stopping: ")
        began = time.monotonic()
        program.interrupt()
        assert program.ended() == 0

    assert time.monotonic() - began < 8
    assert all(is_gone(pid) for pid in workers)

    with dev(folder) as again:  # it was given back, or if there was no time for that, its lease has expired
        again.expect("slow: begun")
        again.interrupt()
        again.expect("stopping: ")
        again.interrupt()
        again.ended()


SLOW = """
    import asyncio
    from pyncette import Pyncette

    app = Pyncette()

    @app.handler()
    async def greet(context):
        print("begun")
        await asyncio.sleep({seconds})
        print("over")
"""


def test_ctrl_c_during_a_reload_ends_it_once_what_ran_has_ended(folder):
    folder.write("tasks.py", SLOW.format(seconds=4))
    folder.task("slow", executeAt=LONG_AGO, startingDeadlineSeconds=TEN_YEARS)

    with dev(folder) as program:
        program.expect("slow: begun")
        folder.write("tasks.py", SLOW.format(seconds=5))
        program.expect("reloading: waiting for current runs")
        workers = children_of(program.process.pid)
        program.interrupt()
        program.expect("slow: over")
        assert program.ended() == 0

    assert len(workers) == 2
    assert all(is_gone(pid) for pid in workers)


def test_a_handler_that_cannot_be_cancelled_is_killed_by_the_second_ctrl_c(folder):
    folder.write(
        "tasks.py", SLOW.replace("await asyncio.sleep", "__import__('time').sleep").format(seconds=60)
    )
    folder.task("slow", executeAt=LONG_AGO, startingDeadlineSeconds=TEN_YEARS)

    with dev(folder) as program:
        program.expect("slow: begun")
        workers = children_of(program.process.pid)
        program.interrupt()
        program.expect("stopping: ")
        program.interrupt()
        assert program.ended() == 0

    assert all(is_gone(pid) for pid in workers)


def test_the_worker_ends_when_dev_is_killed(folder):
    folder.task("hello", intervalSeconds=1)

    with dev(folder) as program:
        program.expect("hello: greetings")
        workers = children_of(program.process.pid)
        program.signal(signal.SIGKILL)
        program.ended()

    assert workers
    assert all(is_gone(pid) for pid in workers)


def test_a_worker_that_dies_is_started_again(folder):
    folder.task("hello", intervalSeconds=1)

    with dev(folder) as program:
        at = program.expect("hello: succeeded")
        time.sleep(
            0.3
        )  # between two runs: what it runs when it dies is taken over once its lease has expired
        (worker,) = children_of(program.process.pid)
        os.kill(worker, signal.SIGKILL)
        at = program.expect("the worker ended: by signal 9; restarting in 1 s", after=at)
        program.expect("hello: greetings", after=at)
        end(program)


def test_two_on_one_folder_are_refused(folder):
    folder.task("hello", intervalSeconds=1)

    with dev(folder) as program:
        program.expect("hello: greetings")
        code, output = called("dev", folder.path)
        end(program)

    assert code == 2
    assert f"runs in {folder.path} already (process {program.process.pid})" in output


def test_the_backend_of_the_environment_and_of_the_module_are_not_touched(folder, tmp_path):
    module = (
        (folder / "tasks.py")
        .read_text()
        .replace("Pyncette()", f'Pyncette(sqlite_database="{tmp_path}/own.db")')
    )
    folder.write("tasks.py", module).task("hello", intervalSeconds=1)

    with dev(folder, PYNCETTE_BACKEND=f"sqlite:///{tmp_path}/production.db") as program:
        program.expect("PYNCETTE_BACKEND is ignored")
        program.expect("WARNING the backend of the task module is ignored")
        program.expect("hello: greetings")
        end(program)

    assert not (tmp_path / "own.db").exists()
    assert not (tmp_path / "production.db").exists()


def test_what_is_kept_stays_out_of_git(folder):
    folder.task("hello", intervalSeconds=1)

    with dev(folder) as program:
        program.expect("hello: greetings")
        end(program)

    assert (folder / ".pyncette" / ".gitignore").read_text() == "*\n"


def test_a_fault_at_the_start_ends_it_with_a_sentence(folder):
    folder.write("tasks.py", "from pyncette import Pyncette\napp = Pyncette()\nnonsense\n")

    code, output = called("dev", "jobs", cwd=folder.path.parent)

    assert code == 2
    assert output == "pyncette: jobs/tasks.py:3: NameError: name 'nonsense' is not defined\n"


YIELDING = MODULE + "        yield\n"


def test_a_handler_that_yields_is_an_error_at_the_start(folder):
    folder.write("tasks.py", YIELDING)

    code, output = called("dev", "jobs", cwd=folder.path.parent)

    assert code == 2
    assert output.startswith(
        "pyncette: jobs/tasks.py:5: The handler greet is an async generator function: a handler must not yield"
    )
    assert output.count("\n") == 1


def test_a_handler_that_comes_to_yield_is_reported_and_the_old_code_goes_on(folder):
    folder.task("hello", intervalSeconds=1)
    with dev(folder) as program:
        at = program.expect("hello: greetings")

        folder.write("tasks.py", YIELDING)

        at = program.expect(
            "still running the previous code: .*The handler greet is an async generator", after=at
        )
        program.expect("hello: greetings", after=at)
        end(program)


def test_a_plain_function_runs_and_what_it_prints_and_raises_is_told_with_its_task(folder):
    folder.write(
        "tasks.py",
        MODULE.replace("async def", "def") + '        raise ValueError(f"no luck, {context.attempt}")\n',
    )
    folder.task("hello", intervalSeconds=1)
    with dev(folder) as program:
        at = program.expect("hello: greetings")
        program.expect("ValueError: no luck, 1", after=at)
        end(program)


def test_a_handler_that_blocks_is_named_with_its_place(folder):
    folder.write("tasks.py", MODULE + "        import time\n        time.sleep(4)\n")
    folder.task("hello", intervalSeconds=1)
    with dev(folder) as program:
        program.expect("a handler blocks the event loop")
        end(program)


def test_a_fixture_that_fails_is_reported_and_tried_again_when_code_changes(folder):
    good = (folder / "tasks.py").read_text()
    folder.write(
        "tasks.py",
        good + '\n@app.fixture()\nasync def database(context):\n    raise OSError("no route")\n    yield\n',
    )
    folder.task("hello", intervalSeconds=1)

    with dev(folder) as program:
        at = program.expect("the worker ended: OSError: no route")
        folder.write("tasks.py", good)
        program.expect("hello: greetings", after=at)
        end(program)


def test_the_environment_is_warned_about(folder):
    folder.task("hello", intervalSeconds=1)

    with dev(folder, PYNCETTE_DRAIN="5") as program:
        program.expect(
            "PYNCETTE_DRAIN is not a setting and has no effect; did you mean PYNCETTE_DRAIN_SECONDS?"
        )
        program.expect("hello: greetings")
        end(program)


def test_it_ends_when_its_output_is_closed(folder):
    folder.task("hello", intervalSeconds=1)
    command = f"{sys.executable} -m pyncette.cli dev {folder.path} | head -n 1"

    with Program("-c", command, command=("bash",)) as program:
        assert program.ended() == 0

    assert "Traceback" not in program.output
    with dev(folder) as again:  # nothing holds the folder any more
        again.expect("hello: greetings")
        end(again)


def test_a_database_of_a_newer_release_is_refused_with_its_own_code(folder):
    folder.task("hello", intervalSeconds=1)
    with dev(folder) as program:
        program.expect("hello: greetings")
        end(program)
    with contextlib.closing(sqlite3.connect(folder / ".pyncette" / "tasks.db")) as connection, connection:
        connection.execute("UPDATE pyncette_tasks_meta SET schema_version = 99, min_reader = 99")

    code, output = called("dev", folder.path)

    assert code == 4
    assert output.startswith("pyncette: ")
    assert "Traceback" not in output
