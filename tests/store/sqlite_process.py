"""What a further process does to an SQLite file, for tests: claims and completes, freezes in a write, or is killed after one."""

import asyncio
import os
import signal
import sys
import time

from pyncette.core.record import Change
from pyncette.errors import StoreError, StoreUnavailableError
from pyncette.store.sqlite.database import Database
from pyncette.store.sqlite.store import SqliteStore
from pyncette.testing.conformance import T0, a_record, claim, completed, create


async def drain(path, name):
    """Run what is due until nothing is, and print what was run."""
    async with SqliteStore(path) as store:
        for number in range(10_000):
            held = await claim(store, limit=7, now=T0, lease_id=f"{name}-{number}")
            if not held:
                return
            made = await store.swap([Change(record, completed(record, None)) for record in held])
            assert all(made)
            print(*(record.key.instance for record in held), sep="\n", flush=True)


async def freeze(path):
    """Stop in mid-transaction; once woken, end it."""

    def write_and_stop(session):
        session.write("UPDATE pyncette_tasks SET attempt = 99")
        os.kill(os.getpid(), signal.SIGSTOP)

    database = Database(path)
    async with SqliteStore(database):
        await database.write(write_and_stop)
        print("woken", flush=True)


async def die(path):
    """Be killed as soon as a swap was answered."""
    async with SqliteStore(path) as store:
        await create(store, a_record("written"))
        os.kill(os.getpid(), signal.SIGKILL)


async def open_unprivileged(path):
    """Say what a user without rights is told."""
    await asyncio.to_thread(time.sleep, 0)  # what is imported late cannot be imported any more
    if os.geteuid() == 0:
        os.setuid(65534)
    try:
        async with SqliteStore(path):
            print("opened")
    except StoreUnavailableError:
        raise
    except StoreError as error:
        print(f"{type(error).__name__}: {error}")


asyncio.run(globals()[sys.argv[1]](*sys.argv[2:]))
