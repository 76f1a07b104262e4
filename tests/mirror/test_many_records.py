"""Many manifests are mirrored in batches, and an error affects its own record only."""

import pytest

from pyncette.cli.dev.mirroring import mirror_all
from pyncette.clock import SECOND
from pyncette.core.record import Partition
from pyncette.errors import ContentionError, StoreError, StoreRefusedError, StoreUnavailableError
from pyncette.ledger.ledger import Ledger
from pyncette.mirror.conversion import desired_record_of
from pyncette.mirror.records import MirrorReport
from pyncette.mirror.rules import Step
from pyncette.store.memory import MemoryStore
from tests.mirror.folder import HOUR, REALM, Folder, named


class HostileStore(MemoryStore):
    """Counts swaps, and does not write the tasks that it is hostile to."""

    def __init__(self):
        super().__init__()
        self.swaps = 0
        self.refused = set()
        """These have each swap refused that they are in."""
        self.lost = set()
        """These lose each race."""
        self.away_after = None
        """The store is unavailable after so many swaps."""

    @property
    def capabilities(self):
        return super().capabilities._replace(swap_batch_max=100)

    async def swap(self, changes):
        if self.swaps == self.away_after:
            raise StoreUnavailableError("no answer")
        self.swaps += 1
        if any(change.key.task in self.refused for change in changes):
            raise StoreRefusedError("refused")
        made = iter(await super().swap([change for change in changes if change.key.task not in self.lost]))
        return [change.key.task not in self.lost and next(made) for change in changes]


@pytest.fixture
def hostile():
    folder = Folder()
    folder.store = HostileStore()
    folder.ledger = Ledger(folder.store, folder.clock, race_seconds=0)
    return folder


def desired_of(*tasks):
    return [desired_record_of(item, REALM, 0) for item in tasks]


def numbered(count, **spec):
    return [named(f"task{number}", **spec) for number in range(count)]


async def test_many_manifests_are_written_in_batches(hostile):
    async def swaps_of(*tasks, **options):
        before = hostile.store.swaps
        steps = await hostile.apply(*tasks, **options)
        return set(steps.values()), hostile.store.swaps - before

    assert await swaps_of(*numbered(300)) == ({Step.CREATED}, 3)
    assert await swaps_of(*numbered(300, intervalSeconds=7)) == ({Step.EDITED}, 3)
    assert await swaps_of(*numbered(300, intervalSeconds=7)) == ({Step.UNCHANGED}, 0)
    assert await swaps_of() == ({Step.STOPPED}, 3)
    await hostile.clock.advance(HOUR)
    assert await swaps_of(grace=60 * SECOND) == ({Step.REMOVED}, 3)


@pytest.mark.parametrize(("kind", "error"), [("refused", StoreRefusedError), ("lost", ContentionError)])
@pytest.mark.parametrize(
    ("before", "after", "step"),
    [
        ((), numbered(3), Step.CREATED),
        (numbered(3), numbered(3, intervalSeconds=7), Step.EDITED),
        (numbered(3), numbered(3, handler="post"), Step.MOVED),
        (numbered(3), (), Step.STOPPED),
    ],
)
async def test_a_record_that_cannot_be_written_hurts_itself_only(hostile, kind, error, before, after, step):
    await hostile.apply(*before)
    getattr(hostile.store, kind).add("task1")
    report = MirrorReport()

    with pytest.raises(error):
        await mirror_all(hostile.ledger, REALM, desired_of(*after), report)

    assert {result.name: result.step for result in report.results} == {"task0": step, "task2": step}
    getattr(hostile.store, kind).clear()
    assert (await hostile.apply(*after))["task1"] is step


async def test_the_side_runs_of_the_others_follow_an_edit(hostile):
    overlapping = {"concurrencyPolicy": "Allow", "intervalSeconds": 60}
    await hostile.apply(*numbered(3, **overlapping))
    await hostile.clock.advance(HOUR)
    await hostile.start()
    hostile.store.lost.add("task1")

    with pytest.raises(ContentionError):
        await hostile.apply(*numbered(3, **overlapping, args={"n": 2}))

    page = await hostile.store.scan(Partition(REALM, "send"), None, None, 10)
    args = {str(record.key): bytes(record.spec.args) for record in page if record.key.occurrence}
    assert list(args.values()) == [b'{"n":2}', b"{}", b'{"n":2}']


async def test_all_errors_are_counted_in_one(hostile):
    hostile.store.refused |= {"task0", "task2"}

    with pytest.raises(StoreError, match=r"^refused \(and 1 more\)$"):
        await hostile.apply(*numbered(3))

    assert await hostile.record("task1") is not None


async def test_what_was_written_before_an_outage_is_reported_and_nothing_more_is_tried(hostile):
    hostile.store.away_after = 1
    report = MirrorReport()

    with pytest.raises(StoreUnavailableError):
        await mirror_all(hostile.ledger, REALM, desired_of(*numbered(300)), report)

    assert len(report.results) == 100
