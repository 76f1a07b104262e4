"""`pyncette purge` removes what a dynamic task that was deleted has left behind, and nothing that is wanted."""

import asyncio
import json

import pytest
from click.testing import CliRunner

from pyncette.cli.commands import cli
from pyncette.cli.failures import ExitCode
from pyncette.clock import SECOND
from pyncette.core import edits
from pyncette.core.record import Change, Key, Owner, Partition
from pyncette.core.schedule import Interval
from pyncette.core.spec import Policies, Spec
from pyncette.store.backend import read_backend

HERE = Partition("", "remind")


class Store:
    """A backend with a dynamic task and its instances in it."""

    def __init__(self, url):
        self.url = url

    def declare(self, instances=3, *, stopped=True, partitions=1, owner=None):
        asyncio.run(self._declare(instances, stopped=stopped, partitions=partitions, owner=owner))
        return self

    async def _declare(self, instances, *, stopped, partitions, owner):
        async with read_backend(self.url).new_store() as store:
            now = await store.now()
            spec = Spec(policies=Policies(), partitions=partitions)
            template = edits.created(Key(HERE, "remind"), spec, spec.policies, now, owner=owner)
            if stopped:
                template = edits.stopped(template, spec.policies, now)
            each = [
                edits.created(
                    Key(HERE._replace(number=number % partitions), "remind", f"user-{number}"),
                    Spec(Interval(SECOND)),
                    Policies(),
                    now,
                )
                for number in range(instances)
            ]
            for record in (template, *each):
                assert await store.swap([Change(None, record)]) == [True]

    def all(self):
        return asyncio.run(self._all())

    async def _all(self):
        async with read_backend(self.url).new_store() as store:
            return [
                str(record.key)
                for partition in await store.partitions("")
                for record in await store.scan(partition, None, None, 10_000)
            ]


@pytest.fixture
def store(tmp_path):
    return Store(f"sqlite:///{tmp_path}/tasks.db")


def invoke(store, *args):
    environment = {"PYNCETTE_BACKEND": store.url, "PYNCETTE_REALM": None}
    return CliRunner(env=environment).invoke(cli, ["purge", *args])


def test_without_yes_nothing_is_removed_and_the_number_is_reported(store):
    store.declare(3)

    result = invoke(store, "remind")

    assert (result.exit_code, result.stdout) == (ExitCode.USAGE, "")
    assert "remind has 3 instances, which would be removed permanently: pass --yes" in result.stderr
    assert len(store.all()) == 4


def test_all_that_a_stopped_template_left_is_removed(store):
    store.declare(7, partitions=3)

    result = invoke(store, "remind", "--yes")

    assert (result.exit_code, result.stdout) == (0, "remind: 7 instance records removed\n")
    assert store.all() == []


def test_a_template_is_found_by_the_name_of_its_resource(store):
    store.declare(7, partitions=3, owner=Owner("uid-1", 1, "hash", name="users"))

    result = invoke(store, "users", "--yes")

    assert (result.exit_code, result.stdout) == (0, "users: 7 instance records removed\n")
    assert store.all() == []


def test_tasks_lists_and_shows_a_template_by_the_name_of_its_resource(store):
    store.declare(3, owner=Owner("uid-1", 1, "hash", name="users"))

    environment = {"PYNCETTE_BACKEND": store.url, "PYNCETTE_REALM": None}
    listed = CliRunner(env=environment).invoke(cli, ["tasks"])
    shown = CliRunner(env=environment).invoke(cli, ["tasks", "users"])
    instance = CliRunner(env=environment).invoke(cli, ["tasks", "users/user-1"])

    assert "users" in listed.stdout
    assert "remind" in listed.stdout
    assert "users" in shown.stdout, shown.output
    assert instance.exit_code == 0, instance.output


def test_more_than_one_batch_is_removed_and_json_has_the_number(store):
    store.declare(1001)

    result = invoke(store, "remind", "--yes", "--output", "json")

    assert json.loads(result.stdout) == {"task": "remind", "removed": 1001}
    assert store.all() == []


def test_a_task_that_is_wanted_is_refused(store):
    store.declare(3, stopped=False)

    result = invoke(store, "remind", "--yes")

    assert result.exit_code == ExitCode.USAGE
    assert "remind is not stopped: delete its resource" in result.stderr
    assert len(store.all()) == 4


def test_what_is_no_template_is_refused(store):
    store.declare(1)

    result = invoke(store, "remind/user-0", "--yes")

    assert result.exit_code == ExitCode.USAGE
    assert "remind/user-0 is not a dynamic task" in result.stderr
    assert len(store.all()) == 2


def test_a_task_that_there_is_not_is_refused(store):
    store.declare(1)

    result = invoke(store, "nothing", "--yes")

    assert result.exit_code == ExitCode.USAGE
    assert "task nothing not found" in result.stderr
