"""`pyncette check` and `pyncette dev` note what is easily misread in a schedule, with its place."""

import json
from pathlib import Path

from pyncette.app.application import Pyncette
from pyncette.cli.dev.child import declared_by
from pyncette.cli.dev.events import Declared
from pyncette.cli.dev.schedule_notes import notes_on_module
from pyncette.core.schedule import Cron
from pyncette.utils import with_heartbeat
from tests.cli import Program, called

SECONDS_FIRST = (
    'seconds come last: write "0 9 * * *" if the first field is the second, '
    'or "0 0 9 * * 0-59" if every second is meant'
)

TASK = """
    from pyncette import Context, Pyncette

    app = Pyncette()


    @app.handler()
    async def greet(context: Context) -> None:
        pass


    @app.task(name="nightly", schedule="0 0 9 * * *", timezone="Asia/Tokyo")
    async def clean(context: Context) -> None:
        pass
"""


def test_check_notes_what_is_easily_misread_with_its_place_and_finds_no_problem(folder):
    folder.write("tasks.py", TASK).task("report", schedule='"*/7 * * * *"')

    code, output = called("check", "jobs", "--output", "json", cwd=folder.path.parent)

    found = json.loads(output)
    assert (code, found["problems"]) == (0, [])
    manifest, module = found["notes"]
    assert (manifest["file"], manifest["line"], manifest["column"]) == ("jobs/report.yaml", 7, 13)
    assert manifest["message"].startswith(
        "spec.schedule: */7 in the minute field begins again with each hour"
    )
    assert (module["file"], module["line"]) == ("jobs/tasks.py", 11)
    assert module["message"] == f"the schedule of nightly: {SECONDS_FIRST}"


def test_dev_notes_what_is_easily_misread_until_it_is_fixed(folder):
    folder.write("tasks.py", TASK).task("report", schedule='"0 0 9 * * *"')

    with Program("dev", folder.path) as program:
        program.expect(rf"note: report.yaml:7:13: spec.schedule: {SECONDS_FIRST[:20]}")
        program.expect(rf"note: tasks.py:11:1: the schedule of nightly: {SECONDS_FIRST[:20]}")
        folder.task("report", schedule='"*/7 * * * *"')
        program.expect(r"note: report.yaml:7:13: spec.schedule: \*/7 in the minute field")
        program.interrupt()
        assert program.ended() == 0


def test_a_clear_schedule_has_no_note(folder):
    folder.task("report", schedule='"0 9 * * *"')

    assert called("check", "jobs", cwd=folder.path.parent) == (
        0,
        "jobs: 1 manifest, 1 handler, no problems\n",
    )


def test_the_note_on_a_task_of_the_module_is_at_its_handler_below_all_decorators():
    app = Pyncette()

    @app.task(schedule="*/7 * * * *")
    @with_heartbeat()
    async def report(context):
        pass

    @app.task(interval=report.lease_duration)
    async def other(context):
        pass

    (note,) = notes_on_module(declared_by(app).tasks, Path(__file__).parent, 0)

    assert (note.place.file, note.place.line) == (
        Path(__file__),
        report.task_func.__wrapped__.__code__.co_firstlineno,
    )
    assert note.message.startswith("the schedule of report: */7")


def test_a_callable_object_is_noted_at_its_call_and_one_without_code_at_the_folder(tmp_path):
    class Report:
        async def __call__(self, context):
            pass

    app = Pyncette()
    app.task(name="report", schedule="*/7 * * * *")(Report())
    app.task(name="other", schedule="*/7 * * * *")(str)

    first, second = notes_on_module(declared_by(app).tasks, tmp_path, 0)

    assert (first.place.file, first.place.line) == (
        Path(__file__),
        Report.__call__.__code__.co_firstlineno,
    )
    assert second.place == (tmp_path, 1, 1)


def test_a_handler_outside_of_the_folder_is_noted_by_its_own_path(tmp_path):
    task = Declared("report", "static", 1, Cron("*/7 * * * *"), "/srv/lib/jobs.py", 3)

    (note,) = notes_on_module([task], tmp_path, 0)

    assert str(note.place) == "/srv/lib/jobs.py:3:1"
