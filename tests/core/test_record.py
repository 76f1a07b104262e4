"""What a record is when it is new."""

import msgspec

from pyncette.core.record import Key, Partition, inert_record
from pyncette.core.spec import Spec

KEY = Key(Partition("pyncette:pools/abc", "abc/shop/default"), "pool")
NOW = 1_700_000_000_000_000


def test_a_record_that_is_kept_is_never_due_and_nobodys():
    kept = inert_record(KEY, Spec(), NOW)

    assert (kept.due_at, kept.claimable_at, kept.lease) == (None, None, None)


def test_a_record_that_is_kept_begins_at_the_stores_clock_like_any_other():
    kept = inert_record(KEY, Spec(), NOW)

    assert (kept.version, kept.fence, kept.schedule_since) == (NOW, NOW, NOW)


def test_a_record_that_is_kept_holds_what_it_is_kept_for():
    spec = Spec(args=msgspec.Raw(b'{"id":"abc"}'))

    assert (inert_record(KEY, spec, NOW).key, inert_record(KEY, spec, NOW).spec) == (KEY, spec)
