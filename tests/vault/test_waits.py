"""How long another server asks us to wait."""

from datetime import UTC, datetime

import pytest

from vault.egress import Reply
from vault.egress.waits import retry_after

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
IN_TEN_MINUTES = "Thu, 01 Jan 2026 12:10:00 GMT"
FIVE_PAST = "Thu, 01 Jan 2026 12:05:00 GMT"


@pytest.mark.parametrize(
    ("said", "date", "ours", "wait"),
    [
        ("17", "", None, 17),
        ("1.2", "", None, 2),
        ("0", "", None, 1),
        ("-3", "", None, 1),
        ("9" * 18, "", None, 3600),
        (IN_TEN_MINUTES, "", NOON, 600),
        (IN_TEN_MINUTES, FIVE_PAST, NOON, 300),
        (IN_TEN_MINUTES, FIVE_PAST, None, 300),
        (IN_TEN_MINUTES, "", None, None),
        (FIVE_PAST, IN_TEN_MINUTES, NOON, 1),
        ("", "", NOON, None),
        ("soon", "", NOON, None),
        ("9" * 19, "", NOON, None),
        ("Thu, 01 Jan 2026 12:10:00", "", NOON, None),
    ],
)
def test_a_wait_is_said_in_seconds_or_as_a_date_against_the_clock_of_who_says_it(
    said: str, date: str, ours: datetime | None, wait: int | None
) -> None:
    reply = Reply(status=503, headers=(("retry-after", said), ("date", date)), body=b"")
    assert retry_after(reply, now=ours, at_most=3600) == wait
