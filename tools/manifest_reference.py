"""Makes docs/reference/manifests.md from the models of the resources: each field, and the rules that span several."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from pyncette.resources.modelling import INT32_MAX, Model
from pyncette.resources.pool import PoolSpec, PoolStatus, PyncetteWorkerPool
from pyncette.resources.resource import Condition
from pyncette.resources.task import PyncetteTask, RetryPolicy, TaskSpec
from pyncette.resources.task_status import TaskStatus
from tools.schemas import resolved

HEAD = """\
<!-- Made from the models by `make generate`. -->

# Manifests

A manifest is a YAML file that describes one or more resources of the API `pyncette.dev/v1alpha1`. A **PyncetteTask** says which handler
runs, when, with which arguments, and what happens when a run is late, long or fails. A **PyncetteWorkerPool** says which workers run the
handlers on a cluster.

`pyncette dev` runs PyncetteTasks on your machine, and `pyncette check` checks both kinds. A cluster takes them once it has their
CustomResourceDefinitions. The operator's chart brings those; they also stand by themselves in `crds/`, for GitOps and for trying manifests:

```shell
kubectl apply -f crds/
kubectl explain pyncettetask.spec.retryPolicy
```

`kubectl explain` tells what the tables below tell, and `kubectl get pyncette` lists both kinds. The API server refuses what `pyncette check`
refuses, in the same words where several fields are concerned. Four things no schema can express: whether a cron expression can ever be due,
whether a time zone exists, whether all arguments together are small enough, and whether an instant lies within the years 1 to 9999. Of these
`pyncette check` tells before, and the condition `Stalled` of the task after it was applied.

Some fields are the operator's alone, and have no effect with `pyncette dev`: `workerPoolRef`, and `dynamic` with `partitions` and
`deletionPolicy` (`pyncette dev` says so; in Python, declare a [dynamic task](python-api.md#dynamic-tasks)).

[What happens by default](../explanation/defaults.md) explains what the defaults mean for a run.

## A complete example

Only `handler` and one of `schedule`, `intervalSeconds` and `executeAt` are required. All other values here are the defaults, except where a
comment says otherwise.

```yaml
"""

EXAMPLE = """\
apiVersion: pyncette.dev/v1alpha1
kind: PyncetteTask
metadata:
  name: daily-report
spec:
  handler: send_report              # required: the name of a handler in the task module
  args:                             # default: {}; the handler reads them from context.args
    audience: finance

  # When: exactly one of the first three.
  schedule: "0 12 * * MON-FRI"      # cron
  # intervalSeconds: 300            # or: each 5 minutes
  # executeAt: "2030-01-31T09:00:00Z"   # or: once
  timeZone: Europe/Dublin           # default: UTC; with schedule only
  jitterSeconds: 0                  # 60: start up to a minute later, always the same delay for this task
  notBefore: "2026-01-01T00:00:00Z" # default: no limit
  notAfter: "2099-12-31T23:59:59Z"  # default: no limit
  suspend: false                    # true: nothing new starts

  # What happens when a run is late, or meets another.
  missedRunPolicy: Latest           # or All, Skip
  maxCatchUpRuns: 100               # with missedRunPolicy: All
  startingDeadlineSeconds: 3600     # default: no limit
  concurrencyPolicy: Forbid         # or Allow, Replace
  maxConcurrentRuns: 0              # 3: no more than 3 runs of this task at once, on all workers together

  # What happens when a run fails, hangs, or its worker dies.
  executionMode: AtLeastOnce        # or AtMostOnce, without a retryPolicy
  retryPolicy:
    maxAttempts: 5                  # 0: no limit
    initialBackoffSeconds: 5
    maxBackoffSeconds: 300
  onExhausted: Continue             # or Suspend, DeadLetter
  activeDeadlineSeconds: 1800       # default: no limit
  leaseDurationSeconds: 60
  heartbeat: Automatic              # or Cooperative

  # What is kept.
  successfulRunsHistoryLimit: 3
  failedRunsHistoryLimit: 10

  # For the operator only. With dynamic: true the task is a template, and the fields under "When" are left out.
  workerPoolRef:
    name: default
  dynamic: false
  partitions: 1
  deletionPolicy: Retain            # or Delete
"""

AFTER_THE_EXAMPLE = """\
```

A field that is not listed here is an error, and so is a value of the wrong type: nothing is converted. A `null` counts as a field that was
left out. Durations are whole seconds. Instants are written as RFC 3339 with an offset (`2030-01-31T09:00:00+01:00`, or `Z` for UTC).

`metadata` is that of any Kubernetes object. Only `name`, `namespace`, `annotations`, `uid`, `generation` and `creationTimestamp` matter here.
"""

POOL = """\
## PyncetteWorkerPool

For the operator. `pyncette check` checks these manifests, and `pyncette dev` passes over them.

```yaml
"""

POOL_EXAMPLE = """\
apiVersion: pyncette.dev/v1alpha1
kind: PyncetteWorkerPool
metadata:
  name: default
spec:
  image: example.org/tasks:1.0
  module: tasks
  replicas: 2
"""

TABLE = "| field | type | default | meaning |\n|---|---|---|---|\n"

STATUS = "The operator writes it; a manifest has none. `observedGeneration` is -1 until it has looked.\n\n"


class Row(NamedTuple):
    """A field as the reference shows it."""

    name: str
    type: str
    default: str
    meaning: str


def manifest_reference() -> str:
    """Return the page."""
    return "\n".join(
        [
            HEAD + EXAMPLE + AFTER_THE_EXAMPLE,
            f"## PyncetteTask\n\n{_prose(PyncetteTask.__doc__)}\n",
            "### Fields of a task's spec\n\n" + _table(TaskSpec),
            "### Rules for a task\n\n" + _rules(TaskSpec, RetryPolicy),
            "### Status of a task\n\n" + STATUS + _table(TaskStatus),
            POOL + POOL_EXAMPLE + "```\n",
            "### Fields of a pool's spec\n\n" + _table(PoolSpec),
            "### Rules for a pool\n\n" + _rules(PyncetteWorkerPool, PoolSpec),
            "### Status of a pool\n\n" + STATUS + _table(PoolStatus),
        ]
    )


def _prose(text: str | None) -> str:
    return " ".join((text or "").split())


# --- Fields ----------------------------------------------------------------------------------------------------------


def _table(model: type[Model]) -> str:
    schema = model.model_json_schema(by_alias=True, mode="serialization")
    return TABLE + "".join(
        f"| `{row.name}` | {row.type} | {row.default} | {row.meaning} |\n"
        for row in _rows(schema, schema.get("$defs", {}))
    )


def _rows(schema: dict[str, Any], types: dict[str, Any], prefix: str = "") -> Iterator[Row]:
    """Yield a row for each field, and after an object those of its own fields."""
    for name, given in schema["properties"].items():
        field = resolved(given, types)
        within = field.get("items", {})
        inner, mark = (resolved(within, types), "[]") if "$ref" in within else (field, "")
        if "properties" not in inner:
            yield _row(prefix + name, field, name in schema.get("required", ()))
            continue
        if mark or "default" not in given or given["default"] is None:
            yield _row(prefix + name, field, required=False)
        yield from _rows(inner, types, f"{prefix}{name}{mark}.")


def _row(name: str, field: dict[str, Any], required: bool) -> Row:
    meaning = _cell(field.get("description", ""))
    if examples := field.get("examples"):
        meaning += f" Example: `{examples[0]}`."
    return Row(name, _type(field), "**required**" if required else _default(field), meaning)


def _default(field: dict[str, Any]) -> str:
    value = field.get("default")
    if value is None or _type(field).startswith("list of conditions"):
        return "–"
    return f"`{value}`" if isinstance(value, str) and value else f"`{json.dumps(value)}`"


def _type(field: dict[str, Any]) -> str:
    """Return type and bounds of a field in words."""
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    match field["type"]:
        case "integer":
            return f"integer, {_bounds(field)}" if field["maximum"] < INT32_MAX else "integer"
        case "string" if field.get("format") == "date-time":
            return "instant"
        case "string":
            return f"text, up to {field['maxLength']:,} characters" if "maxLength" in field else "text"
        case "boolean":
            return "`true` or `false`"
        case "array":
            things = "conditions" if field["items"].get("$ref", "").endswith(Condition.__name__) else "values"
            return f"list of {things}, up to {field['maxItems']:,}"
        case "object" if "maxProperties" in field:
            return f"object, up to {field['maxProperties']:,} keys"
        case _:
            return "object"


def _bounds(field: dict[str, Any]) -> str:
    return f"{field['minimum']:,} to {field['maximum']:,}"


def _cell(text: str) -> str:
    return _prose(text).replace("|", "\\|").replace("<", "&lt;")


# --- Rules -----------------------------------------------------------------------------------------------------------


def _rules(*models: type[Model]) -> str:
    """Return what is refused, in the words of the refusals."""
    found = [rule.message for model in models for rule in model.rules]
    changes = [change.message for model in models for change in model.transitions]
    return (
        "What the schema of one field cannot express is refused with these messages:\n\n"
        + "".join(f"- {message}\n" for message in found)
        + "\nA change of a resource that exists on a cluster is refused, too:\n\n"
        + "".join(f"- {message}\n" for message in changes)
    )
