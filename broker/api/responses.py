"""What OpenAPI says: which problems a route may answer, and bodies exactly as they are read."""

from typing import Any

import msgspec
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example, OpenAPI, OpenAPIResponse

from broker.api.messages import Message
from broker.api.problems import STATUS, TITLES, Problem

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


def correct(document: OpenAPI) -> None:
    """Mend what Litestar finds out by itself.

    * To whatever takes parameters it adds a 400 of a form of its own; ours is a 422.
    * It loses the rules for what lies in a list, a map or a union. msgspec, which reads the
      bodies, describes them completely.
    """
    for item in (document.paths or {}).values():
        for operation in (item.get, item.put, item.post, item.delete, item.patch):
            answers = (operation.responses if operation else None) or {}
            if isinstance(foreign := answers.get("400"), OpenAPIResponse) and (
                "application/json" in (foreign.content or {})
            ):
                del answers["400"]
    known: dict[str, Any] = document.components.schemas
    ours = [kind for kind in Message.__subclasses__() if kind.__name__ in known]
    _, exact = msgspec.json.schema_components(ours, ref_template="#/components/schemas/{name}")
    for name, schema in exact.items():
        if not name.endswith("In"):
            schema.pop("additionalProperties", None)  # an answer may gain a field later
        known[name] = schema


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
