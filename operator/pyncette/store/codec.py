"""Encodes specs, states and rows of history as text, and decodes them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Final, TypeVar

import msgspec

from pyncette.clock import Duration, Instant
from pyncette.core.record import Key, Lease, Record, Run, State, replace
from pyncette.core.spec import SPEC_FORMAT, Spec
from pyncette.errors import StoreError

logger = logging.getLogger(__name__)

# Made once: to make an encoder or decoder takes longer than to use it.
_encode = msgspec.json.Encoder().encode
_decode_spec = msgspec.json.Decoder(Spec).decode
_decode_state = msgspec.json.Decoder(State).decode
_decode_run = msgspec.json.Decoder(Run).decode

_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeError, TypeError)
"""What decoding raises for invalid JSON or UTF-8, for JSON of another shape, and for values that are not text."""

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
        extra={"partition": error.key.partition, "record": str(error.key), "error": str(error)},
    )


def encode_spec(spec: Spec) -> str:
    return _encode(spec).decode()


def encode_state(state: State) -> str:
    """Return *state* as JSON. What is no valid Unicode in it, as an error's message may hold, becomes question marks."""
    try:
        return _encode(state).decode()
    except UnicodeEncodeError:
        return _encode(replace(state, summary=_valid(state.summary))).decode()


def encode_run(run: Run) -> str:
    """Return *run* as JSON, repaired like a state."""
    try:
        return _encode(run).decode()
    except UnicodeEncodeError:
        return _encode(_valid(run)).decode()


def decode_run(key: Key, text: str | bytes) -> Run:
    """Return a row kept for *key*. Raises PoisonedRecordError."""
    try:
        return _decode_run(text)
    except _UNREADABLE as error:
        raise PoisonedRecordError(key, error) from None


def decode_runs(key: Key, texts: Iterable[str | bytes]) -> list[Run]:
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
    spec: str | bytes,
    state: str | bytes,
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
    Put a record together from its columns, of which *spec* and *state* are text.

    The arguments of the spec are a view into its text, so a text is to hold one spec and not a whole batch.
    Raises PoisonedRecordError if a text cannot be read, or if a newer release wrote it in a format of its own.
    """
    try:
        read = _decode_spec(spec)
        remembered = _decode_state(state)
    except _UNREADABLE as error:
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


def _valid(value: _S) -> _S:
    """Return *value* with the strings that UTF-8 cannot hold repaired."""
    strings = {
        name: text.encode("utf-8", "replace").decode()
        for name in value.__struct_fields__
        if isinstance(text := getattr(value, name), str)
    }
    return replace(value, **strings)
