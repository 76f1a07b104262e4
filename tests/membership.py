"""Workers that do nothing but be there, for tests of those who look."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pyncette.clock import SystemClock
from pyncette.coordination.members import Member, Membership, members
from pyncette.store.base import Store

SECONDS_MAX = 10.0


@asynccontextmanager
async def there(store: Store, realm: str, *some: Member) -> AsyncIterator[None]:
    """Let *some* be members of *realm* for the length of the block."""
    memberships = [Membership(realm, member, SystemClock()) for member in some]
    running = [asyncio.create_task(membership.run(store)) for membership in memberships]
    deadline = time.monotonic() + SECONDS_MAX
    while not {*some} <= {*await members(store, realm, await store.now())}:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    try:
        yield
    finally:
        for membership in memberships:
            membership.leave()
        await asyncio.gather(*running)
