"""What is stored as text comes back as it was, and what cannot be read says whose it is."""

import msgspec
import pytest

from pyncette.core.record import Key, Outcome, Partition, Run, State, Summary, replace
from pyncette.core.schedule import Cron
from pyncette.core.spec import SPEC_FORMAT, Spec
from pyncette.store.codec import (
    PoisonedRecordError,
    decode_record,
    decode_run,
    encode_run,
    encode_spec,
    encode_state,
)

KEY = Key(Partition("realm", "handler"), "task", "instance")
RUN = Run("id", 1, 2, Outcome.FAILED)


def decoded(spec="{}", state="{}"):
    return decode_record(KEY, spec, state, 1, 2, None, 3, None, 4, 0, None, None)


def test_a_spec_keeps_its_arguments_to_the_letter():
    spec = Spec(Cron("0 12 * * *"), msgspec.Raw(b'{"b":1.10,"a":12345678901234567890,"c":[ ]}'))

    assert decoded(spec=encode_spec(spec)).spec == spec


@pytest.mark.parametrize(
    "texts",
    [
        {"spec": "{"},
        {"spec": ""},
        {"spec": "[]"},
        {"spec": '{"schedule":{"type":"tide"}}'},
        {"spec": b"\xff"},
        {"spec": None},
        {"state": '{"born":"yesterday"}'},
        {"state": '{"summary":{"last_outcome":"unheard of"}}'},
    ],
)
def test_an_unreadable_record_is_reported_with_its_key(texts):
    with pytest.raises(PoisonedRecordError) as caught:
        decoded(**texts)

    assert caught.value.key == KEY
    assert "task/instance" in str(caught.value)


def test_a_spec_in_the_format_of_a_newer_release_is_not_guessed_at():
    with pytest.raises(PoisonedRecordError, match=f"format is {SPEC_FORMAT + 1}"):
        decoded(spec=f'{{"format":{SPEC_FORMAT + 1}}}')


def test_fields_of_a_newer_release_in_the_same_format_are_passed_over():
    assert decoded(spec='{"colour":"red"}', state='{"mood":1}').spec == Spec()


def test_an_unreadable_row_of_history_is_logged_with_its_key():
    with pytest.raises(PoisonedRecordError) as caught:
        decode_run(KEY, "{}")

    assert caught.value.key == KEY


def test_a_message_that_is_no_valid_unicode_is_kept_as_far_as_it_can_be():
    state = State(summary=Summary(last_message="file \udcff.txt \0 gone", last_worker="w"))

    assert decoded(state=encode_state(state)).state.summary.last_message == "file ?.txt \0 gone"
    assert decode_run(KEY, encode_run(replace(RUN, message="\udcff"))) == replace(RUN, message="?")
