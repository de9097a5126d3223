"""ElevenLabs' error bodies.

``{"detail": {"type", "code", "status", "message", "request_id", "param"}}``; a body or a parameter
that breaks the schema is 422 with ``{"detail": [{"loc", "msg", "type"}]}``; an address that does
not exist is 404 with ``{"detail": "Not Found"}``.
"""

from typing import Any, Final

from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.openapi.datastructures import ResponseSpec
from msgspec import Struct

from broker.api.problems import STATUS, TITLES, Problem, field_errors
from vault.errors import Invalid


class ErrorDetail(Struct, frozen=True):
    """What is wrong, as ElevenLabs says it; ``status`` says ``code`` again."""

    type: str
    code: str
    status: str
    message: str
    request_id: str
    param: str | None


class ErrorOut(Struct, frozen=True):
    """Every error but a broken schema."""

    detail: ErrorDetail


class BrokenRule(Struct, frozen=True):
    """One rule of the schema that the request breaks, and where."""

    loc: list[str | int]
    msg: str
    type: str


class BrokenRules(Struct, frozen=True):
    """A request that breaks the schema."""

    detail: list[BrokenRule]


PREFIXES: Final = ("/v1/convai", "/v1/workspace/")

# By our code: type, code, and the status that ElevenLabs declares for it.
_KINDS: Final[dict[str, tuple[str, str, int]]] = {
    "unauthenticated": ("authentication_error", "invalid_api_key", 401),
    "forbidden": ("authorization_error", "missing_permissions", 403),
    "not_found": ("not_found", "not_found", 404),
    "conflict": ("conflict", "conflict", 409),
    "idempotency_in_progress": ("conflict", "idempotency_in_progress", 409),
    "connection_missing": ("conflict", "connection_missing", 409),
    "upstream_missing": ("conflict", "upstream_missing", 409),
    "delivery_not_possible": ("validation_error", "delivery_not_possible", 400),
    "delivery_needs_gateway": ("validation_error", "delivery_needs_gateway", 400),
    "invalid": ("validation_error", "invalid_parameters", 400),
    "too_large": ("validation_error", "request_too_large", 413),
    "unresolved": ("validation_error", "unresolved", 400),
    "not_ready": ("service_unavailable", "not_ready", 503),
    "provider_unavailable": ("service_unavailable", "provider_unavailable", 503),
    "upstream_failed": ("upstream_error", "upstream_failed", 502),
    "internal": ("internal_error", "internal_server_error", 500),
}

# What is a broken rule there, too: where, and which.
_RULES: Final[dict[str, tuple[list[str | int], str]]] = {
    "malformed": (["body"], "json_invalid"),
    "idempotency_mismatch": (["header", "Idempotency-Key"], "idempotency_mismatch"),
}

# "invalid": a path may hold a character that the database cannot keep.
_ALWAYS: Final = ("unauthenticated", "forbidden", "internal", "not_ready", "invalid")


def declared(*codes: str) -> dict[int, ResponseSpec]:
    """What OpenAPI says that may go wrong, by our codes; 422 may at every route."""
    by_status: dict[int, list[str]] = {}
    for one in dict.fromkeys((*_ALWAYS, *codes)):
        _, code, status = _KINDS[one]
        by_status.setdefault(status, []).append(f"`{code}`: {TITLES[one]}")
    found = {status: _spec(ErrorOut, "; ".join(said)) for status, said in by_status.items()}
    return {**found, 422: _spec(BrokenRules, "The request breaks the schema")}


def _spec(kind: type[Struct], description: str) -> ResponseSpec:
    return ResponseSpec(kind, description=description, generate_examples=False)


def dialect(
    request: Request[Any, Any, Any], error: Exception, problem: Problem
) -> Response[Any] | None:
    """Say the same as ``problem`` in ElevenLabs' words, on the addresses that are theirs."""
    if not request.scope["path"].startswith(PREFIXES):
        return None
    if isinstance(error, ValidationException):
        return Response(BrokenRules(_validation(error)), status_code=422)
    if problem.code in _RULES:
        place, kind = _RULES[problem.code]
        return Response(BrokenRules([BrokenRule(place, problem.detail, kind)]), status_code=422)
    if isinstance(error, HTTPException) and problem.status == STATUS["not_found"]:
        return Response({"detail": "Not Found"}, status_code=404)
    if problem.status == 405:  # noqa: PLR2004 - the one HTTP status without a code of ours
        return Response({"detail": "Method Not Allowed"}, status_code=405)
    kind, code, status = _KINDS.get(problem.code, _KINDS["internal"])
    message = "Invalid API key" if problem.code == "unauthenticated" else problem.detail
    detail_of = ErrorDetail(kind, code, code, message, problem.request_id, _param(error))
    return Response(ErrorOut(detail_of), status_code=status)


def _param(error: Exception) -> str | None:
    if isinstance(error, Invalid) and error.pointer:
        return error.pointer.strip("/").replace("/", ".") or None
    return None


def _validation(error: ValidationException) -> list[BrokenRule]:
    found = error.extra if isinstance(error.extra, list) else []
    sources = [str(one.get("source", "body")) for one in found] or ["body"]
    return [
        BrokenRule(
            [source.rpartition(".")[2].lower(), *_place(one.pointer)],
            one.message,
            "missing" if "is missing" in one.message else "value_error",
        )
        for source, one in zip(sources, field_errors(error), strict=False)
    ]


def _place(pointer: str) -> list[str | int]:
    parts = [part for part in pointer.split("/") if part]
    return [int(part) if part.isdigit() else part for part in parts]
