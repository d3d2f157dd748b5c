from datetime import UTC, datetime, timedelta

import pytest

from fairlead.webhooks import GivenUp, Hopeless, Retry, after_failure
from fairlead.webhooks.schedule import DISABLE_AFTER

NOW = datetime(2026, 1, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("num_tries", "seconds"), [(1, 5), (2, 300), (3, 1800), (4, 7200), (5, 18000), (6, 36000), (7, 36000)]
)
def test_each_try_waits_longer_than_the_one_before(num_tries: int, seconds: int) -> None:
    decided = after_failure(num_tries=num_tries, failing_since=NOW, status=500, now=NOW)
    assert decided == Retry(due_at=NOW + timedelta(seconds=seconds))


def test_after_eight_tries_a_message_is_given_up() -> None:
    decided = after_failure(num_tries=8, failing_since=NOW - timedelta(hours=28), status=None, now=NOW)
    assert decided == GivenUp(reason="not taken in 8 tries")


def test_an_endpoint_that_took_nothing_for_five_days_is_given_up() -> None:
    almost = NOW - DISABLE_AFTER + timedelta(seconds=1)
    assert isinstance(after_failure(num_tries=1, failing_since=almost, status=500, now=NOW), Retry)
    decided = after_failure(num_tries=1, failing_since=NOW - DISABLE_AFTER, status=500, now=NOW)
    assert decided == Hopeless(reason="it has taken nothing for 5 days")


def test_a_receiver_that_says_gone_is_believed() -> None:
    assert isinstance(after_failure(num_tries=1, failing_since=NOW, status=410, now=NOW), Hopeless)
