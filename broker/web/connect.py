"""The pages on which a person connects an account: what each one shows, and ``render``.

* Pure: a page is a Struct of what it shows; ``render`` makes the answer with all its headers.
  No repr shows what is on a page: a code or what somebody typed may be.
* Whatever comes from outside is escaped, stripped of what could disguise it, cut to a length and
  isolated from the text around it (``wording.py``); no caller has to think of that.
* Nothing is loaded from elsewhere, nothing is cached, nothing frames us, and no address leaks by
  a referrer. No page needs JavaScript but Telegram's, which has one script, named by its hash.
* A form is sent to us alone. Chromium holds the *redirect* that answers a form against
  ``form-action`` as well, and every redirect after that one: a company's own sign-in may come
  behind the provider's. So ``leaves_to`` opens ``https:`` where an answer may lead away, and a
  plain-http origin (a sandbox on loopback) by its name; other pages allow ``'self'`` or nothing.
  An injected form would be no worse than an injected link, and injecting either is what escaping
  and the rest of the policy prevent.
"""

import base64
import hashlib
import re
from collections.abc import Mapping
from functools import cache
from typing import ClassVar, Final, Literal
from urllib.parse import urlsplit

import jinja2
from litestar import Response
from msgspec import Struct

from broker.web import static, wording
from broker.web.endings import ENDINGS, Ending, Kind

REFRESH_SECONDS: Final = 5
HEADERS: Final = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
}
_ORIGIN: Final = re.compile(r"http://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:[0-9]{1,5})?", re.ASCII)


class Scope(Struct, frozen=True, kw_only=True):
    """One thing that is asked for. ``words`` is ``None`` where nobody has described it yet."""

    raw: str
    words: str | None = None


class Input(Struct, frozen=True, kw_only=True):
    """Something that the person fills in; it is posted as ``name``.

    ``pattern`` is in the browser's dialect. A ``secret`` never gets its ``value`` back; ``lines``
    is for a key of many lines. ``problem``: why the last attempt was refused.
    """

    name: str
    label: str
    kind: Literal["text", "host", "url", "secret"] = "text"
    example: str = ""
    pattern: str = ""
    required: bool = True
    lines: bool = False
    value: str = ""
    problem: str = ""

    def __repr__(self) -> str:
        return f"Input({self.name})"


class Option(Struct, frozen=True, kw_only=True):
    """One of several sites; ``value``, a word of ours, not theirs, is posted as ``_choice``."""

    value: str
    label: str
    hint: str = ""


class Offer(Struct, frozen=True, kw_only=True):
    """One of several accounts that a link asks for."""

    provider: str
    url: str
    state: Literal["open", "connected", "broken"] = "open"


class Page(Struct, frozen=True, kw_only=True):
    """What every page knows. ``workspace`` is empty where a link says nothing to us."""

    template: ClassVar[str]

    workspace: str
    environment: str = "production"

    def __repr__(self) -> str:
        return type(self).__name__


class Form(Page, frozen=True, kw_only=True):
    """A page with a button: ``action`` is posted to, with ``csrf`` as ``_csrf`` and ``hidden``.

    ``leaves_to``: addresses that the answer may redirect to (the provider's, the return address).
    """

    action: str
    csrf: str
    hidden: Mapping[str, str] = {}
    leaves_to: tuple[str, ...] = ()


class OffersPage(Page, frozen=True, kw_only=True):
    """A link that asks for several accounts: each has its own page."""

    template: ClassVar[str] = "offers.html"

    offers: tuple[Offer, ...]
    user: str = ""


class ConnectPage(Form, frozen=True, kw_only=True):
    """Who asks, for what, and one button.

    ``host``: where the button leads, if it is known. ``account``: the one that is connected
    already, when it is to be connected again. ``problem``: why the last attempt was refused.
    """

    template: ClassVar[str] = "connect.html"

    provider: str
    scopes: tuple[Scope, ...] = ()
    inputs: tuple[Input, ...] = ()
    user: str = ""
    account: str = ""
    host: str = ""
    problem: str = ""

    @property
    def typed(self) -> bool:
        """Is the credential itself typed here, rather than given by the provider?"""
        return any(one.kind == "secret" for one in self.inputs)


class ChoicePage(Form, frozen=True, kw_only=True):
    """The account has several sites, of which one is to be connected."""

    template: ClassVar[str] = "choice.html"

    provider: str
    options: tuple[Option, ...]
    account: str = ""
    problem: str = ""


class ConfirmPage(Form, frozen=True, kw_only=True):
    """The last look: posted as ``_answer`` is ``yes`` or ``no``."""

    template: ClassVar[str] = "confirm.html"

    provider: str
    user: str
    account: str = ""
    scopes: tuple[Scope, ...] = ()


class DevicePage(Page, frozen=True, kw_only=True):
    """A code to type in at ``url``. The page asks again by itself, at ``again``, until paused.

    It does so by the ``Refresh`` header: no script, and the link to ``paused`` turns it off for
    people whom a page that reloads would throw back to its top (WCAG 2.2.1).
    """

    template: ClassVar[str] = "device.html"

    provider: str
    code: str
    url: str
    again: str
    paused: str
    seconds: int = REFRESH_SECONDS
    is_paused: bool = False


class TelegramPage(Form, frozen=True, kw_only=True):
    """Telegram's widget puts its answer behind the ``#``, where only a script can read it.

    Posted as ``tgAuthResult``, as it came.
    """

    template: ClassVar[str] = "telegram.html"

    provider: str = "Telegram"


class EndPage(Page, frozen=True, kw_only=True):
    """What happened, and what to do next. ``reference`` is what an operator finds in the logs.

    Of accounts it names the one that was just signed in to: whose was there before is nothing for
    whoever came with another.
    """

    template: ClassVar[str] = "end.html"

    kind: Kind
    provider: str = ""
    account: str = ""
    missing: tuple[Scope, ...] = ()
    reference: str = ""
    retry_url: str = ""
    return_url: str = ""

    @property
    def ending(self) -> Ending:
        return ENDINGS[self.kind]


def render(page: Page) -> Response[str]:
    """Make the answer that shows this page."""
    headers = {**HEADERS, "Content-Security-Policy": _policy(page)}
    if isinstance(page, DevicePage) and not page.is_paused:
        headers["Refresh"] = f"{page.seconds};url={_local(page.again)}"
    return Response(
        _templates().get_template(page.template).render(page=page),
        status_code=page.ending.status if isinstance(page, EndPage) else 200,
        media_type="text/html",
        headers=headers,
    )


def leave(url: str) -> Response[None]:
    """Send the browser on, as the answer to a form or a callback; always with GET."""
    return Response(None, status_code=303, headers={**HEADERS, "Location": wording.web_url(url)})


def _policy(page: Page) -> str:
    rules = ["default-src 'none'", "style-src 'self'", "img-src data:"]
    if isinstance(page, TelegramPage):
        rules.append(f"script-src {_script_hash()}")
    allowed = _destinations(page.leaves_to) if isinstance(page, Form) else "'none'"
    return "; ".join(
        [*rules, f"form-action {allowed}", "frame-ancestors 'none'", "base-uri 'none'"]
    )


def _destinations(leaves_to: tuple[str, ...]) -> str:
    """``'self'``, and where an answer to the form may lead; only origins get into the policy."""
    found = ["'self'"]
    for url in leaves_to:
        parts = urlsplit(wording.web_url(url))
        origin = "https:" if parts.scheme == "https" else f"http://{parts.netloc}"
        if origin != "https:" and not _ORIGIN.fullmatch(origin):
            raise ValueError("this address cannot stand in a policy")
        if origin not in found:
            found.append(origin)
    return " ".join(found)


def _local(path: str) -> str:
    """A path of ours, fit for a header."""
    if not re.fullmatch(r"/(?!/)[!-:<-~]*", path):
        raise ValueError("this is not a path of ours")
    return path


@cache
def _script_hash() -> str:
    script = _templates().get_template("telegram.js").render()
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


@cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("broker.web", "templates/connect"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=wording.printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "name": wording.name,
        "named": wording.named,
        "short": wording.short,
        "initial": wording.initial,
        "web_url": wording.web_url,
    }
    environment.globals["style_url"] = static.connect_style_url()
    return environment
