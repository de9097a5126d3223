"""What a provider's replies say, by its own file: tokens, extras, choices. Pure.

* A reply is a set of tokens only if it is a 2xx, says no error in any way that the file knows, and
  holds a printable token. Anything else is ``NoToken`` with a class (``refusals``).
* A good token is not lost for an odd lifetime, an odd scope or an odd extra. What a refresh does
  not say stays as it was: the refresh token, the scopes, the extras.
* An extra is a short plain text. One that would become part of a host is believed only where the
  file says so; at a refresh an unbelievable one leaves the former in its place.
"""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from vault.egress import Reply
from vault.errors import Invalid, UpstreamFailed
from vault.oauth.app import App, Choice, ExtraToken, TokenSet
from vault.oauth.callbacks import MAX_EXTRA, check_hosts, check_told
from vault.oauth.lifetimes import access_end, refresh_end
from vault.oauth.paths import UNPRINTABLE, at, first_text, text_of
from vault.oauth.refusals import refusal, said_yes, says_no
from vault.oauth.replies import MAX_LIFETIME, OK, NoToken, fields_of, succeeded, token_of
from vault.providers.schema import MoreTokens, Provider, Step
from vault.secret import Secret

Document = Mapping[str, Any]
Kind = Literal["first", "refresh"]

MAX_LABEL: Final = 500
MAX_CHOICES: Final = 500


class Read(Struct, frozen=True, kw_only=True):
    """A token reply: the tokens, the whole of it, and its ID token, which nobody has verified."""

    tokens: TokenSet
    document: Document
    id_token: Secret | None = None

    def __repr__(self) -> str:
        return "Read(***)"


# Token replies


def token_set(
    app: App,
    reply: Reply,
    *,
    now: datetime,
    former: TokenSet | None = None,
    kind: Kind = "first",
    asserted: bool = False,
) -> Read:
    """Read a reply of the token endpoint, or raise ``NoToken``.

    ``former``: what it adds to; ``kind`` says whether that was refreshed. ``asserted``: we sent an
    assertion, which a server whose clock differs refuses as dead.
    """
    tokens, document, root = _tokens(app, reply, now, former, kind, asserted=asserted)
    return Read(
        tokens=tokens,
        document=_joined(document, root),
        id_token=token_of(root.get("id_token")) or token_of(document.get("id_token")),
    )


def _tokens(
    app: App,
    reply: Reply,
    now: datetime,
    former: TokenSet | None,
    kind: Kind,
    *,
    asserted: bool = False,
) -> tuple[TokenSet, Document, Document]:
    """The tokens, the whole reply, and the part of it that they stand in."""
    provider = app.provider
    document = said_yes(provider, reply, now=now, asserted=asserted)
    roots = provider.reply.roots if kind == "first" else provider.reply.refresh_roots
    root = _root(document, roots)
    token = token_of(at(root, provider.reply.access_token))
    more = dict(_more(provider, document, now)) if provider.reply.more else {}
    if kind == "refresh" and _is_of_another(provider, root, None):
        token = None
    if token is None and not more:
        raise NoToken(refusal(provider, reply, now=now, asserted=asserted))
    fresh = _fresh(provider, root, token, now, former)
    extras = _extras(app, provider.reply.capture, (document, root), former, kind)
    tokens = _merged(provider, fresh, former)
    if more or extras:
        tokens = replace(tokens, more={**tokens.more, **more}, extras={**tokens.extras, **extras})
    return tokens, document, root


def renewed(
    app: App, reply: Reply, tokens: TokenSet, *, now: datetime, more: MoreTokens | None = None
) -> TokenSet:
    """What a refresh made of these tokens, or of ``more``, a further one; or raise ``NoToken``.

    A yes that cannot be read is told along: a new token may be in it.
    """
    if more is None and (read := _renewed_directly(app, reply, tokens, now)) is not None:
        return read
    try:
        if more is not None:
            return extra_token(app, reply, more, now=now, former=tokens)
        return _tokens(app, reply, now, tokens, "refresh")[0]
    except NoToken as error:
        if succeeded(reply.status) and error.failure.outcome == "ambiguous":
            raise NoToken(error.failure, unread=Secret(reply.body)) from None
        raise


def _renewed_directly(app: App, reply: Reply, former: TokenSet, now: datetime) -> TokenSet | None:
    """What ``_tokens`` makes of an answer that says the ordinary things in the ordinary way.

    ``None``: this one says something else, and that may be a no.
    """
    flat = app.flat_answer
    if flat is None or reply.status != OK:
        return None
    document = fields_of(reply)
    if document is None:
        return None
    said = document.get
    seconds, is_usual = said(flat.expires_in), said("token_type") in (former.token_type, None)
    if type(seconds) is not int or not 0 < seconds <= MAX_LIFETIME or not is_usual:
        return None
    token, refresh_token = token_of(said(flat.access_token)), token_of(said(flat.refresh_token))
    if token is None:
        return None
    end, told = None, None
    if not flat.others.isdisjoint(document):
        if not flat.odd.isdisjoint(document):
            return None
        end = refresh_end(app.provider.reply, document, now)
        told = _extras(app, app.provider.reply.capture, (document,), former, "refresh")
    scopes = _granted(app.provider, document) if flat.scope in document else None
    if end is None and flat.slides is not None:
        end = now + timedelta(seconds=flat.slides)
    return replace(
        former,
        access_token=token,
        obtained_at=now,
        refresh_token=former.refresh_token if refresh_token is None else refresh_token,
        expires_at=now + timedelta(seconds=seconds),
        refresh_expires_at=former.refresh_expires_at if end is None else end,
        scopes=former.scopes if scopes is None else scopes,
        extras={**former.extras, **told} if told else former.extras,
    )


def extra_token(
    app: App, reply: Reply, more: MoreTokens, *, now: datetime, former: TokenSet
) -> TokenSet:
    """Read the reply to a request for a further token, which stands at its top."""
    provider = app.provider
    document = said_yes(provider, reply, now=now)
    token = token_of(at(document, provider.reply.access_token))
    if token is None or _is_of_another(provider, document, more):
        raise NoToken(refusal(provider, reply, now=now))
    fresh, kept = _fresh(provider, document, token, now, former), former.more.get(more.name)
    renewed = fresh.refresh_token
    if more.scope is not None:
        # Asked for with the main refresh token, which may have been replaced.
        former = replace(former, refresh_token=renewed or former.refresh_token)
        renewed = None
    extra = ExtraToken(
        access_token=token,
        refresh_token=renewed or (kept.refresh_token if kept else None),
        expires_at=fresh.expires_at,
        scopes=fresh.scopes if fresh.scopes is not None else kept.scopes if kept else None,
    )
    return replace(former, more={**former.more, more.name: extra})


def _root(document: Document, roots: list[str]) -> Document:
    for path in roots or ["."]:
        found = at(document, path)
        if isinstance(found, dict):
            return found
    return {}


def _joined(document: Document, root: Document) -> Document:
    """The whole reply; what stands deeper can be found by its own name, too."""
    return document if root is document else {**root, **document}


def _is_of_another(provider: Provider, root: Document, mine: MoreTokens | None) -> bool:
    """Is this, by its type, the token of somebody else than it was asked for?"""
    if not provider.reply.more:
        return False
    kind = at(root, "token_type")
    types = {one.refreshed_type for one in provider.reply.more if one.refreshed_type}
    if mine is None:
        return isinstance(kind, str) and kind in types
    return mine.refreshed_type is not None and kind != mine.refreshed_type


def _fresh(
    provider: Provider,
    root: Document,
    token: Secret | None,
    now: datetime,
    former: TokenSet | None = None,
) -> TokenSet:
    """What one object says."""
    refresh_token = token_of(at(root, provider.reply.refresh_token))
    renewable = (
        refresh_token is not None
        or (former is not None and former.refresh_token is not None)
        or provider.mode in ("client_credentials", "jwt_bearer")
    )
    kind = at(root, "token_type")
    return TokenSet(
        access_token=token,
        obtained_at=now,
        token_type=kind if isinstance(kind, str) and not UNPRINTABLE.search(kind) else None,
        refresh_token=refresh_token,
        expires_at=access_end(provider.reply, root, token, now, renewable=renewable),
        refresh_expires_at=refresh_end(provider.reply, root, now),
        scopes=_granted(provider, root),
    )


def _merged(provider: Provider, fresh: TokenSet, former: TokenSet | None) -> TokenSet:
    """A new set in an old one's place; what it does not say stays."""
    refresh, end = provider.refresh, fresh.refresh_expires_at
    if end is None and refresh.end_seconds is not None and (former is None or refresh.slides):
        end = fresh.obtained_at + timedelta(seconds=refresh.end_seconds)
    if former is None:
        return replace(fresh, refresh_expires_at=end)
    if fresh.access_token is None:
        return former
    return replace(
        former,
        access_token=fresh.access_token,
        obtained_at=fresh.obtained_at,
        token_type=fresh.token_type or former.token_type,
        refresh_token=fresh.refresh_token or former.refresh_token,
        expires_at=fresh.expires_at,
        refresh_expires_at=end or former.refresh_expires_at,
        scopes=fresh.scopes if fresh.scopes is not None else former.scopes,
    )


def _more(
    provider: Provider, document: Document, now: datetime
) -> Iterator[tuple[str, ExtraToken]]:
    """The further tokens that stand in the same reply."""
    for more in provider.reply.more:
        root = at(document, more.root) if more.root is not None else None
        token = token_of(at(root, provider.reply.access_token))
        if token is None or not isinstance(root, dict):
            continue
        fresh = _fresh(provider, root, token, now)
        yield (
            more.name,
            ExtraToken(
                access_token=token,
                refresh_token=fresh.refresh_token,
                expires_at=fresh.expires_at,
                scopes=fresh.scopes,
            ),
        )


# Scopes and extras


def _granted(provider: Provider, root: Document) -> tuple[str, ...] | None:
    granted = provider.scopes.granted
    said = at(root, provider.reply.scope) if granted != "absent" else None
    if isinstance(said, list):
        return tuple(one for one in said if isinstance(one, str) and not UNPRINTABLE.search(one))
    if not isinstance(said, str) or granted == "list" or UNPRINTABLE.search(said):
        return None
    parts = map(str.strip, said.split(",")) if granted == "comma" else said.split()
    return tuple(filter(None, parts))


def _extras(
    app: App,
    paths: Mapping[str, str],
    documents: tuple[Document, ...],
    former: TokenSet | None,
    kind: Kind,
) -> dict[str, str]:
    found = {}
    for name, path in paths.items():
        value = first_text((at(one, path) for one in documents), MAX_EXTRA)
        if value is None or (kind == "refresh" and former and former.extras.get(name) == value):
            continue  # nothing, or nothing new
        try:
            check_told(app, name, value)
            check_hosts(app, {**(former.extras if former else {}), name: value})
        except Invalid:
            if kind == "refresh":
                continue  # the tokens are good, and there is a former value
            raise UpstreamFailed("The provider's reply names what cannot be believed.") from None
        found[name] = value
    return found


def step_extras(
    app: App, step: Step, reply: Reply, *, now: datetime, former: TokenSet
) -> dict[str, str]:
    """What one more request adds to the extras."""
    document = step_document(app, reply, now=now)
    root = at(document, step.items)
    if not isinstance(root, dict):
        raise UpstreamFailed("The provider's reply does not hold what it should.")
    return _extras(app, step.fields, (root,), former, "first")


def step_choices(
    app: App, step: Step, reply: Reply, *, now: datetime, former: TokenSet
) -> tuple[Choice, ...]:
    """The sites of which the person takes one; those that cannot be believed are not offered."""
    document = step_document(app, reply, now=now)
    items = at(document, step.items)
    if not isinstance(items, list):
        raise UpstreamFailed("The provider's reply does not hold what it should.")
    found = []
    for item in items[:MAX_CHOICES]:
        if not isinstance(item, dict):
            continue
        try:
            fields = _extras(app, step.fields, (item,), former, "first")
        except UpstreamFailed:
            continue
        if (name := next(iter(step.fields))) in fields:
            label = text_of(at(item, step.label), MAX_LABEL) if step.label else None
            found.append(Choice(id=fields[name], label=label or fields[name], fields=fields))
    return tuple(found)


def step_document(app: App, reply: Reply, *, now: datetime) -> Any:  # noqa: ANN401 - any JSON
    """The reply to a request with a token: JSON, a list perhaps, that says no error."""
    if not succeeded(reply.status):
        raise NoToken(refusal(app.provider, reply, now=now, where="api"))
    try:
        document = json.loads(reply.body)
    except (ValueError, RecursionError):
        raise UpstreamFailed("The provider's reply cannot be read.") from None
    if isinstance(document, dict) and says_no(app.provider, document):
        raise NoToken(refusal(app.provider, reply, now=now, where="api"))
    return document


def chosen(tokens: TokenSet, choice: Choice) -> TokenSet:
    """The tokens, for the site that the person took."""
    return replace(tokens, extras={**tokens.extras, **choice.fields})
