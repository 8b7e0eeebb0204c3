from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.budget import Breaker, Ejection, RetryBudget, State


def breaker(failures: int = 2) -> Breaker:
    """Opens for 1 s, then 2 s and so on."""
    return Breaker(Ejection(failures=failures, base_s=1, max_s=8), lambda: 0.0)


def test_a_breaker_opens_after_failures_in_a_row_and_for_longer_each_time() -> None:
    one = breaker()
    assert [one.fail(10, 9, answered=False) for _ in range(3)] == [False, True, False]
    assert [one.state(now) for now in (10, 10.9, 11)] == [State.OPEN, State.OPEN, State.HALF_OPEN]
    assert not one.fail(11, 10.5, answered=False)  # sent while it was open
    assert one.fail(11, 11, answered=False)
    assert [one.state(now) for now in (12.9, 13)] == [State.OPEN, State.HALF_OPEN]


def test_a_half_open_breaker_lets_one_call_out_at_a_time() -> None:
    one = breaker(failures=1)
    assert one.allows(0)
    assert not one.probe(0)  # closed: nothing to find out
    one.fail(0, 0, answered=False)
    assert not one.allows(0.5)
    assert not one.probe(0.5)
    assert one.allows(1)
    assert one.probe(1)
    assert not one.allows(1)
    assert not one.probe(1)
    one.probing = False
    assert one.probe(1)


def test_what_was_sent_before_it_opened_does_not_close_it() -> None:
    one = breaker(failures=1)
    assert one.closes(-1)  # closed: it ends a row of failures
    one.fail(5, 4, answered=True)
    assert one.answered
    assert not one.closes(4.5)
    assert one.closes(6)


@given(st.integers(1, 400), st.integers(1, 20), st.integers(1, 20), st.data())
def test_retries_never_exceed_their_share(calls: int, price: int, burst: int, data: st.DataObject) -> None:
    budget = RetryBudget(calls_per_retry=price, burst=burst)
    wanted = data.draw(st.lists(st.integers(0, 3), min_size=calls, max_size=calls))
    for num, want in enumerate(wanted, start=1):
        budget.earn()
        spent = sum(budget.spend() for _ in range(want))
        assert spent <= burst
        assert budget.spent * price <= num
    assert budget.spent + budget.exhausted == sum(wanted)


@given(st.integers(1, 2000), st.floats(0, 1, exclude_max=True))
def test_ejections_grow_to_their_bound(openings: int, jitter: float) -> None:
    policy = Ejection(base_s=0.5, max_s=30)
    assert 0.25 <= policy.time_s(openings, jitter) <= 30
    assert policy.time_s(openings, jitter) <= policy.time_s(openings + 1, jitter)


@pytest.mark.parametrize("options", [{"failures": 0}, {"base_s": 0.0}, {"base_s": 2.0, "max_s": 1.0}])
def test_a_bad_policy_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Ejection(**options)


@pytest.mark.parametrize("options", [{"calls_per_retry": 0}, {"burst": 0}])
def test_a_bad_budget_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        RetryBudget(**options)
