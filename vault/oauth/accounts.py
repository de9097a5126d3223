"""Whose account it is, as the provider's file says where to look. Pure.

* The id is exactly what the provider calls the account; of several parts it is joined so that no
  two accounts can share one.
* Where a part is missing nobody is named: half an id could be somebody else's.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from vault.oauth.app import Account, App
from vault.oauth.id_token import IdTokenRefused
from vault.oauth.paths import at, text_of
from vault.providers.schema import Identity
from vault.secret import Secret

MAX_ID: Final = 500  # characters
MAX_EMAIL: Final = 320

Claims = Mapping[str, Any]


class Evidence(Struct, frozen=True, kw_only=True):
    """Where an account may be named, beside the provider's own answer to the question."""

    reply: Mapping[str, Any] = {}
    claims: Claims | None = None
    callback: Mapping[str, str] = {}

    def __repr__(self) -> str:
        return "Evidence(***)"


def account(identity: Identity, document: Mapping[str, Any] | list[Any]) -> Account | None:
    """Whom this document names."""
    named = _id(document, identity.account) or _id(document, identity.otherwise)
    if named is not None and identity.pattern is not None:
        named = _part(identity.pattern, named)
    if named is None:
        return None
    return Account(
        id=named,
        email=text_of(at(document, identity.email), MAX_EMAIL) if identity.email else None,
        label=text_of(at(document, identity.label), MAX_ID) if identity.label else None,
    )


def account_in_token(identity: Identity, token: Secret | None) -> Account | None:
    """Whom the access token itself names."""
    if token is None or identity.pattern is None:
        return None
    named = _part(identity.pattern, token.reveal())
    return Account(id=named) if named else None


def named(app: App, evidence: Evidence) -> Account | None:
    """The account that the evidence names. An ID token counts by its verified claims only."""
    identity = app.provider.identity
    if identity is None:
        return None
    claims = dict(evidence.claims or {})
    match identity.source:
        case "id_token":
            return account(identity, claims)
        case "callback":
            return account(identity, dict(evidence.callback))
        case "token_reply":
            return account(identity, {**evidence.reply, "id_token": claims})
        case _:
            return None


def check_subject(document: object, claims: Claims | None) -> None:
    """OpenID Connect Core section 5.3.2: both have to be about one person."""
    said = document.get("sub") if isinstance(document, dict) else None
    if claims is not None and said is not None and said != claims.get("sub"):
        raise IdTokenRefused("The account and the ID token are not the same person's.")


def _id(document: object, paths: Sequence[str]) -> str | None:
    parts = [text_of(at(document, path), MAX_ID) for path in paths]
    found = [one for one in parts if one is not None]
    if not found or len(found) < len(parts):
        return None
    if len(found) == 1:
        return found[0]
    return ":".join(one.replace("%", "%25").replace(":", "%3A") for one in found)


def _part(pattern: str, text: str) -> str | None:
    match = re.match(pattern, text, re.ASCII)
    if match is None:
        return None
    return match[1] if match.re.groups else match[0]
