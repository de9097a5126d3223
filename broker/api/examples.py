"""Examples for OpenAPI, so that a reader sees what an answer looks like before there is one."""

from typing import Final

from litestar.openapi.spec import Example
from litestar.params import PathParameter

OUR_ID: Final = r"^[A-Za-z0-9_]{1,64}$"


def named(value: object) -> list[Example]:
    """One example."""
    return [Example(id="example", value=value)]


def path(value: str) -> PathParameter:
    """An id that we made: its form, so that nothing else gets to the database, and an example."""
    return PathParameter(pattern=OUR_ID, examples=named(value))
