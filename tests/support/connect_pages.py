"""Every page of connecting an account, with pretend contents, and a server that shows them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from litestar import Litestar, Request, Response, get, post
from litestar.params import FromPath
from msgspec import Struct

from broker import web
from broker.sandbox.server import listen, server
from broker.web import connect
from broker.web.catalogue import inputs_of, scopes_in_words, service_name
from broker.web.connect import Scope
from broker.web.endings import ENDINGS
from vault.providers import Catalogue

CATALOGUE: Final = Catalogue()
ACME: Final = "Acme Travel"
ADA: Final = "Ada Lovelace"
ACCOUNT: Final = "ada@lovelace.example"
BACK: Final = "https://travel.example/settings"
GOOGLE: Final = "https://accounts.google.com/o/oauth2/v2/auth"
# Chosen by somebody who means no good: markup, a template, a direction that turns, piles, length.
EVIL: Final = (
    '\u202egnp.exe\u2066"><script>alert(1)</script>{{ 7 * 7 }}\x07\u200b'
    "Z\u0301\u0302\u0303\u0304\u0305\u0306" + "w" * 400
)


def google(*names: str) -> tuple[Scope, ...]:
    """Google's scopes, by the last part of their names."""
    bare = ("openid", "email")
    whole = [one if one in bare else f"https://www.googleapis.com/auth/{one}" for one in names]
    return scopes_in_words(CATALOGUE.get("google"), whole)


FEW: Final = google("openid", "email", "calendar", "gmail.modify")
MANY: Final = google(
    "openid", "email", "calendar", "gmail.modify", "drive.file", "contacts.readonly", "tasks",
    "documents", "a.scope.that.nobody.has.described.yet_and_that_is.quite.long_for_a_telephone",
)  # fmt: skip


def typed(provider_id: str, **more: Any) -> connect.ConnectPage:
    """The page of a provider at which something has to be typed."""
    provider = CATALOGUE.get(provider_id)
    return connect.ConnectPage(
        workspace=ACME,
        provider=service_name(provider, "order_desk"),
        inputs=inputs_of(provider, **more),
        problem="Please look at what is marked below." if more else "",
        action="/taken",
        csrf="csrf-of-this-page",
    )


def asking(**more: Any) -> connect.ConnectPage:
    """The page of a provider at which one signs in."""
    usual = {"workspace": ACME, "provider": "Google", "scopes": FEW, "user": ADA}
    usual |= {"host": "accounts.google.com", "leaves_to": (GOOGLE,)}
    return connect.ConnectPage(**(usual | {"action": "/taken", "csrf": "c"} | more))


def _device(**more: Any) -> connect.DevicePage:
    return connect.DevicePage(
        workspace=ACME,
        provider="GitHub",
        code="WDJB-MJHT",
        url="https://github.example/login/device",
        again="/page/device",
        paused="/page/device_paused",
        **more,
    )


def _choice(**more: Any) -> connect.ChoicePage:
    options = (
        connect.Option(value="1", label="Acme", hint="acme.atlassian.net"),
        connect.Option(value="2", label="Acme (test)", hint="acme-test.atlassian.net"),
        connect.Option(value="3", label="شركة أكمي", hint="acme-ar.atlassian.net"),
    )
    usual = {"workspace": ACME, "provider": "Jira Cloud", "account": ACCOUNT, "options": options}
    return connect.ChoicePage(**(usual | {"action": "/taken", "csrf": "c"} | more))


def _confirm(**more: Any) -> connect.ConfirmPage:
    usual = {"workspace": ACME, "provider": "Google", "user": ADA, "account": ACCOUNT}
    return connect.ConfirmPage(**(usual | {"scopes": FEW, "action": "/taken", "csrf": "c"} | more))


def _ends() -> dict[str, connect.Page]:
    known = {"workspace": ACME, "provider": "Google", "reference": "req_5f3c2a"}
    more: dict[str, dict[str, Any]] = {
        "connected": {"account": ACCOUNT},
        "narrower": {"account": ACCOUNT, "missing": google("gmail.modify")},
        "wrong_account": {"account": "countess@other.example"},
    }
    pages: dict[str, connect.Page] = {}
    for kind in ENDINGS:
        fields: dict[str, Any] = {"kind": kind, **known, **more.get(kind, {})}
        pages[f"end_{kind}"] = connect.EndPage(**fields)
        pages[f"end_{kind}_back"] = connect.EndPage(
            **fields, return_url=BACK, retry_url="/page/connect", environment="staging"
        )
    pages["end_nobody"] = connect.EndPage(workspace="", kind="expired")
    return pages


PAGES: Final[Mapping[str, connect.Page]] = {
    "connect": asking(),
    "connect_staging": asking(scopes=MANY, environment="staging"),
    "connect_again": asking(account=ACCOUNT, problem="Google did not answer. Please try again."),
    "connect_bare": asking(scopes=(), user="", host="", leaves_to=()),
    "connect_evil": asking(
        workspace=EVIL, provider=EVIL, user=EVIL, account=EVIL, host=EVIL, problem=EVIL,
        environment=EVIL, scopes=(Scope(raw=EVIL), Scope(raw="x", words=EVIL)),
    ),
    "zendesk": typed("zendesk"),
    "telegram_bot": typed("telegram-bot"),
    "woocommerce": typed("woocommerce"),
    "twilio_refused": typed(
        "twilio", filled={"username": "ada"}, problems={"password": "Twilio did not accept this."}
    ),
    "service_account": typed("google-service-account"),
    "custom_header": typed("custom-header"),
    "offers": connect.OffersPage(
        workspace=ACME,
        user=ADA,
        offers=(
            connect.Offer(provider="Google", url="/page/connect"),
            connect.Offer(provider="Slack", url="/page/connect", state="connected"),
            connect.Offer(provider="Salesforce", url="/page/connect", state="broken"),
        ),
    ),
    "choice": _choice(),
    "choice_evil": _choice(
        account=EVIL, problem=EVIL, options=(connect.Option(value="1", label=EVIL, hint=EVIL),)
    ),
    "confirm": _confirm(),
    "confirm_evil": _confirm(workspace=EVIL, provider=EVIL, user=EVIL, account=EVIL),
    "device": _device(),
    "device_paused": _device(is_paused=True),
    "telegram": connect.TelegramPage(
        workspace=ACME, action="/taken", csrf="c", hidden={"state": "s"}
    ),
    **_ends(),
    "end_evil": connect.EndPage(
        kind="provider_error", workspace=EVIL, provider=EVIL, account=EVIL,
        reference=EVIL, missing=(Scope(raw=EVIL),), return_url=BACK,
    ),
}  # fmt: skip


class Shown(Struct, frozen=True):
    """The server: its address, further pages to show, and what forms brought."""

    base: str
    pages: dict[str, connect.Page]
    taken: list[dict[str, str]]
    answers: list[str]  # where the next redirects lead; without one, a form leads to a page of ours

    def url(self, name: str) -> str:
        return f"{self.base}/page/{name}"


@contextlib.asynccontextmanager
async def showing() -> AsyncIterator[Shown]:
    """Serve the pages on loopback."""
    with listen("127.0.0.1", 0) as listener:
        shown = Shown(f"http://127.0.0.1:{listener.getsockname()[1]}", dict(PAGES), [], [])
        running = server(_app(shown), embedded=True)
        task = asyncio.create_task(running.serve([listener]))
        while not running.started:  # noqa: ASYNC110 - uvicorn tells it by this flag alone
            await asyncio.sleep(0.01)
        try:
            yield shown
        finally:
            running.should_exit = running.force_exit = True
            await task


def _app(shown: Shown) -> Litestar:
    @get("/page/{name:str}")
    async def page(name: FromPath[str]) -> Response[str]:
        return connect.render(shown.pages[name])

    @post("/taken")
    async def taken(request: Request[Any, Any, Any]) -> Response[None]:
        shown.taken.append({key: str(value) for key, value in (await request.form()).items()})
        return connect.leave(shown.answers.pop(0) if shown.answers else shown.url("end_connected"))

    @get("/hop")
    async def hop() -> Response[None]:
        return connect.leave(shown.answers.pop(0))

    return Litestar([page, taken, hop, web.router], openapi_config=None, logging_config=None)
