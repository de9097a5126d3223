"""What OpenAPI says about errors: which problems a route may answer, with an example each."""

from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example

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
