"""A person's browser, scripted: pages, forms and cookies, as far as a consent needs them."""

import re
from collections.abc import Mapping
from html import unescape
from http.cookies import SimpleCookie
from typing import Final
from urllib.parse import urlencode, urljoin, urlsplit

from msgspec import Struct

from broker.demo.world import PATIENCE, Unexpected, expect
from vault.egress import Egress, Request
from vault.secret import Secret

REDIRECTS: Final = (302, 303)
CONNECTED: Final = "Your account is connected"

_HIDDEN: Final = re.compile(r'<input type="hidden" name="([^"]*)" value="([^"]*)"')
_ACTION: Final = re.compile(r'<form\b[^>]*\baction="([^"]*)"')
_TITLE: Final = re.compile(r"<h1>(.*?)</h1>", re.DOTALL)


class Page(Struct, frozen=True):
    """What the browser shows, or where it is sent. Its repr shows neither."""

    url: str
    status: int
    location: str
    text: str

    @property
    def title(self) -> str:
        found = _TITLE.search(self.text)
        return unescape(re.sub(r"<[^>]*>", "", found[1])).strip() if found else ""

    def __repr__(self) -> str:
        return f"Page({self.status})"


class Browser:
    """One person's browser; cookies are kept for the server that set them."""

    def __init__(self, egress: Egress) -> None:
        self._egress = egress
        self._cookies: dict[str, dict[str, str]] = {}

    async def get(self, url: str) -> Page:
        """Open an address; a redirect is not followed."""
        return await self._ask("GET", url, None)

    async def follow(self, page: Page) -> Page:
        """Go where a redirect leads."""
        if page.status not in REDIRECTS:
            raise Unexpected(f"a redirect: expected one, found {page.status} '{page.title}'")
        return await self.get(urljoin(page.url, page.location))

    async def submit(self, page: Page, **typed: str) -> Page:
        """Press the page's button, with what was chosen on it."""
        action = _ACTION.search(page.text)
        if action is None:
            raise Unexpected(f"a form: expected one, found {page.status} '{page.title}'")
        hidden = {unescape(name): unescape(value) for name, value in _HIDDEN.findall(page.text)}
        url = urljoin(page.url, unescape(action[1]))
        return await self._ask("POST", url, {**hidden, **typed})

    async def _ask(self, method: str, url: str, fields: Mapping[str, str] | None) -> Page:
        place = urlsplit(url).netloc
        jar = self._cookies.setdefault(place, {})
        headers: list[tuple[str, str | Secret]] = []
        if jar:
            headers.append(("Cookie", Secret("; ".join(f"{n}={v}" for n, v in jar.items()))))
        body = None
        if fields is not None:
            headers.append(("Content-Type", "application/x-www-form-urlencoded"))
            body = Secret(urlencode(fields))
        request = Request(
            method=method, url=url, headers=tuple(headers), body=body, timeout=PATIENCE
        )
        reply = await self._egress.call("tool", request)
        for line in reply.get_all("Set-Cookie"):
            jar.update({name: one.value for name, one in SimpleCookie(line).items()})
        text = reply.body.decode("utf-8", "replace")
        return Page(url, reply.status, reply.get("Location") or "", text)


async def consent(browser: Browser, link: str, account: str) -> None:
    """From a connect link to a connected account: our page, the provider's, ours again."""
    asked = await browser.follow(await browser.submit(await browser.get(link)))
    allowed = await browser.submit(asked, account=account, decision="allow")
    confirm = await browser.follow(allowed)
    end = await browser.submit(confirm, _answer="yes")
    expect("the last page", CONNECTED, end.title)
