"""A message names what it is about, once, and on one line."""

import json
import logging

import pytest

from pyncette.core.log_messages import fields_of_records, naming_logger, sentence_of
from pyncette.core.record import Key, Partition
from pyncette.telemetry.logs import JsonFormatter, TextFormatter

ADA = {"task": "remind", "instance": "ada", "run_id": "r1", "attempt": 2}
PLAIN = logging.Formatter("%(levelname)s %(name)s %(message)s")

logger = naming_logger("pyncette.of.a.test")


@pytest.fixture
def logged(caplog):
    caplog.set_level(logging.DEBUG)
    return caplog


def test_a_message_ends_in_the_task_the_instance_and_the_attempt(logged):
    logger.error("the handler failed: %s", "KeyError: 'x'", extra=ADA)

    (record,) = logged.records
    assert (
        PLAIN.format(record) == "ERROR pyncette.of.a.test the handler failed: KeyError: 'x'"
        " task=remind instance=ada attempt=2"
    )
    assert (record.task, record.instance, record.run_id, record.attempt) == tuple(ADA.values())


def test_the_template_is_the_same_for_all_runs_so_that_errors_can_be_grouped(logged):
    for name in ("ada", "bob"):
        logger.error("the handler failed: %s", "KeyError", extra={**ADA, "instance": name})

    assert {record.msg for record in logged.records} == {"the handler failed: %s%s"}


def test_the_place_of_a_record_is_that_of_its_caller(logged):
    logger.warning("lease lost", extra=ADA)
    try:
        raise ValueError
    except ValueError:
        logger.exception("failed", extra=ADA)

    assert {record.funcName for record in logged.records} == {
        test_the_place_of_a_record_is_that_of_its_caller.__name__
    }
    assert logged.records[1].exc_info


@pytest.mark.parametrize("message", ["100 % done", "%s", "%(task)s"])
def test_a_message_without_arguments_may_have_percent_signs(logged, message):
    logger.info(message, extra=ADA)

    assert logged.records[0].getMessage() == f"{message} task=remind instance=ada attempt=2"
    assert sentence_of(logged.records[0]) == message


def test_a_message_without_names_is_as_it_was_written(logged):
    logger.info("%d %% of %s", 5, "all", extra={"runs": 3, "instance": "", "task": None})
    logger.info("ready")

    assert [record.getMessage() for record in logged.records] == ["5 % of all", "ready"]
    assert [sentence_of(record) for record in logged.records] == ["5 % of all", "ready"]


def test_no_name_can_forge_another_field_or_another_line(logged):
    logger.info("lost", extra={"task": "a attempt=9", "instance": "x\nERROR root forged\x1b[2J\u202e%s"})

    message = logged.records[0].getMessage()
    assert message == r'lost task="a attempt=9" instance="x\nERROR root forged\u001b[2J\u202e%s"'
    assert message.isprintable()


def test_a_message_about_many_records_names_the_first_ones_and_says_how_many(logged):
    keys = [Key(Partition("", "remind"), "remind", f"user-{number}") for number in range(300)]

    logger.warning("starts were refused", extra=fields_of_records(keys, len(keys)))

    assert (
        logged.records[0]
        .getMessage()
        .startswith('starts were refused records="remind/user-0, remind/user-1, ')
    )
    assert logged.records[0].getMessage().endswith('remind/user-9" total=300')
    assert len(logged.records[0].records) == 10


def test_a_formatter_that_shows_all_fields_says_each_once(logged):
    logger.error("the handler failed: %s", "KeyError", extra={**ADA, "error": "a b"})

    line = json.loads(JsonFormatter().format(logged.records[0]))
    assert line["message"] == "the handler failed: KeyError"
    assert {name: line[name] for name in ADA} == ADA
    text = TextFormatter().format(logged.records[0])
    assert text.endswith(
        'the handler failed: KeyError  task=remind instance=ada run_id=r1 attempt=2 error="a b"'
    )


def test_a_level_that_is_off_costs_no_message(caplog):
    caplog.set_level(logging.ERROR)

    logger.warning("lost", extra=ADA)

    assert caplog.records == []


def test_a_message_has_a_bound_and_the_field_has_it_all(logged):
    logger.warning("could not read", extra={"error": "x" * 100_000})

    assert len(logged.records[0].getMessage()) < 1_000
    assert len(logged.records[0].error) == 100_000
