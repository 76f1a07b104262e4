"""What a PyncetteTask means to the core."""

from datetime import UTC, datetime

import msgspec
import pytest

from pyncette.clock import SECOND
from pyncette.core.record import Key, Owner, Partition
from pyncette.core.schedule import Cron, Interval, Once, first_after
from pyncette.core.spec import Exhaustion, Heartbeat, Missed, Mode, Overlap, Policies, Retry
from pyncette.core.times import instant_of
from pyncette.mirror.conversion import created_at, realm_of, spec_hash, to_key, to_owner, to_spec
from pyncette.resources.reading import read
from pyncette.resources.task import PyncetteTask
from tests.resources import manifest, task

NEW_YEAR = datetime(2030, 1, 1, tzinfo=UTC)


def test_an_instant_is_microseconds_since_the_epoch():
    assert instant_of(datetime(1970, 1, 1, 0, 0, 1, 5, tzinfo=UTC)) == SECOND + 5
    assert instant_of(datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)) == -SECOND


def test_the_key_is_the_realm_of_the_pool_the_handler_and_the_name_of_the_resource():
    given = task(handler="send", workerPoolRef={"name": "mail"})

    realm = realm_of("prod", given.metadata.namespace, given.spec.worker_pool_ref.name)

    assert realm == "prod/shop/mail"
    assert to_key(given, realm) == Key(Partition("prod/shop/mail", "send", 0), "report")


@pytest.mark.parametrize(
    ("spec", "schedule"),
    [
        ({"schedule": "0 12 * * *"}, Cron("0 12 * * *", "UTC")),
        ({"schedule": "0 12 * * *", "timeZone": "Europe/Dublin"}, Cron("0 12 * * *", "Europe/Dublin")),
        ({"schedule": "H 12 * * *"}, Cron("H 12 * * *", "UTC", "shop/report")),
        ({"intervalSeconds": 90}, Interval(90 * SECOND)),
        ({"executeAt": "2030-01-01T02:00:00+02:00"}, Once(instant_of(NEW_YEAR))),
        ({"dynamic": True}, None),
    ],
)
def test_a_schedule_becomes(spec, schedule):
    assert to_spec(task(**spec)).schedule == schedule


def test_a_hashed_schedule_stays_where_it_is_when_the_task_moves_and_differs_between_tasks():
    def first(name="report", **spec):
        given = read(PyncetteTask, manifest(name=name, schedule="H H * * *", **{"handler": "send", **spec}))
        return first_after(to_spec(given).schedule, 0, 0)

    assert first() == first(handler="other", workerPoolRef={"name": "other"})
    assert len({first(name=f"report-{number}") for number in range(20)}) > 10


def test_policies_that_are_not_given_are_those_of_the_resources():
    assert to_spec(task()).policies == Policies(keep_finished=True, keep_successful=3, keep_failed=10)


def test_every_policy_reaches_the_core_in_microseconds():
    given = task(
        schedule="@daily",
        jitterSeconds=30,
        notBefore="2030-01-01T00:00:00Z",
        notAfter="2030-01-01T00:00:01Z",
        suspend=True,
        executionMode="AtLeastOnce",
        concurrencyPolicy="Allow",
        missedRunPolicy="All",
        maxCatchUpRuns=7,
        maxConcurrentRuns=3,
        startingDeadlineSeconds=600,
        activeDeadlineSeconds=3600,
        leaseDurationSeconds=10,
        heartbeat="Cooperative",
        retryPolicy={"maxAttempts": 0, "initialBackoffSeconds": 1, "maxBackoffSeconds": 8},
        onExhausted="DeadLetter",
        successfulRunsHistoryLimit=0,
        failedRunsHistoryLimit=1,
    )

    assert to_spec(given).policies == Policies(
        mode=Mode.AT_LEAST_ONCE,
        overlap=Overlap.ALLOW,
        missed=Missed.ALL,
        max_catch_up=7,
        max_concurrent=3,
        starting_deadline=600 * SECOND,
        active_deadline=3600 * SECOND,
        retry=Retry(max_attempts=0, initial=SECOND, maximum=8 * SECOND),
        exhausted=Exhaustion.DEAD_LETTER,
        jitter=30 * SECOND,
        not_before=instant_of(NEW_YEAR),
        not_after=instant_of(NEW_YEAR) + SECOND,
        suspend=True,
        lease=10 * SECOND,
        heartbeat=Heartbeat.COOPERATIVE,
        keep_finished=True,
        keep_successful=0,
        keep_failed=1,
    )


@pytest.mark.parametrize(
    ("field", "attribute"),
    [
        ("executionMode", "mode"),
        ("concurrencyPolicy", "overlap"),
        ("missedRunPolicy", "missed"),
        ("onExhausted", "exhausted"),
        ("heartbeat", "heartbeat"),
    ],
)
def test_every_word_that_a_policy_may_be_is_one_of_the_core(field, attribute):
    words = task().spec.model_json_schema(by_alias=True)["properties"][field]["enum"]

    assert [getattr(to_spec(task(**{field: word})).policies, attribute).value for word in words] == words


def test_at_most_once_the_worker_renews_for_a_heartbeat_would_be_of_no_effect():
    given = task(executionMode="AtMostOnce", heartbeat="Cooperative")

    assert to_spec(given).policies.heartbeat is Heartbeat.AUTOMATIC


def test_instances_keep_a_history_only_if_asked_for():
    of_instances = to_spec(task(dynamic=True)).policies
    asked_for = to_spec(task(dynamic=True, successfulRunsHistoryLimit=1, failedRunsHistoryLimit=2)).policies

    assert (of_instances.keep_successful, of_instances.keep_failed) == (0, 0)
    assert (asked_for.keep_successful, asked_for.keep_failed) == (1, 2)


def test_a_one_off_stays_when_it_is_over_and_those_of_a_template_go():
    assert to_spec(task(executeAt="2030-01-01T00:00:00Z")).policies.keep_finished
    assert not to_spec(task(dynamic=True)).policies.keep_finished


def test_arguments_are_kept_as_json():
    given = task(args={"b": [1, None], "a": "ü"})

    assert bytes(to_spec(given).args) == '{"a":"ü","b":[1,null]}'.encode()
    assert bytes(to_spec(task()).args) == b"{}"


def test_the_hash_is_the_same_for_whatever_means_the_same():
    one = task(schedule="@daily", args={"a": 1, "b": {"c": 2, "d": 3}}, retryPolicy={})
    same = task(args={"b": {"d": 3, "c": 2}, "a": 1}, timeZone="UTC", suspend=False, schedule="@daily")

    assert spec_hash(to_spec(one)) == spec_hash(to_spec(same))


def test_the_hash_is_the_same_in_every_release():
    # Another hash would have every record written anew by the first release that computes it.
    assert spec_hash(to_spec(task(handler="send", intervalSeconds=60))) == "95ab496964565a79c2dada6a12082d72"
    assert (
        spec_hash(to_spec(task(schedule="0 12 * * *", suspend=True, args={"a": [1]})))
        == "460b14c1af338ae972b2aa80f50c2866"
    )


CHANGES = [
    {"intervalSeconds": 61},
    {"suspend": True},
    {"args": {"a": 1}},
    {"retryPolicy": {"maxAttempts": 4}},
    {"leaseDurationSeconds": 61},
    {"failedRunsHistoryLimit": 9},
]


@pytest.mark.parametrize("change", CHANGES)
def test_the_hash_differs_when_something_differs_that_matters(change):
    assert spec_hash(to_spec(task(**change))) != spec_hash(to_spec(task()))


def test_the_spec_can_be_stored_and_loaded():
    spec = to_spec(task(schedule="H 12 * * *", args={"a": "ü"}, notAfter="2030-01-01T00:00:00Z"))

    assert msgspec.json.decode(msgspec.json.encode(spec), type=type(spec)) == spec


def test_the_owner_and_the_creation_are_those_of_the_api_server():
    given = manifest(handler="send", intervalSeconds=60)
    unseen = read(PyncetteTask, given)
    given["metadata"] |= {"uid": "5f6e", "generation": 3, "creationTimestamp": "2030-01-01T00:00:00Z"}
    seen = read(PyncetteTask, given)

    created_version = instant_of(NEW_YEAR)
    assert to_owner(seen, to_spec(seen)) == Owner(
        "5f6e", 3, spec_hash(to_spec(seen)), created_at=created_version
    )
    assert created_at(seen) == created_version
    assert to_owner(unseen, to_spec(unseen)) == Owner("", 0, spec_hash(to_spec(seen)))
    assert created_at(unseen) is None
