"""Faults of a network that cuts a connection in the middle of a reply: the server has carried out the request."""

from __future__ import annotations

import contextlib

import pytest

from pyncette.core.record import Change, HistoryRow, Key
from pyncette.errors import StoreUnavailableError
from pyncette.testing.conformance.records import HERE, a_record, a_run, changed, create, load_all
from pyncette.testing.faults.server import OnServer, answers, until

LENGTHS = (*range(4), *range(4, 60, 4), *range(60, 400, 40))
"""Bytes of a reply after which it is cut."""

TEARS_MIN = 10
"""The shortest reply to a batch of ten has more bytes than this many of `LENGTHS`."""


class Tearing(OnServer):
    batches_are_whole = True
    """A batch without groups is made as a whole, too."""

    async def is_at_rest(self, url: str) -> bool:
        """Return whether the server has ended all requests to the place of *url*, also those that nobody waits for."""
        raise NotImplementedError

    @pytest.mark.parametrize("group", [0, 1])
    async def test_replies_that_are_torn_anywhere_are_unavailable_and_nothing_is_half_done(
        self, url: str, group: int
    ) -> None:
        """A request is sent once: if it was sent again, it would lose to itself, and report that another was faster."""
        home = Key(HERE, "home")
        records = [a_record(f"{number:02}") for number in range(10)]
        with self.network() as network:
            async with self.open_store(network.url_of(url)) as store, self.open_store(url) as witness:
                await create(witness, *records)
                for number, length in enumerate(LENGTHS):
                    befores = await load_all(witness, records)
                    rows_before = len(await witness.history(home))
                    # One slot for all. Half of the changes write no history, which some stores write in another way.
                    row = HistoryRow(number, a_run(number))
                    changes = [
                        Change(before, changed(before), (row,) * (place % 2), home, group)
                        for place, before in enumerate(befores)
                    ]
                    await until(lambda: answers(store))
                    made = None
                    network.tear(iter([length]))
                    with contextlib.suppress(StoreUnavailableError):
                        made = await store.swap(changes)
                    network.tear(iter(()))
                    await until(lambda: self.is_at_rest(url))

                    afters = await load_all(witness, befores)
                    steps = [
                        after.version - before.version for before, after in zip(befores, afters, strict=True)
                    ]
                    assert set(steps) <= {0, 1}
                    assert len(set(steps)) == 1 or not (group or self.batches_are_whole)
                    assert made is None or (made == [True] * 10 and set(steps) == {1})
                    assert len(await witness.history(home)) == rows_before + max(steps[1::2])
            assert network.torn > TEARS_MIN
