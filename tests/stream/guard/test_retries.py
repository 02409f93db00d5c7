from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stream.guard.retries import RetryBudget, backoff


@given(st.floats(0, 1), st.integers(0, 50), st.lists(st.booleans(), max_size=400), st.integers(0, 400))
def test_in_any_stretch_retries_are_at_most_the_reserve_and_their_share_of_the_requests(
    ratio: float, reserve: int, is_retry: list[bool], start: int
) -> None:
    budget = RetryBudget(ratio, reserve)
    made: list[bool] = []
    for wanted in is_retry:
        if not wanted:
            budget.deposit()
            made.append(False)
        elif budget.withdraw():
            made.append(True)
    stretch = made[min(start, len(made)) :]
    retries = sum(stretch)
    assert retries <= reserve + ratio * (len(stretch) - retries) + 1e-6
    assert 0 <= budget.tokens <= reserve


def test_the_bucket_starts_full_and_refills_by_requests_alone() -> None:
    budget = RetryBudget(ratio=0.1, reserve=3)
    assert [budget.withdraw() for _ in range(4)] == [True, True, True, False]
    for _ in range(9):
        budget.deposit()
    assert not budget.withdraw()
    budget.deposit()
    assert budget.withdraw()


def test_the_pause_before_a_retry_grows_and_is_bounded() -> None:
    assert all(0 <= backoff(attempt) <= min(2.0, 0.05 * 2**attempt) for attempt in range(1, 20) for _ in range(50))
