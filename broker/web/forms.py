"""What a browser sends: a form, or the query of an address, as fields, few and readable."""

from typing import Final
from urllib.parse import parse_qsl

from vault.errors import Invalid

MAX_FIELDS: Final = 60
MAX_QUERY: Final = 16 * 1024

Fields = list[tuple[str, str]]


def fields_in(encoded: bytes) -> Fields:
    """All fields, in order, as often as they come."""
    try:
        return parse_qsl(
            encoded.decode("ascii"),
            keep_blank_values=True,
            max_num_fields=MAX_FIELDS,
            errors="strict",
        )
    except ValueError:
        raise Invalid("This cannot be read.") from None


def fields_of_query(query: bytes) -> Fields:
    """The same of an address."""
    if len(query) > MAX_QUERY:
        raise Invalid("This address is too long.")
    return fields_in(query)


def single(fields: Fields) -> dict[str, str]:
    """A field that comes twice is refused: two readers could take one each."""
    found = dict(fields)
    if len(found) != len(fields):
        raise Invalid("This cannot be read.")
    return found


def has(fields: Fields, name: str) -> bool:
    return any(one == name for one, _ in fields)
