"""A person's way through a consent, step by step, so that a test can stop and bend any of them."""

from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from conftest import Tenant
from msgspec import Struct

from support.connecting import integrate, invite
from support.sandbox import Provider
from support.visitor import Shown, Visitor


class Scene(Struct, frozen=True):
    """A workspace with the integration ``acme`` at a sandbox."""

    tenant: Tenant
    base: str
    provider: Provider

    @property
    def callback(self) -> str:
        return f"{self.base}/oauth/oidc/acme/callback"

    async def link(self, user: str = "ada", **more: Any) -> str:
        """Invite a user; where their link leads."""
        made = await invite(self.tenant.api, user, **more)
        url: str = made["url"]
        return url

    async def states(self, user: str = "ada") -> list[str]:
        """What a user's connections have come to."""
        reply = await self.tenant.api.get(f"/v1/users/{user}/connections")
        assert reply.status == 200, reply.body
        return [one["state"] for one in reply.json["data"]]

    async def scopes(self, user: str = "ada") -> set[str]:
        """The scopes of a user's one connection."""
        [found] = (await self.tenant.api.get(f"/v1/users/{user}/connections")).json["data"]
        return set(found["scopes"])


async def set_scene(tenant: Tenant, base: str, provider: Provider, **more: Any) -> Scene:
    scene = Scene(tenant, base, provider)
    await integrate(tenant.api, provider, scene.callback, **more)
    return scene


async def leave(visitor: Visitor, link: str) -> Shown:
    """Open the link and press its button: the redirect to the provider."""
    page = await visitor.get(link)
    assert page.status == 200, page.title
    away = await visitor.submit(page)
    assert away.status == 303, away.title
    return away


async def consent(visitor: Visitor, link: str, account: str = "") -> Shown:
    """Then say yes there: the provider's redirect back to us, not followed yet."""
    away = await leave(visitor, link)
    back = await visitor.get(away.location + (f"&login_hint={quote(account)}" if account else ""))
    assert back.status in (302, 303), back.text
    return back


async def arrive(visitor: Visitor, link: str, account: str = "") -> Shown:
    """Then follow it: the page that asks for confirmation, or the redirect to the platform."""
    return await visitor.follow(await consent(visitor, link, account))


async def connect(visitor: Visitor, link: str, account: str = "") -> Shown:
    """And then say yes here, too."""
    return await visitor.submit(await arrive(visitor, link, account), _answer="yes")


def pairs_of(url: str) -> list[tuple[str, str]]:
    return parse_qsl(urlsplit(url).query, keep_blank_values=True)


def with_pairs(url: str, pairs: list[tuple[str, str]]) -> str:
    return urlsplit(url)._replace(query=urlencode(pairs)).geturl()


def altered(url: str, **changes: str | None) -> str:
    """The same address with other parameters; ``None`` leaves one out."""
    kept = [(name, value) for name, value in pairs_of(url) if name not in changes]
    new = [(name, value) for name, value in changes.items() if value is not None]
    return with_pairs(url, kept + new)
