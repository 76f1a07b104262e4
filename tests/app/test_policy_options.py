"""Options for policies: what is read, what is refused, and how an instance overrides its template."""

import datetime
import re
from datetime import UTC, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pyncette
from pyncette import ExecutionMode, FailureMode, Pyncette, Retry
from pyncette.app.behaviour import behaviour_of, policies_of
from pyncette.app.keywords import OPTIONS, OTHER_NAMES
from pyncette.app.policy_options import NEW_POLICIES
from pyncette.core.record import replace
from pyncette.core.spec import Exhaustion, Heartbeat, Missed, Mode, Overlap, Policies
from pyncette.core.spec import Retry as StoredRetry
from pyncette.errors import LooseKeywordWarning
from tests.app.harness import seconds

JUNE, JULY = datetime.datetime(2030, 6, 1, tzinfo=UTC), datetime.datetime(2030, 7, 1, tzinfo=UTC)

EVERY_POLICY = {
    "retry": Retry(max_attempts=3, initial_backoff=seconds(1), max_backoff=seconds(9)),
    "missed": "all",
    "max_catch_up_runs": 7,
    "overlap": "replace",
    "starting_deadline": seconds(10),
    "timeout": seconds(20),
    "jitter": seconds(30),
    "not_before": JUNE,
    "not_after": JULY,
    "on_exhausted": "dead_letter",
    "suspend": True,
    "successful_runs_history_limit": 4,
    "failed_runs_history_limit": 5,
    "execution_mode": ExecutionMode.AT_LEAST_ONCE,
    "lease_duration": seconds(40),
    "heartbeat": "cooperative",
}


async def a_handler(context):
    pass


@pytest.fixture
def app():
    return Pyncette(defaults="safe")


@pytest.fixture
def template(app):
    return app.dynamic_task(interval=seconds(5))(a_handler)


def own_policies(template, **options):
    return template._spec_of("ada", options).policies


# --- What is read --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["task", "dynamic_task", "partitioned_task"])
def test_a_task_gives_its_policies_back(app, kind):
    more = {"partition_count": 2} if kind == "partitioned_task" else {}
    task = getattr(app, kind)(interval=seconds(5), **EVERY_POLICY, **more)(a_handler)

    assert {name: getattr(task, name) for name in EVERY_POLICY} == EVERY_POLICY
    assert task.extra_args == {}


def test_an_instance_gives_its_policies_back(template):
    instance = template.instantiate("ada", **EVERY_POLICY)

    assert {name: getattr(instance, name) for name in EVERY_POLICY} == EVERY_POLICY


def test_the_default_policies_are_shown(app):
    task = app.task(interval=seconds(5))(a_handler)

    assert task.retry == Retry()
    assert (task.missed, task.overlap, task.on_exhausted) == ("all", "forbid", "continue")
    assert (task.jitter, task.timeout, task.suspend) == (timedelta(), None, False)


def test_a_failure_mode_has_no_retry_policy_and_fast_forward_is_no_policy_for_missed_runs(app):
    task = app.task(interval=seconds(5), failure_mode=FailureMode.UNLOCK, fast_forward=True)(a_handler)

    assert task.retry is None
    assert task.missed is None


def test_at_most_once_runs_overlap_unless_the_task_says_otherwise(app):
    allow = app.task(name="a", interval=seconds(5), execution_mode=ExecutionMode.AT_MOST_ONCE)(a_handler)
    forbid = app.task(
        name="b", interval=seconds(5), execution_mode=ExecutionMode.AT_MOST_ONCE, overlap="forbid"
    )(a_handler)

    assert allow._policies.overlap is Overlap.ALLOW
    assert forbid._policies.overlap is Overlap.FORBID


def test_retry_is_public():
    assert pyncette.Retry is Retry


durations = st.integers(1, 10**12)
instants = st.integers(0, 10**15)

stored_policies = st.builds(
    Policies,
    mode=st.sampled_from(Mode),
    overlap=st.sampled_from(Overlap),
    missed=st.sampled_from(Missed),
    max_catch_up=st.integers(0, 10_000),
    starting_deadline=st.none() | durations,
    active_deadline=st.none() | durations,
    retry=st.builds(
        StoredRetry, st.integers(0, 9), durations, durations, st.booleans(), st.booleans(), st.booleans()
    ),
    exhausted=st.sampled_from(Exhaustion),
    jitter=durations,
    not_before=st.none() | instants,
    not_after=st.none() | instants,
    suspend=st.booleans(),
    lease=durations,
    heartbeat=st.sampled_from(Heartbeat),
    keep_successful=st.integers(0, 1000),
    keep_failed=st.integers(0, 1000),
)


@given(stored_policies)
def test_stored_policies_are_read_back_in_full(policies):
    if policies.mode is Mode.AT_MOST_ONCE:  # always stored so
        policies = replace(policies, heartbeat=Heartbeat.AUTOMATIC)

    assert policies_of(behaviour_of(policies), poll_interval=1) == policies


# --- What is refused -----------------------------------------------------------------------------------------------------

INVALID = [
    ({"retry": 3}, "retry must be a Retry, not 3"),
    ({"retry": None}, "retry must be a Retry, not None"),
    ({"missed": "newest"}, "missed must be 'all', 'latest' or 'skip', not 'newest'"),
    ({"missed": "Latest"}, "not 'Latest'; did you mean latest?"),
    ({"overlap": "forbidden"}, "overlap must be 'forbid', 'allow' or 'replace', not 'forbidden'; did you mean forbid?"),
    ({"on_exhausted": "DeadLetter"}, "not 'DeadLetter'; did you mean dead_letter?"),
    ({"timeout": 30}, "timeout must be a timedelta, not 30: write timedelta(seconds=30)"),
    ({"timeout": "30 s"}, "timeout must be a timedelta, not '30 s'"),
    ({"timeout": timedelta()}, "timeout must be longer than zero and at most a century, not 0:00:00"),
    ({"starting_deadline": -seconds(1)}, "starting_deadline must be longer than zero"),
    ({"jitter": timedelta(days=2)}, "jitter must be from zero to a day, not 2 days"),
    ({"not_before": JUNE.replace(tzinfo=None)}, "not_before needs a time zone, as in datetime(…, tzinfo=UTC)"),
    ({"not_after": "2030-06-01"}, "not_after must be a datetime with a time zone, not '2030-06-01'"),
    ({"suspend": "no"}, "suspend must be True or False, not 'no'"),
    ({"max_catch_up_runs": 0}, "max_catch_up_runs must be an integer from 1 to 10000, or None, not 0"),
    ({"failed_runs_history_limit": True}, "must be an integer from 0 to 1000, or None, not True"),
]  # fmt: skip

CONFLICTS = [
    ({"fast_forward": True, "missed": "latest"}, "fast_forward and missed are mutually exclusive: keep missed"),
    ({"failure_mode": FailureMode.UNLOCK, "retry": Retry()}, "failure_mode and retry are mutually exclusive: keep retry"),
    ({"execution_mode": ExecutionMode.AT_MOST_ONCE, "retry": Retry()}, "retry is not applicable when execution_mode is AT_MOST_ONCE"),
    ({"execution_mode": ExecutionMode.AT_MOST_ONCE, "failure_mode": FailureMode.COMMIT}, "failure_mode is not applicable"),
    ({"missed": "latest", "max_catch_up_runs": 3}, 'max_catch_up_runs is only applicable with missed="all"'),
    ({"fast_forward": True, "max_catch_up_runs": 3}, 'max_catch_up_runs is only applicable with missed="all"'),
    ({"not_before": JULY, "not_after": JUNE}, "not_after must be later than not_before"),
    ({"not_before": JULY, "not_after": JULY}, "not_after must be later than not_before"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "message"), INVALID + CONFLICTS, ids=lambda value: str(value)[:60])
def test_invalid_options_are_refused_with_what_to_write(app, template, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        app.task(name="other", interval=seconds(5), **options)(a_handler)
    with pytest.raises(ValueError, match=re.escape(message)):
        own_policies(template, **options)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_attempts": 0}, "max_attempts must be an integer from 1 to 1000, or None for no limit, not 0"),
        ({"max_attempts": 2.5}, "max_attempts must be an integer"),
        ({"initial_backoff": 5}, "initial_backoff must be a timedelta, not 5"),
        ({"initial_backoff": timedelta()}, "initial_backoff must be longer than zero and at most 1 d"),
        ({"max_backoff": timedelta(days=8)}, "max_backoff must be longer than zero and at most 7 d"),
        ({"initial_backoff": timedelta(minutes=6)}, "max_backoff must not be shorter than initial_backoff"),
        ({"on": ("TimeoutError",)}, "on must be an exception class or a tuple of them"),
        ({"on": ()}, "on names no exception, so nothing is retried: write max_attempts=1"),
        ({"give_up_on": ValueError()}, "give_up_on must be an exception class"),
    ],
)
def test_an_invalid_retry_policy_is_refused(fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Retry(**fields)


def test_exceptions_are_given_as_except_takes_them():
    assert Retry(on=TimeoutError, give_up_on=ValueError) == Retry(
        on=(TimeoutError,), give_up_on=(ValueError,)
    )


@pytest.mark.parametrize("retry", [Retry(on=(TimeoutError,)), Retry(give_up_on=(ValueError,))])
def test_exceptions_of_an_instance_are_refused_since_they_are_not_stored(template, retry):
    with pytest.raises(ValueError, match="write them in the retry of the task, not of an instance"):
        own_policies(template, retry=retry)


def test_a_handler_for_manifests_takes_exceptions_alone(app):
    app.handler(retry=Retry(give_up_on=(ValueError,)))(a_handler)

    with pytest.raises(ValueError, match=r"write retry=Retry\(on=…, give_up_on=…\) here"):
        app.handler("other", retry=Retry(max_attempts=3))
    with pytest.raises(ValueError, match="retry must be a Retry"):
        app.handler("other", retry=3)


@pytest.mark.parametrize("at", [JUNE - seconds(1), JULY + seconds(1)])
def test_a_one_off_outside_of_the_window_is_refused(app, at):
    template = app.dynamic_task(not_before=JUNE)(a_handler)

    with pytest.raises(ValueError, match="execute_at lies outside of not_before and not_after"):
        template._spec_of("ada", {"execute_at": at, "not_after": JULY})


@pytest.mark.parametrize("keyword", sorted(OTHER_NAMES))
def test_the_remedy_for_a_name_of_another_library_is_an_option(app, keyword):
    with pytest.raises(ValueError, match=f"unknown option {keyword}; write ") as error:
        app.task(interval=seconds(5), **{keyword: 1})(a_handler)

    (option,) = re.findall(r"write (\w+)=", str(error.value))
    assert option in OPTIONS


# --- Overriding a template -----------------------------------------------------------------------------------------------


def test_an_instance_replaces_policies_field_by_field(app):
    template = app.dynamic_task(
        interval=seconds(5), timeout=seconds(20), missed="skip", retry=Retry(max_attempts=2), not_after=JULY
    )(a_handler)

    assert own_policies(template) is None
    assert own_policies(template, timeout=seconds(3)) == replace(
        template._policies, active_deadline=3_000_000
    )
    assert own_policies(template, not_after=None) == replace(template._policies, not_after=None)
    assert own_policies(template, fast_forward=True).missed is Missed.FAST_FORWARD
    assert own_policies(template, failure_mode=FailureMode.COMMIT).retry == StoredRetry(
        max_attempts=1, count_takeovers=False
    )
    assert own_policies(template, retry=Retry(max_attempts=9)).retry == StoredRetry(max_attempts=9)


def test_missed_and_retry_of_an_instance_replace_the_old_options_of_its_template(app):
    template = app.dynamic_task(interval=seconds(5), fast_forward=True, failure_mode=FailureMode.UNLOCK)(
        a_handler
    )

    own = own_policies(template, missed="latest", retry=Retry())

    assert own.missed is Missed.LATEST
    assert own.retry == StoredRetry()


@pytest.mark.parametrize("instead", [{"missed": "latest"}, {"fast_forward": True}])
def test_another_policy_for_missed_runs_drops_the_limit_of_the_template(app, instead):
    template = app.dynamic_task(interval=seconds(5), missed="all", max_catch_up_runs=5)(a_handler)

    assert own_policies(template, timeout=seconds(3)).max_catch_up == 5
    assert own_policies(template, **instead).max_catch_up == 0


def test_an_instance_can_run_at_most_once_although_its_template_retries(app):
    template = app.dynamic_task(interval=seconds(5), retry=Retry(max_attempts=2))(a_handler)

    own = own_policies(template, execution_mode=ExecutionMode.AT_MOST_ONCE)

    assert (own.mode, own.overlap, own.heartbeat) == (Mode.AT_MOST_ONCE, Overlap.ALLOW, Heartbeat.AUTOMATIC)


def test_the_fields_of_a_resource_are_the_template_of_an_instance(template):
    common = Policies(missed=Missed.SKIP, retry=StoredRetry(max_attempts=2), suspend=True)

    own = template._spec_of("ada", {"timeout": seconds(3)}, None, common).policies

    assert own == replace(common, active_deadline=3_000_000, suspend=False)


def test_suspend_false_alone_makes_no_policies_of_its_own(template):
    assert own_policies(template, suspend=False) is None
    assert own_policies(template, suspend=True) == replace(template._policies, suspend=True)


def test_the_suspension_of_a_template_is_not_copied(app):
    template = app.dynamic_task(interval=seconds(5), suspend=True)(a_handler)

    assert not own_policies(template, timeout=seconds(3)).suspend


# --- Apps with the defaults of 1.x ---------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::pyncette.errors.LooseKeywordWarning")
@pytest.mark.parametrize("name", sorted(NEW_POLICIES))
def test_a_module_of_1_x_that_uses_the_name_as_an_argument_still_gets_it(memory, name):
    app = Pyncette(memory)
    task = app.task(interval=seconds(5), **{name: "mine"})(a_handler)
    template = app.dynamic_task(name="template")(a_handler)
    instance = template._spec_of("ada", {"interval": seconds(5), name: "mine"})

    assert task.extra_args == {name: "mine"}
    assert task._policies == template._policies
    assert template._instance("ada", instance).extra_args == {name: "mine"}
    assert instance.policies is None


def test_such_an_argument_is_a_warning_that_says_how_to_get_the_option(memory):
    with pytest.warns(LooseKeywordWarning, match=r'not an option; use Pyncette\(defaults="safe"\)'):
        Pyncette(memory).dynamic_task(timeout=5)(a_handler)


def test_the_warning_for_a_name_of_another_library_says_how_to_get_the_option(memory):
    with pytest.warns(LooseKeywordWarning, match=r'=3\), and use Pyncette\(defaults="safe"\)'):
        Pyncette(memory).dynamic_task(max_retries=5)(a_handler)
