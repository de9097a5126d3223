"""What OpenAPI says: which problems a route may answer, and bodies exactly as they are read."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import (
    Example,
    OpenAPI,
    OpenAPIMediaType,
    OpenAPIResponse,
    Operation,
    Reference,
    RequestBody,
    Schema,
)
from msgspec import Struct

from broker.api.problems import STATUS, TITLES, Problem
from broker.api.requests import LINES

_PLACE: Final = "#/components/schemas/"
_ALWAYS = ("internal", "not_ready")


def problems(*codes: str) -> dict[int, ResponseSpec]:
    """Describe the problems of a route, by status; every route may fail or not be ready."""
    by_status: dict[int, list[str]] = {}
    for code in (*codes, *_ALWAYS):
        by_status.setdefault(STATUS[code], []).append(code)
    return {status: _spec(codes) for status, codes in by_status.items()}


def guarded(*codes: str) -> dict[int, ResponseSpec]:
    """The same for a route that needs a key."""
    return problems("unauthenticated", "forbidden", *codes)


def of_lines(sent: type[Struct], answered: type[Struct]) -> type[Operation]:
    """Describe an operation that takes and answers JSON objects, one a line."""
    return _described(sent, answered, LINES, "A JSON object a line.")


def of_json(sent: type[Struct], answered: type[Struct]) -> type[Operation]:
    """Describe an operation whose handler reads and writes JSON itself."""
    return _described(sent, answered, "application/json", "A JSON object.")


def _described(
    sent: type[Struct], answered: type[Struct], media: str, description: str
) -> type[Operation]:
    def content(kind: type[Struct]) -> dict[str, OpenAPIMediaType]:
        return {media: OpenAPIMediaType(schema=Reference(ref=f"{_PLACE}{kind.__name__}"))}

    @dataclass
    class Described(Operation):
        def __post_init__(self) -> None:
            self.request_body = RequestBody(
                content=content(sent), description=description, required=True
            )
            for status, answer in (self.responses or {}).items():
                if status == "200" and isinstance(answer, OpenAPIResponse):
                    answer.content = dict(content(answered))

    return Described


def correct(document: OpenAPI) -> None:
    """Mend what Litestar finds out by itself.

    * To whatever takes parameters it adds a 400 of a form of its own, which nothing answers.
    * It loses the rules for what lies in a list, a map or a union. msgspec, which reads the
      bodies, describes them completely.
    * What is received is strict; an answer may gain a field later.
    """
    for item in (document.paths or {}).values():
        for operation in (item.get, item.put, item.post, item.delete, item.patch):
            answers = (operation.responses if operation else None) or {}
            if _is_litestars(answers.get("400")):
                del answers["400"]
    known: dict[str, Any] = document.components.schemas
    received = _bodies(document)
    named = known.keys() | received | _answers(document)
    ours = [kind for kind in _structs() if kind.__name__ in named]
    _, exact = msgspec.json.schema_components(ours, ref_template=f"{_PLACE}{{name}}")
    received = _reached(exact, received)
    for name, schema in exact.items():
        if name not in received:
            schema.pop("additionalProperties", None)
        known[name] = schema


def _is_litestars(answer: object) -> bool:
    """It writes its own down on the spot; ours are components."""
    content = (answer.content if isinstance(answer, OpenAPIResponse) else None) or {}
    media = content.get("application/json")
    return media is not None and isinstance(media.schema, Schema)


def _structs() -> list[type[Struct]]:
    """Everything that this package says goes over the wire."""
    found: list[type[Struct]] = [Struct]
    for kind in found:
        found += kind.__subclasses__()
    package = __name__.rpartition(".")[0]
    return [kind for kind in dict.fromkeys(found) if kind.__module__.startswith(package)]


def _bodies(document: OpenAPI) -> set[str]:
    """The components that request bodies are made of."""
    found = set()
    for item in (document.paths or {}).values():
        for operation in (item.put, item.post, item.patch):
            body = operation.request_body if operation else None
            found |= _named(body.content.values() if isinstance(body, RequestBody) else ())
    return found


def _answers(document: OpenAPI) -> set[str]:
    """The components that answers are."""
    found = set()
    for item in (document.paths or {}).values():
        for operation in (item.get, item.put, item.post, item.delete, item.patch):
            for answer in ((operation.responses if operation else None) or {}).values():
                content = answer.content if isinstance(answer, OpenAPIResponse) else None
                found |= _named((content or {}).values())
    return found


def _named(content: Iterable[OpenAPIMediaType]) -> set[str]:
    found = set()
    for media in content:
        schema = media.schema
        parts = (schema.one_of or []) if isinstance(schema, Schema) else [schema]
        found |= {one.ref.removeprefix(_PLACE) for one in parts if isinstance(one, Reference)}
    return found


def _reached(schemas: dict[str, Any], names: set[str]) -> set[str]:
    """These components, and those that they are made of."""
    found: set[str] = set()
    while names:
        found |= names
        text = json.dumps([schemas.get(name) for name in names])
        names = set(re.findall(rf'"{_PLACE}([^"]+)"', text)) - found
    return found


def _spec(codes: list[str]) -> ResponseSpec:
    return ResponseSpec(
        Problem,
        description="; ".join(f"`{code}`: {TITLES[code]}" for code in codes),
        media_type="application/problem+json",
        generate_examples=False,
        examples=[Example(id=code, summary=TITLES[code], value=_example(code)) for code in codes],
    )


def _example(code: str) -> dict[str, object]:
    return {
        "type": f"/docs#{code}",
        "title": TITLES[code],
        "status": STATUS[code],
        "detail": TITLES[code] + ".",
        "code": code,
        "request_id": "req_01k6zj3m8q0v5w7x9y1a2b3c4d",
        "action": "none",
    }
