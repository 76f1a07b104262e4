"""Formats log records with their extra fields, as text or as JSON."""

from __future__ import annotations

import datetime
import json
import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, TextIO

from pyncette.clock import Instant
from pyncette.core.log_messages import is_set, quoted, sentence_of
from pyncette.core.printable import printable, printable_json
from pyncette.core.times import datetime_of
from pyncette.errors import ConfigurationError
from pyncette.worker.occurrence import Occurrence, current

LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

FIELDS_OF_A_RECORD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"asctime", "message", "taskName"}
"""The standard attributes of a log record, in any version of Python. All others are extra fields."""


class JsonFormatter(logging.Formatter):
    """A formatter of one JSON object per line: time, level, logger, message, extra fields, and traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _rfc3339(int(record.created * 1e6)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": sentence_of(record),
        }
        line |= {name: value for name, value in fields_of(record).items() if name not in line}
        trace = traceback_of(self, record)
        if trace:
            line["traceback"] = trace
        return printable_json(json.dumps(line, ensure_ascii=False, default=str))


class TextFormatter(logging.Formatter):
    """
    A formatter of text lines: local time of day, level, message, and extra fields as name=value, then a traceback if any.

    All further lines of a record are indented, so that no message and no traceback can forge a record.
    """

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.datetime.fromtimestamp(record.created).astimezone()
        head = f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03} {record.levelname:<7} {record.name}: "
        fields = {**run_in_short(), **extra_of(record)}
        trace = traceback_of(self, record).splitlines()
        line = head + printable(sentence_of(record)) + as_text(fields)
        return "\n".join((line, *(f"{INDENT}{printable(part)}" for part in trace)))


INDENT: Final = "    "
"""Prefix of each line of a traceback."""

FORMATS: Final[dict[str, Callable[[], logging.Formatter]]] = {"text": TextFormatter, "json": JsonFormatter}


def set_up_logging(style: str = "text", level: str = "INFO", stream: TextIO | None = None) -> None:
    """
    Log to *stream* (by default stderr), unless the program has configured logging already.

    Raises ConfigurationError for an unknown *style* or *level*.
    """
    name = level.upper()
    if name not in LEVELS:
        raise ConfigurationError(f"unknown log level {level!r}: use {', '.join(LEVELS)}")
    if style not in FORMATS:
        raise ConfigurationError(f"unknown log format {style!r}: use {' or '.join(FORMATS)}")
    root = logging.getLogger()
    if root.handlers:
        return
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(FORMATS[style]())
    root.addHandler(handler)
    root.setLevel(name)


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields of *record*: those of the current run, if any, and the extra fields."""
    occurrence = current.get()
    return {**(_formatted(occurrence.log_fields()) if occurrence else {}), **extra_of(record)}


def extra_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the extra fields, with instants as RFC 3339."""
    return _formatted({name: value for name, value in vars(record).items() if name not in FIELDS_OF_A_RECORD})


def as_text(fields: Mapping[str, Any]) -> str:
    """Return *fields* as `  name=value …`, with quotes where needed."""
    return "".join(
        f"{' ' if number else '  '}{name}={quoted(str(value))}"
        for number, (name, value) in enumerate(fields.items())
    )


def traceback_of(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """Return the traceback of *record*, or an empty string."""
    parts = []
    if record.exc_info:
        parts.append(formatter.formatException(record.exc_info))
    elif record.exc_text:
        parts.append(record.exc_text)
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return "\n".join(parts)


def name_of(occurrence: Occurrence) -> str:
    """Return the task of a run, with the instance after a slash."""
    return str(occurrence.held.record.key._replace(occurrence=""))


def run_in_short() -> dict[str, Any]:
    """Return the fields of the current run for people: only the task."""
    occurrence = current.get()
    return {"task": name_of(occurrence)} if occurrence else {}


def _formatted(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _rfc3339(value) if name.endswith("_at") and type(value) is int else value
        for name, value in fields.items()
        if is_set(value)
    }


def _rfc3339(instant: Instant) -> str:
    return datetime_of(instant).isoformat(timespec="microseconds").replace("+00:00", "Z")
