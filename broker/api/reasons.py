"""Why the parser refuses what came, without the value that its own words may quote."""

import re
from typing import Final

PLAIN_NAME: Final = re.compile(r"[a-z_]{1,40}")
_UNKNOWN_FIELD: Final = re.compile(r"Object contains unknown field `([^`]*)`")
_MISSING_FIELD: Final = re.compile(r"Object missing required field `([a-z_]+)`")
_KNOWN_REASONS: Final = re.compile(
    r"Expected `[a-z0-9 |_.-]+`(, got `[a-z]+`| of length [<>=]+ \d+| [<>=]+ -?[\d.]+"
    r"| matching regex ('.{1,120}'|\".{1,120}\")| with a timezone component)?"
    r"|Invalid RFC3339 encoded datetime"
)

# Where no body came, the framework looks in vain for what it would be to the handler.
NO_BODY: Final = "'data'"


def field_of(message: str) -> str | None:
    """The field that is missing, or that nobody knows; a name that may be a value is none."""
    named = _UNKNOWN_FIELD.match(message) or _MISSING_FIELD.match(message)
    return named[1] if named and PLAIN_NAME.fullmatch(named[1]) else None


def reason_of(message: str) -> str:
    """The parser's reason in words of ours."""
    if message == NO_BODY:
        return "The body is missing."
    if _UNKNOWN_FIELD.match(message):
        name = field_of(message)
        return f"There is no field {name}." if name else "There is an unknown field."
    if missing := _MISSING_FIELD.match(message):
        return f"The field {missing[1]} is missing."
    if message.startswith("Invalid enum value"):
        return "This is not one of the accepted values."
    # The parser doubles the backslashes of a pattern that it quotes.
    known = _KNOWN_REASONS.match(message.replace("\\\\", "\\").replace(r"(?!\n)", ""))
    return known[0] + "." if known else "This value is not valid."
