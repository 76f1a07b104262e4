"""A database with endless notices exhausts neither the operator's time nor its memory."""

import pytest

from pyncette.controller.reconcile.removal_notice import (
    NAMESPACES_MAX,
    PAGE,
    SCANNED,
    load_notices,
    namespaces_with_notices,
)
from pyncette.core.record import Key, inert_record
from pyncette.core.spec import Spec
from pyncette.store.memory import MemoryBackend, MemoryStore
from tests.controller.scene import EIGHT


class Endless:
    """A store with endless pages of notices."""

    def __init__(self):
        self.shown = 0

    async def scan(self, partition, task, after, limit):
        assert self.shown <= NAMESPACES_MAX + SCANNED, "read without an end"
        numbers = range(self.shown, self.shown + limit)
        self.shown += limit
        return [inert_record(Key(partition, f"team-{number}"), Spec(), EIGHT) for number in numbers]


async def test_a_database_with_endless_notices_does_not_block_the_sweep():
    assert len(await namespaces_with_notices(Endless(), "east")) == NAMESPACES_MAX


@pytest.mark.parametrize("deleted", [set(), {"task-0007", "task-0500", "never-listed"}])
async def test_a_forged_confirmation_confirms_only_deleted_names(deleted):
    store = MemoryStore(MemoryBackend(lambda: EIGHT))
    notice = (await load_notices(store, "east", ["shop"]))["shop"]
    held = await notice.hold(store, [f"task-{number:04}" for number in range(10 * PAGE)], is_confirmed=True)

    assert set(await held.names(store, deleted)) == deleted - {"never-listed"}
