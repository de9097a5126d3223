"""What an answer to a revocation means. Pure.

* A token that the provider does not know any more is gone, and that is as good as revoked.
* A yes with status 200 that says no is a no.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal

from msgspec import Struct

from vault.egress import Reply
from vault.oauth.app import App
from vault.oauth.refusals import refusal, says_no
from vault.oauth.replies import UNAUTHORIZED, Failure, NoToken, fields_of, says_error, succeeded

GONE: Final = frozenset({404, 410})


class Revoked(Struct, frozen=True, kw_only=True):
    """What became of a token that was given back. ``gone``: the provider knew it no more."""

    token: str  # "access_token", "refresh_token", or the name of a further token
    outcome: Literal["revoked", "gone", "failed"]
    failure: Failure | None = None


def given_back(app: App, reply: Reply, name: str, *, now: datetime) -> Revoked:
    """What an answer to a revocation means; raises ``NoToken`` where the token may still live."""
    document = fields_of(reply) or {}
    yes = succeeded(reply.status) and not (says_error(document) or says_no(app.provider, document))
    if yes:
        return Revoked(token=name, outcome="revoked")
    revoke = app.provider.revoke
    failure = refusal(app.provider, reply, now=now)
    by_itself = revoke is not None and revoke.auth == "bearer" and reply.status == UNAUTHORIZED
    by_name = revoke is not None and revoke.method == "DELETE" and reply.status in GONE
    if by_itself or by_name or failure.outcome == "dead" or _names_dead(document):
        return Revoked(token=name, outcome="gone")
    raise NoToken(failure)


def _names_dead(document: Mapping[str, Any]) -> bool:
    return document.get("error") == "invalid_token"
