"""Writes log lines with the fields that stand beside their sentences: as text for people, or as JSON for programs."""

from __future__ import annotations

import datetime
import json
import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, TextIO

from pyncette.clock import Instant
from pyncette.core.times import datetime_of
from pyncette.errors import ConfigurationError
from pyncette.worker.occurrence import Occurrence, current

LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

FIELDS_OF_A_RECORD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"asctime", "message", "taskName"}
"""What logging itself puts into a record, in any version of Python; all else came as `extra`."""


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the extra fields, and error for a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _rfc3339(int(record.created * 1e6)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in fields_of(record).items() if name not in line}
        trace = traceback_of(self, record)
        if trace:
            line["traceback"] = trace
        return json.dumps(line, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """Time of day in the local zone, level, message, and the extra fields as name=value; a traceback follows."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.datetime.fromtimestamp(record.created).astimezone()
        head = f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03} {record.levelname:<7} {record.name}: "
        trace = traceback_of(self, record)
        fields = {**run_in_short(), **extra_of(record)}
        return head + record.getMessage() + as_text(fields) + (f"\n{trace}" if trace else "")


FORMATS: Final[dict[str, Callable[[], logging.Formatter]]] = {"text": TextFormatter, "json": JsonFormatter}


def set_up_logging(style: str = "text", level: str = "INFO", stream: TextIO | None = None) -> None:
    """
    Log to *stream* (stderr), unless the program has set up its own logging: then that stays as it is.

    Raises ConfigurationError for a *style* or *level* that there is not.
    """
    name = level.upper()
    if name not in LEVELS:
        raise ConfigurationError(f"the log level is {level!r}; it can be {', '.join(LEVELS)}")
    if style not in FORMATS:
        raise ConfigurationError(f"the log format is {style!r}; it can be {' or '.join(FORMATS)}")
    root = logging.getLogger()
    if root.handlers:
        return
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(FORMATS[style]())
    root.addHandler(handler)
    root.setLevel(name)


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return what stands beside the sentence: which run logged it, if one did, and the extra fields."""
    occurrence = current.get()
    return {**(_told(occurrence.log_fields()) if occurrence else {}), **extra_of(record)}


def extra_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the extra fields; instants are RFC 3339."""
    return _told({name: value for name, value in vars(record).items() if name not in FIELDS_OF_A_RECORD})


def as_text(fields: Mapping[str, Any]) -> str:
    """Return *fields* as `  name=value …`, quoted where it would not be clear where a value ends."""
    return "".join(
        f"{' ' if number else '  '}{name}={_quoted(str(value))}"
        for number, (name, value) in enumerate(fields.items())
    )


def traceback_of(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """Return the traceback that came with *record*, or ''."""
    parts = []
    if record.exc_info:
        parts.append(formatter.formatException(record.exc_info))
    elif record.exc_text:
        parts.append(record.exc_text)
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return "\n".join(parts)


def name_of(occurrence: Occurrence) -> str:
    """Return whose run it is: the task, and the instance after a slash."""
    return str(occurrence.held.record.key._replace(occurrence=""))


def run_in_short() -> dict[str, Any]:
    """Return which run logs this, without what only a program would look for."""
    occurrence = current.get()
    return {"task": name_of(occurrence)} if occurrence else {}


def _told(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _rfc3339(value) if name.endswith("_at") and type(value) is int else value
        for name, value in fields.items()
        if value != "" and value is not None  # the instance of what has none, and the like
    }


def _quoted(text: str) -> str:
    plain = text and not any(character.isspace() or character in "\"'=" for character in text)
    return text if plain else json.dumps(text, ensure_ascii=False)


def _rfc3339(instant: Instant) -> str:
    return datetime_of(instant).isoformat(timespec="microseconds").replace("+00:00", "Z")
