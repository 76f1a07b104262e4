"""
Databases that lie, of each kind, to a real operator on a real API server: no other team notices anything of it.

Either somebody who is root on a real server has written rows there, or the answers are not those of the server: see
`raw_rows` and `lying`.
"""

import json
from contextlib import ExitStack, contextmanager

import pytest

from pyncette.core.record import RESERVED_REALMS, Key, Owner, Partition, Summary, inert_record
from pyncette.core.spec import Spec
from tests.apiserver.operating import CLUSTER, HANDLER
from tests.hostile.installation import OBSERVED_SECONDS_MAX, TASKS, Installation, Team
from tests.hostile.lying import FAR_AWAY, LONG_AGO, NASTY, forged, forgery
from tests.hostile.raw_rows import RawDynamoDb, RawMysql, RawPostgres, RawRedis, RawSqlite, row_of
from tests.servers.dynamodb import REGION

pytestmark = pytest.mark.cluster

DAY = 86_400_000_000


@pytest.fixture(scope="module")
def installation(apiserver, postgres, mariadb, redis_server, dynamodb, tmp_path_factory):
    folder = tmp_path_factory.mktemp("installation")
    with ExitStack() as stack:
        enter = stack.enter_context

        def sqlite(name):
            return RawSqlite(f"sqlite:///{folder}/{name}.db")

        table = enter(dynamodb.fresh_table())
        attackers = {
            "sqlite": sqlite("attacker"),
            "postgresql": RawPostgres(enter(postgres.fresh_database())),
            "mariadb": RawMysql(enter(mariadb.fresh_database())),
            "redis": RawRedis(enter(redis_server.fresh_namespace()), redis_server),
            "dynamodb": RawDynamoDb(dynamodb.url_of(table), table, dynamodb.endpoint, REGION),
        }
        shop = Team(enter(apiserver.fresh_namespace()), "shop", RawPostgres(enter(postgres.fresh_database())))
        bank = RawRedis(enter(redis_server.fresh_namespace()), redis_server)
        made = enter(
            Installation(
                folder,
                apiserver,
                shop,
                Team(enter(apiserver.fresh_namespace()), "bank", bank),
                Team(shop.namespace, "archive", sqlite("archive")),
                {
                    kind: Team(enter(apiserver.fresh_namespace()), f"attacker-{kind}", raw)
                    for kind, raw in attackers.items()
                },
            )
        )
        for team in made.victims:  # so that a run of a forged task would be seen, too
            made.request_run(team, "report")
        yield made


def check_victims(installation):
    """Fail unless an edit by each victim is observed soon, and is all that changes for them."""
    before = {team: installation.records(team) for team in installation.victims}
    runs = installation.runs()
    assert {run["to"] for run in runs} == {"staff"}

    for team in installation.victims:
        seconds = installation.edit(team, "report", args={"at": installation.now})
        assert seconds < OBSERVED_SECONDS_MAX

    for team in installation.victims:
        after = installation.records(team)
        key = home(team, "report")
        edited = after.pop(key)
        was = before[team].pop(key)
        assert after == before[team]
        assert edited.state.owner.generation == was.state.owner.generation + 1
        assert json.loads(bytes(edited.spec.args))["to"] == "staff"
        assert (edited.due_at, edited.claimable_at, edited.lease) == (was.due_at, was.claimable_at, None)
    assert installation.runs() == runs
    assert [installation.foreign_realms()[team.backend] for team in installation.victims] == [0, 0]
    installation.check_operator()


def home(team, name, handler=HANDLER):
    return Key(Partition(team.realm, handler), name)


def check_nothing_carried(installation, team, name, realm):
    """Fail unless *team* has one record of a task, and it is as the operator makes that of a new one."""
    now, found = installation.now, installation.records(team)
    (record,) = (record for key, record in found.items() if (key.task, key.partition.realm) == (name, realm))
    assert json.loads(bytes(record.spec.args)) == {"to": "staff"}
    assert record.claimable_at == record.due_at > now
    assert max(record.version, record.fence) < now + DAY
    assert record.state.summary == Summary()


# --- Answers that are none of the server -----------------------------------------------------------------------------


@pytest.mark.parametrize("lie", ["Refused", "Lost", "Silent", "Broken", "Changing", "Extreme", "Nasty"])
def test_a_database_that_lies_harms_no_other_team_and_its_own_recovers(installation, lie):
    with installation.told(lie):
        check_victims(installation)

    installation.recover()


@pytest.mark.parametrize(
    ("lie", "least"),
    [("EndlessRecords", 3), ("EndlessSideRuns", 9), ("EndlessPartitions", 2)],
)
def test_a_database_with_endless_rows_harms_no_other_team_and_its_own_recovers(installation, lie, least):
    (installation.folder / "realms").write_text(installation.shop.realm)

    with installation.told_from_the_start(lie, least):
        for team in installation.victims:  # the first of them waits until the operator has started
            installation.edit(team, "report", args={"at": installation.now})
        check_victims(installation)

    installation.recover()


def test_a_database_that_claims_to_be_that_of_another_team_stops_nobody(installation):
    (identity,) = (key for key in installation.records(installation.bank) if key.task == "identity")
    args = installation.records(installation.bank)[identity].spec.args
    (installation.folder / "identity").write_bytes(bytes(args))

    with installation.told("Claimed"):
        installation.until_copies_are_reported()
        check_victims(installation)
        installation.recover()

    installation.recover()


# --- Rows and answers in the name of others --------------------------------------------------------------------------


def forged_rows(installation, names):
    """Return the rows by which *names* are tasks of both victims, each due and with a dead letter that is due."""
    registry = f"{RESERVED_REALMS}pools/{CLUSTER}"
    rows = []
    for victim in installation.victims:
        rows.append(
            row_of(inert_record(Key(Partition(registry, victim.realm), "pool"), Spec(), installation.now))
        )
        for name in names:
            partition = Partition(victim.realm, HANDLER)
            rows += map(row_of, forgery(partition, name, installation.now))
    return rows


@contextmanager
def rows_are_forged(installation, names):
    with installation.written(lambda team: forged_rows(installation, names)):
        yield
    # Those of bank are foreign, and not even looked at.
    assert any(
        "was not carried over" in note for note in installation.events(installation.shop, "NotCarriedOver")
    )


@contextmanager
def answers_are_forged(installation, names):
    (installation.folder / "realms").write_text(" ".join(team.realm for team in installation.victims))
    (installation.folder / "tasks").write_text(" ".join(names))
    with installation.told("Foreign"):
        yield


@pytest.mark.parametrize("forging", [rows_are_forged, answers_are_forged])
def test_nothing_is_carried_over_from_a_database_that_holds_tasks_of_others(installation, forging):
    new, moving = f"new-{forging.__name__[0]}", f"moving-{forging.__name__[0]}"
    shop, archive = installation.shop, installation.archive
    installation.create(shop, moving, args={"to": "staff"})

    with forging(installation, [*TASKS, moving, new]):
        installation.until_foreign_realms_are_counted()
        check_victims(installation)
        for team in installation.victims:
            installation.create(team, new, args={"to": "staff"})
        installation.edit(shop, moving, workerPoolRef={"name": "archive"})
        installation.until_moved(shop, archive, moving)
        check_victims(installation)

    for team in installation.victims:
        check_nothing_carried(installation, team, new, team.realm)
    check_nothing_carried(installation, archive, moving, f"{CLUSTER}/{shop.namespace}/archive")
    assert installation.events(installation.bank, "NotCarriedOver") == []
    installation.recover()


# --- Rows that no store writes ---------------------------------------------------------------------------------------


def impossible_rows(team, victims):
    """Return rows in the name of *team* and of the *victims*, none of which any store would write."""
    most = 10**37 if isinstance(team.raw, RawDynamoDb) else FAR_AWAY
    name = NASTY if team.raw.nul else NASTY.replace("\0", "")
    huge = 10**300
    owner = {"uid": "uid", "generation": huge, "spec_hash": "hash", "created_at": huge}
    message = {"last_message": NASTY, "last_worker": NASTY}
    rows = []
    for realm in (team.realm, *(victim.realm for victim in victims)):
        fine = row_of(forged(Partition(realm, HANDLER), "fine", owner=Owner("uid", 1, "hash")))
        large = json.dumps({"args": "x" * 150_000})
        rows += [
            fine._replace(task="early", version=most, fence=most, due_at=LONG_AGO, claimable_at=LONG_AGO),
            fine._replace(
                task="late", due_at=most, schedule_since=most, claimable_at=most, lease_length=most
            ),
            fine._replace(task=name),
            fine._replace(task="named", instance=name, occurrence=name),
            fine._replace(
                task="message", state=json.dumps({"owner": owner | {"generation": 1}, "summary": message})
            ),
            fine._replace(task="huge", state=json.dumps({"born": huge, "owner": owner, "floor": huge})),
            fine._replace(task="nested", spec=f'{{"args":{"[" * 20_000}{"]" * 20_000}}}'),
            fine._replace(task="broken", spec="{", state="]"),
            fine._replace(task="template", spec=json.dumps({"partitions": huge})),
            *(fine._replace(task=f"large-{number}", spec=large) for number in range(10)),
        ]
    return rows


def test_rows_that_no_store_writes_harm_no_other_team_and_their_own_recovers(installation):
    with installation.written(lambda team: impossible_rows(team, installation.victims)):
        check_victims(installation)
        installation.recover()

    installation.recover()


def test_rows_of_another_shape_harm_no_other_team_and_their_own_recovers(installation):
    with installation.kept():
        for team in installation.attackers.values():
            team.raw.reshape()
        installation.noticed()
        check_victims(installation)

    installation.recover()
