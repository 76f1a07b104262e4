"""What a PyncetteTask may say, what it is told when it may not, and what holds if it says nothing."""

import json
import sys
import unicodedata

import pytest

from pyncette.core.record import Key, Partition
from pyncette.mirror.conversion import realm_of
from pyncette.resources.arguments import ARGS_BYTES_MAX
from pyncette.resources.modelling import refused_change
from pyncette.resources.reading import Refusal, read, read_stored, written
from pyncette.resources.task import PyncetteTask, RetryPolicy, TaskSpec, is_handler_name
from pyncette.store.base import check_key, check_partition
from tests.resources import manifest, problems, task

MINUTELY = {"handler": "send", "intervalSeconds": 60}
NOON = {"handler": "send", "schedule": "0 12 * * *"}
ONCE = {"handler": "send", "executeAt": "2030-01-31T09:00:00Z"}
TEMPLATE = {"handler": "send", "dynamic": True}

ACCEPTED = {
    "five fields": NOON,
    "six fields": {"handler": "send", "schedule": "0 12 * * MON-FRI 30"},
    "seven fields": {"handler": "send", "schedule": "0 12 1 1 * 0 2040"},
    "a word": {"handler": "send", "schedule": "@hourly"},
    "a hashed minute": {"handler": "send", "schedule": "H 3 * * *"},
    "a zone": {**NOON, "timeZone": "America/Argentina/Buenos_Aires"},
    "an interval": MINUTELY,
    "a one-off": ONCE,
    "a one-off with an offset": {"handler": "send", "executeAt": "2030-01-31T09:00:00.25+05:30"},
    "a one-off in the past": {"handler": "send", "executeAt": "2001-01-31T09:00:00Z"},
    "a one-off at the edge of its window": {**ONCE, "notAfter": "2030-01-31T09:00:00Z"},
    "a template": TEMPLATE,
    "a partitioned template": {**TEMPLATE, "partitions": 1024, "deletionPolicy": "Delete"},
    "a window": {**NOON, "notBefore": "2030-01-01T00:00:00Z", "notAfter": "2030-01-01T01:00:00+00:30"},
    "all policies": {
        **MINUTELY,
        "workerPoolRef": {"name": "mail"},
        "jitterSeconds": 30,
        "suspend": True,
        "executionMode": "AtLeastOnce",
        "concurrencyPolicy": "Replace",
        "missedRunPolicy": "All",
        "maxCatchUpRuns": 7,
        "startingDeadlineSeconds": 600,
        "activeDeadlineSeconds": 3600,
        "leaseDurationSeconds": 10,
        "heartbeat": "Cooperative",
        "retryPolicy": {"maxAttempts": 0, "initialBackoffSeconds": 1, "maxBackoffSeconds": 1},
        "onExhausted": "DeadLetter",
        "successfulRunsHistoryLimit": 0,
        "failedRunsHistoryLimit": 1000,
    },
    "any JSON as arguments": {**MINUTELY, "args": {"": None, "a b": [1, 2.5, {"c": [True]}], "ü": "ü"}},
    "as many arguments as there may be": {**MINUTELY, "args": {str(number): number for number in range(64)}},
    "as large an argument as there may be": {
        **MINUTELY,
        "args": {"a": "x" * (ARGS_BYTES_MAX - len('{"a":""}'))},
    },
    "a null, which is a field not given": {
        **MINUTELY,
        "schedule": None,
        "retryPolicy": {"maxAttempts": None},
    },
    "a handler of another alphabet": {**MINUTELY, "handler": "отчёт"},
    "a handler with vowel signs": {**MINUTELY, "handler": "नमस्ते_दुनिया"},
    "a handler with dots and hyphens": {**MINUTELY, "handler": "reports.daily-2"},
}


@pytest.mark.parametrize("spec", ACCEPTED.values(), ids=ACCEPTED)
def test_a_task_may_say(spec):
    read_back = read(PyncetteTask, manifest(**spec))

    assert not isinstance(read_back, Refusal), [str(problem) for problem in read_back.problems]


NOT_A_HANDLER = (
    "spec.handler: handler must be a name that the pool's task module registers, such as send_report, and not an "
    "import path: use letters, digits, '_', '.' and '-' only"
)
NOT_A_CRON = "is not a cron expression: one line of letters, digits and punctuation of ASCII, without tabs"

REFUSED = {
    "a handler with a NUL": ({**MINUTELY, "handler": "send\0"}, NOT_A_HANDLER),
    "a handler with an escape": ({**MINUTELY, "handler": "send\x1b[2J"}, NOT_A_HANDLER),
    "a handler that reorders text": ({**MINUTELY, "handler": "send\u202egpj"}, NOT_A_HANDLER),
    "a handler with an invisible letter": ({**MINUTELY, "handler": "send\u200b"}, NOT_A_HANDLER),
    "a handler with a line separator": ({**MINUTELY, "handler": "send\u2028"}, NOT_A_HANDLER),
    "a schedule with an escape": (
        {"handler": "send", "schedule": "0 12 * * *\x1b[2J"},
        f'spec.schedule: "0 12 * * *\\u001b[2J" {NOT_A_CRON}',
    ),
    "a schedule that reorders text": (
        {"handler": "send", "schedule": "0 12 * * \u202e*"},
        f'spec.schedule: "0 12 * * \u202e*" {NOT_A_CRON}',
    ),
    "a schedule with a line end, as a block of YAML has it": (
        {"handler": "send", "schedule": "0 12 * * *\n"},
        f'spec.schedule: "0 12 * * *\\n" {NOT_A_CRON}',
    ),
    "no handler": ({"intervalSeconds": 60}, "spec.handler: is required, for example handler: send_report"),
    "an empty handler": ({**MINUTELY, "handler": ""}, "spec.handler: must not be empty"),
    "an import path": (
        {**MINUTELY, "handler": "tasks:send"},
        NOT_A_HANDLER,
    ),
    "a handler with a line end, as a block of YAML has it": (
        {**MINUTELY, "handler": "send\n"},
        NOT_A_HANDLER,
    ),
    "a handler that is a number": (
        {**MINUTELY, "handler": 7},
        'spec.handler: must be text, not the number 7; put it in quotes: "7"',
    ),
    "a long handler": (
        {**MINUTELY, "handler": "x" * 129},
        "spec.handler: may have 128 characters at most, and has 129",
    ),
    "no time": (
        {"handler": "send"},
        "spec: no schedule: set one of schedule, intervalSeconds and executeAt, or dynamic: true",
    ),
    "two times": (
        {**NOON, "intervalSeconds": 60},
        "spec.intervalSeconds: schedule, intervalSeconds and executeAt are mutually exclusive: keep one of them",
    ),
    "two other times": (
        {**NOON, "executeAt": "2030-01-31T09:00:00Z"},
        "spec.executeAt: schedule, intervalSeconds and executeAt are mutually exclusive: keep one of them",
    ),
    "a template with a time": (
        {**TEMPLATE, "schedule": "@daily"},
        (
            "spec.schedule: a dynamic task is a template, and each instance brings its own times: "
            "remove schedule, intervalSeconds and executeAt, or remove dynamic"
        ),
    ),
    "a cron expression with too few fields": (
        {"handler": "send", "schedule": "0 12 * *"},
        (
            "spec.schedule: [0 12 * *] is not acceptable: it has 4 fields, but a cron expression has 5, "
            "6 with seconds last, or 7 with the year after them"
        ),
    ),
    "a cron expression out of range": (
        {"handler": "send", "schedule": "61 * * * *"},
        "spec.schedule: [61 * * * *] is not acceptable, out of range; look at the minute, 61",
    ),
    "a cron expression with a wrong name": (
        {"handler": "send", "schedule": "0 12 * * MON-FRY"},
        ("spec.schedule: [0 12 * * MON-FRY] is not acceptable; look at the day of week, MON-FRY"),
    ),
    "a random cron expression": (
        {"handler": "send", "schedule": "R 12 * * *"},
        (
            "spec.schedule: [R 12 * * *] uses R, a random value that changes at every evaluation: use H, a stable hash; "
            "look at the minute, R"
        ),
    ),
    "an impossible cron expression": (
        {"handler": "send", "schedule": "0 0 30 2 *"},
        "spec.schedule: [0 0 30 2 *] never fires: no date has day of month 30, month 2; look at the day of month, 30",
    ),
    "a cron expression with a zone": (
        {"handler": "send", "schedule": "CRON_TZ=Europe/Dublin 0 12 * * *"},
        "spec.schedule: schedule must not contain a time zone: set timeZone",
    ),
    "an empty cron expression": ({"handler": "send", "schedule": ""}, "spec.schedule: must not be empty"),
    "a long cron expression": (
        {"handler": "send", "schedule": "* " * 300},
        "spec.schedule: may have 512 characters at most, and has 600",
    ),
    "a zone in lower case": (
        {**NOON, "timeZone": "europe/dublin"},
        'spec.timeZone: "europe/dublin" is not a time zone of the IANA database; did you mean Europe/Dublin?',
    ),
    "a zone of this machine": (
        {**NOON, "timeZone": "localtime"},
        'spec.timeZone: "localtime" is not a time zone of the IANA database; write one like Europe/Dublin or UTC',
    ),
    "a rule for a zone": (
        {**NOON, "timeZone": "UTC+3"},
        'spec.timeZone: "UTC+3" is not a time zone of the IANA database; did you mean Etc/GMT-3?',
    ),
    "a path to a zone": (
        {**NOON, "timeZone": "../zoneinfo/UTC"},
        (
            'spec.timeZone: "../zoneinfo/UTC" is not a time zone of the IANA database; '
            "write one like Europe/Dublin or UTC"
        ),
    ),
    "a zone with an interval": (
        {**MINUTELY, "timeZone": "UTC"},
        (
            "spec.timeZone: timeZone belongs to a schedule: "
            "an interval has no time zone, and executeAt carries its own offset"
        ),
    ),
    "an interval of nothing": (
        {"handler": "send", "intervalSeconds": 0},
        "spec.intervalSeconds: must be at least 1, not 0",
    ),
    "a negative interval": (
        {"handler": "send", "intervalSeconds": -5},
        "spec.intervalSeconds: must be at least 1, not -5",
    ),
    "an interval of centuries": (
        {"handler": "send", "intervalSeconds": 10**10},
        "spec.intervalSeconds: must be at most 316224000, not 10000000000",
    ),
    "half a second": (
        {"handler": "send", "intervalSeconds": 0.5},
        "spec.intervalSeconds: must be a whole number, not the number 0.5",
    ),
    "an interval as text": (
        {"handler": "send", "intervalSeconds": "60"},
        'spec.intervalSeconds: must be a whole number, not "60"; write it without quotes: 60',
    ),
    "an interval with a unit": (
        {"handler": "send", "intervalSeconds": "5m"},
        'spec.intervalSeconds: must be a whole number, not "5m"',
    ),
    "an instant without an offset": (
        {"handler": "send", "executeAt": "2030-01-31T09:00:00"},
        (
            "spec.executeAt: has no offset from UTC, so it is not an instant: write 2030-01-31T09:00:00Z, "
            "or 2030-01-31T09:00:00+01:00 with another offset"
        ),
    ),
    "an instant without T and seconds": (
        {"handler": "send", "executeAt": "2030-01-31 09:00"},
        (
            "spec.executeAt: has no offset from UTC, so it is not an instant: write 2030-01-31T09:00:00Z, "
            "or 2030-01-31T09:00:00+01:00 with another offset"
        ),
    ),
    "an instant that is none": (
        {"handler": "send", "executeAt": "tomorrow"},
        "spec.executeAt: is not an RFC 3339 time, for example 2030-01-31T09:00:00+01:00",
    ),
    "an instant in lower case": (
        {"handler": "send", "executeAt": "2030-01-31t09:00:00z"},
        "spec.executeAt: has T or Z in lower case: write 2030-01-31T09:00:00Z",
    ),
    "a day that does not exist": (
        {"handler": "send", "executeAt": "2030-02-30T09:00:00Z"},
        "spec.executeAt: is not a time: day is out of range for month",
    ),
    "an instant that is a number": (
        {"handler": "send", "executeAt": 1893456000},
        'spec.executeAt: must be text, not the number 1893456000; put it in quotes: "1893456000"',
    ),
    "an instant before all others": (
        {"handler": "send", "executeAt": "0001-01-01T00:00:00Z"},
        "spec.executeAt: An instant must be within the years 1 to 9999.",
    ),
    "a window that ends before it begins": (
        {**NOON, "notBefore": "2030-01-01T00:00:00Z", "notAfter": "2030-01-01T00:30:00+01:00"},
        "spec.notAfter: notAfter must be later than notBefore, so that there is time between them",
    ),
    "a one-off before its window": (
        {**ONCE, "notBefore": "2030-02-01T00:00:00Z"},
        "spec.executeAt: executeAt lies outside of notBefore and notAfter, so it would never run",
    ),
    "a one-off after its window": (
        {**ONCE, "notAfter": "2030-01-31T08:59:59.999999Z"},
        "spec.executeAt: executeAt lies outside of notBefore and notAfter, so it would never run",
    ),
    "partitions of a static task": (
        {**MINUTELY, "partitions": 2},
        "spec.partitions: only a dynamic task has instances to be spread over partitions: remove partitions",
    ),
    "no partitions": ({**TEMPLATE, "partitions": 0}, "spec.partitions: must be at least 1, not 0"),
    "deletion of the instances of a static task": (
        {**MINUTELY, "deletionPolicy": "Delete"},
        "spec.deletionPolicy: deletionPolicy is about the instances of a dynamic task, and this one has none: remove it",
    ),
    "retries at most once": (
        {**MINUTELY, "executionMode": "AtMostOnce", "retryPolicy": {}},
        ("spec.retryPolicy: executionMode AtMostOnce never retries: remove retryPolicy, or executionMode"),
    ),
    "a backoff above its maximum": (
        {**MINUTELY, "retryPolicy": {"initialBackoffSeconds": 301}},
        (
            "spec.retryPolicy.initialBackoffSeconds: "
            "initialBackoffSeconds must not exceed maxBackoffSeconds, which is 300 unless it is set"
        ),
    ),
    "a mode in lower case": (
        {**MINUTELY, "executionMode": "atMostOnce"},
        'spec.executionMode: must be AtLeastOnce or AtMostOnce, not "atMostOnce"; did you mean AtMostOnce?',
    ),
    "an unknown policy": (
        {**MINUTELY, "missedRunPolicy": "FastForward"},
        'spec.missedRunPolicy: must be All, Latest or Skip, not "FastForward"',
    ),
    "a policy that is a mapping": (
        {**MINUTELY, "concurrencyPolicy": {}},
        "spec.concurrencyPolicy: must be Forbid, Allow or Replace, not a mapping",
    ),
    "a flag as text": (
        {**MINUTELY, "suspend": "true"},
        'spec.suspend: must be true or false, not "true"; write it without quotes: true',
    ),
    "a flag as a number": (
        {**MINUTELY, "suspend": 1},
        "spec.suspend: must be true or false, not the number 1",
    ),
    "a pool by its name alone": (
        {**MINUTELY, "workerPoolRef": "mail"},
        'spec.workerPoolRef: must be a mapping of fields to values, not "mail"',
    ),
    "a pool in another namespace": (
        {**MINUTELY, "workerPoolRef": {"name": "mail", "namespace": "other"}},
        "spec.workerPoolRef.namespace: unknown field here; it belongs at metadata.namespace",
    ),
    "a pool with a bad name": (
        {**MINUTELY, "workerPoolRef": {"name": "Mail_1"}},
        (
            'spec.workerPoolRef.name: "Mail_1" is not '
            "a name of lower-case letters, digits and '-' that begins and ends with a letter or digit"
        ),
    ),
    "too much history": (
        {**MINUTELY, "failedRunsHistoryLimit": 1001},
        "spec.failedRunsHistoryLimit: must be at most 1000, not 1001",
    ),
    "arguments that are a list": (
        {**MINUTELY, "args": ["a"]},
        "spec.args: must be a mapping of names to values, not a list",
    ),
    "too many arguments": (
        {**MINUTELY, "args": {str(number): 0 for number in range(65)}},
        "spec.args: may have 64 entries at most, and has 65",
    ),
    "arguments that are too large": (
        {**MINUTELY, "args": {"a": "ü" * 8200}},
        (
            "spec.args: take 16,408 bytes as JSON, 16,384 are allowed: "
            "keep large values in a database, and pass their key"
        ),
    ),
    "a number that JSON has not": (
        {**MINUTELY, "args": {"a": float("nan")}},
        "spec.args: cannot be written as JSON: Out of range float values are not JSON compliant",
    ),
    "an argument of Python": (
        {**MINUTELY, "args": {"a": {1, 2}}},
        "spec.args: cannot be written as JSON: Object of type set is not JSON serializable",
    ),
    "a misspelt field": (
        {**MINUTELY, "handeler": "x"},
        "spec.handeler: unknown field; did you mean handler?",
    ),
    "a field of Python": (
        {**MINUTELY, "retry_policy": {}},
        "spec.retry_policy: unknown field; did you mean retryPolicy?",
    ),
    "a field in other case": (
        {**NOON, "timezone": "UTC"},
        "spec.timezone: unknown field; did you mean timeZone?",
    ),
    "a field in the wrong place": (
        {**MINUTELY, "maxAttempts": 3},
        "spec.maxAttempts: unknown field here; it belongs at spec.retryPolicy.maxAttempts",
    ),
    "a field of a CronJob": (
        {**MINUTELY, "jobTemplate": {}},
        (
            "spec.jobTemplate: unknown field; a task has no pod of its own: "
            "write the name of a handler, and a worker pool runs it"
        ),
    ),
    "a field within": (
        {**MINUTELY, "retryPolicy": {"attempts": 3}},
        "spec.retryPolicy.attempts: unknown field; did you mean maxAttempts?",
    ),
    "a field like no other": (
        {**MINUTELY, "retryPolicy": {"zzz": 3}},
        (
            "spec.retryPolicy.zzz: unknown field; "
            "there are initialBackoffSeconds, maxAttempts and maxBackoffSeconds"
        ),
    ),
}


@pytest.mark.parametrize(("spec", "message"), REFUSED.values(), ids=REFUSED)
def test_a_task_gets_the_message_for(spec, message):
    assert problems(PyncetteTask, manifest(**spec)) == [message]


@pytest.mark.parametrize("model", [TaskSpec, RetryPolicy])
def test_every_rule_has_an_example_in_the_table(model):
    told = "\n".join(message for _, message in REFUSED.values())

    assert [rule.message for rule in model.rules if rule.message not in told] == []


def test_all_problems_are_reported_at_once():
    given = manifest(intervalSeconds="60", suspend="yes", shedule="@daily", args=[])
    given["metadata"] = {"name": "Report", "lables": {}}

    assert problems(PyncetteTask, given) == [
        (
            'metadata.name: "Report" is not '
            "a name of lower-case letters, digits, '-' and '.' that begins and ends with a letter or digit"
        ),
        "metadata.lables: unknown field; did you mean labels?",
        "spec.handler: is required, for example handler: send_report",
        'spec.intervalSeconds: must be a whole number, not "60"; write it without quotes: 60',
        'spec.suspend: must be true or false, not "yes"',
        "spec.args: must be a mapping of names to values, not a list",
        "spec.shedule: unknown field; did you mean schedule?",
    ]


def test_rules_that_are_broken_together_are_told_together():
    spec = {**MINUTELY, "timeZone": "UTC", "partitions": 2}

    assert len(problems(PyncetteTask, manifest(**spec))) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, ["metadata: is required", "spec: is required"]),
        ({"metadata": {}, "spec": MINUTELY}, ["metadata.name: is required"]),
        ({"metadata": [], "spec": MINUTELY}, ["metadata: must be a mapping of fields to values, not a list"]),
        ({"metadata": {"name": "a"}, "spec": "x"}, ['spec: must be a mapping of fields to values, not "x"']),
        (
            {"metadata": {"name": "a"}, "spec": MINUTELY, "handler": "send"},
            ["handler: unknown field here; it belongs at spec.handler"],
        ),
        (
            {"metadata": {"name": "a", "annotations": {"example.org/a": True}}, "spec": MINUTELY},
            ['metadata.annotations[example.org/a]: must be text, not true; put it in quotes: "true"'],
        ),
    ],
)
def test_problems_outside_the_spec_are_reported(given, message):
    assert problems(PyncetteTask, given) == message


def test_a_reason_goes_with_what_the_operator_alone_finds():
    def reasons(**spec):
        return [problem.reason for problem in read(PyncetteTask, manifest(**spec)).problems]

    assert reasons(**MINUTELY, args={"a": "x" * ARGS_BYTES_MAX}) == ["ArgumentsTooLarge"]
    assert reasons(handler="send", schedule="0 0 30 2 *") == ["InvalidSchedule"]
    assert reasons(**NOON, timeZone="Mars/Olympus") == ["UnknownTimeZone"]
    assert reasons(**MINUTELY, shedule="@daily") == ["UnknownField"]
    assert reasons(handler="send") == ["Invalid"]


def test_every_default_is_the_one_that_is_documented():
    spec = task().spec

    assert spec.model_dump(by_alias=True, exclude={"handler", "interval_seconds"}) == {
        "workerPoolRef": {"name": "default"},
        "schedule": None,
        "executeAt": None,
        "dynamic": False,
        "partitions": 1,
        "timeZone": None,
        "jitterSeconds": 0,
        "notBefore": None,
        "notAfter": None,
        "suspend": False,
        "executionMode": "AtLeastOnce",
        "concurrencyPolicy": "Forbid",
        "missedRunPolicy": "Latest",
        "maxConcurrentRuns": 0,
        "maxCatchUpRuns": 100,
        "startingDeadlineSeconds": None,
        "activeDeadlineSeconds": None,
        "leaseDurationSeconds": 60,
        "heartbeat": "Automatic",
        "retryPolicy": None,
        "onExhausted": "Continue",
        "args": {},
        "deletionPolicy": "Retain",
        "successfulRunsHistoryLimit": None,
        "failedRunsHistoryLimit": None,
    }
    assert task(retryPolicy={}).spec.retry_policy.model_dump(by_alias=True) == {
        "maxAttempts": 5,
        "initialBackoffSeconds": 5,
        "maxBackoffSeconds": 300,
    }


def test_a_task_that_was_never_reconciled_says_so():
    status = task().status

    assert status.observed_generation == -1
    assert [(condition.type, condition.status) for condition in status.conditions] == [("Ready", "Unknown")]


def test_a_field_can_be_given_by_its_python_name_in_python_only():
    assert RetryPolicy(max_attempts=3) == RetryPolicy.model_validate({"maxAttempts": 3})
    assert problems(PyncetteTask, manifest(handler="send", interval_seconds=60)) == [
        "spec.interval_seconds: unknown field; did you mean intervalSeconds?"
    ]


@pytest.mark.parametrize("spec", ACCEPTED.values(), ids=ACCEPTED)
def test_what_is_written_reads_back_the_same(spec):
    before = task(**spec)

    assert read_stored(PyncetteTask, written(before)) == before


def test_what_the_api_server_adds_is_accepted():
    given = manifest(**MINUTELY)
    given["metadata"] |= {
        "uid": "5f6e",
        "generation": 3,
        "resourceVersion": "17",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "managedFields": [{"manager": "kubectl"}],
        "ownerReferences": [],
        "finalizers": [],
    }
    given["status"] = {"anything": "at all"}

    metadata = read(PyncetteTask, given).metadata

    assert (metadata.uid, metadata.generation, metadata.creation_timestamp.year) == ("5f6e", 3, 2026)


def test_a_stored_task_of_a_newer_release_is_read_without_what_is_unknown():
    stored = manifest(**MINUTELY, zeal="much")
    stored["metadata"]["selfLink"] = "/apis"
    stored["spec"]["retryPolicy"] = {"maxAttempts": 3, "curve": "steep"}
    stored["status"] = {"active": 2, "mood": "good"}

    stored_task = read_stored(PyncetteTask, stored)

    assert stored_task.spec.retry_policy.max_attempts == 3
    assert stored_task.status.active == 2


def test_a_stored_status_that_cannot_be_read_counts_as_none():
    stored = manifest(**MINUTELY)
    stored["status"] = {"active": "several"}

    assert read_stored(PyncetteTask, stored).status.observed_generation == -1


def test_a_stored_task_that_is_refused_is_an_answer_and_no_exception():
    refusal = read_stored(PyncetteTask, manifest(handler="send", schedule="61 * * * *"))

    assert [problem.path for problem in refusal.problems] == [("spec", "schedule")]


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"handler": "other"}, ("spec", "handler")),
        ({"workerPoolRef": {"name": "other"}}, ("spec", "workerPoolRef")),
        ({"partitions": 9}, ("spec", "partitions")),
        ({"dynamic": False, "intervalSeconds": 60}, ("spec", "dynamic")),
    ],
)
def test_what_the_instances_of_a_template_are_stored_under_cannot_be_changed(change, path):
    before = task(**TEMPLATE)
    after = task(**{**TEMPLATE, **change})

    [(refused_at, message)] = refused_change(before, after)

    assert refused_at == path
    assert message.startswith(f"{path[1]} of a dynamic task cannot be changed")


def test_a_static_task_may_change_all_that_and_become_a_template():
    before = task(**MINUTELY)

    assert not list(
        refused_change(before, task(**{**MINUTELY, "handler": "other", "workerPoolRef": {"name": "b"}}))
    )
    assert not list(refused_change(before, task(**TEMPLATE)))


# --- Names -----------------------------------------------------------------------------------------------------------

EVERY_CHARACTER = [chr(code) for code in range(sys.maxunicode + 1)]


def test_a_handler_may_have_the_name_of_any_function():
    refused = [one for one in EVERY_CHARACTER if f"a{one}".isidentifier() and not is_handler_name(f"a{one}")]

    assert refused == []


def test_a_handler_may_have_no_character_that_is_not_shown_as_itself():
    assigned = [one for one in EVERY_CHARACTER if unicodedata.category(one) not in {"Cn", "Cs"}]

    assert [one for one in assigned if is_handler_name(one) and not one.isprintable()] == []
    assert not any(is_handler_name(f"a{one}b") for one in " \t\n:/@")


def test_every_store_can_keep_the_longest_names_that_the_schema_takes():
    longest = "𝒉" * 128  # four bytes each
    assert is_handler_name(longest)
    partition = Partition(realm_of("c" * 128, "n" * 63, "p" * 63), longest, 1023)

    check_partition(partition)
    check_key(Key(partition, longest, occurrence="dead-run-2030-01-01T00:00:00.000000Z"))
    check_key(Key(partition, "t" * 253, occurrence="dead-run-2030-01-01T00:00:00.000000Z"))


@pytest.mark.parametrize(("begin", "end"), [("[", "]"), ('{"a":', "}")])
def test_arguments_may_be_nested_in_six_levels(begin, end):
    def nested(levels):
        return {**MINUTELY, "args": {"a": json.loads(begin * levels + "1" + end * levels)}}

    assert not isinstance(read(PyncetteTask, manifest(**nested(5))), Refusal)
    assert problems(PyncetteTask, manifest(**nested(6))) == [
        "spec.args: are nested in more than 6 levels: keep such values in a database"
    ]


def test_a_stored_handler_that_no_handler_may_have_is_an_invalid_name():
    refused = read_stored(PyncetteTask, manifest(**{**MINUTELY, "handler": "send\0"}))

    assert isinstance(refused, Refusal)
    assert [problem.reason for problem in refused.problems] == ["InvalidName"]
