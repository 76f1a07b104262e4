"""Handles the requests that annotations of a resource make once: a run now, a resume, a redrive of dead letters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from hashlib import blake2b
from typing import NamedTuple

from pyncette.clock import Instant
from pyncette.core import edits
from pyncette.core.log_messages import fields_of_record, naming_logger
from pyncette.core.record import NO_REQUESTS, Change, Key, Record, Requests, is_dead_letter, replace
from pyncette.core.spec import Policies
from pyncette.ledger.ledger import Ledger, Rule, Ruling
from pyncette.mirror.instances import instances_of
from pyncette.mirror.rules import is_template
from pyncette.store.base import Store
from pyncette.store.scanning import side_records

logger = naming_logger(__name__)


class Done(NamedTuple):
    """The requests that were handled."""

    run: Key | None = None
    """The key of the extra run; None for a template, which does not run by itself."""
    resumed: int = 0
    """Suspensions that ended."""
    redriven: int = 0
    """Dead letters that are tried again."""
    record: Record | None = None
    """That of the resource as it is now, if it was written."""


# --- Rules -----------------------------------------------------------------------------------------------------------


def asked(requests: Requests) -> Rule:
    """
    The rule for the record of a resource that asks: it marks what is new as handled, and does it, in one swap.

    What has to be done to other records than this one and the extra run, which is new, has to be done before.
    """

    def rule(record: Record | None, now: Instant) -> Ruling:
        if record is None or record.state.withdrawn_at is not None:
            return Ruling(None, Done())
        new = _new(requests, record.state.handled)
        if new == NO_REQUESTS:
            return Ruling(None, Done())
        policies = record.spec.policies or Policies()
        awake = _awake(record, now) if new.resume else record
        state = replace(awake.state, handled=_marked(record.state.handled, new))
        after = replace(awake, version=record.version + 1, state=state)
        extra = None
        if new.run and not is_template(record.spec):
            extra = edits.on_demand(after, policies, _run_name(record, new.run), now)
        return Ruling(
            Change(record, after),
            Done(None if extra is None else extra.key, int(awake is not record), 0, after),
            further=() if extra is None else (Change(None, extra),),
        )

    return rule


def redriven(record: Record | None, now: Instant) -> Ruling:
    """The rule for a dead letter that is to be tried again; the answer tells whether it was not already."""
    return redriven_for("")(record, now)


def redriven_for(request: str) -> Rule:
    """
    The rule that redrives a dead letter for *request*, once.

    The dead letter remembers the request. So it is not redriven twice if it fails again before its home record has
    marked the request as handled.
    """

    def rule(record: Record | None, now: Instant) -> Ruling:
        if record is None or not is_dead_letter(record.key):
            return Ruling(None, False)
        return _ruling(record, edits.redriven(record, now, request))

    return rule


def resumed(record: Record | None, now: Instant) -> Ruling:
    """The rule for a schedule whose suspension by exhaustion is to end; the answer tells whether it had one."""
    if record is None or record.key.occurrence:
        return Ruling(None, False)
    return _ruling(record, _awake(record, now))


def _awake(record: Record, now: Instant) -> Record:
    """Return *record* without its suspension by exhaustion; itself, if it has none."""
    try:
        return edits.resumed(record, record.spec.policies or Policies(), now)
    except ValueError as error:  # its schedule can no longer be read, which hurts itself only
        logger.warning(
            "could not resume a schedule", extra={**fields_of_record(record.key), "error": str(error)}
        )
        return record


def _ruling(before: Record, after: Record) -> Ruling:
    """Write what differs, and answer whether something does."""
    return Ruling(None, False) if after is before else Ruling(Change(before, after), True)


def _new(requests: Requests, handled: Requests) -> Requests:
    """Return those of *requests* that were not handled yet. An annotation that was taken away asks for nothing."""
    return Requests(
        run="" if requests.run == handled.run else requests.run,
        resume="" if requests.resume == handled.resume else requests.resume,
        redrive="" if requests.redrive == handled.redrive else requests.redrive,
    )


def _marked(handled: Requests, new: Requests) -> Requests:
    return Requests(new.run or handled.run, new.resume or handled.resume, new.redrive or handled.redrive)


def _run_name(record: Record, request: str) -> str:
    """
    Return the name of the run that *request* asks of *record* as it is: the same however often it is tried.

    The same words may ask again later, while the first run is still there: the version tells the two apart.
    """
    return blake2b(f"{record.version}\0{request}".encode("utf-8", "replace"), digest_size=6).hexdigest()


# --- Writes ----------------------------------------------------------------------------------------------------------


async def ask(ledger: Ledger, record: Record, requests: Requests) -> Done:
    """
    Handle those of *requests* that *record* has not handled yet; for a template, those of its instances.

    An interrupted call continues the next time, and repeats nothing: the last write marks the requests as handled.
    Raises StoreError.
    """
    new = _new(requests, record.state.handled)
    if new == NO_REQUESTS:
        return Done()
    dead_letters = await _each(ledger, record, redriven_for(new.redrive)) if new.redrive else 0
    ended = await _each(ledger, record, resumed) if new.resume and is_template(record.spec) else 0
    done: Done = (await ledger.apply({record.key: asked(requests)}))[record.key]
    return done._replace(redriven=dead_letters, resumed=done.resumed + ended)


async def _each(ledger: Ledger, home: Record, rule: Rule) -> int:
    return sum([await apply_where(ledger, page, rule) async for page in _with(ledger.store, home)])


async def _with(store: Store, home: Record) -> AsyncIterator[list[Record]]:
    """Yield the side runs and dead letters of a schedule, or all records of the instances of a template."""
    pages = instances_of(store, home) if is_template(home.spec) else side_records(store, home.key)
    async for page in pages:
        yield page


async def apply_where(ledger: Ledger, page: Sequence[Record], rule: Rule) -> int:
    """Apply *rule*, which answers with a bool, to those of *page* that it would change; return how many it did."""
    now = await ledger.now()
    todo = [record.key for record in page if rule(record, now).answer]
    return sum((await ledger.apply(dict.fromkeys(todo, rule))).values())
