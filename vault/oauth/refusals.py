"""What a provider's no means: its own rows first, then RFC 6749. Pure.

* A row without a status never condemns a 408, a 429 or a 5xx: there nothing is known.
* What nobody knows is ``transient`` or ``ambiguous``; it delays and never condemns.
* Of a reply's text nothing is repeated but a code that the provider's file names.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from msgspec.structs import replace

from vault.egress import Reply
from vault.egress.waits import skew_of
from vault.oauth.paths import at
from vault.oauth.replies import (
    MAX_SKEW,
    REQUEST_TIMEOUT,
    SERVER_ERROR,
    TOO_MANY,
    Failure,
    NoToken,
    classify,
    fields_of,
    says_error,
    succeeded,
)
from vault.providers import failures
from vault.providers.schema import Failure as Row
from vault.providers.schema import Provider

Where = Literal["token", "api"]


def said_yes(
    provider: Provider, reply: Reply, *, now: datetime, asserted: bool = False
) -> Mapping[str, Any]:
    """A token reply's object, if nothing in it or about it says no; else raise ``NoToken``."""
    document = fields_of(reply) if succeeded(reply.status) else None
    if document is None or says_error(document) or says_no(provider, document):
        raise NoToken(refusal(provider, reply, now=now, asserted=asserted))
    return document


def says_no(provider: Provider, document: Mapping[str, Any]) -> bool:
    """Does it say no in the provider's own way?"""
    errors = provider.errors
    said = at(document, errors.success) if errors.success else None
    if said is not None and said is not True:
        return True
    return errors.with_200 and bool(at(document, errors.code))


def refusal(
    provider: Provider,
    reply: Reply,
    *,
    now: datetime,
    where: Where = "token",
    asserted: bool = False,
) -> Failure:
    """Why there is nothing, and what may be done about it.

    ``asserted``: we sent an assertion, which a server whose clock differs refuses as dead.
    """
    found = classify(reply, now=now, asserted=asserted)
    row = failures.row_of(provider, _answer(provider, reply, where))
    unsettled = reply.status in (REQUEST_TIMEOUT, TOO_MANY) or reply.status >= SERVER_ERROR
    if row is None or (row.status is None and unsettled):
        return found
    if row.outcome == "dead" and asserted and (skew := skew_of(reply, now)) > MAX_SKEW:
        detail = f"The provider refused the grant, and its clock is {skew} s from ours."
        return replace(found, outcome="transient", detail=detail)
    named = str(row.code) if row.code is not None else None
    return replace(found, outcome=row.outcome, detail=_detail(reply, row, named), error=named)


def _detail(reply: Reply, row: Row, named: str | None) -> str:
    said = f"The provider answered {reply.status}"
    if named is not None:
        said += f" with {named}"
    return f"{said}: {row.means}." if row.means else f"{said}."


def _answer(provider: Provider, reply: Reply, where: Where) -> failures.Answer:
    document = fields_of(reply) or {}
    errors = provider.errors
    paths = {row.at for row in errors.rows if row.at is not None}
    subtype = at(document, "error_subtype") or at(document, "error.error_subcode")
    description = at(document, errors.description)
    return failures.Answer(
        status=reply.status,
        where=where,
        code=_code(at(document, errors.code)),
        subtype=str(subtype) if isinstance(subtype, str | int) else None,
        description=description if isinstance(description, str) else "",
        fields={path: code for path in paths if (code := _code(at(document, path))) is not None},
    )


def _code(value: object) -> str | int | None:
    return value if isinstance(value, str | int) and not isinstance(value, bool) else None
