"""`pyncette check` and `pyncette dev` report arguments of a manifest that do not fit the handler, with their places."""

import json

from tests.cli import Program, called

TYPED = """
    import datetime

    from pyncette import Context, Pyncette

    app = Pyncette(defaults="safe")


    @app.handler()
    async def greet(context: Context, person_id: int, day: datetime.date | None = None) -> None:
        print(f"greet {person_id}")


    @app.dynamic_task()
    async def remind(context: Context, person_id: int, greeting: str) -> None:
        pass
"""


def test_check_reports_invalid_arguments_with_their_places(folder):
    folder.write("tasks.py", TYPED)
    folder.task("report", handler="greet", schedule='"0 9 * * *"', args='{person_id: "x", dey: 3}')
    folder.task("missing", handler="greet", schedule='"0 9 * * *"')
    folder.task("right", handler="greet", schedule='"0 9 * * *"', args='{person_id: 1, day: "2030-01-02"}')
    folder.task("template", handler="remind", dynamic="true", args="{greeting: hello}")

    code, output = called("check", "jobs", "--output", "json", cwd=folder.path.parent)

    found = [(each["file"], each["line"], each["message"]) for each in json.loads(output)["problems"]]
    assert code == 1
    assert [(file, message) for file, _, message in found] == [
        ("jobs/missing.yaml", "spec.args: the argument person_id is missing"),
        ("jobs/report.yaml", "spec.args.person_id: 'x' is not of type 'integer'"),
        ("jobs/report.yaml", "spec.args.dey: unknown argument; did you mean day?"),
    ]
    assert (
        found[1][1]
        == found[2][1]
        == (folder.path / "report.yaml")
        .read_text()[: (folder.path / "report.yaml").read_text().index("args")]
        .count("\n")
        + 1
    )


def test_dev_reports_invalid_arguments_until_they_are_fixed(folder):
    folder.write("tasks.py", TYPED)
    folder.task("report", handler="greet", intervalSeconds="1", args="{person_id: x}")

    with Program("dev", folder.path) as program:
        program.expect(r"report.yaml:\d+:\d+: spec.args.person_id: 'x' is not of type 'integer'")
        folder.task("report", handler="greet", intervalSeconds="1", args="{person_id: 3}")
        program.expect("greet 3")
        program.interrupt()
