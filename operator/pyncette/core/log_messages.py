"""Log messages that name what they are about: the task, the instance and the attempt, or the records."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from itertools import islice
from typing import Any, Final

from pyncette.core.accounting import run_id
from pyncette.core.printable import printable, printable_json
from pyncette.core.record import Key
from pyncette.core.runs import HeldRun

NAMED: Final = ("task", "instance", "occurrence", "attempt", "at", "records", "total", "error")
"""The fields that a message repeats, in this order. The others are only fields of the log record."""

VALUE_CHARACTERS_MAX: Final = 700
"""The most characters of one value in a message: the longest name of an instance fits, and an error may be endless."""

RECORDS_MAX: Final = 10
"""The most records that one log line names."""


class NamingLogger(logging.LoggerAdapter[logging.Logger]):
    """
    A logger whose messages end in ` task=… instance=… attempt=…`, taken from the `extra` fields of each call.

    The formatter of a host program shows only the message, so the message must say which run it is about. All fields
    remain attributes of the log record. Formatters that show them use `sentence_of`, which leaves out the names.
    """

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__(logger, {})

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return msg, kwargs

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log *msg* with the names of its `extra` fields as the last argument, so that *msg* stays the same for all runs."""
        if not self.isEnabledFor(level):
            return
        names = Names(kwargs.get("extra") or {})
        if names.fields:
            template = str(msg) if args else str(msg).replace("%", "%%")
            msg, args = f"{template}%s", (*args, names)
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1  # the caller's place, not this one
        self.logger.log(level, msg, *args, **kwargs)


def naming_logger(name: str) -> NamingLogger:
    """Return the logger *name*, whose messages name what they are about."""
    return NamingLogger(logging.getLogger(name))


class Names:
    """The end of a message: its identifying fields."""

    def __init__(self, extra: Mapping[str, Any]) -> None:
        self.fields = {name: extra[name] for name in NAMED if is_set(extra.get(name))}

    def __str__(self) -> str:
        return "".join(f" {name}={_as_text(value)}" for name, value in self.fields.items())


def named(fields: Mapping[str, Any]) -> str:
    """Return the identifying ones of *fields*: `task=remind instance=ada attempt=2`."""
    return str(Names(fields)).lstrip()


def sentence_of(record: logging.LogRecord) -> str:
    """Return the message of *record* without the names at its end, for formatters that show all fields."""
    if isinstance(record.args, tuple) and record.args and isinstance(record.args[-1], Names):
        return str(record.msg) % (*record.args[:-1], "")
    return record.getMessage()


def fields_of_record(key: Key) -> dict[str, Any]:
    """Return the fields of a log line about one record."""
    return {"task": key.task, "instance": key.instance, "occurrence": key.occurrence}


def fields_of_records(keys: Iterable[Key], total: int) -> dict[str, Any]:
    """Return the fields of a log line about *total* records: it names the first of them."""
    return {"records": [str(key) for key in islice(keys, RECORDS_MAX)], "total": total}


def fields_of_run(held: HeldRun) -> dict[str, Any]:
    """Return the fields of a log line about a run."""
    record = held.record
    return {
        "task": record.key.task,
        "instance": record.key.instance,
        "run_id": run_id(record.key, record.fence),
        "attempt": held.attempt,
        "scheduled_at": held.scheduled_at,
    }


def is_set(value: Any) -> bool:
    """Return False for a field that says nothing, such as an empty instance name."""
    return value is not None and value != ""


def quoted(text: str) -> str:
    """Return *text* printable, and in quotes if it could be taken for more than one value."""
    plain = text and not any(character.isspace() or character in "\"'=" for character in text)
    return printable(text) if plain else printable_json(json.dumps(text, ensure_ascii=False))


def _as_text(value: Any) -> str:
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    text = ", ".join(map(str, value)) if is_list else str(value)
    return quoted(text if len(text) <= VALUE_CHARACTERS_MAX else text[: VALUE_CHARACTERS_MAX - 1] + "…")
