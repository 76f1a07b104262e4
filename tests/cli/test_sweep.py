"""`pyncette sweep` shows what the operator holds back, and confirms just what it has shown."""

import asyncio
import json

import pytest
from click.testing import CliRunner
from msgspec import structs

from pyncette.cli.commands import cli
from pyncette.cli.failures import ExitCode
from pyncette.controller.reconcile.sweep import HeldBack, read_notice
from pyncette.store.backend import read_backend

NAMES = ("shop/a", "shop/b", "shop/c")


class Database:
    """A backend where operators tell what they hold back."""

    def __init__(self, path):
        self.url = f"sqlite:///{path}"

    def hold_back(self, cluster="east", names=NAMES, count=None, confirmed=0):
        held = HeldBack(len(names) if count is None else count, names, confirmed)

        async def told(store):
            assert await (await read_notice(store, cluster)).write(store, held)

        self._do(told)
        return self

    def held(self, cluster="east"):
        async def read(store):
            return (await read_notice(store, cluster)).held

        return self._do(read)

    def _do(self, work):
        async def run():
            async with read_backend(self.url).new_store() as store:
                return await work(store)

        return asyncio.run(run())


@pytest.fixture
def database(tmp_path):
    return Database(tmp_path / "tasks.db")


def sweep(database, *arguments):
    return CliRunner().invoke(cli, ["sweep", "--backend", database.url, *arguments])


def test_it_shows_what_is_held_back_and_how_to_confirm_it(database):
    database.hold_back()

    shown = sweep(database)

    assert shown.exit_code == ExitCode.DONE
    assert "3 tasks of the cluster east are held back" in shown.output
    assert all(name in shown.output for name in NAMES)
    assert "pyncette sweep --confirm 3" in shown.output


def test_it_prints_how_many_more_are_held_back_than_named(database):
    database.hold_back(count=1000)

    assert "and 997 more" in sweep(database).output


def test_it_shows_it_as_json(database):
    database.hold_back()

    (shown,) = json.loads(sweep(database, "--output", "json").output)

    assert (shown["cluster"], shown["tasks"], shown["names"]) == ("east", 3, list(NAMES))


def test_it_reports_that_nothing_is_held_back(database):
    database.hold_back(names=())

    assert "nothing is held back" in sweep(database).output
    assert sweep(database, "--confirm", "3").exit_code == ExitCode.USAGE


def test_what_is_shown_is_confirmed_by_its_number(database):
    database.hold_back()

    confirmed = sweep(database, "--confirm", "3")

    assert (confirmed.exit_code, confirmed.output.splitlines()[0][:36]) == (
        0,
        "3 tasks of the cluster east are conf",
    )
    assert database.held() == HeldBack(3, NAMES, confirmed=3)


def test_to_confirm_twice_confirms_once(database):
    database.hold_back()
    sweep(database, "--confirm", "3")

    assert sweep(database, "--confirm", "3").exit_code == ExitCode.DONE
    assert database.held().confirmed == 3


@pytest.mark.parametrize("count", ["2", "4"])
def test_another_number_confirms_nothing(database, count):
    database.hold_back()

    refused = sweep(database, "--confirm", count)

    assert refused.exit_code == ExitCode.USAGE
    assert f"3 tasks are held back, not {count}" in refused.output
    assert database.held().confirmed == 0


def test_of_several_clusters_one_must_be_selected(database):
    database.hold_back("east").hold_back("west", ("shop/d",))

    refused = sweep(database, "--confirm", "4")

    assert "several clusters hold back removals: east, west" in refused.output
    assert sweep(database, "--confirm", "1", "--cluster", "west").exit_code == ExitCode.DONE
    assert (database.held("east").confirmed, database.held("west").confirmed) == (0, 1)


def test_without_a_backend_and_settings_the_error_says_where_to_run_it():
    refused = CliRunner().invoke(cli, ["sweep"])

    assert refused.exit_code == ExitCode.USAGE
    assert "run this in the operator's pod" in refused.output


def test_in_the_operator_s_pod_its_settings_tell_the_backends(database, tmp_path):
    database.hold_back()
    (tmp_path / "url").write_text(database.url)
    (tmp_path / "operator.yaml").write_text(f"backends: [{{name: default, urlFile: {tmp_path}/url}}]")

    shown = CliRunner().invoke(cli, ["sweep", "--config", str(tmp_path / "operator.yaml")])

    assert "3 tasks of the cluster east are held back" in shown.output


async def test_a_confirmation_and_what_the_operator_tells_never_overwrite_each_other(database, tmp_path):
    async with read_backend(f"sqlite:///{tmp_path}/other.db").new_store() as store:
        empty = await read_notice(store, "east")
        seen_by_operator = await empty.write(store, HeldBack(3, NAMES))
        seen_by_user = await read_notice(store, "east")

        assert await seen_by_user.write(store, structs.replace(seen_by_user.held, confirmed=3))
        assert await seen_by_operator.write(store, HeldBack(4, (*NAMES, "shop/d"))) is None

        assert (await read_notice(store, "east")).held.confirmed == 3
