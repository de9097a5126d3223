"""A browser without a screen: cookies, forms and redirects, for flows that need no pixels."""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from html import unescape
from urllib.parse import parse_qs, urljoin, urlsplit

import aiohttp
from msgspec import Struct

_INPUT = re.compile(r'<input type="hidden" name="([^"]*)" value="([^"]*)"')
_ACTION = re.compile(r'<form method="post" action="([^"]*)"')
_TITLE = re.compile(r"<h1>(.*?)</h1>", re.DOTALL)


class Shown(Struct, frozen=True):
    """A page, or a redirect that was not followed."""

    url: str
    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def title(self) -> str:
        found = _TITLE.search(self.text)
        return unescape(re.sub(r"<[^>]*>", "", found[1])).strip() if found else ""

    @property
    def location(self) -> str:
        return urljoin(self.url, self.headers.get("Location", ""))

    @property
    def query(self) -> dict[str, str]:
        """What the redirect carries."""
        return {name: values[0] for name, values in parse_qs(urlsplit(self.location).query).items()}

    @property
    def fields(self) -> dict[str, str]:
        """The hidden fields of the page's form."""
        return {unescape(name): unescape(value) for name, value in _INPUT.findall(self.text)}

    @property
    def action(self) -> str:
        found = _ACTION.search(self.text)
        assert found, "this page has no form"
        return urljoin(self.url, unescape(found[1]))


class Visitor:
    """One person's browser."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def get(self, url: str, **headers: str) -> Shown:
        return await self._ask("GET", url, None, headers)

    async def post(self, url: str, fields: Mapping[str, str], **headers: str) -> Shown:
        return await self._ask("POST", url, fields, headers)

    async def submit(self, page: Shown, **typed: str) -> Shown:
        """Press the page's button."""
        return await self.post(page.action, {**page.fields, **typed})

    async def follow(self, answer: Shown) -> Shown:
        """Go where a redirect leads, once."""
        assert answer.status in (302, 303), answer.text[:2000]
        return await self.get(answer.location)

    async def _ask(
        self, method: str, url: str, fields: Mapping[str, str] | None, headers: Mapping[str, str]
    ) -> Shown:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._session.request(
            method, url, data=fields, headers=named, allow_redirects=False
        ) as reply:
            return Shown(str(reply.url), reply.status, reply.headers.copy(), await reply.text())


@asynccontextmanager
async def visiting() -> AsyncIterator[Visitor]:
    """Open a browser that nobody has used."""
    jar = aiohttp.CookieJar(unsafe=True)  # on addresses, too, not on names alone
    async with aiohttp.ClientSession(cookie_jar=jar) as session:
        yield Visitor(session)
