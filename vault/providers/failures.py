"""What an answer means: the provider's own rows first, then those of RFC 6749. Pure."""

from typing import Literal

from msgspec import Struct

from vault.providers.schema import STANDARD_FAILURES, Failure, Provider

Outcome = Literal["dead", "client", "transient", "throttled"]


class Answer(Struct, frozen=True, kw_only=True):
    """What came back, taken apart; ``fields`` holds what stands at the rows' own ``at`` paths."""

    status: int
    where: Literal["token", "api"] = "token"
    code: str | int | None = None
    subtype: str | None = None
    description: str = ""
    fields: dict[str, str | int] = {}


def outcome(provider: Provider, answer: Answer) -> Outcome | None:
    """Return what this answer means; ``None``: nobody knows, so nobody is to be condemned."""
    for row in (*provider.errors.rows, *STANDARD_FAILURES):
        if _fits(row, answer):
            return row.outcome
    return None


def row_of(provider: Provider, answer: Answer) -> Failure | None:
    """Return the provider's own row that fits, if there is one."""
    return next((row for row in provider.errors.rows if _fits(row, answer)), None)


def _fits(row: Failure, answer: Answer) -> bool:
    code = answer.fields.get(row.at) if row.at else answer.code
    return (
        row.where in ("any", answer.where)
        and row.status in (None, answer.status)
        and row.code in (None, code)
        and row.subtype in (None, answer.subtype)
        and (row.detail is None or row.detail.lower() in answer.description.lower())
    )
