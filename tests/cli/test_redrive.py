"""`redrive` and `resume` have tried again what was given up, of one task, of one instance, or of all of a template."""

import asyncio
import json

import pytest
from click.testing import CliRunner

from pyncette.cli.commands import cli
from pyncette.cli.failures import ExitCode
from pyncette.clock import SECOND
from pyncette.core import edits, rules
from pyncette.core.record import Change, Key, Partition, is_dead_letter, replace
from pyncette.core.runs import Ended, Ending, HeldRun
from pyncette.core.schedule import Interval
from pyncette.core.spec import Exhaustion, Policies, Spec
from pyncette.store.backend import read_backend

GONE = Ended(Ending.REFUSED, "DoNotRetry: never")


class Store:
    """A backend with tasks in it that have failed for good."""

    def __init__(self, url):
        self.url = url
        self.now = 0

    def failed(self, task, *, exhausted, instance="", number=0, suspend=False):
        """Have a task or an instance fail once."""
        policies = Policies(exhausted=exhausted, suspend=suspend)
        spec = Spec(Interval(60 * SECOND), policies=policies)
        asyncio.run(self._failed(Key(Partition("", task, number), task, instance), spec, policies))
        return self

    async def _failed(self, key, spec, policies):
        async with read_backend(self.url).new_store() as store:
            self.now = await store.now()
            new = edits.created(key, spec, policies, self.now - 90 * SECOND)
            due = replace(new, claimable_at=new.due_at)
            assert await store.swap([Change(None, due)]) == [True]
            claimed = await store.claim({key.partition: 1}, f"lease {key}", "worker", self.now, self.now)
            held = replace(claimed.records[0], attempt=policies.retry.max_attempts)
            end = rules.settle(HeldRun(held, policies, held.due_at, self.now, held.attempt), GONE, self.now)
            dead_letters = [] if end.created is None else [Change(None, end.created)]
            assert all(await store.swap([*dead_letters, end.change]))

    def all(self, task, number=0):
        """What is stored of a task."""
        return asyncio.run(self._all(Partition("", task, number), task))

    def dead_letters(self, task, number=0):
        """When the dead letters of a task are to be tried, by the instance."""
        return {
            record.key.instance: record.claimable_at
            for record in self.all(task, number)
            if is_dead_letter(record.key)
        }

    def exhausted(self, task, number=0):
        """Whether a task, or its instances, are suspended."""
        return {
            record.key.instance: record.state.exhausted
            for record in self.all(task, number)
            if not record.key.occurrence
        }

    async def _all(self, partition, task):
        async with read_backend(self.url).new_store() as store:
            return await store.scan(partition, task, None, 100)


@pytest.fixture
def store(tmp_path):
    return Store(f"sqlite:///{tmp_path}/tasks.db")


def told(store, *args):
    result = invoke(store, *args, "--output", "json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def invoke(store, *args):
    return CliRunner(env={"PYNCETTE_BACKEND": store.url, "PYNCETTE_REALM": None}).invoke(cli, args)


# --- Dead letters ----------------------------------------------------------------------------------------------------


def test_the_dead_letters_of_a_task_are_tried_again_and_no_others(store):
    store.failed("report", exhausted=Exhaustion.DEAD_LETTER).failed("beat", exhausted=Exhaustion.DEAD_LETTER)

    assert told(store, "redrive", "report") == {"task": "report", "redriven": 1}

    assert store.dead_letters("report")[""] >= store.now
    assert store.dead_letters("beat") == {"": None}


def test_what_is_being_tried_again_already_is_left_alone(store):
    store.failed("report", exhausted=Exhaustion.DEAD_LETTER)
    told(store, "redrive", "report")
    before = store.all("report")

    result = invoke(store, "redrive", "report")

    assert (result.exit_code, result.stdout) == (0, "report: 0 dead letters redriven\n")
    assert store.all("report") == before


def test_the_dead_letters_of_one_instance_or_of_all_are_tried_again(store):
    for name in ("ada", "bob", "eve"):
        store.failed("remind", instance=name, exhausted=Exhaustion.DEAD_LETTER)
    store.failed("remind", instance="far", number=3, exhausted=Exhaustion.DEAD_LETTER)

    result = invoke(store, "redrive", "remind/bob")

    assert result.stdout == "remind/bob: 1 dead letter redriven\n"
    assert [name for name, at in store.dead_letters("remind").items() if at] == ["bob"]
    assert told(store, "redrive", "remind")["redriven"] == 3
    assert all([*store.dead_letters("remind").values(), *store.dead_letters("remind", 3).values()])


# --- Suspensions -----------------------------------------------------------------------------------------------------


def test_a_task_that_its_last_attempt_suspended_resumes_from_now(store):
    store.failed("report", exhausted=Exhaustion.SUSPEND)

    assert told(store, "resume", "report") == {"task": "report", "resumed": 1}

    (record,) = store.all("report")
    assert not record.state.exhausted
    assert record.claimable_at == record.due_at > store.now


def test_a_task_that_is_not_suspended_is_left_alone(store):
    store.failed("report", exhausted=Exhaustion.CONTINUE)
    before = store.all("report")

    result = invoke(store, "resume", "report")

    assert (result.exit_code, result.stdout) == (0, "report: 0 resumed\n")
    assert store.all("report") == before


def test_one_instance_or_all_are_resumed(store):
    for name in ("ada", "bob", "eve"):
        store.failed("remind", instance=name, exhausted=Exhaustion.SUSPEND)

    assert told(store, "resume", "remind/bob")["resumed"] == 1
    assert store.exhausted("remind") == {"ada": True, "bob": False, "eve": True}
    assert told(store, "resume", "remind")["resumed"] == 2
    assert store.exhausted("remind") == {"ada": False, "bob": False, "eve": False}


def test_a_task_that_its_manifest_suspends_stays_suspended_with_a_note(store):
    store.failed("report", exhausted=Exhaustion.SUSPEND, suspend=True)

    result = invoke(store, "resume", "report")

    assert result.stderr == "pyncette: report is suspended by its manifest and remains suspended\n"
    (record,) = store.all("report")
    assert (record.state.exhausted, record.claimable_at) == (False, None)


@pytest.mark.parametrize("command", ["redrive", "resume"])
def test_a_task_that_there_is_not_is_refused(store, command):
    store.failed("report", exhausted=Exhaustion.SUSPEND)

    for name, remedy in (
        ("nothing", "`pyncette tasks` lists all tasks"),
        ("report/nobody", "`pyncette tasks report --instances` lists its instances"),
    ):
        result = invoke(store, command, name)

        assert (result.exit_code, result.stdout) == (ExitCode.USAGE, "")
        assert f"task {name} not found; {remedy}" in result.stderr


@pytest.mark.parametrize(
    ("command", "exhausted", "done"),
    [("redrive", Exhaustion.DEAD_LETTER, "redriven"), ("resume", Exhaustion.SUSPEND, "resumed")],
)
def test_of_several_tasks_of_a_name_that_of_a_handler_is_meant(store, command, exhausted, done):
    store.failed("report", exhausted=exhausted)

    assert invoke(store, command, "report", "--handler", "other").exit_code == ExitCode.USAGE
    assert told(store, command, "report", "--handler", "report")[done] == 1
