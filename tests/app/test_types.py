"""Type checkers accept right programs and find the mistakes in wrong ones: `mypy --strict`, and pyright in strict mode."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]

HEAD = """
import datetime
from collections.abc import AsyncIterator
from pyncette import BlockingContext, Context, ExecutionMode, FailureMode, Pyncette, PyncetteContext, Retry
from pyncette.model import InstanceResult, NextFunc, TaskState
from pyncette.sync import Client
from pyncette.task import PartitionedTask, Task
from pyncette.utils import with_heartbeat

app = Pyncette(defaults="safe")
MINUTE = datetime.timedelta(minutes=1)
NOON = datetime.datetime(2030, 6, 1, 12, tzinfo=datetime.timezone.utc)

class Mine(Context):
    db: list[str]

@app.dynamic_task()
async def remind(context: Context) -> None: ...

@app.dynamic_task()
async def typed(context: Mine, person_id: int, at: datetime.datetime | None = None) -> None: ...
"""

RIGHT = {
    "options of tasks": """
@app.task(schedule="0 9 * * *", timezone="Europe/Dublin", name="a", enabled=False, fast_forward=True)
async def a(context: Context) -> None: ...
@app.task(interval=MINUTE, failure_mode=FailureMode.UNLOCK, lease_duration=MINUTE, args={"a": 1})
async def b(context: Context) -> None: ...
@app.dynamic_task(schedule="0 9 * * *", heartbeat="automatic", concurrency_limit=1, max_concurrent_runs=2)
async def c(context: Context) -> None: ...
@app.dynamic_task(execution_mode=ExecutionMode.AT_MOST_ONCE)
async def d(context: Context) -> None: ...
@app.partitioned_task(partition_count=4, enabled_partitions="shared", interval=MINUTE)
async def e(context: Context) -> None: ...
@app.handler()
async def f(context: Context) -> None: ...
a.enabled = True
e.enabled_partitions = [1, 2]
""",
    "instances": """
async def schedule(app_context: PyncetteContext) -> None:
    task = await app_context.schedule_task(remind, "a", schedule="0 9 * * *", timezone="UTC", args={"a": 1})
    await app_context.schedule_task(remind, "b", True, interval=MINUTE, heartbeat="cooperative")
    await app_context.schedule_task(remind, "c", force=False, keep_sooner=True, execute_at=NOON)
    await app_context.schedule_task(remind, "d", args={"person_id": 1})
    print(task.name, remind.instantiate("a", interval=MINUTE).canonical_name)
    items = [("a", {"schedule": "0 9 * * *"}), ("b", {"schedule": "0 8 * * *", "timezone": "Europe/Dublin"})]
    results: list[InstanceResult] = [r async for r in app_context.schedule_many(remind, items)]
    state: TaskState | None = await app_context.get_task(remind, "a")
    print(results, state, [task async for task in app_context.unschedule_many(remind, ["a"])])
""",
    "blocking calls": """
@app.task(interval=MINUTE)
def plain(context: BlockingContext) -> None:
    task = context.app_context.schedule_task(remind, "a", schedule="0 9 * * *", keep_sooner=True)
    print(task.name, [state.task.name for state in context.app_context.list_tasks(remind, prefix="a").tasks])

def view(client: Client) -> TaskState | None:
    results: list[InstanceResult] = list(client.schedule_many(remind, [("a", {"interval": MINUTE})], keep_sooner=False))
    print(client.schedule_task(remind, "a", True, execute_at=NOON, args={"a": 1}).name, results)
    return client.get_task(remind, "a")
""",
    "typed arguments and contexts": """
@app.fixture()
async def db(app_context: PyncetteContext) -> AsyncIterator[list[str]]:
    yield []

@app.middleware
async def note(context: Context, next: NextFunc) -> None:
    await next()

@app.task(interval=MINUTE, args={"number": 3})
@with_heartbeat()
async def report(context: Mine, number: int) -> None:
    context.db.append(f"{number} {context.task.name}")

async def test(context: Mine) -> None:
    await typed(context, 3, NOON)
    await typed(context, person_id=3)
    await report(context, number=4)
""",
    "tasks by name": """
def names(tasks: list[Task], partitioned: PartitionedTask) -> list[str]:
    return [*(task.name for task in tasks), partitioned.canonical_name]

partitioned = app.partitioned_task(partition_count=1, name="x")(remind)
print(names([remind, typed], partitioned))
""",
    "policies": """
@app.handler(retry=Retry(give_up_on=LookupError))
async def h(context: Context) -> None: ...
@app.task(interval=MINUTE, retry=Retry(max_attempts=None, on=(OSError, TimeoutError)), timeout=MINUTE, overlap="replace")
async def p(context: Context) -> None: ...
@app.dynamic_task(missed="all", max_catch_up_runs=3, jitter=MINUTE, starting_deadline=None, on_exhausted="dead_letter")
async def q(context: Context) -> None: ...

async def pause(app_context: PyncetteContext) -> None:
    await app_context.schedule_task(q, "a", interval=MINUTE, suspend=True, not_before=NOON, not_after=None)
    state = await app_context.get_task(q, "a")
    if state is not None and state.task.retry is not None:
        print(state.task.retry.max_attempts, state.task.missed, state.task.suspend)
""",
    "decorators of several tasks": """
@app.task(name="x", interval=MINUTE)
@app.task(name="y", schedule="0 9 * * *")
async def both(context: Context) -> None: ...
""",
}

WRONG = {
    "a number as a cron expression": "app.task(schedule=3)(remind)",
    "seconds as an interval": "app.task(interval=60)(remind)",
    "no schedule": "app.task()(remind)",
    "two schedules": 'app.task(schedule="0 9 * * *", interval=MINUTE)(remind)',
    "two schedules of a template": "app.dynamic_task(interval=MINUTE, execute_at=NOON)(remind)",
    "a one-off without an instance": "app.task(execute_at=NOON)(remind)",
    "a misspelled schedule": 'app.task(shedule="0 9 * * *")(remind)',
    "a misspelled interval": "app.task(intervall=MINUTE)(remind)",
    "another name for the time zone": 'app.task(schedule="0 9 * * *", tz="UTC")(remind)',
    "a time zone without a cron expression": 'app.task(interval=MINUTE, timezone="UTC")(remind)',
    "a loose argument": "app.dynamic_task(person=3)(remind)",
    "an unknown heartbeat": 'app.dynamic_task(heartbeat="auto")(remind)',
    "an unknown failure mode": 'app.dynamic_task(failure_mode="UNLOCK")(remind)',
    "an unknown policy for missed runs": 'app.dynamic_task(missed="newest")(remind)',
    "a timeout in seconds": "app.dynamic_task(timeout=60)(remind)",
    "a number of retries": "app.dynamic_task(retry=3)(remind)",
    "exceptions by name": 'Retry(on=("TimeoutError",))',
    "retries by position": "Retry(3)",
    "a lease in seconds": "app.dynamic_task(lease_duration=60)(remind)",
    "arguments that are no dictionary": "app.dynamic_task(args=[1])(remind)",
    "no partition count": "app.partitioned_task()(remind)",
    "an unknown word for partitions": 'app.partitioned_task(partition_count=2, enabled_partitions="all")(remind)',
    "unknown defaults": 'Pyncette(defaults="save")',
    "a decorator without parentheses": "@app.dynamic_task\nasync def x(context: Context) -> None: ...",
    "a fixture without parentheses": "@app.fixture\nasync def x(c: PyncetteContext) -> AsyncIterator[int]:\n    yield 1",
    "a fixture that yields nothing": "@app.fixture()\nasync def x(c: PyncetteContext) -> int:\n    return 1",
    "a handler without a context": "@app.dynamic_task()\nasync def x() -> None: ...",
    "a handler of something else": "@app.dynamic_task()\nasync def x(context: int) -> None: ...",
    "a misspelled attribute of a context": "async def x(context: Context) -> None:\n    print(context.atempt)",
    "a fixture that the context does not name": "async def x(context: Context) -> None:\n    print(context.db)",
    "a fixture of another type": "async def x(context: Mine) -> None:\n    context.db.execute()",
    "a misspelled call": 'async def x(c: PyncetteContext) -> None:\n    await c.schedule("a")',
    "a misspelled option of an instance": (
        'async def x(c: PyncetteContext) -> None:\n    await c.schedule_task(remind, "a", shedule="x")'
    ),
    "a misspelled option of a client": 'def x(c: Client) -> None:\n    c.schedule_task(remind, "a", shedule="x")',
    "a misspelled option of a blocking context": (
        'def x(c: BlockingContext) -> None:\n    c.app_context.schedule_task(remind, "a", shedule="x")'
    ),
    "two schedules of an instance": (
        'async def x(c: PyncetteContext) -> None:\n    await c.schedule_task(remind, "a", schedule="x", interval=MINUTE)'
    ),
    "a number as the time zone of an instance": (
        'async def x(c: PyncetteContext) -> None:\n    await c.schedule_task(remind, "a", schedule="x", timezone=5)'
    ),
    "a loose argument of an instance": (
        'async def x(c: PyncetteContext) -> None:\n    await c.schedule_task(remind, "a", interval=MINUTE, user=1)'
    ),
    "a word for force": (
        'async def x(c: PyncetteContext) -> None:\n    await c.schedule_task(remind, "a", force="x", interval=MINUTE)'
    ),
    "a function that is not a task": (
        'async def f(c: Context) -> None: ...\nasync def x(c: PyncetteContext) -> None:\n    await c.get_task(f, "a")'
    ),
    "a misspelled option of instantiate": 'remind.instantiate("a", intervall=MINUTE)',
    "a missing argument of a call": "async def x(context: Mine) -> None:\n    await typed(context)",
    "an argument of another type": 'async def x(context: Mine) -> None:\n    await typed(context, "x")',
    "an internal member of a task": "print(remind.of_record)",
    "an internal member of an app context": "def x(c: PyncetteContext) -> None:\n    print(c.declare_tasks)",
}


class Finding(NamedTuple):
    module: str
    line: int
    message: str


def written(folder: Path) -> None:
    """Write one module for each program. HEAD has the first lines of each."""
    for kind, programs in (("right", RIGHT), ("wrong", WRONG)):
        for title, program in programs.items():
            (folder / f"{module_of(kind, title)}.py").write_text(HEAD + program + "\n")


def module_of(kind: str, title: str) -> str:
    return f"{kind}_{re.sub(r'[^a-z]', '_', title)}"


def mypy(folder: Path) -> list[Finding]:
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--output", "json"),
            *("--config-file", "/dev/null", "--cache-dir", str(folder / ".cache"), "."),
        ],
        cwd=folder,
        env={"MYPYPATH": str(ROOT / "operator"), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode in {0, 1}, ran.stderr + ran.stdout
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    return [
        Finding(Path(each["file"]).stem, each["line"], each["message"] + str(each["hint"])) for each in found
    ]


def pyright(folder: Path) -> list[Finding]:
    # The programs import more than they use.
    settings = {
        "typeCheckingMode": "strict",
        "reportUnusedImport": False,
        "reportUnusedFunction": False,
        "extraPaths": [str(ROOT / "operator")],
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    ran = subprocess.run(
        [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable, "."],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode in {0, 1}, ran.stderr + ran.stdout
    return [
        Finding(Path(each["file"]).stem, each["range"]["start"]["line"] + 1, each["message"])
        for each in json.loads(ran.stdout)["generalDiagnostics"]
        if each["severity"] == "error"
    ]


@pytest.mark.parametrize("checker", [mypy, pyright])
@pytest.mark.timeout(300)
def test_a_type_checker_accepts_right_programs_and_finds_each_mistake(checker, tmp_path):
    written(tmp_path)

    found = checker(tmp_path)

    assert [each for each in found if each.module.startswith("right")] == []
    begins = HEAD.count("\n")
    assert [each for each in found if each.line <= begins] == []
    modules = {each.module for each in found}
    assert [title for title in WRONG if module_of("wrong", title) not in modules] == []


def test_mypy_suggests_what_a_misspelled_option_was_meant_to_be(tmp_path):
    (tmp_path / "wrong.py").write_text(HEAD + 'remind.instantiate("a", lease_durration=MINUTE)\n')

    (first, *_) = mypy(tmp_path)

    assert first.line == HEAD.count("\n") + 1
    assert "lease_dur" in first.message
