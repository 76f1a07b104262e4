"""Lists are sorted naturally, filtered, bounded in what they read, watched, and say what they leave out."""

import asyncio
import contextlib
import json
import random

import pytest

from pyncette import Pyncette
from pyncette.cli import instances, listing
from pyncette.cli.commands.lists import STATES as CHOICES
from pyncette.cli.filters import STATES, Filter
from pyncette.cli.instances import natural
from pyncette.cli.listing import Item, Listing, watch
from pyncette.cli.output import Table
from pyncette.cli.survey import Phase
from pyncette.cli.tables import instances_of
from pyncette.clock import SECOND
from pyncette.core.record import Change, Key, Lease, Outcome, Partition, Started, replace
from pyncette.core.schedule import Once
from pyncette.core.spec import Policies
from pyncette.errors import StoreUnavailableError
from pyncette.store.backend import read_backend
from pyncette.store.base import Counted
from pyncette.store.memory import MemoryStore
from tests.cli import Program
from tests.cli.test_screens import NOON, ran, record, view
from tests.cli.test_stored import Store, invoke, refused, told


@pytest.fixture
def file(tmp_path):
    return Store(f"sqlite:///{tmp_path}/tasks.db").fill()


class Counting(MemoryStore):
    """A store that counts the records that its scans return."""

    scanned = requests = 0

    async def scan(self, *args):
        page = await super().scan(*args)
        self.scanned += len(page)
        self.requests += 1
        return page


@pytest.fixture
def store():
    return Counting()


def listed(store, *names, partition_count=1, wanted=None, limit=20, scan_limit=0):
    """The names and notes of a list of instances that were scheduled with these names."""

    async def run():
        app = Pyncette()

        @app.partitioned_task(partition_count=partition_count)
        async def remind(context):
            pass

        async with app.create(new_store=lambda: store) as context:
            for name in random.sample(names, len(names)):
                await context.schedule_task(remind, name, schedule="0 9 * * *")
            store.scanned = store.requests = 0
            found = await instances_of(store, "", "remind", None, wanted or Filter(), limit, scan_limit)
            return [item.document["name"].removeprefix("remind/") for item in found.items], list(found.notes)

    return asyncio.run(run())


# --- Order -----------------------------------------------------------------------------------------------------------


def test_numbers_in_names_are_sorted_by_value():
    names = ["1", "2", "010", "10", "a", "a-2", "a-10", "a-10-b", "a2", "a10b", "b", "٣", ""]

    for _ in range(20):
        shuffled = random.sample(names, len(names))
        assert sorted(shuffled, key=natural) == sorted(names, key=natural)
    assert sorted(["10", "9", "1", "100", "2"], key=natural) == ["1", "2", "9", "10", "100"]
    assert sorted(["u10", "u9a", "u9", "u"], key=natural) == ["u", "u9", "u9a", "u10"]
    assert min(["1" + "0" * 5000, "9" * 5000], key=natural) == "9" * 5000


@pytest.mark.parametrize("partition_count", [1, 7])
def test_the_first_instances_are_listed_in_natural_order_and_the_rest_is_counted(store, partition_count):
    names, notes = listed(store, *map(str, range(1, 501)), partition_count=partition_count, limit=12)

    assert names == [str(number) for number in range(1, 13)]
    assert notes == ["12 of 500 instances are shown; --limit N shows more"]


def test_nothing_is_said_of_a_list_that_is_whole(store):
    assert listed(store, "b", "a") == (["a", "b"], [])


# --- Bounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("partition_count", [1, 4])
def test_no_more_is_read_than_allowed_and_the_list_says_so(store, partition_count):
    names, notes = listed(
        store,
        *(f"{number:04}" for number in range(3000)),
        partition_count=partition_count,
        limit=3,
        scan_limit=400,
    )

    assert names == ["0000", "0001", "0002"]
    assert notes[0] == "3 of 400 instances that were read are shown; --limit N shows more"
    assert notes[1].startswith(
        "there are more instances: only the first 400 records by name were read, up to 0399; "
    )
    assert store.scanned <= 400 + 200 * (partition_count + 1)


@pytest.mark.parametrize("partition_count", [1, 4])
def test_a_prefix_reads_only_what_has_it(store, partition_count):
    others = [f"{letter}{number}" for letter in "ac" for number in range(1000)]
    names, notes = listed(
        store, "b", "b1", "b2", "b10", *others, partition_count=partition_count, wanted=Filter(prefix="b")
    )

    assert (names, notes) == (["b", "b1", "b2", "b10"], [])
    assert store.requests <= partition_count + 1


def test_a_prefix_that_nothing_has_is_an_empty_list(store):
    assert listed(store, "a", wanted=Filter(prefix="b")) == ([], [])


def test_what_is_kept_while_reading_is_bounded(store, monkeypatch):
    kept = []
    first = instances._first
    monkeypatch.setattr(
        instances, "_first", lambda found, limit: kept.append(len(found)) or first(found, limit)
    )

    names, _ = listed(store, *map(str, range(1500)), limit=5)

    assert names == ["0", "1", "2", "3", "4"]
    assert max(kept) <= 5 + 200 + 1


# --- States ----------------------------------------------------------------------------------------------------------


LEASE = Lease("l", "me", NOON + 60 * SECOND)
RETRIED = replace(record(started=Started(NOON - SECOND, NOON)), attempt=1, claimable_at=NOON + 8 * SECOND)


@pytest.mark.parametrize(
    ("home", "states"),
    [
        (record(), {"scheduled"}),
        (record(schedule=Once(NOON - SECOND)), {"scheduled", "due"}),
        (record(summary=ran(Outcome.FAILED, consecutive_failures=1)), {"scheduled", "failing"}),
        (record(summary=ran()), {"scheduled"}),
        (RETRIED, {"retrying", "failing"}),
        (replace(RETRIED, claimable_at=NOON - SECOND), {"retrying", "failing", "due"}),
        (replace(record(), due_at=NOON, attempt=1, lease=LEASE), {"running"}),
        (record(policies=Policies(suspend=True)), {"suspended"}),
        (record(exhausted=True), {"exhausted", "failing"}),
        (record(withdrawn_at=NOON), {"stopped"}),
        (replace(record(schedule=Once(NOON)), due_at=None), {"finished"}),
    ],
)
def test_a_task_is_found_by_its_states(home, states):
    shown = view(home)

    assert {state for state in STATES if Filter(frozenset({state})).admits(shown, NOON)} == states
    assert Filter(frozenset(STATES)).admits(shown, NOON)
    assert Filter().admits(shown, NOON)


@pytest.mark.parametrize(("due", "is_due"), [(0, False), (3, True)])
def test_a_template_is_due_if_an_instance_is(due, is_due):
    shown = view(record())._replace(phase=Phase.TEMPLATE, instances=Counted(due, 0, is_exact=True, total=9))

    assert Filter(frozenset({"due"})).admits(shown, NOON) == is_due


def test_the_command_knows_all_states():
    assert list(CHOICES) == list(STATES)


def fail(file, name):
    """Let the latest run of an instance have failed."""

    async def run():
        async with read_backend(file.url).new_store() as store:
            (home,) = await store.load([Key(Partition("", "remind"), "remind", name)])
            failed = replace(home.state, summary=ran(Outcome.FAILED, consecutive_failures=2))
            assert await store.swap(
                [Change(home, replace(home, state=failed, version=home.version + 1))]
            ) == [True]

    asyncio.run(run())


def test_instances_are_listed_by_state(file):
    fail(file, "bob")
    command = ("tasks", "remind", "--instances", "--backend", file.url)

    assert [task["name"] for task in told(*command, "--state", "failing")] == ["remind/bob"]
    assert [task["name"] for task in told(*command, "--state", "running", "--state", "failing")] == [
        "remind/bob"
    ]
    assert told(*command, "--state", "running") == []
    assert told(*command, "--state", "failing", "--prefix", "al") == []


def test_tasks_are_listed_by_state_and_prefix_and_the_rest_is_counted(file):
    command = ("tasks", "--backend", file.url)

    assert [task["name"] for task in told(*command, "--prefix", "re")] == ["remind", "report"]
    assert [task["name"] for task in told(*command, "--state", "template")] == ["remind"]
    result = invoke(*command, "--limit", "2")
    assert len(result.stdout.splitlines()) == 3
    assert result.stderr == "pyncette: 2 of 3 tasks are shown; --limit N shows more\n"
    assert "--state, --prefix and --limit are for lists" in refused(
        "tasks", "report", "--state", "due", "--backend", file.url
    )


def test_what_is_said_of_a_list_leaves_its_json_alone(file):
    result = invoke("tasks", "remind", "--instances", "--limit", "1", "-o", "json", "--backend", file.url)

    assert [task["name"] for task in json.loads(result.stdout)] == ["remind/alice"]
    assert result.stderr == "pyncette: 1 of 2 instances are shown; --limit N shows more\n"


def test_instances_are_found_by_the_name_of_the_resource_of_their_task(folder):
    folder.write("tasks.py", REMINDERS).task("reminders", handler="remind", dynamic="true")
    with Program("dev", folder.path) as program:
        program.expect("scheduled alice")
        assert [
            task["name"] for task in told("tasks", "reminders", "--instances", "--path", str(folder.path))
        ] == ["remind/alice"]
        program.interrupt()
        assert program.ended() == 0


REMINDERS = """
    from pyncette import Pyncette

    app = Pyncette()

    @app.dynamic_task()
    async def remind(context):
        pass

    @app.fixture()
    async def instances(context):
        await context.schedule_task(remind, "alice", schedule="0 9 1 1 *")
        print("scheduled alice")
        yield
"""


# --- Runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (
            "remind/alice",
            "no history is kept of instances of a dynamic task; `pyncette tasks remind/alice` shows the last run",
        ),
        (
            "remind",
            "no history is kept of instances of a dynamic task; `pyncette tasks remind --instances` shows the last run",
        ),
        ("report", "no run has ended yet"),
    ],
)
def test_an_empty_history_says_why(file, task, reason):
    result = invoke("runs", task, "--backend", file.url)

    assert (result.exit_code, result.stderr) == (0, f"pyncette: {reason}\n")
    assert told("runs", task, "--backend", file.url) == []


def test_a_task_without_history_says_that_its_limits_are_0(file):
    async def run():
        async with read_backend(file.url).new_store() as store:
            (home,) = await store.load([Key(Partition("", "report"), "report")])
            policies = replace(home.spec.policies, keep_successful=0, keep_failed=0)
            changed = replace(home, spec=replace(home.spec, policies=policies), version=home.version + 1)
            assert await store.swap([Change(home, changed)]) == [True]

    asyncio.run(run())

    assert "its history limits are 0" in invoke("runs", "report", "--backend", file.url).stderr


# --- Watching --------------------------------------------------------------------------------------------------------


def watched(*reads, output="json"):
    """Watch a list that is read as *reads* say, until these are used up."""

    left = list(reads)

    async def read():
        if not left:
            raise KeyError
        if isinstance(left[0], Exception):
            raise left.pop(0)
        documents, *notes = left.pop(0)
        items = [Item(name, {"name": name, "n": n}, (name, str(n))) for name, n in documents.items()]
        return Listing(Table(("NAME", "N")), items, notes)

    with contextlib.suppress(KeyError):
        asyncio.run(watch(read, output))


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(listing, "WATCH_SECONDS", 0.01)


def test_a_watched_list_is_one_line_of_json_for_each_change(capsys):
    watched([{"a": 1, "b": 1}], [{"a": 1, "b": 2}], [{"a": 1, "b": 2}], [{"b": 2}], [{"a": 1, "b": 2}])

    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["name"], line["n"]) for line in printed] == [("a", 1), ("b", 1), ("b", 2), ("a", 1)]


def test_a_watched_table_in_a_pipe_has_one_header_and_a_row_for_each_change(capsys):
    watched([{"a": 1}, "1 of 9"], [{"a": 1}, "1 of 9"], [{"a": 2}, "1 of 8"], output="table")

    printed = capsys.readouterr()
    assert printed.out.splitlines() == ["NAME  N", "a     1", "a     2"]
    assert printed.err.splitlines() == ["pyncette: 1 of 9", "pyncette: 1 of 8"]


def test_watching_goes_on_once_the_backend_is_back(capsys):
    watched([{"a": 1}], StoreUnavailableError("no answer"), [{"a": 2}])

    printed = capsys.readouterr()
    assert [json.loads(line)["n"] for line in printed.out.splitlines()] == [1, 2]
    assert printed.err == "pyncette: warning: no answer; retrying\n"


def test_watching_ends_if_the_backend_is_unavailable_at_first():
    with pytest.raises(StoreUnavailableError):
        watched(StoreUnavailableError("no answer"))


def test_changes_are_watched_on_a_backend(file):
    with Program("tasks", "remind", "--instances", "--watch", "-o", "json", "--backend", file.url) as program:
        program.expect('"name": "remind/bob"')
        fail(file, "bob")
        program.expect('"consecutiveFailures": 2')
        program.interrupt()
        assert program.ended() == 130

    lines = [json.loads(line) for line in program.output.splitlines()]
    assert [line["name"] for line in lines] == ["remind/alice", "remind/bob", "remind/bob"]


def test_a_terminal_shows_the_whole_list_while_it_is_watched(file):
    with Program("tasks", "--watch", "--backend", file.url, terminal=True) as program:
        program.expect("^TASK  .*SO FAR$(.|\n)*^report ")
        drawn = program.expect("^report ")
        program.expect("^TASK  .*SO FAR$(.|\n)*^report ", after=drawn)
        program.interrupt()
        assert program.ended() == 130
