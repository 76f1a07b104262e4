"""Code marked `# perf:` passes fields by position, so their order is part of what it assumes."""

import pytest

from pyncette.core.accounting import Verdict, counted, with_verdict
from pyncette.core.record import Counts, Outcome, Record, State, Summary, replace

ORDER = {
    State: "created_version started exhausted withdrawn_at owner summary handled floor schedule_version",
    Record: (
        "key spec version fence due_at schedule_since claimable_at lease_length attempt began_at lease state locator"
    ),
    Summary: (
        "last_scheduled_at last_started_at last_ended_at last_outcome last_attempts last_worker last_message"
        " last_success_at last_failure_at consecutive_failures counts exact rows successes_without_history"
    ),
    Counts: "succeeded failed dead_lettered missed skipped replaced lost withdrawn",
}


@pytest.mark.parametrize("struct", ORDER)
def test_fields_are_in_the_order_in_which_fast_paths_pass_them(struct):
    assert struct.__struct_fields__ == tuple(ORDER[struct].split())


def test_a_fast_count_of_a_success_changes_no_other_count():
    counts = Counts(*range(1, 9))

    assert counted(counts, Outcome.SUCCEEDED, 2) == replace(counts, succeeded=3)


def test_a_fast_summary_of_a_success_keeps_what_it_does_not_set():
    before = Summary(
        last_failure_at=1,
        consecutive_failures=2,
        counts=Counts(failed=2),
        exact=False,
        rows=4,
        successes_without_history=5,
    )

    after = with_verdict(before, Verdict(Outcome.SUCCEEDED, 10, 11, 12, 3, "worker"))

    assert after == replace(
        before,
        last_scheduled_at=10,
        last_started_at=11,
        last_ended_at=12,
        last_outcome=Outcome.SUCCEEDED,
        last_attempts=3,
        last_worker="worker",
        last_success_at=12,
        consecutive_failures=0,
        counts=Counts(succeeded=1, failed=2),
    )
