"""`pyncette sweep` shows what the operator holds back, and confirms just what it has shown."""

import asyncio
import json

import pytest
from click.testing import CliRunner

from pyncette.cli.commands import cli
from pyncette.cli.failures import ExitCode
from pyncette.controller.reconcile.removal_notice import SWEEP_REALM, load_notices
from pyncette.store.backend import read_backend

NAMES = ("a", "b", "c")


class Database:
    """A backend where operators tell what they hold back."""

    def __init__(self, path):
        self.url = f"sqlite:///{path}"

    def hold_back(self, cluster="east", names=NAMES, namespace="shop"):
        async def told(store):
            notices = await load_notices(store, cluster, [namespace])
            assert await notices[namespace].hold(store, names)

        self._do(told)
        return self

    def confirmed(self, cluster="east", namespace="shop"):
        async def read(store):
            return (await load_notices(store, cluster, [namespace]))[namespace].held.confirmed

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
    assert "3 tasks of the namespace shop (cluster east) are held back" in shown.output
    assert [line.strip() for line in shown.output.splitlines()[1:4]] == [*NAMES]
    assert "pyncette sweep --confirm 3" in shown.output


def test_it_lists_all_names_however_many_there_are(database):
    names = [f"task-{number:05}" for number in range(2_345)]
    database.hold_back(names=names)

    listed = [line.strip() for line in sweep(database).output.splitlines()]

    assert [line for line in listed if line.startswith("task-")] == names


def test_it_lists_every_namespace_and_one_of_them_if_asked(database):
    database.hold_back().hold_back(namespace="billing", names=("x",))

    shown, of_one = sweep(database), sweep(database, "--namespace", "billing")

    assert "3 tasks of the namespace shop" in shown.output
    assert "1 tasks of the namespace billing" in shown.output
    assert "pyncette sweep --confirm 4" in shown.output
    assert "shop" not in of_one.output
    assert "pyncette sweep --namespace billing --confirm 1" in of_one.output


def test_it_shows_it_as_json(database):
    database.hold_back()

    (shown,) = json.loads(sweep(database, "--output", "json").output)

    assert (shown["cluster"], shown["namespace"]) == ("east", "shop")
    assert (shown["tasks"], shown["names"]) == (3, list(NAMES))


def test_names_that_kubernetes_would_not_accept_are_counted_and_not_shown(database):
    database.hold_back(names=("a", "\x1b]0;title\x07"))

    shown = sweep(database).output

    assert "\x1b" not in shown
    assert "and 1 whose names cannot be read" in shown


def test_it_reports_that_nothing_is_held_back(database):
    database.hold_back()
    database.hold_back(names=())

    assert "nothing is held back" in sweep(database).output
    assert sweep(database, "--confirm", "3").exit_code == ExitCode.USAGE


def test_what_is_shown_is_confirmed_by_its_number(database):
    database.hold_back()

    confirmed = sweep(database, "--confirm", "3")

    assert confirmed.exit_code == ExitCode.DONE
    assert "3 tasks of the namespace shop (cluster east) are confirmed" in confirmed.output
    assert database.confirmed() == 3


def test_one_namespace_is_confirmed_without_the_others(database):
    database.hold_back().hold_back(namespace="billing", names=("x",))

    assert sweep(database, "--namespace", "shop", "--confirm", "3").exit_code == ExitCode.DONE

    assert (database.confirmed(), database.confirmed(namespace="billing")) == (3, 0)


def test_all_namespaces_are_confirmed_by_the_number_of_all(database):
    database.hold_back().hold_back(namespace="billing", names=("x",))

    assert sweep(database, "--confirm", "4").exit_code == ExitCode.DONE

    assert (database.confirmed(), database.confirmed(namespace="billing")) == (3, 1)


def test_to_confirm_twice_confirms_once(database):
    database.hold_back()
    sweep(database, "--confirm", "3")

    assert sweep(database, "--confirm", "3").exit_code == ExitCode.DONE
    assert database.confirmed() == 3


@pytest.mark.parametrize("count", ["2", "4"])
def test_another_number_confirms_nothing(database, count):
    database.hold_back()

    refused = sweep(database, "--confirm", count)

    assert refused.exit_code == ExitCode.USAGE
    assert f"3 tasks are held back, not {count}" in refused.output
    assert database.confirmed() == 0


def test_of_several_clusters_one_must_be_selected(database):
    database.hold_back("east").hold_back("west", ("d",))

    refused = sweep(database, "--confirm", "4")

    assert "several clusters hold back removals: east, west" in refused.output
    assert sweep(database, "--confirm", "1", "--cluster", "west").exit_code == ExitCode.DONE
    assert (database.confirmed("east"), database.confirmed("west")) == (0, 1)


def test_without_a_backend_and_settings_the_error_says_where_to_run_it():
    refused = CliRunner().invoke(cli, ["sweep"])

    assert refused.exit_code == ExitCode.USAGE
    assert "run this in the operator's pod" in refused.output


def test_in_the_operator_s_pod_its_settings_tell_the_backends(database, tmp_path):
    database.hold_back()
    (tmp_path / "url").write_text(database.url)
    (tmp_path / "operator.yaml").write_text(
        f"backends: [{{name: default, urlFile: {tmp_path}/url, namespaces: [shop]}}]"
    )

    shown = CliRunner().invoke(cli, ["sweep", "--config", str(tmp_path / "operator.yaml")])

    assert "3 tasks of the namespace shop (cluster east) are held back" in shown.output


async def test_a_confirmation_and_what_the_operator_tells_never_overwrite_each_other(tmp_path):
    async with read_backend(f"sqlite:///{tmp_path}/other.db").new_store() as store:
        empty = (await load_notices(store, "east", ["shop"]))["shop"]
        seen_by_operator = await empty.hold(store, NAMES)
        seen_by_user = (await load_notices(store, "east", ["shop"]))["shop"]

        assert await seen_by_user.confirm(store)
        assert await seen_by_operator.hold(store, (*NAMES, "d")) is None

        kept = (await load_notices(store, "east", ["shop"]))["shop"]
        assert kept.is_confirmed
        assert tuple(await kept.names(store)) == NAMES


async def test_the_notice_is_removed_once_nothing_is_held_back(tmp_path):
    async with read_backend(f"sqlite:///{tmp_path}/other.db").new_store() as store:
        notice = (await load_notices(store, "east", ["shop"]))["shop"]
        for names in ([f"task-{number}" for number in range(500)], ["a"], []):
            notice = await notice.hold(store, names)

        for partition in await store.partitions(SWEEP_REALM):
            assert await store.scan(partition, None, None, 10) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("backends: 1", "--backend-file: {config}: backends: "),
        (None, "--backend-file: cannot read the operator's settings: {config}: No such file"),
    ],
)
def test_the_encryption_of_a_file_is_that_of_the_settings_it_is_given(tmp_path, text, message):
    config = tmp_path / "operator.yaml"
    if text is not None:
        config.write_text(text)
    (tmp_path / "url").write_text("postgresql://u@127.0.0.1:9/d")

    refused = CliRunner(env={"PYNCETTE_BACKEND": None, "PYNCETTE_OPERATOR_CONFIG": None}).invoke(
        cli, ["sweep", "--backend-file", str(tmp_path / "url"), "--config", str(config)]
    )

    assert refused.exit_code == ExitCode.USAGE
    assert message.format(config=config) in refused.stderr
