"""/connect and /oauth: the addresses at which people connect their accounts.

* The browser that opens a link gets a cookie; only that browser can go on from there. It is
  ``HttpOnly``, ``SameSite=Lax``, and ``__Host-`` where we are reached by https.
* A form is taken from our own pages alone: with their token, and not from another site.
* A provider that answers with a POST from its own site brings no cookie along: the browser is
  sent once more to the same address, by GET, and then does.
* No problem of ours is shown as JSON to a person: each has its calm page.
"""

import hmac
import os
import re
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import structlog
from litestar import Request, Response, Router, get, post
from litestar.datastructures import Cookie
from litestar.di import NamedDependency
from litestar.params import FromPath

from broker.api.problems import problem_of, request_id_of
from broker.web.catalogue import inputs_of, scopes_in_words, service_name
from broker.web.connect import (
    ChoicePage,
    ConfirmPage,
    ConnectPage,
    DevicePage,
    EndPage,
    Offer,
    OffersPage,
    Option,
    TelegramPage,
    leave,
    render,
)
from broker.web.endings import Kind
from broker.web.forms import fields_in, fields_of_query, has, single
from vault.consent import Outcome, Stage
from vault.errors import Invalid, NotReady, VaultError
from vault.secret import Secret
from vault.vault import Vault
from vault.vault.invitations import Invitation, Item, return_address

MAX_FORM: Final = 64 * 1024
COOKIE_SECONDS: Final = 3_600

# What a provider may send by POST and is worth taking along; the person's name is not.
_POSTED: Final = ("code", "state", "error", "iss")
_OUR_FIELDS: Final = frozenset({"_csrf", "_state", "_choice", "_answer", "state", "tgAuthResult"})
_BROWSER: Final = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
_KINDS: Final[dict[Outcome, Kind]] = {
    "connected": "connected",
    "pending": "connected",
    "denied": "denied",
    "expired": "expired",
    "used": "already_done",
    "wrong_browser": "wrong_browser",
    "wrong_account": "wrong_account",
    "provider_error": "provider_error",
    "misconfigured": "paused",
    "superseded": "expired",
}

_log = structlog.get_logger("keyturn.connect")

AnyRequest = Request[Any, Any, Any]


@get(["/connect/{link:str}", "/connect/{link:str}/{integration:str}"])
async def open_link(
    request: AnyRequest, link: FromPath[str], vault: NamedDependency[Vault]
) -> Response[Any]:
    """Show what a link asks for. Opening it uses nothing up."""
    browser = _Browser(request, vault)
    opened = await vault.open_link(link)
    if isinstance(opened, str):
        return browser.marked(_end(_KINDS[opened], request))
    return browser.marked(
        _offer(opened, link, _named(request) or _only(opened), browser, request), link=link
    )


@post(
    ["/connect/{link:str}", "/connect/{link:str}/{integration:str}"],
    request_max_body_size=MAX_FORM,
)
async def begin(
    request: AnyRequest, link: FromPath[str], vault: NamedDependency[Vault]
) -> Response[Any]:
    """The button: off to the provider, or what was typed is tried out."""
    browser = _Browser(request, vault)
    form = single(fields_in(await request.body()))
    if not browser.sent(form, link):
        return _end("wrong_browser", request)
    opened = await vault.open_link(link)
    if isinstance(opened, str):
        return _end(_KINDS[opened], request)
    chosen = _named(request) or _only(opened)
    typed = {name: Secret(text) for name, text in form.items() if name not in _OUR_FIELDS and text}
    try:
        stage = await vault.begin(link, chosen, browser.secret, typed)
    except Invalid as problem:
        return _offer(opened, link, chosen, browser, request, problem=problem.message)
    return await _shown(stage, browser, request)


@get(["/oauth/{provider:str}/callback", "/oauth/{provider:str}/{integration:str}/callback"])
async def come_back(
    request: AnyRequest,
    provider: FromPath[str],
    vault: NamedDependency[Vault],
) -> Response[Any]:
    """Where a provider sends people back to."""
    browser = _Browser(request, vault)
    fields = fields_of_query(request.scope["query_string"])
    if vault.answers_in_fragment(provider) and not has(fields, "error"):
        state = dict(fields).get("state", "")
        page = TelegramPage(
            workspace="",
            action=request.url.path,
            csrf=browser.csrf(state),
            hidden={"state": state, "_state": state},
        )
        return render(page)
    stage = await vault.come_back(
        fields, browser.cookie, provider_id=provider, integration=_named(request) or None
    )
    return await _shown(stage, browser, request)


@post(
    ["/oauth/{provider:str}/callback", "/oauth/{provider:str}/{integration:str}/callback"],
    request_max_body_size=MAX_FORM,
)
async def come_back_posted(
    request: AnyRequest,
    provider: FromPath[str],
    vault: NamedDependency[Vault],
) -> Response[Any]:
    """The same, from a provider that posts; and Telegram's answer, from our own page."""
    form = fields_in(await request.body())
    if not has(form, "tgAuthResult"):
        told = [(name, value) for name, value in form if name in _POSTED]
        return _again(f"{vault.origin}{request.url.path}?{urlencode(told)}")
    browser = _Browser(request, vault)
    fields = single(form)
    if not browser.sent(fields, fields.get("_state", "")):
        return _end("wrong_browser", request)
    stage = await vault.come_back(
        [("state", fields["_state"]), ("tgAuthResult", fields["tgAuthResult"])],
        browser.cookie,
        provider_id=provider,
        integration=_named(request) or None,
    )
    return await _shown(stage, browser, request)


@post("/oauth/choice", request_max_body_size=MAX_FORM)
async def choose(request: AnyRequest, vault: NamedDependency[Vault]) -> Response[Any]:
    """One of several sites."""
    browser = _Browser(request, vault)
    form = single(fields_in(await request.body()))
    state = form.get("_state", "")
    if not browser.sent(form, state):
        return _end("wrong_browser", request)
    stage = await vault.choose(state, browser.secret, form.get("_choice", ""))
    return await _shown(stage, browser, request)


@post("/oauth/confirm", request_max_body_size=MAX_FORM)
async def confirm(request: AnyRequest, vault: NamedDependency[Vault]) -> Response[Any]:
    """The last word."""
    browser = _Browser(request, vault)
    form = single(fields_in(await request.body()))
    state = form.get("_state", "")
    if not browser.sent(form, state):
        return _end("wrong_browser", request)
    is_me = form.get("_answer") == "yes"
    stage = await vault.confirm(state, browser.secret, is_me=is_me)
    if isinstance(stage, Stage) and not is_me:
        return render(_ended(stage, "not_you", browser, request))
    return await _shown(stage, browser, request)


@get("/connect/{link:str}/{integration:str}/device")
async def poll(
    request: AnyRequest,
    link: FromPath[str],
    integration: FromPath[str],
    vault: NamedDependency[Vault],
) -> Response[Any]:
    """Has the person typed the code in?"""
    browser = _Browser(request, vault)
    stage = await vault.poll_device(link, integration, browser.cookie)
    return await _shown(stage, browser, request, link=link)


class _Browser:
    """One browser, by its cookie."""

    def __init__(self, request: AnyRequest, vault: Vault) -> None:
        self._vault = vault
        self._is_https = vault.origin.startswith("https://")
        prefix = "__Host-" if self._is_https else ""
        self._name, self._link_name = f"{prefix}keyturn", f"{prefix}keyturn-link"
        said = request.cookies.get(self._name, "")
        self.is_known = _BROWSER.fullmatch(said) is not None
        self.secret = Secret(said) if self.is_known else _random()
        self.link = request.cookies.get(self._link_name, "")
        site = request.headers.get("sec-fetch-site", "same-origin")
        origin = request.headers.get("origin", vault.origin)
        self._is_own_page = site in ("same-origin", "none") and origin in (vault.origin, "null")

    @property
    def cookie(self) -> Secret | None:
        """What the browser brought along, if it did."""
        return self.secret if self.is_known else None

    def csrf(self, about: str) -> str:
        """What a page of ours puts into its form, for this browser and this link or state."""
        return self._vault.fingerprint(f"csrf\n{self.secret.reveal()}\n{about}").hex()

    def sent(self, form: Mapping[str, str], about: str) -> bool:
        """Did a page of ours, in this browser, send this form?"""
        offered = form.get("_csrf", "").encode("utf-8", "surrogatepass")
        fits = hmac.compare_digest(offered, self.csrf(about).encode())
        return fits and self.is_known and self._is_own_page

    def marked(self, response: Response[Any], *, link: str = "") -> Response[Any]:
        """Let the browser keep its cookies."""
        if not self.is_known:
            response.set_cookie(self._cookie(self._name, self.secret.reveal()))
        if link:
            response.set_cookie(self._cookie(self._link_name, link))
        return response

    def _cookie(self, name: str, value: str) -> Cookie:
        return Cookie(
            name,
            value=value,
            path="/",
            max_age=COOKIE_SECONDS,
            secure=self._is_https,
            httponly=True,
            samesite="lax",
        )


async def _shown(
    stage: Stage | Outcome, browser: _Browser, request: AnyRequest, *, link: str = ""
) -> Response[Any]:
    """The page, or the place, that comes next."""
    if isinstance(stage, str):
        return _end(_KINDS[stage], request)
    if stage.status == "go":
        return leave(stage.url or "")
    if stage.status == "ended":
        return _finish(stage, browser, request)
    if stage.status == "choice":
        return render(_choice(stage, browser))
    if stage.status == "confirm":
        return render(_confirmation(stage, browser))
    return render(_device(stage, link or browser.link, request))


def _finish(stage: Stage, browser: _Browser, request: AnyRequest) -> Response[Any]:
    """Back to the platform where all went well and it wants its people back; else a page."""
    back = return_address(stage)
    if back is not None and stage.outcome in ("pending", "connected"):
        return leave(back)
    kind: Kind = _KINDS[stage.outcome or "provider_error"]
    if kind == "connected" and stage.missing_scopes:
        kind = "narrower"
    return render(_ended(stage, kind, browser, request))


def _offer(
    opened: Invitation,
    link: str,
    integration: str,
    browser: _Browser,
    request: AnyRequest,
    *,
    problem: str = "",
) -> Response[Any]:
    session = opened.session
    if not integration:
        page = OffersPage(
            workspace=opened.workspace,
            environment=session.environment,
            user=session.user_id,
            offers=tuple(
                Offer(
                    provider=service_name(item.provider, item.integration),
                    url=f"/connect/{link}/{item.integration}",
                    state="connected" if item.done else "open",
                )
                for item in opened.items
            ),
        )
        return render(page)
    item = next((one for one in opened.items if one.integration == integration), None)
    if item is None:
        return _end("expired", request)
    if item.done:
        return _end("already_done", request, opened=opened, item=item)
    return render(_connect_page(opened, item, request.url.path, browser.csrf(link), problem))


def _connect_page(
    opened: Invitation, item: Item, action: str, csrf: str, problem: str
) -> ConnectPage:
    authorize = item.provider.authorize
    leads_to = authorize.url if authorize and authorize.url else ""
    host = urlsplit(leads_to).netloc if "{" not in leads_to else ""
    return ConnectPage(
        workspace=opened.workspace,
        environment=opened.session.environment,
        action=action,
        csrf=csrf,
        leaves_to=item.leaves_to,
        provider=service_name(item.provider, item.integration),
        scopes=scopes_in_words(item.provider, item.scopes),
        inputs=inputs_of(item.provider),
        user=opened.session.user_id,
        host=host,
        problem=problem,
    )


def _choice(stage: Stage, browser: _Browser) -> ChoicePage:
    return ChoicePage(
        workspace=stage.workspace,
        environment=stage.session.environment,
        action="/oauth/choice",
        csrf=browser.csrf(stage.state.reveal()),
        leaves_to=_back(stage),
        hidden={"_state": stage.state.reveal()},
        provider=service_name(stage.provider, stage.integration),
        options=tuple(
            Option(value=str(number), label=one.label) for number, one in enumerate(stage.choices)
        ),
    )


def _confirmation(stage: Stage, browser: _Browser) -> ConfirmPage:
    user_id = stage.session.user_id
    return ConfirmPage(
        workspace=stage.workspace,
        environment=stage.session.environment,
        action="/oauth/confirm",
        csrf=browser.csrf(stage.state.reveal()),
        leaves_to=_back(stage),
        hidden={"_state": stage.state.reveal()},
        provider=service_name(stage.provider, stage.integration),
        user=f"{stage.user_name} ({user_id})" if stage.user_name else user_id,
        account=_account(stage),
        scopes=scopes_in_words(stage.provider, stage.scopes),
    )


def _device(stage: Stage, link: str, request: AnyRequest) -> DevicePage:
    place = f"/connect/{link}/{stage.integration}/device"
    return DevicePage(
        workspace=stage.workspace,
        environment=stage.session.environment,
        provider=service_name(stage.provider, stage.integration),
        code=stage.user_code,
        url=stage.url or "",
        again=place,
        paused=f"{place}?paused=1",
        seconds=stage.interval,
        is_paused="paused" in request.query_params,
    )


def _ended(stage: Stage, kind: Kind, browser: _Browser, request: AnyRequest) -> EndPage:
    is_open = browser.link and kind not in ("connected", "narrower")  # else the link is used up
    again = f"/connect/{browser.link}" if is_open else ""
    return EndPage(
        workspace=stage.workspace,
        environment=stage.session.environment,
        kind=kind,
        provider=service_name(stage.provider, stage.integration),
        account=_account(stage),
        missing=scopes_in_words(stage.provider, stage.missing_scopes),
        reference=request_id_of(request),
        retry_url=again,
        return_url=return_address(stage) or "",
    )


def _end(
    kind: Kind,
    request: AnyRequest,
    *,
    opened: Invitation | None = None,
    item: Item | None = None,
) -> Response[Any]:
    return render(
        EndPage(
            workspace=opened.workspace if opened else "",
            kind=kind,
            provider=service_name(item.provider, item.integration) if item else "",
            reference=request_id_of(request),
        )
    )


def _again(url: str) -> Response[Any]:
    """This address, by GET. Whoever posted it chose the path, and how long all of it is."""
    try:
        return leave(url)
    except ValueError:
        raise Invalid("This cannot be read.") from None


def _back(stage: Stage) -> tuple[str, ...]:
    return (stage.session.return_url,) if stage.session.return_url else ()


def _account(stage: Stage) -> str:
    account = stage.account
    return (account.email or account.label or account.id) if account else ""


def _named(request: AnyRequest) -> str:
    """The integration that the address names, if it does."""
    return str(request.path_params.get("integration", ""))


def _only(opened: Invitation) -> str:
    return opened.items[0].integration if len(opened.items) == 1 else ""


def _random() -> Secret:
    return Secret(urlsafe_b64encode(os.urandom(32)).rstrip(b"="))


def _calm(request: AnyRequest, error: Exception) -> Response[Any]:
    """Whatever went wrong, a person gets a page. What it was is in the log, by its code."""
    problem = problem_of(error, request_id_of(request))
    kind: Kind = "unavailable" if isinstance(error, NotReady) else "provider_error"
    if isinstance(error, Invalid):
        kind = "expired"
    if problem.code == "internal":
        _log.error("unexpected_error", exc_info=error)
        kind = "unavailable"
    return _end(kind, request)


router = Router(
    "/",
    route_handlers=[open_link, begin, come_back, come_back_posted, choose, confirm, poll],
    include_in_schema=False,
    exception_handlers={VaultError: _calm, Exception: _calm},
)
