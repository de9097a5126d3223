"""Examples for OpenAPI, so that a reader sees what an answer looks like before there is one."""

from litestar.openapi.spec import Example
from litestar.params import PathParameter


def named(value: object) -> list[Example]:
    """One example."""
    return [Example(id="example", value=value)]


def path(value: str) -> PathParameter:
    """Give a path parameter an example."""
    return PathParameter(examples=named(value))
