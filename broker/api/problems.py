"""One error shape for every route of ours: RFC 9457, ``application/problem+json``.

* ``code`` is from a closed list, ``action`` says what the caller can do about it.
* No problem repeats what was sent: not a value, not a query string, not the text of a library.
* The status of a code stands in ``STATUS``, and nowhere else.
"""

import re
from collections.abc import Callable
from typing import Any, Final

import structlog
from litestar import Request, Response
from litestar.exceptions import (
    HTTPException,
    InternalServerException,
    SerializationException,
    ValidationException,
)
from litestar.params import HeaderParameter, QueryParameter
from litestar.types import ExceptionHandlersMap
from msgspec import Struct
from msgspec.structs import replace

from broker.api.reasons import NO_BODY, PLAIN_NAME, field_of, reason_of
from broker.metrics import Metrics
from vault.errors import Action, ConnectionMissing, Invalid, Missing, VaultError

STATUS: Final[dict[str, int]] = {
    "malformed": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "not_found": 404,
    "conflict": 409,
    "connection_missing": 409,
    "needs_reauth": 409,
    "upstream_missing": 409,
    "idempotency_in_progress": 409,
    "too_large": 413,
    "invalid": 422,
    "idempotency_mismatch": 422,
    "unresolved": 422,
    "delivery_not_possible": 422,
    "delivery_needs_gateway": 422,
    "rate_limited": 429,
    "internal": 500,
    "upstream_failed": 502,
    "not_ready": 503,
    "provider_unavailable": 503,
}
TITLES: Final[dict[str, str]] = {
    "malformed": "The request cannot be read",
    "unauthenticated": "No valid key",
    "forbidden": "Not allowed",
    "not_found": "Not found",
    "conflict": "Conflict",
    "connection_missing": "A connection is missing",
    "needs_reauth": "The person has to connect again",
    "upstream_missing": "No upstream",
    "idempotency_in_progress": "Still in progress",
    "too_large": "Too large",
    "invalid": "Invalid request",
    "idempotency_mismatch": "Another request had this Idempotency-Key",
    "unresolved": "Nothing to resolve to",
    "delivery_not_possible": "Not deliverable in this way",
    "delivery_needs_gateway": "Only for tools that call the gateway",
    "rate_limited": "Too much at once",
    "internal": "Our fault",
    "upstream_failed": "Another server failed",
    "not_ready": "Not ready",
    "provider_unavailable": "The provider gives no token",
}
_FROM_STATUS: Final[dict[int, str]] = {
    400: "malformed",
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    405: "not_found",
    413: "too_large",
    415: "malformed",
    422: "invalid",
    503: "not_ready",
}
_DETAILS: Final[dict[int, str]] = {
    404: "There is no such address.",
    405: "This address does not know that method.",
    413: "The request is over the size limit.",
}
_log = structlog.get_logger("keyturn.problems")


class OtherMedia(HTTPException):
    """The body is not called what is read here."""

    status_code = 415

    def __init__(self, read_here: str) -> None:
        super().__init__(detail=f"Send {read_here}.")


class FieldError(Struct, frozen=True):
    """What is wrong with one part of the request."""

    pointer: str
    message: str


class MissingConnection(Struct, frozen=True):
    """A connection that is missing; the link is there where it was asked for."""

    integration: str
    reason: str
    connect_url: str | None


class Problem(Struct, frozen=True, omit_defaults=True):
    """An error, as RFC 9457 has it."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    action: Action
    retry_after: int | None = None
    errors: list[FieldError] = []
    missing: list[MissingConnection] = []


# What the access line says of a request whose client left in the middle of it. Nobody gets it.
HUNG_UP: Final = 499

Dialect = Callable[[Request[Any, Any, Any], Exception, Problem], Response[Any] | None]


def handlers(metrics: Metrics, *, dialect: Dialect) -> ExceptionHandlersMap:
    """The exception handlers of the application; ``dialect`` may answer in other words."""

    def answer(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
        if _hung_up(request, error):
            return Response(None, status_code=HUNG_UP)
        if isinstance(error, ValidationException):
            error.extra = _as_sent(request, error)
        problem = problem_of(error, request_id_of(request))
        metrics.problems.labels(problem.code).inc()
        if problem.code == "internal":
            _log.error("unexpected_error", exc_info=error)
        answered = dialect(request, error, problem) or response(problem)
        answered.headers.update(_headers(problem, allow=_allow_of(error)))
        return answered

    return {VaultError: answer, HTTPException: answer, Exception: answer}


def _as_sent(request: Request[Any, Any, Any], error: ValidationException) -> list[dict[str, Any]]:
    """What was found, each parameter by the name that it is sent under.

    The framework calls it as our function does, and lists none that is missing.
    """
    if isinstance(error.__cause__, KeyError):
        missing = f"Object missing required field `{error.__cause__.args[0]}`"
        return [{"message": missing, "source": "query"}]
    found = error.extra if isinstance(error.extra, list) else []
    known = request.route_handler.parsed_fn_signature.parameters
    for one in found:
        parameter = known.get(one.get("key", ""))
        told = parameter.kwarg_definition if parameter else None
        named = isinstance(told, QueryParameter | HeaderParameter) and told.name
        if named and one.get("source") != "body":
            one["key"] = named
    return found


def _hung_up(request: Request[Any, Any, Any], error: Exception) -> bool:
    """Did the client leave before its body was here? The framework calls that our own error."""
    left = request.scope["state"].get("hung_up", False)
    return left and isinstance(error, InternalServerException)


def request_id_of(request: Request[Any, Any, Any]) -> str:
    """The id that the gate gave to this request."""
    found: str = request.scope["state"].get("request_id", "")
    return found


def response(problem: Problem) -> Response[Problem]:
    """Write a problem down."""
    return Response(problem, status_code=problem.status, media_type="application/problem+json")


def _headers(problem: Problem, *, allow: str | None) -> dict[str, str]:
    headers = {}
    if problem.status == STATUS["unauthenticated"]:
        headers["WWW-Authenticate"] = "Bearer"
    if problem.retry_after is not None:
        headers["Retry-After"] = str(problem.retry_after)
    if allow:
        headers["Allow"] = allow
    return headers


def problem_of(error: Exception, request_id: str) -> Problem:
    """Say what went wrong, in our words."""
    if isinstance(error, VaultError):
        return _of_ours(error, request_id)
    if isinstance(error, ValidationException):
        return _broken(error, request_id)
    if isinstance(error, SerializationException) or isinstance(
        error.__cause__, SerializationException
    ):
        return _problem("malformed", "The body is not valid JSON.", request_id)
    if isinstance(error, RecursionError):
        # Only a parser goes as deep as its input says.
        return _problem("malformed", "The body is nested too deeply.", request_id)
    if isinstance(error, HTTPException):
        status = error.status_code
        code = _FROM_STATUS.get(status, "internal")
        known = error.detail if isinstance(error, OtherMedia) else _DETAILS.get(status)
        detail = known or "The request cannot be read."
        return _problem(code, detail, request_id, status=status)
    return _problem("internal", "Something went wrong on our side.", request_id)


def _broken(error: ValidationException, request_id: str) -> Problem:
    errors = field_errors(error)
    if [one.message for one in errors] == [reason_of(NO_BODY)]:
        return _problem("malformed", errors[0].message, request_id)
    detail = errors[0].message if errors else "The request breaks a rule."
    return _problem("invalid", detail, request_id, errors=errors)


def _of_ours(error: VaultError, request_id: str) -> Problem:
    code = error.code if error.code in STATUS else "internal"
    if code == "internal":
        # An integrity error or a bug: what it says is for the log, not for the caller.
        return _problem("internal", "Something went wrong on our side.", request_id)
    errors = []
    if isinstance(error, Invalid) and error.pointer:
        errors.append(FieldError(error.pointer, error.message))
    problem = _problem(
        code,
        error.message,
        request_id,
        errors=errors,
        action=error.action,
        retry_after=error.retry_after,
    )
    if isinstance(error, ConnectionMissing):
        return replace(problem, missing=[_missing(one) for one in error.missing])
    return problem


def _missing(one: Missing) -> MissingConnection:
    url = one.connect_url.reveal() if one.connect_url else None
    return MissingConnection(one.integration, one.reason, url)


def _problem(
    code: str,
    detail: str,
    request_id: str,
    *,
    status: int | None = None,
    errors: list[FieldError] | None = None,
    action: Action = "none",
    retry_after: int | None = None,
) -> Problem:
    return Problem(
        type=f"/docs#{code}",
        title=TITLES[code],
        status=status or STATUS[code],
        detail=detail,
        code=code,
        request_id=request_id,
        action=action,
        retry_after=retry_after,
        errors=errors or [],
    )


def field_errors(error: ValidationException) -> list[FieldError]:
    """What the parser found, without the values that it may quote."""
    found = error.extra if isinstance(error.extra, list) else []
    return [FieldError(_pointer(one), reason_of(one.get("message", ""))) for one in found]


def _pointer(found: dict[str, str]) -> str:
    """Where it is wrong; a name that is not a field of ours may be a value, and is left out."""
    if found.get("source") == "header":
        return "/" + found.get("key", "")  # which one is read is ours to say, and nobody else's
    parts = re.split(r"[.\[\]]+", found.get("key", "").removeprefix("data"))
    safe = [part for part in parts if PLAIN_NAME.fullmatch(part) or part.isdigit()]
    named = field_of(found.get("message", ""))
    return "/" + "/".join([*safe, *([named] if named else [])])


def _allow_of(error: Exception) -> str | None:
    headers = getattr(error, "headers", None) or {}
    allow: str | None = headers.get("allow")
    return allow
