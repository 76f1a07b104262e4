"""New records, and whether they are leased."""

import msgspec

from pyncette.core.record import Key, Lease, Partition, inert_record, replace
from pyncette.core.spec import Spec

KEY = Key(Partition("pyncette:pools/abc", "abc/shop/default"), "pool")
NOW = 1_700_000_000_000_000


def test_an_inert_record_is_never_due_and_has_no_lease():
    record = inert_record(KEY, Spec(), NOW)

    assert (record.due_at, record.claimable_at, record.lease) == (None, None, None)


def test_an_inert_record_starts_at_the_stores_clock_like_any_other():
    record = inert_record(KEY, Spec(), NOW)

    assert (record.version, record.fence, record.schedule_since) == (NOW, NOW, NOW)


def test_an_inert_record_carries_its_spec():
    spec = Spec(args=msgspec.Raw(b'{"id":"abc"}'))

    assert (inert_record(KEY, spec, NOW).key, inert_record(KEY, spec, NOW).spec) == (KEY, spec)


def test_a_record_is_leased_until_the_very_end_of_its_lease():
    record = replace(inert_record(KEY, Spec(), NOW), lease=Lease("id", "worker", expires_at=NOW + 10))

    assert record.is_leased(NOW + 9)
    assert not record.is_leased(NOW + 10)
    assert not replace(record, lease=None).is_leased(NOW + 9)
