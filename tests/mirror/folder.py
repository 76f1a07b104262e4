"""A store, and manifests that are mirrored into it, for the tests of mirroring."""

import datetime

from pyncette.cli.dev.mirroring import mirror_all
from pyncette.clock import SECOND
from pyncette.core import rules
from pyncette.core.record import Key, Partition
from pyncette.core.runs import RETURNED
from pyncette.ledger.ledger import Ledger
from pyncette.ledger.starts import PendingStart
from pyncette.mirror.conversion import desired_record_of
from pyncette.resources.task import PyncetteTask
from pyncette.store.memory import MemoryStore
from pyncette.testing.clock import VirtualClock
from tests.resources import accepted as read_as
from tests.resources import manifest

REALM = "test"


HOUR = datetime.timedelta(hours=1)


class Folder:
    """A store, and the manifests that are mirrored into it."""

    def __init__(self):
        self.clock = VirtualClock(datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC))
        self.store = MemoryStore()
        self.ledger = Ledger(self.store, self.clock)

    async def apply(self, *tasks, **options):
        """Mirror *tasks*; return what was done, by name."""
        seen_at = options.pop("seen_at", self.clock.now())
        wanted = [desired_record_of(item, REALM, seen_at) for item in tasks]
        return {item.name: item.step for item in await mirror_all(self.ledger, REALM, wanted, **options)}

    async def record(self, name="report", handler="send", occurrence=""):
        (record,) = await self.store.load([Key(Partition(REALM, handler), name, "", occurrence)])
        return record

    async def claim(self, handler="send"):
        now = self.clock.now()
        claimed = await self.store.claim({Partition(REALM, handler): 10}, f"lease-{now}", "me", now, now)
        return [rules.begin(record, record.spec.policies, now).run for record in claimed.records]

    async def start(self, handler="send"):
        """Claim what is due, and write what has to stand before it runs."""
        now = self.clock.now()
        claimed = await self.store.claim({Partition(REALM, handler): 10}, f"lease-{now}", "me", now, now)
        lease_until = self.clock.monotonic() + 60 * SECOND
        starting = [
            PendingStart(rules.begin(record, record.spec.policies, now), record.spec.policies, lease_until)
            for record in claimed.records
        ]
        return [held async for decided in self.ledger.start(starting) for held in decided.values() if held]

    async def run(self, handler="send", ended=RETURNED):
        for held in await self.claim(handler):
            await self.end(held, ended)

    async def end(self, held, ended=RETURNED):
        return await self.ledger.settle([rules.settle(held, ended, self.clock.now())])


def named(name, **spec):
    return read_as(PyncetteTask, manifest(name=name, **({"handler": "send", "intervalSeconds": 60} | spec)))


async def left(folder):
    pages = [
        await folder.store.scan(Partition(REALM, "send", number), None, None, 1000) for number in range(3)
    ]
    return [record for page in pages for record in page]
