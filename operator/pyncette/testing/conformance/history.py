"""Promises of `history`: rows are written with their change, and go with their record."""

from __future__ import annotations

from pyncette.core.record import Change, HistoryRow, Key, Outcome, Partition
from pyncette.store.base import Store
from pyncette.testing.conformance.backend import OnBackend
from pyncette.testing.conformance.records import HERE, T0, a_record, a_run, changed, create, load, load_all


class History(OnBackend):
    async def test_rows_of_history_are_written_with_their_change(self, store: Store) -> None:
        run = a_run(
            started_at=T0 + 1,
            attempts=2,
            worker="wörker",
            message="it's\n🕰 \x00",
            outcome=Outcome.DEAD_LETTERED,
            count=3,
            exact=False,
        )
        await create(store, a_record())
        before = await load(store, a_record())

        await store.swap([Change(before, changed(before), (HistoryRow(-1, run), HistoryRow(0, a_run(2))))])

        assert await store.history(before.key) == [a_run(2), run]

    async def test_rows_of_history_are_written_with_a_creation(self, store: Store) -> None:
        await store.swap([Change(None, a_record(), (HistoryRow(0, a_run()),))])

        assert await store.history(a_record().key) == [a_run()]

    async def test_the_latest_to_end_comes_first(self, store: Store) -> None:
        rows = [HistoryRow(slot, a_run(number)) for slot, number in enumerate([3, 1, 4, 2])]

        await store.swap([Change(None, a_record(), tuple(rows))])

        assert [run.id for run in await store.history(a_record().key)] == ["run-4", "run-3", "run-2", "run-1"]

    async def test_a_row_replaces_what_its_slot_held(self, store: Store) -> None:
        await store.swap([Change(None, a_record(), (HistoryRow(0, a_run(1)), HistoryRow(1, a_run(2))))])
        before = await load(store, a_record())

        await store.swap([Change(before, changed(before), (HistoryRow(0, a_run(3)),))])

        assert await store.history(before.key) == [a_run(3), a_run(2)]

    async def test_the_last_row_of_a_slot_in_a_batch_stays(self, store: Store) -> None:
        home = a_record("home").key
        await create(store, *(a_record(str(number)) for number in range(4)))
        befores = await load_all(store, [a_record(str(number)) for number in range(4)])

        await store.swap(
            [
                Change(before, changed(before), (HistoryRow(0, a_run(9 - number)),), home)
                for number, before in enumerate(befores)
            ]
        )

        assert await store.history(home) == [a_run(6)]

    async def test_rows_can_be_kept_for_another_key(self, store: Store) -> None:
        home = a_record(key=Key(HERE, "task"))
        one_off = a_record(key=Key(HERE, "task", "", "run-1"))
        await create(store, home, one_off)

        made = await store.swap(
            [Change(await load(store, one_off), None, (HistoryRow(0, a_run()),), home.key)]
        )

        assert made == [True]
        assert await store.history(home.key) == [a_run()]
        assert await store.history(one_off.key) == []

    async def test_a_change_that_loses_writes_no_history(self, store: Store) -> None:
        await create(store, a_record())
        before = await load(store, a_record())
        await store.swap([Change(before, changed(before))])

        await store.swap([Change(before, changed(before), (HistoryRow(0, a_run()),))])
        await store.swap([Change(None, a_record(), (HistoryRow(0, a_run()),))])
        await store.swap([Change(before, None, (HistoryRow(0, a_run()),), a_record("home").key)])

        assert await store.history(before.key) == []
        assert await store.history(a_record("home").key) == []

    async def test_history_goes_with_its_record(self, store: Store) -> None:
        await store.swap([Change(None, a_record(), (HistoryRow(0, a_run()), HistoryRow(-1, a_run(2))))])
        await store.swap([Change(None, a_record("b"), (HistoryRow(0, a_run()),))])
        before = await load(store, a_record())

        await store.swap([Change(before, None, (HistoryRow(3, a_run(3)),))])
        await create(store, a_record())

        assert await store.history(a_record().key) == []
        assert await store.history(a_record("b").key) == [a_run()]

    async def test_history_outlives_what_lived_beside_its_schedule(self, store: Store) -> None:
        home = Key(HERE, "task")
        beside = a_record(key=Key(HERE, "task", "", "1"))
        await store.swap([Change(None, a_record(key=home), (HistoryRow(0, a_run()),)), Change(None, beside)])

        await store.swap([Change(await load(store, beside), None)])

        assert await store.history(home) == [a_run()]

    async def test_there_is_no_history_of_what_never_was(self, store: Store) -> None:
        assert await store.history(Key(HERE, "task", "never")) == []
        assert await store.history(Key(Partition("never", "seen"), "task")) == []
