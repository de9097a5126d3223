"""Templates of a provider's file, filled in. Pure, and strict.

* A name that nothing fills is an error; a part whose *optional* variable is empty is left out.
  There are no expressions, and what was filled in is never looked at again.
* A value is written as its place asks: encoded in a path or a query, a whole header's value or
  nothing, as it is in a body.
* A value of a variable with a pattern matches that pattern, wherever it stands. What becomes part
  of a host is, besides, a host and nothing more: no user name, no port of its own that the pattern
  does not allow, no ``..``, no query.
* What a provider told us becomes part of a host only where ``api.hosts`` (or the variable's own
  pattern) believes it: secrets are sent there.
* A ``url`` variable that people typed may be plain ``http``, which egress then decides about.
"""

import json
import re
from base64 import b64encode
from collections.abc import Callable, Mapping
from functools import cached_property, lru_cache
from string import ascii_letters, digits
from typing import Final
from urllib.parse import quote, quote_plus, urlencode, urlsplit

from msgspec.structs import replace

from vault.egress import HEADER_VALUE, Request, is_header_value
from vault.errors import Invalid, Misconfigured, Unresolved
from vault.oauth.app import App, Mould, TokenSet
from vault.providers.check import NAME, TYPED_NAMES, captured
from vault.providers.schema import ENGINE_NAMES, Provider, Variable
from vault.secret import Secret

Value = str | Secret
Params = dict[str, Value]

_AROUND_TOKEN: Final = re.compile(r"([^{}]*)\{access_token\}([^{}]*)")
_SLOT: Final = re.compile(r"\{base64\(([^()]*)\)\}|\{([a-z][a-z0-9_]*)\}")
_WHOLE: Final = re.compile(r"\{([a-z][a-z0-9_]*)\}(.*)", re.DOTALL)
_LITERAL: Final = re.compile(r"(https://)([^/?#]*)(.*)", re.DOTALL)
# A host, perhaps with a port; a path only where a variable's pattern lets one in.
_PLACE: Final = re.compile(
    r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?(:[0-9]{1,5})?(/[a-z0-9._~-]+)*", re.ASCII | re.IGNORECASE
)
_WHOLE_URL: Final = re.compile(r"https?://(?P<place>[^?#\x00-\x20\x7f]*?)/?", re.ASCII)
_UNRESERVED: Final = f"{ascii_letters}{digits}_.~-".encode()
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
# What no extra may look like, once it stands in a path: it would lead somewhere else.
_DOTS: Final = frozenset({"", ".", ".."})
# Names of credentials that are not secret themselves.
_PLAIN: Final = frozenset({"username", "header_name"})


class _LeftOut(Exception):
    """An optional variable is empty, and so its whole part is left out."""


def around_token(template: str, token: Secret | None) -> Secret | None:
    """A header's value that is nothing but a token and what stands around it; ``None`` where it
    takes more than that, or nothing comes of it.
    """
    parts = _around(template)
    if parts is None or not token:
        return None
    value = b"".join((parts[0], token.reveal_bytes(), parts[1]))
    return Secret(value) if is_header_value(value) else None


def is_around_token(template: str) -> bool:
    """Is it nothing but a token and what stands around it?"""
    return _around(template) is not None


@lru_cache(maxsize=1_024)
def _around(template: str) -> tuple[bytes, bytes] | None:
    """What stands before and behind the token."""
    parts = _AROUND_TOKEN.fullmatch(template)
    return None if parts is None else (parts[1].encode(), parts[2].encode())


class Filling:
    """All that may stand in the templates of one provider's file, for one connection.

    A value is looked up when a template asks for it: most ask for few.
    """

    def __init__(
        self,
        app: App,
        tokens: TokenSet | None = None,
        engine: Mapping[str, Value | None] | None = None,
    ) -> None:
        self._app = app
        self._provider = app.provider
        self._tokens = tokens
        self._engine = engine or {}

    def __repr__(self) -> str:
        return f"Filling({self._provider.id})"

    @cached_property
    def _captured(self) -> set[str]:
        return captured(self._provider) - self._provider.variables.keys()

    def text(self, template: str) -> Value | None:
        """Fill a template for a body or a claim; ``Secret`` where a part of it is one."""
        hidden = False

        def plain(_name: str, value: Value) -> str:
            nonlocal hidden
            hidden = hidden or isinstance(value, Secret)
            return _shown(value)

        filled = self._filled(template, plain)
        return Secret(filled) if filled is not None and hidden else filled

    def plain(self, template: str) -> str | None:
        """Fill a template for what is no secret, even if it was kept beside one."""
        return self._filled(template, lambda _, value: _shown(value))

    def params(self, templates: Mapping[str, str]) -> Params:
        """Fill each of them; what is left out is not there."""
        found = {name: self.text(template) for name, template in templates.items()}
        return {name: value for name, value in found.items() if value is not None}

    def header(self, template: str) -> Secret | None:
        """Fill a header's value, and refuse what no header can carry."""
        filled = self._filled(template, lambda _, value: _shown(value))
        if filled is None:
            return None
        value = Secret(filled)
        if not value or HEADER_VALUE.fullmatch(value.reveal_bytes()) is None:
            raise Invalid("A value holds what a header cannot carry.")
        return value

    def url(self, template: str) -> str | None:
        """Fill a URL; every place in it has its own rule."""
        tokens, known = self._tokens, self._app.filled_urls
        if tokens is not None and (tokens.extras or tokens.values):
            return self._filled_url(template)
        if template not in known:
            url = self._filled_url(template)
            if not ENGINE_NAMES.isdisjoint(NAME.findall(template)):
                return url
            known[template] = url
        return known[template]

    def _filled_url(self, template: str) -> str | None:
        if literal := _LITERAL.fullmatch(template):
            scheme, place, rest = literal.groups()
            start = self._filled(place, self._in_host)
            if start is None:
                return None
            self._check_place(start, place)
            start = scheme + start
        elif whole := _WHOLE.fullmatch(template):
            name, rest = whole.groups()
            found = self._filled(f"{{{name}}}", self._whole_url)
            if found is None:
                return None
            start = found.rstrip("/") if rest else found
        else:
            raise Misconfigured(f"{self._provider.id}: an address begins with https://.")
        path, mark, query = rest.partition("?")
        paths, queries = self._filled(path, self._in_path), self._filled(query, _in_query)
        if paths is None or queries is None:
            return None
        return start + paths + mark + queries

    def asked_scopes(self) -> tuple[str, ...]:
        """The scopes to ask for: the app's or else the file's, and what brings a refresh token."""
        scopes = self._provider.scopes
        chosen = self._app.scopes or tuple(
            _shown(filled) for one in scopes.default if (filled := self.text(one)) is not None
        )
        return tuple(dict.fromkeys((*chosen, *(scopes.offline if chosen else ()))))

    # What fills a name

    def _found(self, name: str) -> Value | None:
        """What the engine knows comes first; then what was told, typed, configured, the default."""
        if name == "scope" and name not in self._engine:
            unscoped = Filling(self._app, self._tokens, {**self._engine, "scope": None})
            return self._provider.scopes.separator.join(unscoped.asked_scopes())
        if known := self._of_the_engine(name):
            return known
        tokens, variable = self._tokens, self._provider.variables.get(name)
        if tokens is not None:
            told = tokens.extras.get(name)
            if (
                told is not None
                and name in captured(self._provider)
                and is_told(self._provider, name)
            ):
                return told
            if name in tokens.values:
                return _typed(self._provider, name, tokens.values[name])
        return self._app.values.get(name) or (variable.default if variable else None)

    def _of_the_engine(self, name: str) -> Value | None:
        app, tokens = self._app, self._tokens
        if name in self._engine:
            return self._engine[name]
        if name in ("client_id", "redirect_uri"):
            return app.client_id if name == "client_id" else app.redirect_uri
        if name == "client_secret":
            return app.client_secrets[0] if app.client_secrets else None
        if tokens is not None and name in ("access_token", "refresh_token"):
            return tokens.access_token if name == "access_token" else tokens.refresh_token
        return None

    # One placeholder

    def _filled(self, template: str, write: Callable[[str, Value], str]) -> str | None:
        def slot(match: re.Match[str]) -> str:
            inner, name = match.groups()
            if inner is None:
                return write(name, self._value(name))
            flat = NAME.sub(lambda one: _shown(self._value(one[1])), inner)
            return b64encode(flat.encode()).decode()

        try:
            return _SLOT.sub(slot, template)
        except _LeftOut:
            return None

    def _value(self, name: str) -> Value:
        variable = self._provider.variables.get(name)
        value = self._found(name)
        if value:
            if variable is not None:
                check_value(name, variable, value)
            return value
        if variable is not None and variable.optional:
            raise _LeftOut
        if not self._is_declared(name):
            raise Misconfigured(f"{self._provider.id}: nothing fills {{{name}}}.")
        raise Unresolved(f"{name} has no value.")

    def _is_declared(self, name: str) -> bool:
        typed = TYPED_NAMES.get(self._provider.mode or "", set())
        return name in ENGINE_NAMES | typed | self._captured | self._provider.variables.keys()

    def _in_host(self, name: str, value: Value) -> str:
        variable = self._provider.variables.get(name)
        if name not in self._captured and (variable is None or variable.kind != "host"):
            raise Misconfigured(f"{self._provider.id}: {{{name}}} may not stand in a host.")
        shown = _shown(value)
        if _PLACE.fullmatch(shown) is None:
            raise Invalid(f"{name} is not a host.")
        return shown

    def _whole_url(self, name: str, value: Value) -> str:
        shown = _shown(value)
        told = name in self._captured
        found = _WHOLE_URL.fullmatch(shown)
        if found is None or (told and not shown.startswith("https://")):
            raise Invalid(f"{name} is not an address.")
        if told:
            self._check_place(found["place"], f"{{{name}}}")
        elif name not in self._provider.variables:
            raise Misconfigured(f"{self._provider.id}: {{{name}}} may not be an address.")
        return shown

    def _check_place(self, place: str, template: str) -> None:
        """Refuse a host that is none, and one that a provider told us and nobody believes."""
        segments = place.split("/")[1:]
        if _PLACE.fullmatch(place) is None or _DOTS.intersection(segments):
            raise Invalid("An address leads to no host.")
        if self._captured.intersection(NAME.findall(template)):
            host = place.partition("/")[0].lower()
            if not any(_is_named(host, one) for one in self._provider.api.hosts):
                raise Invalid("The provider named a host that is not its own.")

    def _in_path(self, name: str, value: Value) -> str:
        shown = _shown(value)
        segments = shown.split("/") if name in self._captured else [shown]
        if _DOTS.intersection(segments) or _CONTROL.search(shown):
            raise Invalid(f"{name} cannot stand in an address.")
        return "/".join(quote(segment, safe=":@") for segment in segments)


def _in_query(_name: str, value: Value) -> str:
    return quote(_shown(value), safe="")


def _is_named(host: str, pattern: str) -> bool:
    if pattern.startswith("*."):
        return host.endswith(pattern[1:]) and host != pattern[1:]
    return host == pattern


def _shown(value: Value) -> str:
    return value.reveal() if isinstance(value, Secret) else value


# What fills the templates of a flow


def filling(app: App, tokens: TokenSet | None = None, **engine: Value | None) -> Filling:
    """All values of an app and, where there are some, of its tokens."""
    return Filling(app, tokens, engine)


def is_plain(provider: Provider, name: str) -> bool:
    """Is this value, which a person typed, no secret?"""
    variable = provider.variables.get(name)
    return variable.kind != "secret" if variable else name in _PLAIN


def _typed(provider: Provider, name: str, value: Value) -> Value:
    """All that was typed is kept as a secret; a name or an address is none when it is used."""
    return _shown(value) if is_plain(provider, name) else value


def asked_scopes(app: App) -> tuple[str, ...]:
    """The scopes to ask for: the app's or else the file's, and what brings a refresh token."""
    return filling(app, scope=None).asked_scopes()


def is_told(provider: Provider, name: str) -> bool:
    """May the provider fill this name, by its redirect or by a reply?"""
    variable = provider.variables.get(name)
    return variable is None or variable.filled_by == "callback"


def check_value(name: str, variable: Variable, value: Value) -> None:
    """Refuse a value that is not of its variable's pattern."""
    shown = _shown(value)
    if _CONTROL.search(shown) and not isinstance(value, Secret):  # a key in PEM has lines
        raise Invalid(f"{name} holds a control character.", pointer=f"/variables/{name}")
    if variable.pattern is None or re.fullmatch(variable.pattern, shown, re.ASCII):
        return
    typed = variable.kind == "url" and variable.filled_by != "callback"
    secure = "https://" + shown.removeprefix("http://")
    if typed and shown.startswith("http://") and re.fullmatch(variable.pattern, secure, re.ASCII):
        return
    raise Invalid(f"{name} is not of the form that it has to have.", pointer=f"/variables/{name}")


# How parameters travel


def form_body(params: Mapping[str, Value]) -> Secret:
    """As a form."""
    pairs = (f"{_in_form(name)}={_in_form(_shown(value))}" for name, value in params.items())
    return Secret("&".join(pairs))


def mould_of(request: Request, gap: Secret) -> Mould | None:
    """A mould of a request whose form holds ``gap``, once, where a value will stand."""
    if not isinstance(request.body, Secret):
        return None
    before, found, after = request.body.reveal_bytes().partition(gap.reveal_bytes())
    if not found or gap.reveal_bytes() in after:
        return None
    return Mould(request, Secret(before), Secret(after))


def moulded(mould: Mould, value: Secret) -> Request:
    """The request with this value in its form."""
    plain = value.reveal_bytes()
    if plain.translate(None, _UNRESERVED):
        plain = quote_plus(value.reveal()).encode()
    body = b"".join((mould.before.reveal_bytes(), plain, mould.after.reveal_bytes()))
    return replace(mould.request, body=Secret(body))


def _in_form(text: str) -> str:
    # Most names and tokens need no escaping; to find that out costs a tenth of escaping.
    return quote_plus(text) if text.encode().translate(None, _UNRESERVED) else text


def json_body(params: Mapping[str, Value]) -> Secret:
    """As a JSON object."""
    return Secret(json.dumps({name: _shown(value) for name, value in params.items()}))


def with_query(url: str, params: Mapping[str, Value]) -> str:
    """As a query, behind what the URL already has."""
    if not params:
        return url
    query = urlencode({name: _shown(value) for name, value in params.items()}, quote_via=quote)
    return f"{url}{'&' if urlsplit(url).query else '?'}{query}"


def basic(user: Value, password: Value, *, encoded: bool) -> Secret:
    """A client's Basic header; ``encoded``: both parts are form-encoded first (RFC 6749)."""
    parts = [_shown(user), _shown(password)]
    pair = ":".join(quote_plus(part) for part in parts) if encoded else ":".join(parts)
    return Secret("Basic " + b64encode(pair.encode()).decode())


def bearer(token: Secret) -> Secret:
    """A Bearer header."""
    return Secret(f"Bearer {token.reveal()}")
