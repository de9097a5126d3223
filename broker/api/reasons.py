"""Why the parser refuses what came, without the value that its own words may quote."""

import re
from typing import Final

PLAIN_NAME: Final = re.compile(r"[a-z_]{1,40}")
_UNKNOWN_FIELD: Final = re.compile(r"Object contains unknown field `([^`]*)`")
_MISSING_FIELD: Final = re.compile(r"Object missing required field `([a-z_]+)`")
_KNOWN_REASONS: Final = re.compile(
    r"Expected `[a-z0-9 |_.-]+`(, got `[a-z]+`| of length [<>=]+ \d+| [<>=]+ -?[\d.]+"
    r"| matching regex '.{1,120}'| with a timezone component)?"
    r"|Invalid RFC3339 encoded datetime"
)


def reason_of(message: str) -> str:
    """The parser's reason in words of ours."""
    if unknown := _UNKNOWN_FIELD.match(message):
        name = unknown[1] if PLAIN_NAME.fullmatch(unknown[1]) else None
        return f"There is no field {name}." if name else "There is an unknown field."
    if missing := _MISSING_FIELD.match(message):
        return f"The field {missing[1]} is missing."
    if message.startswith("Invalid enum value"):
        return "This is not one of the accepted values."
    # The parser doubles the backslashes of a pattern that it quotes.
    known = _KNOWN_REASONS.match(message.replace("\\\\", "\\").replace(r"(?!\n)", ""))
    return known[0] + "." if known else "This value is not valid."
