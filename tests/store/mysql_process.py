"""A process that uses a MySQL store, for tests of what several do to each other. Prints a line once it is under way."""

import asyncio
import os
import signal
import sys

from pyncette.core.record import Partition
from pyncette.store.mysql.address import read_address
from pyncette.store.mysql.store import MysqlStore

# As in the conformance suite, which takes longer to import than all else here.
HERE = Partition("realm", "handler", 0)
T0 = 1_700_000_000_000_000


async def open_and_close(url: str) -> None:
    """Wait for a line, then open, as all others do at this moment."""
    print("ready", flush=True)
    sys.stdin.readline()
    async with MysqlStore(read_address(url)):
        pass


async def freeze_in_mid_claim(url: str, limit: str) -> None:
    """Send a claim, and freeze before the reply is read."""
    async with MysqlStore(read_address(url)) as store:
        await store.claim({HERE: 0}, "look", "frozen", T0, T0)  # so that partition and connection are known
        claim = asyncio.create_task(store.claim({HERE: int(limit)}, "lease", "frozen", T0, T0))
        await asyncio.sleep(0)
        print("asked", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
        await claim


if __name__ == "__main__":
    asyncio.run(globals()[sys.argv[1]](*sys.argv[2:]))
