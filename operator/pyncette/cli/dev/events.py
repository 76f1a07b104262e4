"""The events that a worker process of `pyncette dev` sends to its parent, one JSON object a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import msgspec

from pyncette.core.schedule import Cron

LINE_BYTES_MAX: Final = 1024 * 1024
"""Of one event; a log line beyond it is cut by who writes it."""

TEXT_CHARACTERS_MAX: Final = 100_000
"""Of a message or a traceback in an event, so that no line exceeds `LINE_BYTES_MAX`."""


class Declared(msgspec.Struct, frozen=True):
    """A task that the module declares."""

    name: str
    kind: str
    partitions: int = 1
    schedule: Cron | None = None
    """The cron expression of a task with a schedule of its own, and what its instances get without one."""
    file: str = ""
    line: int = 0
    """Where its handler is defined; empty: the place is unknown."""
    schema: dict[str, Any] | None = None
    """The JSON schema of its arguments; None if it takes any."""


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """The task module is imported; the worker waits for its parent."""

    tasks: tuple[Declared, ...]

    @property
    def handlers(self) -> frozenset[str]:
        """The handlers that manifests may name."""
        return frozenset(task.name for task in self.tasks if task.kind in {"handler", "template"})

    @property
    def templates(self) -> Mapping[str, int]:
        """The handlers that manifests of dynamic tasks may name, with their partition counts."""
        return {task.name: task.partitions for task in self.tasks if task.kind == "template"}

    @property
    def schemas(self) -> Mapping[str, dict[str, Any]]:
        """The JSON schemas of the arguments of handlers that say what they take."""
        return {task.name: task.schema for task in self.tasks if task.schema is not None}

    @property
    def others(self) -> frozenset[str]:
        """Tasks with a schedule of their own."""
        return frozenset(task.name for task in self.tasks) - self.handlers


class Fault(msgspec.Struct, frozen=True, tag="fault"):
    """The worker cannot run: what is wrong with the module, its fixtures or the backend."""

    message: str
    code: int


class Logged(msgspec.Struct, frozen=True, tag="log"):
    """A line of a log."""

    created: float
    """Seconds since the epoch."""
    level: str
    logger: str
    message: str
    fields: str = ""
    traceback: str = ""


class Printed(msgspec.Struct, frozen=True, tag="printed"):
    """A line that a handler printed."""

    text: str
    task: str = ""
    """Empty: it was printed elsewhere, on import for example."""


class Ran(msgspec.Struct, frozen=True, tag="ran"):
    """A handler returned."""

    name: str
    """Of the task, and of the instance after a slash."""
    seconds: float
    late: float
    """Seconds from its due time to its start."""
    attempt: int


Event: TypeAlias = Loaded | Fault | Logged | Printed | Ran

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Event).decode
