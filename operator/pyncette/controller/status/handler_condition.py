"""Decides whether the workers of a pool can run the handler of a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pyncette.controller.reasons import Reason
from pyncette.controller.status.conditions import (
    as_sentence,
    counted,
)
from pyncette.controller.status.task_context import (
    HANDLER_RESOLVED,
    Answer,
    TaskContext,
    no_such_pool,
    problem_of,
)
from pyncette.coordination.members import Member
from pyncette.resources.argument_problems import published_argument_problems
from pyncette.resources.reading import not_dynamic, other_partitions, unknown_handler
from pyncette.resources.task import PyncetteTask

MISMATCHES: Final = frozenset(
    {Reason.PARTITIONS_DIFFER, Reason.HANDLER_NOT_DYNAMIC, Reason.ARGUMENTS_INVALID}
)
"""Why workers that have registered the handler cannot run it."""

UNRESOLVED: Final = frozenset({Reason.HANDLER_NOT_FOUND, *MISMATCHES})
"""Why no running worker can run the handler."""

ANSWERS: Final = frozenset({Reason.HANDLER_REGISTERED, *UNRESOLVED})
"""Reasons by which workers have answered for the handler."""

NEVER_ASKED: Final = frozenset(
    {Reason.PENDING.value, Reason.HANDLER_PENDING.value, Reason.POOL_NOT_FOUND.value}
)


def handler_condition(context: TaskContext) -> Answer:
    """Return the condition HandlerResolved. A pool in a rollout, or without a worker, does not make it False."""
    pool, name = context.pool, context.handler
    before = context.before(HANDLER_RESOLVED)
    members = pool.members or ()
    if name is None:
        return Answer("Unknown", Reason.INVALID, "The spec has no valid handler.")
    if not pool.exists:
        return Answer("Unknown", Reason.POOL_NOT_FOUND, no_such_pool(pool))
    knowing = [member for member in members if name in member.handlers]
    if knowing:
        return (
            _mismatch(context, name, knowing)
            or _invalid_arguments(context, name)
            or Answer(
                "True",
                Reason.HANDLER_REGISTERED,
                f'Workers of the pool "{pool.name}" have registered "{name}".',
            )
        )
    if members:
        said = unknown_handler(name, {known for member in members for known in member.handlers})
        said = as_sentence(f'In the pool "{pool.name}", {said}')
        if pool.rolling_out:
            return Answer(
                "Unknown", Reason.HANDLER_PENDING, f"{said} A rollout is under way that may bring it."
            )
        return Answer(
            "False",
            Reason.HANDLER_NOT_FOUND,
            f"{said} Correct spec.handler, or register it in the pool's task module and roll that out.",
        )
    last = context.this_generation(HANDLER_RESOLVED)
    answer = None if last is None else Reason.of(last.reason)
    if last is not None and answer in ANSWERS:
        return Answer(last.status, answer, last.message)
    asked = before is not None and before.reason not in NEVER_ASKED
    if asked or pool.wanted == 0:
        return Answer(
            "Unknown",
            Reason.NO_WORKER,
            f'The pool "{pool.name}" has no running worker that could confirm the handler.{problem_of(pool)}',
        )
    return Answer(
        "Unknown", Reason.HANDLER_PENDING, f'The pool "{pool.name}" has no worker yet.{problem_of(pool)}'
    )


def _mismatch(context: TaskContext, name: str, knowing: Sequence[Member]) -> Answer | None:
    """Return why no worker that has registered the handler can run it for this task; None if one can."""
    reason, message, stored = Reason.PARTITIONS_DIFFER, _refusal(context, name), _stored_count(context)
    fitting = knowing
    if isinstance(context.task, PyncetteTask) and context.task.spec.dynamic:
        wanted = context.task.spec.partitions
        # An older release does not publish its partition counts.
        fitting = [one for one in knowing if one.partitions is None or one.count_of(name) == wanted]
        counts = [count for one in knowing if (count := one.count_of(name)) is not None]
        if not fitting and counts:
            message = f"spec.partitions: {other_partitions(wanted, counts)}. {_RECREATE}"
        elif not fitting:
            reason, message = Reason.HANDLER_NOT_DYNAMIC, f"spec.handler: {not_dynamic(name)}"
    if any(
        name not in one.refused or (stored is not None and one.count_of(name) == stored) for one in fitting
    ):
        return None  # a worker whose count matches the stored one by now is about to accept the handler again
    return _unless_rolled_out(context, reason, message)


def _invalid_arguments(context: TaskContext, name: str) -> Answer | None:
    """Return what is wrong with the arguments by the schema that the workers have published; None if nothing is."""
    schema = context.pool.schemas.get(name)
    if schema is None or not isinstance(context.task, PyncetteTask):
        return None
    spec = context.task.spec
    # The instances of a dynamic task bring the arguments that it leaves out.
    problems = published_argument_problems(schema, spec.args, complete=not spec.dynamic)
    if not problems:
        return None
    return _unless_rolled_out(context, Reason.ARGUMENTS_INVALID, "; ".join(map(str, problems)))


def _unless_rolled_out(context: TaskContext, reason: Reason, message: str) -> Answer:
    if context.pool.rolling_out:
        return Answer(
            "Unknown", Reason.HANDLER_PENDING, f"{message}. A rollout is under way that may change it."
        )
    return Answer("False", reason, f"{message}.")


_RECREATE: Final = "The field is immutable: delete this task, and apply it again with that number"


def _stored_count(context: TaskContext) -> int | None:
    """Return the stored partition count of the template; None if it is unknown, or if this is not a template."""
    return None if context.record is None else context.record.spec.partitions


def _refusal(context: TaskContext, name: str) -> str:
    """Return the message for a handler that all workers refuse, since its stored partition count is not theirs."""
    stored = _stored_count(context)
    where = (
        "a number of partitions that differs from the task module"
        if stored is None
        else f"{counted(stored, 'partition')}, but the task module declares a different number"
    )
    return (
        f'Workers of the pool "{context.pool.name}" refuse the handler "{name}": its instances are stored in {where}. '
        "Roll out a module with the stored number, "
        "or move or remove the instances; workers then accept the handler without a restart"
    )
