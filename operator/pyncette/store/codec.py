"""Encodes specs, states and rows of history as text, and decodes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, TypeVar

import msgspec

from pyncette.clock import Duration, Instant
from pyncette.core.log_messages import fields_of_record, naming_logger
from pyncette.core.record import Key, Lease, Record, Run, State, replace
from pyncette.core.spec import SPEC_FORMAT, Spec
from pyncette.errors import StoreError
from pyncette.store.base import ARGS_BYTES_MAX, SPEC_BYTES_MAX, STATE_BYTES_MAX

logger = naming_logger(__name__)

# Made once: to make an encoder or decoder takes longer than to use it.
_encode = msgspec.json.Encoder().encode
_decode_spec = msgspec.json.Decoder(Spec).decode
_decode_state = msgspec.json.Decoder(State).decode
_decode_run = msgspec.json.Decoder(Run).decode

UNREADABLE: Final = (msgspec.MsgspecError, UnicodeError, TypeError, RecursionError)
"""
The errors of decoding a stored text: invalid JSON or UTF-8, JSON of another shape, a value that is not text, or more nested
levels than the interpreter allows.
"""

_S = TypeVar("_S", bound=msgspec.Struct)


class PoisonedRecordError(StoreError):
    """The stored text of *key* cannot be decoded. It never leaves a store: the record is skipped and logged."""

    def __init__(self, key: Key, why: object) -> None:
        super().__init__(f"The stored text of {key} cannot be decoded: {why}")
        self.key = key


def log_poisoned(error: PoisonedRecordError) -> None:
    """Log that a record was skipped."""
    logger.error(
        "skipped a record that cannot be read",
        extra={"partition": error.key.partition, **fields_of_record(error.key), "error": str(error)},
    )


def encode_spec(spec: Spec) -> str:
    """Return *spec* as JSON. Raises ValueError if it is too large for stores to read it."""
    text = _encode(spec)
    if len(text) > SPEC_BYTES_MAX:
        raise _too_large("spec of a record", text, SPEC_BYTES_MAX)
    return text.decode()


def is_readable(spec: Spec) -> bool:
    """Return whether *spec* is small enough for stores to read it."""
    return len(spec.args) <= ARGS_BYTES_MAX or len(_encode(spec)) <= SPEC_BYTES_MAX


def encode_state(state: State) -> str:
    """
    Return *state* as JSON. Invalid Unicode, as in the message of an error, becomes question marks.

    Raises ValueError if the result is too large for stores to read it.
    """
    try:
        text = _encode(state)
    except UnicodeEncodeError:
        text = _encode(replace(state, summary=_valid(state.summary)))
    if len(text) > STATE_BYTES_MAX:
        raise _too_large("state of a record", text, STATE_BYTES_MAX)
    return text.decode()


def encode_run(run: Run) -> str:
    """Return *run* as JSON, repaired like a state. Raises ValueError if it is too large for stores to read it."""
    try:
        text = _encode(run)
    except UnicodeEncodeError:
        text = _encode(_valid(run))
    if len(text) > STATE_BYTES_MAX:
        raise _too_large("row of a history", text, STATE_BYTES_MAX)
    return text.decode()


def decode_run(key: Key, text: str | bytes | None) -> Run:
    """Return a row kept for *key*; *text* is None if it was too long to be read. Raises PoisonedRecordError."""
    if text is None or len(text) > STATE_BYTES_MAX:
        raise PoisonedRecordError(key, f"a row of its history has more than {STATE_BYTES_MAX:,} bytes")
    try:
        return _decode_run(text)
    except UNREADABLE as error:
        raise PoisonedRecordError(key, error) from None


def decode_runs(key: Key, texts: Iterable[str | bytes | None]) -> list[Run]:
    """Return the rows kept for *key*, the latest `ended_at` first; those that cannot be read are left out, and logged."""
    runs = []
    for text in texts:
        try:
            runs.append(decode_run(key, text))
        except PoisonedRecordError as error:
            log_poisoned(error)
    return sorted(runs, key=lambda run: run.ended_at, reverse=True)


def decode_record(
    key: Key,
    spec: str | bytes | None,
    state: str | bytes | None,
    version: int,
    fence: int,
    due_at: Instant | None,
    schedule_since: Instant,
    claimable_at: Instant | None,
    lease_length: Duration,
    attempt: int,
    began_at: Instant | None,
    lease: Lease | None,
    locator: Any = None,
) -> Record:
    """
    Return the record with these columns. *spec* and *state* are text, or None if they were too long to be read.

    The arguments of the spec are a view into its text, so a text is to hold one spec and not a whole batch.
    Raises PoisonedRecordError if a text cannot be read, or if a newer release wrote it in a format of its own.
    """
    if spec is None or state is None or len(spec) > SPEC_BYTES_MAX or len(state) > STATE_BYTES_MAX:
        raise PoisonedRecordError(
            key, f"it has more than {SPEC_BYTES_MAX + STATE_BYTES_MAX:,} bytes, or lacks a text"
        )
    try:
        read = _decode_spec(spec)
        remembered = _decode_state(state)
    except UNREADABLE as error:
        raise PoisonedRecordError(key, error) from None
    if read.format > SPEC_FORMAT:
        raise PoisonedRecordError(key, f"its format is {read.format}, this release knows {SPEC_FORMAT}")
    return Record(
        key,
        read,
        version,
        fence,
        due_at,
        schedule_since,
        claimable_at,
        lease_length,
        attempt,
        began_at,
        lease,
        remembered,
        locator,
    )


def _too_large(noun: str, text: bytes, limit: int) -> ValueError:
    return ValueError(f"The {noun} has {len(text):,} bytes; at most {limit:,} are allowed.")


def _valid(value: _S) -> _S:
    """Return *value* with the strings that UTF-8 cannot hold repaired."""
    strings = {
        name: text.encode("utf-8", "replace").decode()
        for name in value.__struct_fields__
        if isinstance(text := getattr(value, name), str)
    }
    return replace(value, **strings)
