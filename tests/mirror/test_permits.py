"""Permits of a limit are removed with it."""

import contextlib

import pytest

from pyncette.clock import SECOND
from pyncette.coordination.permit_records import new_permit, number_of, permit_partition
from pyncette.core.record import Change
from pyncette.errors import StoreUnavailableError
from pyncette.mirror.instances import remove_instances
from tests.mirror.folder import HOUR, REALM, named


async def make_permits(folder, number, name="report", handler="send"):
    """As workers make them for the runs of a limited task."""
    partition = permit_partition(REALM, handler, name)
    new = [new_permit(partition, name, one, 60 * SECOND, folder.clock.now()) for one in range(number)]
    await folder.store.swap([Change(None, record) for record in new])


async def permits(folder, name="report", handler="send"):
    partition = permit_partition(REALM, handler, name)
    return [number_of(record) for record in await folder.store.scan(partition, name, None, 100)]


async def test_the_permits_of_a_limit_are_removed_with_their_task_after_the_grace(folder):
    await folder.apply(named("report", maxConcurrentRuns=10_000))
    await make_permits(folder, 9)

    await folder.apply()
    assert len(await permits(folder)) == 9
    await folder.clock.advance(25 * HOUR)
    await folder.apply()

    assert await permits(folder) == []
    assert await folder.record() is None


@pytest.mark.parametrize("crash_after", [0, 1, 2])
async def test_a_removal_that_was_broken_off_leaves_no_permits_either(folder, monkeypatch, crash_after):
    await folder.apply(named("report", maxConcurrentRuns=9))
    await make_permits(folder, 9)
    await folder.apply()
    await folder.clock.advance(25 * HOUR)
    left = crash_after

    def failing(method):
        async def call(*args, **options):
            nonlocal left
            left -= 1
            if left == -1:
                raise StoreUnavailableError("nothing came in time")
            return await method(*args, **options)

        return call

    monkeypatch.setattr(folder.store, "swap", failing(folder.store.swap))
    with contextlib.suppress(StoreUnavailableError):
        await folder.apply()
    await folder.apply()

    assert await permits(folder) == []
    assert await folder.record() is None


@pytest.mark.parametrize(("limit", "left"), [({"maxConcurrentRuns": 2}, [0, 1]), ({}, [])])
async def test_permits_are_removed_with_a_limit_that_is_lowered_or_removed(folder, limit, left):
    await folder.apply(named("report", maxConcurrentRuns=9, concurrencyPolicy="Allow"))
    await make_permits(folder, 9)

    await folder.apply(named("report", concurrencyPolicy="Allow", **limit))

    assert await permits(folder) == left


async def test_a_permit_that_is_held_stays_until_its_run_is_over(folder):
    """Else another would be made beside it, and there would be more runs than the limit lets."""
    await folder.apply(named("report", maxConcurrentRuns=9, concurrencyPolicy="Allow"))
    await make_permits(folder, 9)
    now = folder.clock.now()
    await folder.store.claim({permit_partition(REALM, "send", "report"): 4}, "lease", "w", now, now)

    await folder.apply(named("report", maxConcurrentRuns=2, concurrencyPolicy="Allow"))

    assert await permits(folder) == [0, 1, 2, 3]


async def test_permits_do_not_stay_where_a_task_has_moved_away(folder):
    await folder.apply(named("report", maxConcurrentRuns=9))
    await make_permits(folder, 9)

    await folder.apply(named("report", handler="send_later", maxConcurrentRuns=9))

    assert await permits(folder) == []


async def test_permits_of_a_template_are_removed_with_it(folder):
    template = named("users", intervalSeconds=None, dynamic=True, maxConcurrentRuns=9)
    await folder.apply(template)
    await make_permits(folder, 9, "send")
    await folder.apply()
    record = await folder.record("send")

    assert (await remove_instances(folder.ledger, record, 100)).done

    assert await permits(folder, "send") == []
