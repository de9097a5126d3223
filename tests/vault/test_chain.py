"""A line's bytes are what the reference says, part by part."""

import hashlib
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from vault.chain import Line, line_hash, microseconds

# As PostgreSQL's text: no zero byte, no half of a surrogate pair.
TEXT = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=300)
MOMENTS = st.datetimes(timezones=st.just(UTC))
LINES = st.builds(
    Line,
    **dict.fromkeys(
        (name for name in Line.__struct_fields__ if name not in ("at", "xact", "connection_ids")),
        TEXT,
    ),
    at=MOMENTS,
    xact=st.integers(min_value=0, max_value=2**63 - 1),
    connection_ids=st.lists(TEXT, max_size=3),
)


def spelled(workspace: str, line: Line) -> bytes:
    """The bytes of a line as docs/reference/audit.md has them, without any haste."""
    kind = "keyturn/audit/line/2" if line.connection_ids else "keyturn/audit/line/1"
    since = line.at - datetime(1970, 1, 1, tzinfo=UTC)
    moment = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    parts = [
        *(kind, workspace, str(line.xact), line.event_id, str(moment), line.actor_kind),
        *(line.actor_id, line.action, line.target_kind, line.target_id, line.user_ref),
        *(line.environment, line.outcome, line.request_id, *line.connection_ids),
    ]
    return b"".join(len(one.encode()).to_bytes(4, "big") + one.encode() for one in parts)


@given(TEXT, LINES)
def test_a_line_is_hashed_as_the_reference_says(workspace: str, line: Line) -> None:
    assert line_hash(workspace, line) == hashlib.sha256(spelled(workspace, line)).digest()


@given(TEXT, LINES, st.data())
def test_no_part_of_a_line_can_change_unnoticed(
    workspace: str, line: Line, data: st.DataObject
) -> None:
    changed = structs.replace(
        line,
        **{
            name: data.draw(TEXT)
            for name in ("actor_id", "action", "target_id", "environment", "outcome")
        },
    )
    assert (line_hash(workspace, line) == line_hash(workspace, changed)) is (line == changed)


@given(MOMENTS)
def test_a_time_is_a_number_exactly(moment: datetime) -> None:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert epoch + timedelta(microseconds=microseconds(moment)) == moment
