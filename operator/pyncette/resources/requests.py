"""Does once what annotations of a resource ask for: a run now, the end of a suspension, the dead letters again."""

from __future__ import annotations

from typing import NamedTuple

from pyncette.core.record import Key, Record, Requests
from pyncette.ledger import Ledger, Rule


class Done(NamedTuple):
    """What was done of what was asked for."""

    run: Key | None = None
    """Of the extra run."""
    resumed: bool = False
    redriven: int = 0
    """Dead letters that are tried again."""
    record: Record | None = None
    """As it is now, if it was written."""


def asked(requests: Requests) -> Rule:
    """The rule for the record of a resource that asks: it marks what is new as handled, and does it, in one swap."""
    raise NotImplementedError


async def ask(ledger: Ledger, record: Record, requests: Requests) -> Done:
    """Do what *requests* ask of *record*, the one of their resource, and was not handled yet. Raises StoreError."""
    raise NotImplementedError
